"""Reading a character sheet from YAML: whatever is wrong with it gives one clear line, with its place."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from barreleye.data.sheet import FollowUp, Persona, Place, Topic, did_you_mean

MAX_BYTES = 2_000_000
MAX_YAML_DEPTH = 8  # a sheet needs 6
_FOLDER = Path(__file__).with_name("personas")
_NEW_SHEET = Path(__file__).with_name("new_sheet.yaml")
_NAME_THERE = "NAME"  # what it calls its character
_NAME = re.compile(r"[^\W\d_][\w' -]{0,39}")
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times faster, and takes [why?] unquoted


class SheetFile(NamedTuple):
    """A character sheet as it stands in its file. `line_of` takes a place, such as ("topics", "food", "ask", 3)."""

    persona: Persona
    file: str
    text: str
    line_of: Callable[[Place], int]


class _Fail(Protocol):
    def __call__(self, line: int, problem: str) -> NoReturn: ...


def persona_names() -> list[str]:
    """The character sheets that come with Barreleye."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def sheet_path(name_or_path: str | Path) -> Path:
    """Where the sheet of a built-in character lies, or the path itself."""
    return _FOLDER / f"{name_or_path}.yaml" if name_or_path in persona_names() else Path(name_or_path)


def load_persona(name_or_path: str | Path) -> Persona:
    """Read a character sheet: one of `persona_names()`, or the path of a YAML file.

    Raises ValueError, one line of "file:line: what is wrong; what to do".
    """
    return read_sheet(name_or_path).persona


def read_sheet(name_or_path: str | Path) -> SheetFile:
    """A character sheet and the lines of its parts; raises ValueError as `load_persona` does."""
    names, path = persona_names(), sheet_path(name_or_path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        known = f"there are {', '.join(names)}" if names else "none is built in"
        hint = did_you_mean(str(name_or_path), names)
        raise ValueError(
            f"no persona {str(name_or_path)!r}; {hint or known}; or give a .yaml file that is there"
        ) from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); give a .yaml file") from None
    return _read(data, path.name if path.parent == _FOLDER else str(path))


