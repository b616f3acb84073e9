import sys
from pathlib import Path

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


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A model folder of another house, which was imported: what an import takes for the first time, it has."""
    sys.path.insert(0, str(Path(__file__).parent))
    from foreign import save_model

    from barreleye.export.importing import import_model

    folder = tmp_path_factory.mktemp("whole")
    save_model(folder, "gpt2")
    import_model(folder, str(folder.with_name("imported")))
    return folder


@pytest.fixture
def refusal(whole, tmp_path):
    """What an import says, in half a minute, 200 MB and one line."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import mutations

    from barreleye.export.importing import import_model

    def of(source, **how):
        ours = tmp_path / "ours"
        with mutations.room(), mutations.a_while(), mutations.in_silence(), pytest.raises(ValueError) as refused:
            import_model(source, str(ours), **how)
        mutations.check_refusal(refused.value)
        assert source.name in str(refused.value) and not ours.exists()
        return str(refused.value)

    return of
