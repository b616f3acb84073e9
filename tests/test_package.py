"""What is installed: in a checkout the sources themselves, under `make test-wheel` what the wheel holds."""

import subprocess
import sysconfig
from importlib import import_module, metadata
from pathlib import Path

import barreleye

SOURCE = Path(__file__).parents[1] / "src" / "barreleye"
INSTALLED = Path(barreleye.__file__).parent


def files(folder: Path) -> set[Path]:
    return {
        path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_file_of_the_source_is_installed() -> None:
    assert files(INSTALLED) == files(SOURCE)


def test_the_characters_are_installed() -> None:
    assert Path("data/personas/fish.yaml") in files(INSTALLED)


def test_every_public_name_is_there() -> None:
    for name in barreleye.__all__:
        assert getattr(barreleye, name) is not None
    assert set(dir(barreleye)) >= set(barreleye.__all__)


def test_every_module_can_be_imported() -> None:
    for file in files(INSTALLED):
        if file.suffix == ".py" and file.name != "__main__.py":
            import_module(".".join(["barreleye", *file.with_suffix("").parts]).removesuffix(".__init__"))


def test_the_version_is_the_same_everywhere() -> None:
    assert metadata.version("barreleye") == barreleye.__version__


def test_the_command_is_installed() -> None:
    program = Path(sysconfig.get_path("scripts")) / "barreleye"
    shown = subprocess.run([program, "persona", "list"], capture_output=True, text=True, check=True).stdout
    assert "fish" in shown
