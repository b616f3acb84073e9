"""One page that holds a run: weights, tokenizer, the model in JavaScript, and rooms to talk and to look in.

It is opened by a double click, and asks nothing of any network, which its Content-Security-Policy forbids. Matrices are
in 8 bits, each row with a scale of its own; the rest is in float32.
"""

import base64
import dataclasses
import hashlib
import html
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from barreleye.config import Sampling
from barreleye.export.joined import joined, static
from barreleye.files import write_file
from barreleye.inference import plain_text, plain_weights
from barreleye.inference.plain import Array, Weights
from barreleye.run import Run

LARGEST = 127  # in int8, either side of zero
LARGEST_PAGE = 500 * 2**20  # bytes; a browser's strings end at about as many characters
LONGEST_BEGINNING = 40  # characters


def export_html(run: Run, out: Path, snapshots: int = 0) -> list[Path]:
    """Write the page `out`, with as many moments of the training besides the newest weights; returns [out].

    Raises ValueError where `out` is there already, for a model with a part of its own, and for what the page cannot
    hold."""
    if out.exists() or out.is_symlink():
        raise ValueError(f"{out} is there already; remove it, or choose another --out")
    text = page(*embedded(run, snapshots))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, text.encode())
    return [out]


def embedded(run: Run, snapshots: int = 0) -> tuple[dict[str, Any], dict[int, bytes]]:
    """What the page must know of the run, and the packed weights of each step; raises ValueError as `export_html`."""
    *_, newest = run.steps()
    steps = [*moments(run, snapshots), newest]
    shapes, data = pack(plain_weights.load_weights(run.weights_file(newest), run.config.model))
    if (size := 4 / 3 * len(data) * len(steps)) > LARGEST_PAGE:
        raise ValueError(f"a page of {size / 2**20:.0f} MiB is more than a browser opens")
    packed = {
        step: pack(plain_weights.load_weights(run.weights_file(step), run.config.model))[1] for step in steps[:-1]
    }
    return described(run) | {"shapes": shapes, "steps": steps}, packed | {newest: data}


def moments(run: Run, count: int) -> list[int]:
    """That many of the steps whose weights were kept, before the newest: the first one, and the others evenly."""
    if count < 0:
        raise ValueError(f"--snapshots must be at least 0, not {count}")
    *kept, _ = run.steps()
    if count > len(kept):
        raise ValueError(f"{run.path} kept {len(kept)} moments before its newest weights, not {count}; give that many")
    return [kept[round(i * (len(kept) - 1) / max(count - 1, 1))] for i in range(count)]


def described(run: Run) -> dict[str, Any]:
    """What the page must know of the run. Raises ValueError for a tokenizer whose words are cut in another way than
    GPT-2's."""
    model = run.path / "model"
    plain_text.PlainTokenizer(model / "tokenizer.json")  # reads what tokenizer.js does, and says what it does not
    config, chat = run.config.model, run.tokenizer.chat
    sampling = dataclasses.asdict(Sampling())
    del sampling["seed"]
    return {
        "name": run.name,
        "kind": "chat" if chat else "text",
        "character": Path(run.config.data.source).stem if run.config.data.kind == "persona" else run.name,
        "parameters": sum(map(math.prod, plain_weights.shapes_of(config).values())),
        "config": dataclasses.asdict(config),
        "sampling": sampling,
        "tokenizer": json.loads((model / "tokenizer.json").read_text(encoding="utf-8")),
        "chat": {"tidy": chat.tidy, "system": chat.system} if chat else None,
        "system": next(iter(run.characters), ""),
        "example": "Hello! Who are you?" if chat else beginning(run),
    }


def beginning(run: Run) -> str:
    """Of a text that the run learned from: what one may begin with, in letters that its tokenizer knows."""
    for file in run.documents().values() if run.config.data.kind == "text" else ():
        if not file.exists():
            continue
        with file.open(encoding="utf-8", errors="ignore") as text:
            if found := text.read(4096).strip():
                return found.splitlines()[0][:LONGEST_BEGINNING]
    return "Once upon a time"


def pack(weights: Weights) -> tuple[dict[str, dict[str, Any]], bytes]:
    """Weights as engine.js unpacks them, and their shapes: first all that is float32 (of a matrix its scales, one for
    each row), then the matrices in int8; both in the order of the shapes."""
    shapes, floats, matrices = {}, [], []
    for name, array in weights.items():
        is_matrix = array.ndim == 2 and name != "positions.weight"
        shapes[name] = {"shape": list(array.shape), "int8": is_matrix}
        if is_matrix:
            rounded, scales = quantized(array)
            floats.append(scales)
            matrices.append(rounded)
        else:
            floats.append(array)
    data = b"".join([*(x.astype("<f4").tobytes() for x in floats), *(x.tobytes() for x in matrices)])
    return shapes, data


def quantized(matrix: Array) -> tuple[Array, Array]:
    """A matrix in int8, and the scale of each row. Raises ValueError for numbers that are none."""
    if not np.isfinite(matrix).all():
        raise ValueError("the weights are not all finite numbers; the training went wrong (`barreleye doctor RUN`)")
    scales = (np.abs(matrix).max(1) / LARGEST).astype(np.float32)
    rounded = np.rint(matrix / np.where(scales == 0, 1, scales)[:, None])
    return rounded.astype(np.int8), scales


def page(table: dict[str, Any], packed: dict[int, bytes]) -> str:
    """The page as text: code and style by their hashes, everything else as data that nothing runs."""
    style = (static() / "studio.css").read_text(encoding="utf-8")
    script = joined("file.js")
    policy = f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'"
    about = f"{table['parameters']:,} parameters, {table['steps'][-1]:,} steps: a language model in one file"
    weights = "\n".join(
        f'<script type="application/octet-stream" id="weights-{step}">{base64.b64encode(data).decode()}</script>'
        for step, data in packed.items()
    )
    filled: dict[str, str] = {
        "policy": policy + "; form-action 'none'",
        "title": html.escape(table["name"]),
        "about": about,
        "style": style,
        "table": json.dumps(table, ensure_ascii=False).replace("<", "\\u003c"),
        "weights": weights,
        "script": script,
    }
    text = (static() / "file.html").read_text(encoding="utf-8")
    return re.sub(r"\{(\w+)\}", lambda mark: filled[mark[1]], text)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
