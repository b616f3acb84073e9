"""The rooms of a run in a notebook's cell (Jupyter, Colab, marimo): those of the exported page, over its weights."""

from pathlib import Path

import anywidget
import traitlets

from barreleye.export.html import embedded
from barreleye.export.joined import joined, static
from barreleye.run import Run


class RunWidget(anywidget.AnyWidget):
    """Computes in the browser: the kernel sends the weights once, and may be busy or gone after that."""

    _esm = joined("widget.js") + 'export default modules["widget.js"].widget;\n'
    _css = (static() / "studio.css").read_text(encoding="utf-8")
    table = traitlets.Dict().tag(sync=True)
    weights = traitlets.Dict().tag(sync=True)  # of each step, packed


def widget(run: Run | str | Path, snapshots: int = 0) -> RunWidget:
    """Talk and Look in the cell's output, and Time over as many earlier moments of the training.

    About 9 MB for the default fish, and as much for each snapshot. Raises ValueError as `export_html` does.
    """
    table, packed = embedded(run if isinstance(run, Run) else Run(run), snapshots)
    return RunWidget(table=table, weights={str(step): data for step, data in packed.items()})
