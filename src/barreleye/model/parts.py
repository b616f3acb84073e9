"""The parts of a transformer that may be swapped: activations, norms, positions.

Each kind is a plain dictionary from the name in `ModelConfig` to the part; put your own part into it and name it in
the configuration. Shapes: B batch, T time (position), C channels (`d_model`), H heads, D channels per head.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from barreleye.config import ModelConfig, did_you_mean

NORM_EPS = 1e-5


class Tap(Protocol):
    """What each named tensor passes through: it may look at the tensor, and returns the one to go on with."""

    def __call__(self, name: str, tensor: Tensor) -> Tensor: ...


def no_tap(name: str, tensor: Tensor) -> Tensor:
    return tensor


# Activations -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Activation:
    """An elementwise function; `gated` ones multiply it with a second projection (Shazeer 2020, GLU variants)."""

    function: Callable[[Tensor], Tensor]
    gated: bool = False


def relu2(x: Tensor) -> Tensor:
    """Squared ReLU (So et al. 2021, Primer)."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Activation] = {
    "gelu": Activation(partial(F.gelu, approximate="tanh")),  # the tanh form is the one GPT-2 was trained with
    "gelu_erf": Activation(F.gelu),  # x times the normal distribution function, exactly: nanoGPT's
    "relu": Activation(F.relu),
    "relu2": Activation(relu2),
    "swiglu": Activation(F.silu, gated=True),
}

# Norms -------------------------------------------------------------------------------------------------------------


class LayerNorm(nn.Module):
    """Ba et al. 2016: subtract the mean, divide by the standard deviation, then gain and bias."""

    def __init__(self, width: int, at: str = "", eps: float = NORM_EPS) -> None:
        super().__init__()
        self.at, self.eps = at, eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_BTC: Tensor, tap: Tap = no_tap) -> Tensor:
        if tap is no_tap:
            return F.layer_norm(x_BTC, self.weight.shape, self.weight, self.bias, self.eps)
        x_BTC = x_BTC - x_BTC.mean(-1, keepdim=True)
        scale_BT1 = tap(self.at + "hook_scale", (x_BTC.square().mean(-1, keepdim=True) + self.eps).sqrt())
        return tap(self.at + "hook_normalized", x_BTC / scale_BT1) * self.weight + self.bias


class RMSNorm(nn.Module):
    """Zhang and Sennrich 2019: divide by the root mean square, then gain."""

    def __init__(self, width: int, at: str = "", eps: float = NORM_EPS) -> None:
        super().__init__()
        self.at, self.eps = at, eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_BTC: Tensor, tap: Tap = no_tap) -> Tensor:
        if tap is no_tap:
            # Unlike layer_norm, autocast leaves this one to us: queries and keys come in half precision.
            return F.rms_norm(x_BTC.to(self.weight.dtype), self.weight.shape, self.weight, self.eps)
        scale_BT1 = tap(self.at + "hook_scale", (x_BTC.square().mean(-1, keepdim=True) + self.eps).sqrt())
        return tap(self.at + "hook_normalized", x_BTC / scale_BT1) * self.weight


NORMS: dict[str, Callable[[int, str, float], nn.Module]] = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}

# Positions ---------------------------------------------------------------------------------------------------------


class Positions(nn.Module):
    """A way to tell the model where a token stands. This one says nothing: `none`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    def embed(self, start: int, end: int) -> Tensor | None:
        """What is added to the embeddings of positions start..end, shape (T, C), or None."""
        return None

    def rotate(self, x_BTHD: Tensor, start: int, tap: Tap = no_tap, name: str = "") -> Tensor:
        """What is done to queries and keys whose first position is `start`; tapped under `name` where anything is."""
        return x_BTHD


class Learned(Positions):
    """A trained vector per position, as in GPT-2. It starts as `Sinusoidal` and not as noise: what is near then looks
    alike, and attention learns much sooner to look at the token before."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(sines(config))

    def embed(self, start: int, end: int) -> Tensor:
        return self.weight[start:end]


class Sinusoidal(Positions):
    """Fixed sines and cosines of geometrically spaced wavelengths (Vaswani et al. 2017, section 3.5)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.register_buffer("table_TC", sines(config), persistent=False)

    def embed(self, start: int, end: int) -> Tensor:
        return self.table_TC[start:end]  # type: ignore[index]


class Rotary(Positions):
    """Queries and keys turned by an angle that grows with position (Su et al. 2021), in Llama's layout: channel i is
    paired with channel i + D/2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        angle_TD = angles(config.context_length, config.d_head, config.rope_theta).repeat(1, 2)
        self.register_buffer("cos_TD", angle_TD.cos(), persistent=False)
        self.register_buffer("sin_TD", angle_TD.sin(), persistent=False)

    def rotate(self, x_BTHD: Tensor, start: int, tap: Tap = no_tap, name: str = "") -> Tensor:
        end = start + x_BTHD.shape[1]
        cos_T1D, sin_T1D = self.cos_TD[start:end, None], self.sin_TD[start:end, None]  # type: ignore[index]
        left, right = x_BTHD.chunk(2, -1)
        return tap(name, (x_BTHD * cos_T1D + torch.cat([-right, left], -1) * sin_T1D).to(x_BTHD.dtype))


def sines(config: ModelConfig) -> Tensor:
    """Sine at even channels, cosine at odd ones, as large as a fresh embedding, which unit sines would drown."""
    angle_TF = angles(config.context_length, config.d_model + config.d_model % 2)
    table_TC = torch.stack([angle_TF.sin(), angle_TF.cos()], -1).flatten(1)[:, : config.d_model]
    return table_TC * config.embedding_std * math.sqrt(2)


def angles(length: int, width: int, theta: float = 10_000.0) -> Tensor:
    """position / theta^(2i / width) for every position and pair of channels, shape (length, width / 2)."""
    frequency_F = theta ** -(torch.arange(0, width, 2).float() / width)
    return torch.outer(torch.arange(length).float(), frequency_F)


POSITIONS: dict[str, Callable[[ModelConfig], Positions]] = {
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "rope": Rotary,
    "none": Positions,
}


def check_parts(config: ModelConfig) -> None:
    """Raises ValueError where the configuration names a part that is not there."""
    for knob, parts in (("activation", ACTIVATIONS), ("norm", NORMS), ("positions", POSITIONS)):
        name = getattr(config, knob)
        if name not in parts:
            raise ValueError(f"{knob} cannot be {name!r}{did_you_mean(name, list(parts))}")
