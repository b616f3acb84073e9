import contextlib

import pytest
import torch

from barreleye.config import TrainConfig
from barreleye.training import device as device_module
from barreleye.training.device import (
    autocast,
    best_precision,
    check_device,
    peak_flops,
    random_states,
    resolve,
    set_random_states,
)


def test_auto_is_resolved_and_what_is_resolved_stays() -> None:
    resolved = resolve(TrainConfig(device="cpu"))
    assert resolved.precision in ("float32", "bfloat16") and resolved.threads == torch.get_num_threads()
    assert resolve(resolved) == resolved
    assert resolve(TrainConfig(device="auto")).device in ("cpu", "cuda", "mps")
    assert resolve(TrainConfig(device="cpu", precision="float32", threads=3)).threads == 3


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_float16_on_a_cpu_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match=r"precision float16 needs a GPU.*use bfloat16 or float32"):
        resolve(TrainConfig(device=device, precision="float16"))


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:-1", "", "tpu"])
def test_a_device_that_does_not_exist_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="choose auto, cpu, cuda or mps"):
        check_device(device)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    check_device("cpu"), check_device("cuda"), check_device("cuda:0")
    for device in ("cuda:1", "mps", "cpu:1"):
        with pytest.raises(ValueError, match=f"this machine has no {device} device"):
            check_device(device)


@pytest.mark.parametrize(("generation", "precision"), [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_precision_by_gpu(monkeypatch: pytest.MonkeyPatch, generation: tuple[int, int], precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
    assert best_precision("cuda") == best_precision("cuda:1") == precision


@pytest.mark.parametrize(("has_bf16", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_precision_by_cpu(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, precision: str) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert best_precision("cpu") == precision
    assert best_precision("mps") == "float32"


def test_autocast() -> None:
    a = torch.ones(2, 2)
    with autocast(TrainConfig(device="cpu", precision="bfloat16")):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(TrainConfig(device="cpu", precision="float32")) as nothing:
        assert nothing is None and (a @ a).dtype == torch.float32
    assert isinstance(autocast(TrainConfig(precision="float32")), contextlib.nullcontext)


def test_random_states_are_put_back() -> None:
    cpu = torch.device("cpu")
    states = random_states(cpu)
    assert set(states) == {"cpu"}  # a training on the CPU does not wake a GPU
    drawn = torch.rand(3)
    set_random_states(states, cpu)
    assert torch.equal(torch.rand(3), drawn)


def test_a_gpus_dropout_is_put_back_on_the_gpu_it_ran_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device) or torch.zeros(1))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: asked.append(device))
    second = torch.device("cuda:1")
    set_random_states(random_states(second), second)
    assert asked == [second, second]


def test_every_precision_has_a_type() -> None:
    assert set(device_module.DTYPES) == {"float32", "bfloat16", "float16"}


def test_the_peak_is_that_of_a_large_product_and_draws_no_random_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine of 1 TFLOP/s at best, at half of it every other time."""
    sizes: list[int] = []

    def seconds(square: torch.Tensor) -> float:
        assert square.dtype is torch.float32 and square.shape[0] == square.shape[1]
        sizes.append(len(square))
        return 2 * len(square) ** 3 / 1e12 * (1 + len(sizes) % 2)

    monkeypatch.setattr(device_module, "_seconds_to_square", seconds)
    state = torch.get_rng_state()
    assert peak_flops(resolve(TrainConfig(device="cpu", precision="float32"))) == pytest.approx(1e12)
    assert 2 * sizes[-1] ** 3 / 1e12 >= device_module.LONG_ENOUGH > 2 * (sizes[-1] / 2) ** 3 / 1e12
    assert torch.equal(torch.get_rng_state(), state)


def test_a_product_is_timed() -> None:
    assert 0 < device_module._seconds_to_square(torch.ones(64, 64)) < 10
