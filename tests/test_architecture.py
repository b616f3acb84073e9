"""The plan of the house, checked: which room may import which, what stays light, what stays short, what stays safe."""

import ast
import io
import os
import subprocess
import sys
import tokenize
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import barreleye

PACKAGE = Path(barreleye.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# A room imports only from rooms to its left; the command line (cli, show) and the list of public names from all.
ROOMS = (
    *("config", "files", "reports", "data", "model", "inference", "run", "training"),
    *("lens", "evaluation", "export", "server", "studio"),
)
ABOVE_ALL = ("__init__", "__main__", "show", "options", "cli")
ABOVE_ALL += ("cli_data", "cli_export", "cli_hub", "cli_look", "cli_studio", "cli_talk")
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
HOMES = metadata.packages_distributions() | {"pydantic_core": ["pydantic"]}  # which pins it: two halves of one
HOMES |= {"starlette": ["fastapi"]}  # which is made of it
# What may not be installed: peers and trackers.
HOMES |= {name: [name] for name in ("tensorboard", "wandb", "trackio")} | {"llama_cpp": ["llama-cpp-python"]}
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
OWN_SHARE_OF_HELP = 0.15  # seconds of processor, besides those of the library that writes it

every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of all that is imported anywhere in the tree; `from a import b` gives a.b."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def code_lines(file: Path) -> int:
    """Lines that hold code: no blank line, no comment, no docstring."""
    source = file.read_text(encoding="utf-8")
    lines: set[int] = set()
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def test_code_lines_counts_neither_comments_nor_docstrings(tmp_path: Path) -> None:
    file = tmp_path / "page.py"
    code = ["x = (", "    1,  # one", ")", "", "", "def f():", '    """Short."""', '    return """a', 'b"""']
    file.write_text("\n".join(['"""A page.', "", 'Of text."""', "", "# why", *code, ""]))
    assert code_lines(file) == 6


@every_file
def test_a_room_imports_only_from_rooms_to_its_left(file: Path) -> None:
    room = room_of(file)
    if room in ABOVE_ALL:
        return
    assert room in ROOMS, f"{room} has no place in the plan: give it one in ROOMS"
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    for name in imported(parse(file)):
        if name.split(".")[0] == "barreleye":
            assert name.split(".")[1] in allowed, f"{room} may not import {name}"


@every_file
def test_every_package_imported_is_declared(file: Path) -> None:
    declared = {canonicalize_name(Requirement(text).name) for text in [*PROJECT["dependencies"], *EXTRAS]}
    for name in {dotted.split(".")[0] for dotted in imported(parse(file))} - sys.stdlib_module_names - {"barreleye"}:
        homes = {canonicalize_name(home) for home in HOMES.get(name, ())}
        assert declared & homes, f"{name} is not among the dependencies"


@every_file
def test_nothing_reads_a_pickle(file: Path) -> None:
    tree = parse(file)
    assert not {name.split(".")[0] for name in imported(tree)} & PICKLES
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert called not in {"eval", "exec"}
            assert called != "torch.load" or given.get("weights_only") == "True", f"line {node.lineno}: torch.load"
            assert given.get("allow_pickle", "False") == "False", f"line {node.lineno}: {called}"


@every_file
def test_a_file_stays_short(file: Path) -> None:
    assert code_lines(file) <= 300, "a file of more than 300 lines is asking to be two"


def test_the_model_fits_on_one_page() -> None:
    assert code_lines(PACKAGE / "model" / "transformer.py") <= 150
    assert code_lines(PACKAGE / "inference" / "plain.py") <= 130


def test_plain_pages_import_numpy_alone() -> None:
    for file in (PACKAGE / "inference").glob("plain*.py"):
        others = {name for name in imported(parse(file)) if name.split(".")[0] not in sys.stdlib_module_names}
        assert {name.split(".")[0] for name in others} <= {"numpy", "barreleye"}
        assert all(name.startswith("barreleye.inference.plain") for name in others if name.startswith("barreleye"))


@pytest.mark.parametrize(
    "name", ["cli", "cli_data", "cli_export", "cli_hub", "cli_look", "cli_studio", "cli_talk", "options"]
)
def test_the_command_line_imports_only_light_things_at_its_top(name: str) -> None:
    top = ast.Module([node for node in parse(PACKAGE / f"{name}.py").body if not isinstance(node, ast.FunctionDef)], [])
    others = {name for name in imported(top) if name.split(".")[0] not in sys.stdlib_module_names}
    light = {"typer", "barreleye.config", "barreleye.options"}
    light |= {f"barreleye.cli_{verbs}" for verbs in ("data", "export", "hub", "look", "studio", "talk")}
    assert {".".join(name.split(".")[:2]) for name in others} <= light


@pytest.mark.parametrize("command", ["import barreleye", "from barreleye.cli import main; main()"])
def test_torch_is_not_imported_before_it_is_needed(command: str) -> None:
    heavy = {"torch", "numpy", "tokenizers", "transformers", "pydantic", "yaml", "plotly"}
    script = "import atexit, sys; atexit.register(lambda: print('loaded:', *sys.modules)); sys.argv[1:] = ['--help']"
    shown = subprocess.run(
        [sys.executable, "-c", f"{script}; {command}"], capture_output=True, text=True, check=True
    ).stdout
    assert not heavy & set(shown.rpartition("loaded:")[2].split())


def test_help_answers_at_once() -> None:
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}

    def seconds(*command: str) -> float:
        """Of processor, not of the clock: a machine that is busy with something else is not the program's fault."""
        before = os.times()
        subprocess.run([sys.executable, *command], capture_output=True, check=True, env=environment)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    # In turn, so that a machine that is slow for a while is slow for both; the least of each, as noise only adds.
    library, ours = [], []
    for _ in range(5):
        library.append(seconds("-c", "import typer, typer.rich_utils"))
        ours.append(seconds("-m", "barreleye", "--help"))
    assert min(ours) - min(library) < OWN_SHARE_OF_HELP
