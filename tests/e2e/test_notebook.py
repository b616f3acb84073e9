"""The notebook, executed from top to bottom as a learner would, with a few steps of training and no network."""

import os
from pathlib import Path

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient

import barreleye

FILE = Path(__file__).parents[2] / "notebooks" / "grow_your_own.ipynb"
LONGEST_CELL = 11  # lines that are not blank
SHOWN = ("text/html", "text/plain", "application/vnd.plotly.v1+json")
STEPS = 4

NO_NETWORK = """
import sys

def refuse(event, args):
    if event == "socket.getaddrinfo":
        raise OSError(f"the notebook reached for the network: {args}")

sys.addaudithook(refuse)
"""


def read() -> nbformat.NotebookNode:
    return nbformat.read(FILE, as_version=nbformat.NO_CONVERT)


def test_is_saved_as_it_should_be() -> None:
    notebook = read()
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)  # the first with ids of cells
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, cell.id
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= LONGEST_CELL or lines[0].startswith("%%writefile"), cell.id


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each cell shows when the notebook is run in an empty folder, as text and HTML, by the cell's id."""
    folder, kernels = tmp_path_factory.mktemp("notebook"), tmp_path_factory.mktemp("jupyter")
    write_kernel_spec(str(kernels / "kernels" / "python3"))  # a kernel that is this very interpreter
    notebook = read()
    notebook.cells.insert(0, nbformat.v4.new_code_cell(NO_NETWORK, id="no-network"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(kernels))
        patch.setenv("PYTHONPATH", str(Path(barreleye.__file__).parents[1]), prepend=os.pathsep)
        patch.setenv("BARRELEYE_NOTEBOOK_STEPS", str(STEPS))
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return {cell.id: "".join(map(shown, cell.outputs)) for cell in notebook.cells if cell.cell_type == "code"}


def shown(output: nbformat.NotebookNode) -> str:
    if output.output_type == "stream":
        return str(output.text)
    return "".join(str(output.data[kind]) for kind in SHOWN if kind in output.data)


@pytest.mark.slow
def test_tells_the_whole_story(outputs: dict[str, str]) -> None:
    assert "pip" not in outputs["setup"]
    assert "{crumb.s}" in outputs["sheet"]
    assert "held out: (" in outputs["split"]
    assert outputs["converse"].count("  >") >= 4
    assert len(set(outputs["dress"].splitlines())) > 3
    assert len(outputs["merges"].splitlines()) == 15
    assert outputs["tokens-colored"].count("in the vocabulary") == 4
    assert "positions.weight" in outputs["count"]
    assert "blocks.0.attn.hook_pattern       (1, 6, " in outputs["taps"]


@pytest.mark.slow
def test_grows_and_shows_how(outputs: dict[str, str]) -> None:
    assert f"step {STEPS}, loss " in outputs["train"] and "<polyline" in outputs["train"]
    assert f"step {STEPS} of {STEPS}" in outputs["train"]
    steps = [f"step {step:4}" for step in range(STEPS + 1)]
    assert [line[:9] for line in outputs["replies"].splitlines()] == steps
    assert [line[:9] for line in outputs["score"].splitlines()] == steps
    perplexities = [float(line.split()[3]) for line in outputs["score"].splitlines()]
    assert perplexities[-1] < perplexities[0]
    assert outputs["chat"].count("> ") >= 3  # an untrained model can say it, too


@pytest.mark.slow
def test_looks_through_its_head(outputs: dict[str, str]) -> None:
    assert 'title="nothing came before"' in outputs["look"] and ">what</span>" in outputs["look"]
    assert outputs["wall"].count("looks at") == 4 * 6
    assert "'3 what'" in outputs["lens"] and "0.resid_pre" in outputs["lens"]
    assert "layer 3" in outputs["ablate"] and "feed-fwd" in outputs["ablate"]
    assert outputs["without"].count("> ") >= 3
    for step in (0, 1, 2, STEPS):
        assert f"'label': '{step}'" in outputs["slider"]
    assert f"['0', '1', '2', '3', '{STEPS}']" in outputs["when"]
    assert f"step {STEPS}, loss " in outputs["doctor"]


@pytest.mark.slow
def test_changes_the_character(outputs: dict[str, str]) -> None:
    assert "Writing lighthouse.yaml" in outputs["own-sheet"]
    assert outputs["own-check"].count("  >") >= 5
    assert f"step {STEPS} of {STEPS}" in outputs["own-train"]
    assert outputs["own-chat"].count("> ") >= 4
    assert f"step {STEPS} of {STEPS}" in outputs["own-swap"] and "barreleye:" not in outputs["own-swap"]  # no complaint
