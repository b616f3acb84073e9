import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barreleye.config import (
    PRESETS,
    SECTIONS,
    Config,
    DataConfig,
    ModelConfig,
    Sampling,
    TrainConfig,
    from_dict,
    preset,
)

KINDS: list[type] = [ModelConfig, TrainConfig, DataConfig, Sampling]
KNOBS = [(kind, knob) for kind in KINDS for knob in dataclasses.fields(kind)]
EVERY_KNOB = pytest.mark.parametrize(("kind", "knob"), KNOBS, ids=[f"{k.__name__}.{f.name}" for k, f in KNOBS])


def write(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


# A knob and its limits ---------------------------------------------------------------------------------------------


@EVERY_KNOB
def test_every_knob_has_help_and_refuses_another_type_by_its_name(kind: type, knob: "dataclasses.Field[Any]") -> None:
    assert knob.metadata["help"]
    for wrong in ([], None, {}, 1 if knob.type is str else "1", 1 if knob.type is bool else True):
        if not isinstance(wrong, bool) or knob.type is not bool:
            with pytest.raises(ValueError, match=f"^{knob.name} must be {knob.type.__name__}, not"):
                kind(**{knob.name: wrong})


@EVERY_KNOB
def test_every_limit_is_held(kind: type, knob: "dataclasses.Field[Any]") -> None:
    least, most, choices = (knob.metadata[key] for key in ("least", "most", "choices"))
    if least is not None:
        with pytest.raises(ValueError, match=f"^{knob.name} must be at least"):
            kind(**{knob.name: least - 1})
    if most is not None:
        with pytest.raises(ValueError, match=f"^{knob.name} must be at most"):
            kind(**{knob.name: most + 1})
    if choices:
        with pytest.raises(ValueError, match=f"^{knob.name} cannot be 'blub'; choose one of: {', '.join(choices)}$"):
            kind(**{knob.name: "blub"})
        assert [getattr(kind(**{knob.name: choice}), knob.name) for choice in choices] == list(choices)
    if knob.type is float:
        for wrong in (math.nan, math.inf, -math.inf):
            with pytest.raises(ValueError, match=f"^{knob.name} must be a finite number"):
                kind(**{knob.name: wrong})
        for whole in (0, 1):
            if (least is None or least <= whole) and (most is None or whole <= most):
                assert type(getattr(kind(**{knob.name: whole}), knob.name)) is float


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().d_model = 3  # type: ignore[misc]


# The shape of a model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (dict(n_heads=5), "n_heads 5 does not divide d_model 384; the nearest that does is 4"),
        (dict(n_heads=7, d_model=64), "the nearest that does is 8"),
        (dict(n_heads=100, d_model=7), "the nearest that does is 7"),
        (dict(n_kv_heads=4), "n_kv_heads 4 does not divide n_heads 6"),
        (dict(n_kv_heads=12), "n_kv_heads 12 does not divide n_heads 6"),
        (dict(positions="rope", d_model=30, n_heads=6), "rope turns pairs of channels.*must be even, not 5"),
    ],
)
def test_a_shape_that_does_not_fit_says_what_would(shape: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**shape)


def test_derived_shapes() -> None:
    assert ModelConfig().d_head == 64 and ModelConfig().kv_heads == 6
    assert ModelConfig(n_kv_heads=2).kv_heads == 2


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    assert preset(name) is PRESETS[name] and preset(name).about and preset(name).usual_vocab > 0


def test_an_unknown_preset_is_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match="there is no preset 'fsh'; did you mean 'fish'"):
        preset("fsh")
    with pytest.raises(ValueError, match=r"there is no preset 'zzz'; there are: fish, modern, .*gpt2"):
        preset("zzz")


# TOML --------------------------------------------------------------------------------------------------------------


@given(
    source=st.text().filter(lambda text: not any(0xD800 <= ord(c) < 0xE000 for c in text)),
    rate=st.floats(0, 1e6),
    std=st.floats(0, 100),
    steps=st.integers(0, 10**8),
    tied=st.booleans(),
)
def test_toml_gives_back_what_it_got(
    tmp_path_factory: pytest.TempPathFactory, source: str, rate: float, std: float, steps: int, tied: bool
) -> None:
    config = Config(
        DataConfig(source=source),
        ModelConfig(init_std=std, tie_embeddings=tied),
        TrainConfig(learning_rate=rate, steps=steps),
    )
    file = tmp_path_factory.mktemp("run") / "config.toml"
    file.write_bytes(config.to_toml().encode())
    assert Config.from_toml(file) == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_goes_through_toml(tmp_path: Path, name: str) -> None:
    config = Config(DataConfig(), PRESETS[name].model, PRESETS[name].train)
    assert Config.from_toml(write(tmp_path, config.to_toml())) == config


def test_what_is_left_out_is_the_default(tmp_path: Path) -> None:
    assert Config.from_toml(write(tmp_path, "")) == Config()
    assert Config.from_toml(write(tmp_path, "[train]\nlearning_rate = 1\n")).train.learning_rate == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nn_head = 2\n", r"\[model\] has no knob 'n_head'; did you mean 'n_heads'"),
        ("[model]\nn_heads = 5\n", "n_heads 5 does not divide d_model 384"),
        ("[modell]\n", r"unknown section \[modell\]; a config has data, model, train"),
        ("model = 3\n", r"\[model\] must be a table, not 3"),
        ("[train]\nsteps = 1.5\n", "steps must be int, not 1.5"),
        ("[train]\nsteps = true\n", "steps must be int, not True"),
        ("[train]\nlearning_rate = nan\n", "learning_rate must be a finite number, not nan"),
        ("[train]\nlearning_rate = 1" + "0" * 400, "learning_rate must be"),
        ("[train\n", "Expected ']'"),
        ("steps = \ud7ff\x00", "Invalid"),
    ],
)
def test_a_config_that_is_wrong_names_the_file_and_the_knob(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as raised:
        Config.from_toml(file)
    assert str(raised.value).startswith(f"{file}: ") and "\n" not in str(raised.value)


def test_a_config_that_is_not_utf8_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b"[train]\nsteps = \xff\n")
    with pytest.raises(ValueError, match=r"config\.toml: .*utf-8"):
        Config.from_toml(file)


def test_sections_are_the_parts_of_a_config() -> None:
    parts = {field.name: field.type for field in dataclasses.fields(Config)}
    assert parts == SECTIONS
    assert from_dict(DataConfig, {"vocab": 300}, "data").vocab == 300
