"""Keys and values of the tokens already read, so that each new token costs one step and not a whole pass."""

import torch
from torch import Tensor

from barreleye.config import ModelConfig


class KVCache:
    """Room for `length` positions of every layer's keys and values, allocated once."""

    def __init__(
        self,
        config: ModelConfig,
        batch: int = 1,
        length: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape_LBTHD = (
            config.n_layers,
            batch,
            length or config.context_length,
            config.kv_heads,
            config.d_head,
        )
        self.keys_LBTHD = torch.zeros(shape_LBTHD, device=device, dtype=dtype)
        self.values_LBTHD = torch.zeros(shape_LBTHD, device=device, dtype=dtype)
        self.length = 0  # positions filled; the model moves it on after its last layer

    @property
    def room(self) -> int:
        return self.keys_LBTHD.shape[2] - self.length

    def extend(self, layer: int, k_BTHD: Tensor, v_BTHD: Tensor) -> tuple[Tensor, Tensor]:
        """Store what `layer` computed for the new positions; return its keys and values from the first one on.
        Raises ValueError when they do not fit."""
        end = self.length + k_BTHD.shape[1]
        if end > self.keys_LBTHD.shape[2]:
            raise ValueError(f"{end} tokens do not fit a cache of {self.keys_LBTHD.shape[2]}")
        self.keys_LBTHD[layer, :, self.length : end] = k_BTHD
        self.values_LBTHD[layer, :, self.length : end] = v_BTHD
        return self.keys_LBTHD[layer, :, :end], self.values_LBTHD[layer, :, :end]
