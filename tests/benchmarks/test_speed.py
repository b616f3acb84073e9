"""The yardstick itself: what the recording does quickly is what the plain recipe does slowly."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.optim import Optimizer

from barreleye import PRESETS, Conversation, Message, ModelConfig, TrainConfig, learn_bpe
from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS, chat_texts
from barreleye.training import loop
from barreleye.training.grow import configure
from barreleye.training.loop import Learner

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import plain
import speed


def conversations(seed: int, n: int = 2 * plain.ROWS) -> list[Conversation]:
    rng = random.Random(seed)

    def words() -> str:
        return " ".join(rng.choices("what do you eat a small copepod and nobody saw it".split(), k=rng.randint(1, 9)))

    return [Conversation((Message("user", words()), Message("assistant", words()))) for _ in range(n)]


CHATS = conversations(1)
MATERIAL = plain.Material("test", CHATS, conversations(2), learn_bpe(chat_texts(CHATS), 300, CHAT_SPECIAL_TOKENS))


def test_quick_dropout_keeps_nine_of_ten_scaled_as_torch_scales() -> None:
    plain.worker.random = torch.Generator().manual_seed(0)
    x = torch.ones(1000, 999)
    dropped = plain.quick_dropout(x, 0.1, training=True)
    assert dropped.count_nonzero() / x.numel() == pytest.approx(0.9, abs=1e-3)
    assert torch.equal(dropped.unique(), F.dropout(x, 0.1).unique())
    assert plain.quick_dropout(x, 0.1, training=False) is x


def test_pieces_on_cores_are_the_padded_batch() -> None:
    torch.manual_seed(0)
    shape = ModelConfig(n_layers=2, n_heads=2, d_model=32, d_ff=64, activation="relu", vocab_size=300)
    model = plain.plain_model(300, shape)
    learner = Learner(model, [], torch.amp.GradScaler("cpu", enabled=False), step=1)
    sums, gradients = [], []
    for accumulate, pieces in ((loop.accumulate_gradients, 1), (plain.accumulate_on_cores, plain.PIECES)):
        config = TrainConfig(accumulate=pieces, device="cpu", precision="float32", threads=2)
        model.zero_grad()
        sums.append(accumulate(learner, plain.PaddedBatches(MATERIAL, pieces), config))
        gradients.append({name: p.grad / sums[-1][1] for name, p in model.named_parameters()})
    (whole, learned, read), (in_pieces, learned_too, read_less) = sums
    assert in_pieces == pytest.approx(whole, rel=1e-6)
    assert learned_too == learned and read_less < read
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradients[1][name], gradient, atol=1e-5), name


def test_a_recording_belongs_to_its_data_and_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [{"step": 250.0, "all": 1.0, "replies": 2.0}]
    curve = MATERIAL.curve(looks)
    assert MATERIAL.looks_of(curve) == looks
    for changed in (plain.recipe() | {"warmup_steps": 7}, {}):
        monkeypatch.setattr(plain, "recipe", lambda values=changed: values)
        with pytest.raises(ValueError, match="another recipe"):
            MATERIAL.looks_of(curve)
    monkeypatch.setattr(plain, "recipe", lambda: json.loads(curve)["recipe"] | {"a_later_knob": 1})
    assert MATERIAL.looks_of(curve) == looks
    with pytest.raises(ValueError, match="other data"):
        plain.Material("test", CHATS[1:], [], MATERIAL.tokenizer).looks_of(curve)


def test_a_curve_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plain, "CURVES", tmp_path)
    monkeypatch.setattr(plain.Material, "of_fish", lambda single: MATERIAL)
    speed.fish(True, speed.PARTS, 1, {})
    assert capsys.readouterr().out == "plain-test.json is not recorded yet: python benchmarks/plain.py --single\n"


def test_the_racer_is_nanogpts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = speed.nanogpt(65)
    assert sum(p.numel() for p in model.parameters()) - 65 * 128 - 64 * 128 == 4 * (12 * 128**2 + 4 * 128) + 2 * 128
    assert float(model.blocks[0].mlp.up.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(model.blocks[0].mlp.down.weight.detach().std()) == pytest.approx(0.02 / 8**0.5, rel=0.05)
    windows = speed.RandomWindows(np.arange(65).repeat(4), 64, 128)
    config = TrainConfig(steps=2, device="cpu", precision="float32", threads=1)
    made: list[Optimizer] = []
    make = loop.make_optimizers
    monkeypatch.setattr(loop, "make_optimizers", lambda *given: made.extend(make(*given)) or made)
    racer = speed.Racer(lambda: model, windows, config, range(1, 2), betas=(0.9, 0.5))
    reached = racer.run(lambda model, config: {"all": 0.0}, {"all": 0.0})["all"]
    assert (reached.step, reached.loss) == (1, 0.0) and reached.seconds > 0
    assert made[0].param_groups[0]["betas"] == (0.9, 0.5)
    assert racer.padding() == 0.0


def test_each_part_is_reached_at_a_step_of_its_own() -> None:
    """The race goes on until the last one is, and what is never reached has its lowest loss."""
    losses = iter([{"all": 3.0, "replies": 5.0, "never": 2.0}, {"all": 0.5, "replies": 4.0, "never": 1.5}])
    after = {"all": 0.1, "replies": 0.9, "never": 1.7}
    config = TrainConfig(steps=6, device="cpu", precision="float32", threads=1, batch_tokens=128)
    windows = speed.RandomWindows(np.arange(65).repeat(4), 64, 128)
    racer = speed.Racer(lambda: speed.nanogpt(65), windows, config, range(2, 6, 2))
    reached = racer.run(lambda model, config: next(losses, after), {"all": 1.0, "replies": 1.0, "never": 1.0})
    assert {part: (found.step, found.loss) for part, found in reached.items()} == {
        "all": (4, 0.5),
        "replies": (6, 0.9),
        "never": (6, 1.5),
    }
    assert 0 < reached["all"].seconds < reached["replies"].seconds


def test_a_race_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A part that every seed reaches has a ratio; one that any of them does not has none."""
    monkeypatch.setattr(speed, "cold_start", lambda arguments: 10.0)
    monkeypatch.setattr(speed, "BREAKS", 2)
    monkeypatch.setattr(speed.Racer, "step_seconds", lambda racer, first: [1.0, 3.0])
    clock = iter(range(100_000))
    monkeypatch.setattr(speed, "clock", lambda: next(clock) / 2)  # half a second from each look at it to the next
    windows = speed.RandomWindows(np.arange(65).repeat(4), 64, 128)
    configs = [
        TrainConfig(steps=4, device="cpu", precision="float32", threads=1, batch_tokens=128, seed=seed)
        for seed in (1, 2, 3)
    ]
    racers = [speed.Racer(lambda: speed.nanogpt(65), windows, config, range(2, 4)) for config in configs]
    marks = {"easy": speed.Reached(100, 0.0, 5.0), "hard": speed.Reached(50, 0.0, 1.0)}

    def look(model: object, config: TrainConfig) -> dict[str, float]:
        return {"easy": 4.0, "hard": 0.5 if config.seed < 3 else 2.0}

    speed.race("test", racers, racers[0], marks, look, [], 15)
    out = capsys.readouterr().out
    # Two steps and 1 s; the plain recipe took 100 steps of 2 s.
    lines = [line.strip() for line in out.splitlines()]
    first = lines.index("seed 3: a plain step takes 2.000 s meanwhile")
    assert lines[first + 1 : first + 3] == ["easy: 4.0000 at step 2, 1 s", "hard: only 2.0000"]
    steps, whole, *missed = (line.split(":", 1)[1].split() for line in out.splitlines() if "times as fast" in line)
    assert float(steps[-6]) == pytest.approx(200 / 1.0, rel=1e-3) and steps[-1] == "met"
    assert float(whole[-6]) == pytest.approx(210 / 11.0, rel=1e-3) and whole[-1] == "met"
    assert [(line[-6], line[-1]) for line in missed] == [("-", "MISSED")] * 2


def test_our_recipe_is_a_command() -> None:
    words = speed.options_for(PRESETS["tiny"], speed.OUR_SHAPE, speed.OURS)
    given = dict(zip(words[::2], words[1::2], strict=True))
    options = {name.removeprefix("--").replace("-", "_"): value for name, value in given.items()}
    typed = {
        name: type(getattr(speed.OURS, name, None) or getattr(speed.OUR_SHAPE, name, None))(value)
        for name, value in options.items()
    }
    config = configure({"text": "a.txt", "persona": None, "mix": None, "chats": None}, None, None, typed)
    assert (config.model, config.train) == (speed.OUR_SHAPE, speed.OURS)
