"""Several JavaScript modules as one: a page opened from the disk cannot import, and neither can a notebook's widget.

Each module becomes a function that runs once, in an order in which what it imports is there; so names of different
modules never meet. The modules keep to what this reads: relative, named imports, one a line, and exported declarations.
"""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from posixpath import dirname, join, normpath

IMPORT = re.compile(r'^import \{ ([\w$, ]+?),? \} from "(\.[^"]+)";$', re.MULTILINE)
EXPORT = re.compile(r"^export ((?:async )?(?:function\*?|class|const|let) (\w+))", re.MULTILINE)
LEFT_OVER = re.compile(r"^\s*(?:import|export)\b.*$|\bimport\(\s*[^\"\s].*$", re.MULTILINE)


def static() -> Traversable:
    """The studio's page, as package data."""
    return files("barreleye") / "studio" / "static"


def joined(entry: str, folder: Traversable | None = None) -> str:
    """The module `entry` of a folder (the studio's own, unless told) and all that it imports, as one module.

    Raises ValueError for an import or an export of another form, and for modules that import each other in a circle.
    """
    folder = folder or static()
    parts: dict[str, str] = {}
    _add(entry, folder, parts, ())
    return "const modules = {};\n" + "".join(parts.values())


def _add(name: str, folder: Traversable, parts: dict[str, str], above: tuple[str, ...]) -> None:
    if name in above:
        raise ValueError(f"{name} imports itself, by way of {', '.join(above[above.index(name) + 1 :]) or 'nothing'}")
    if name in parts:
        return
    source = folder.joinpath(*name.split("/")).read_text(encoding="utf-8")
    for found in IMPORT.finditer(source):
        _add(_beside(name, found[2]), folder, parts, (*above, name))
    exported = ", ".join(found[2] for found in EXPORT.finditer(source))
    body = IMPORT.sub(lambda found: f'const {{ {found[1]} }} = modules["{_beside(name, found[2])}"];', source)
    body = EXPORT.sub(r"\1", body)
    if left := LEFT_OVER.search(body):
        raise ValueError(f"{name}: {left[0].strip()!r} is no named import or export of a form that can be joined")
    parts[name] = f'modules["{name}"] = (() => {{\n{body}return {{ {exported} }};\n}})();\n'


def _beside(name: str, path: str) -> str:
    """A path that a module gives, as one from the folder."""
    return normpath(join(dirname(name), path))