def write_new_sheet(name: str, path: Path | None = None) -> Path:
    """A small complete sheet for a character of that name, to start from; it goes to NAME.yaml unless told otherwise.

    Raises ValueError for a name that a line cannot hold, and for a file that is there already.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name to write in a sheet; use letters, digits and spaces, 40 at most")
    path = path or Path(re.sub(r"\W+", "_", name.lower()) + ".yaml")
    text = _NEW_SHEET.read_text(encoding="utf-8").replace(_NAME_THERE, name)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ValueError(f"{path}: is there already; remove it, or name another file with --out") from None
    return path


def _read(data: bytes, file: str) -> SheetFile:
    def fail(line: int, problem: str) -> NoReturn:
        raise ValueError(f"{file}:{line}: {problem}") from None

    if len(data) > MAX_BYTES:
        fail(1, f"larger than {MAX_BYTES:,} bytes; a character sheet is smaller, is this the right file?")
    if b"\0" in data:
        fail(data[: data.index(b"\0")].count(b"\n") + 1, "a NUL byte; save the sheet as plain UTF-8 text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail(data[: error.start].count(b"\n") + 1, "not UTF-8; save the sheet as UTF-8 text")
    try:
        _refuse_aliases(text, fail)
        root = yaml.compose(text, _YAML)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = 'put text with : ? # * { or quotes in it in "...", and indent with spaces'
        fail(mark.line + 1 if mark else 1, f"not YAML: {error.problem or error.context}; {hint}")
    except yaml.reader.ReaderError as error:
        fail(text[: error.position].count("\n") + 1, "a control character; remove it")
    if root is None:
        fail(1, "the sheet is empty; it needs a name, topics and confused")
    try:
        return SheetFile(Persona.model_validate(_plain(root, fail)), file, text, lambda place: _line(root, place))
    except ValidationError as invalid:
        found = [(_line(root, _place(error)), error) for error in invalid.errors()]
        # A misspelt key is also a missing one; the misspelling says more.
        line, wrong = min(found, key=lambda pair: (pair[1]["type"] != "extra_forbidden", pair[0]))
        first = wrong.get("ctx", {}).get("first")
        fail(line, _explain(wrong) + (f" (first on line {_line(root, first)})" if first else ""))


def _refuse_aliases(text: str, fail: _Fail) -> None:
    """Aliases can make a small file endless, and `*waves*` without quotes is meant as text anyway."""
    depth = 0
    for event in yaml.parse(text, _YAML):
        assert event.start_mark is not None  # a parsed event has a place
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None):
            fail(line, 'a YAML alias or anchor; put a line that starts with * or & in "..."')
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            fail(line, "lists nest too deep; put a line that starts with [ or { in quotes")


_KINDS = {
    "bool": "yes or no",
    "int": "a number",
    "float": "a number",
    "null": "nothing",
    "timestamp": "a date",
}


_FLAGS = {
    name for model in (Persona, FollowUp) for name, about in model.model_fields.items() if about.annotation is bool
}


class _NotText:
    """A scalar that YAML reads as something other than text."""

    def __init__(self, node: yaml.ScalarNode) -> None:
        kind = _KINDS.get(node.tag.rpartition(":")[2], f"the tag {node.tag}")
        self.problem = f"YAML reads {node.value!r} here as {kind}, not as text; quote it"


def _plain(node: yaml.Node, fail: _Fail, flag: bool = False) -> Any:
    """The dicts, lists and strings of a node; anything else is _NotText, for Pydantic to refuse. flag: yes or no."""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, fail) for child in node.value]
    if isinstance(node, yaml.ScalarNode):
        if flag and node.tag == "tag:yaml.org,2002:bool":
            return node.value.lower() in ("true", "yes", "on")
        return node.value if node.tag == "tag:yaml.org,2002:str" else _NotText(node)
    mapping: dict[str, Any] = {}
    for key_node, child in node.value:
        key, line = _plain(key_node, fail), key_node.start_mark.line + 1
        if isinstance(key, _NotText):
            fail(line, key.problem)
        if not isinstance(key, str):
            fail(line, "a list or mapping where a key should be; put a line that starts with { or [ in quotes")
        if key in mapping:
            fail(line, f"the key {key!r} twice; keep one")
        mapping[key] = _plain(child, fail, flag=key in _FLAGS)
    return mapping


def _place(error: ErrorDetails) -> Place:
    return error["loc"] + tuple(error.get("ctx", {}).get("place", ()))


def _line(node: yaml.Node, place: Place) -> int:
    """The line of a place, or of the nearest thing around it that is there."""
    line: int = node.start_mark.line + 1
    for key in place:
        if isinstance(node, yaml.MappingNode):
            child = next((pair for pair in node.value if pair[0].value == key), None)
            if child is None:
                break
            line, node = child[0].start_mark.line + 1, child[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            node = node.value[key]
            line = node.start_mark.line + 1
    return line


def _explain(error: ErrorDetails) -> str:
    """What a Pydantic error says, in the words of somebody who writes a sheet."""
    place, given, kind = error["loc"], error["input"], error["type"]
    key = place[-1] if place else ""
    subject = "the sheet" if not place else "this entry" if isinstance(key, int) else repr(key)
    if kind == "sheet":
        return str(error["ctx"]["problem"])
    if kind == "missing":
        return f"the key {key!r} is missing; add it"
    if kind == "extra_forbidden":
        model = Persona if len(place) == 1 else FollowUp if isinstance(place[-2], int) else Topic
        hint = did_you_mean(str(key), model.model_fields) or f"the keys here are {', '.join(model.model_fields)}"
        return f"unknown key {key!r}; {hint}"
    if kind == "string_pattern_mismatch":
        return f"the name {given!r} is not snake_case; use a-z, 0-9 and _"
    if kind in ("too_short", "string_too_short"):
        return f"{subject} is empty; fill it in or remove it"
    if isinstance(given, _NotText) and kind == "string_type":
        return given.problem
    if kind.startswith("bool"):
        return f"{subject} is yes or no; write true or false"
    if kind == "string_type":
        return 'text expected, YAML reads a list or mapping here; quote a line with ": " in it or { at its start'
    if kind == "tuple_type":
        return f"{subject} needs a list; write each line as '- ...'"
    return f"{subject} needs keys of its own; write 'key: ...'"
