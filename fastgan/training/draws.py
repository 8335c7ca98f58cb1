"""What each step starts from: the next real batch and fresh noise, and where in the data and in the dice we are."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastgan.data import Images

from .config import TrainConfig
from .step import Batch


class Draws:
    """Called, it returns the next Batch. Its state can be kept and taken up again, in the middle of an epoch too.

    ``data`` passes again and again, each time in another order; what makes no whole batch at its end is left out.
    """

    def __init__(self, config: TrainConfig, data: Images, z_dim: int, conditional: bool) -> None:
        self.config, self.data, self.z_dim, self.conditional = config, data, z_dim, conditional
        self.batches_per_epoch = len(data) // config.batch_size
        self.epoch = 0  # the first is 1
        self.taken = 0  # batches of this epoch that have been drawn
        self._order = torch.Generator().manual_seed(config.seed)  # a CPU one: the same order on every device
        self._noise = torch.Generator(config.device).manual_seed(config.seed)
        self._order_at_epoch = self._order.get_state()
        self._batches: Iterator[tuple[Tensor, Tensor]] = iter(())

    def __call__(self) -> Batch:
        if self.epoch == 0 or self.taken == self.batches_per_epoch:
            self.epoch, self.taken = self.epoch + 1, 0
            self._open()
        real, labels = next(self._batches)
        self.taken += 1
        if self.config.channels_last:
            real = real.contiguous(memory_format=torch.channels_last)
        z = torch.randn(len(real), self.z_dim, generator=self._noise, device=self.config.device)
        return real, z, (labels,) if self.conditional else ()

    def _open(self) -> None:
        self._order_at_epoch = self._order.get_state()
        self._batches = self.data.batches(self.config.batch_size, self._order, skip=self.taken)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for ``load_state_dict``."""
        return {
            "epoch": self.epoch,
            "taken": self.taken,
            "order": self._order_at_epoch,  # as it was before it shuffled this epoch
            "noise": self._noise.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was called. The data must be the same."""
        self.epoch, self.taken = state["epoch"], state["taken"]
        self._order.set_state(state["order"])
        self._noise.set_state(state["noise"])
        if self.epoch:
            self._open()
