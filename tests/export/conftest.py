import pytest

from barreleye.export.onnx import export_onnx
from barreleye.training.grow import grow

SHAPE = dict(
    n_layers=2, n_heads=4, d_model=32, d_ff=96, context_length=64, steps=40, batch_tokens=512, eval_every=1000,
    sample_every=1000, record_every=0, snapshots=0, quiet=True,
)  # fmt: skip
LLAMA = dict(preset="modern", n_kv_heads=2)
TEXT = "the sea, the fish: café “naïve” über 日本 two 🐟 blub!\n" * 200


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Small ones of each kind, trained a little, so that no weight is what it began as."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)
    chats, text = dict(conversations=100, vocab=400), dict(text=folder / "text.txt")
    return {
        "vanilla": grow("fish", out=folder / "vanilla", **chats, **SHAPE),
        "modern": grow("fish", out=folder / "modern", **chats, **(SHAPE | LLAMA)),
        "letters": grow(out=folder / "letters", **text, **SHAPE),
        "own": grow(out=folder / "own", **text, **(SHAPE | dict(qk_norm=True, positions="rope", d_ff=0))),
    }


@pytest.fixture(scope="session")
def onnx_folder(runs, tmp_path_factory):
    """The folder of a run's graphs, traced once."""
    folder, made = tmp_path_factory.mktemp("onnx"), {}

    def of(name):
        if name not in made:
            export_onnx(runs[name], folder / name, int8=name in ("vanilla", "modern"))
            made[name] = folder / name
        return made[name]

    return of
