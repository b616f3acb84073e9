import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from barreleye.config import PRESETS, Config, DataConfig
from barreleye.data.corpus import Corpus
from barreleye.data.tokenizer import learn_characters
from barreleye.run import Run, create
from barreleye.training.bands import Band, band_of, compare, preset_of, shipped
from barreleye.training.record import Record

TOKENIZER = learn_characters("the fish")
TINY = Config(DataConfig(kind="text"), dataclasses.replace(PRESETS["tiny"].model, vocab_size=7), PRESETS["tiny"].train)


def lines(offset: float, steps: int = 1000, unigram: float = 3.0) -> list[dict[str, Any]]:
    facts = {"step": 0, "facts": {"unigram": unigram, "bigram": 2.4}}
    return [facts, *({"step": n, "loss": 1.5 + offset + 100 / (n + 50)} for n in range(1, steps + 1))]


def band() -> Band:
    return band_of([Record.of(TINY, lines(offset)) for offset in (0.0, 0.02, -0.02)])


def opened(folder: Path, recorded: list[dict[str, Any]], config: Config = TINY) -> Run:
    run = create(folder / "r", config, TOKENIZER, Corpus("the fish", "the", {}))
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in recorded))
    return run


def test_a_preset_is_known_whatever_its_seed_and_place() -> None:
    assert preset_of(TINY) == "tiny"
    moved = dataclasses.replace(TINY.train, seed=9, device="cpu", precision="bfloat16", threads=3, save_every=7)
    assert preset_of(dataclasses.replace(TINY, train=moved)) == "tiny"
    for changed in (dict(steps=999), dict(learning_rate=0.1)):
        assert preset_of(dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, **changed))) is None
    assert preset_of(dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, d_ff=7))) is None
    assert preset_of(dataclasses.replace(TINY, data=DataConfig(kind="text", from_run="runs/fish"))) is None


@pytest.mark.parametrize(
    ("offset", "steps", "says"),
    [
        (0.0, 1000, "after 100% of the training the loss is 1.596: as usual (1.576 to 1.616 in 3 recorded runs"),
        (0.3, 1000, "higher than usual"),
        (-0.3, 1000, "lower than usual"),
        (0.05, 430, "after 40% of the training the loss is 1.777"),
    ],
)  # fmt: skip
def test_a_loss_is_put_beside_those_recorded(tmp_path: Path, offset: float, steps: int, says: str) -> None:
    assert says in compare(opened(tmp_path, lines(offset, steps)), [band()])


def test_a_young_run_and_a_share_that_was_not_recorded_are_not_compared(tmp_path: Path) -> None:
    young = compare(opened(tmp_path / "young", lines(0.0, 30)), [band()])
    assert young == "what its loss usually is, is known from 5% of a training on, and it has not come so far"
    lacking = band()
    del lacking["losses"]["0.4"]
    assert "after 30% of the training" in compare(opened(tmp_path / "r", lines(0.0, 430)), [lacking])


def test_other_data_and_other_recipes_are_not_compared(tmp_path: Path) -> None:
    other = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, clip=2.0))
    for n, (recorded, config) in enumerate([(lines(0.0, unigram=3.3), TINY), (lines(0.0), other), ([], TINY)]):
        assert compare(opened(tmp_path / str(n), recorded, config), [band()]).startswith("what its loss usually is")


def test_a_band_is_of_one_kind_of_run() -> None:
    with pytest.raises(ValueError, match="a band is of finished runs of one preset"):
        band_of([Record.of(TINY, lines(0.0)), Record.of(TINY, lines(0.0, unigram=3.3))])


def test_the_bands_that_ship_are_whole() -> None:
    assert shipped()
    for band in shipped():
        assert band["preset"] in PRESETS and band["runs"] >= 1
        assert all(0 < low <= high for low, high in band["losses"].values())
