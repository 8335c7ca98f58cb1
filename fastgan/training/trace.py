"""The numbers that a step leaves behind, what they are called, and how they reach the host without stopping the device.

A trace is one tensor per step, in the order of computation, so that its first bad entry is where things went wrong.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .step import Players

METRICS = ("d_loss", "g_loss", "d_real", "d_fake", "d_grad_norm", "g_grad_norm")


@dataclass(frozen=True)
class TraceLayout:
    """Which entry of a trace is what."""

    names: tuple[str, ...]
    d_parameters: int
    g_parameters: int

    @classmethod
    def of(cls, players: Players, d_steps: int = 1) -> "TraceLayout":
        """The layout of the traces that ``train_step`` returns for ``players``."""
        gradients = [
            [f"the gradient of {role}.{name}" for name, _ in reversed(list(network.named_parameters()))]
            for role, network in (("discriminator", players.discriminator), ("generator", players.generator))
        ]
        of_d = ("D(x)", "D(G(z))", "the loss of D", *gradients[0])
        earlier = [f"{name} in step {turn} of D" for turn in range(1, d_steps) for name in of_d]
        return cls((*earlier, *of_d, "the loss of G", *gradients[1]), len(gradients[0]), len(gradients[1]))

    def metrics(self, trace: Tensor) -> Tensor:
        """METRICS [S, 6] of traces [S, T]; those of D are from the last of its steps."""
        sizes = [1, 1, 1, self.d_parameters, 1, self.g_parameters]
        d_real, d_fake, d_loss, d_norms, g_loss, g_norms = trace[:, -sum(sizes) :].split(sizes, 1)
        norms = [torch.linalg.vector_norm(norms, dim=1, keepdim=True) for norms in (d_norms, g_norms)]
        return torch.cat([d_loss, g_loss, d_real, d_fake, *norms], dim=1)

    def first_bad(self, trace: Tensor) -> tuple[int, str] | None:
        """The first row of ``trace`` [S, T] with a number that is not finite, and the name of the first such number."""
        bad = (~trace.isfinite()).nonzero()  # sorted by row, then by column
        return (int(bad[0, 0]), self.names[int(bad[0, 1])]) if len(bad) else None


class Window:
    """The traces of the steps since the last line of the log, and those on their way to the host.

    On a GPU a closed window is copied to pinned memory in the background and handed out when the copy is done: at the
    next line of the log, as a rule. On a CPU it is there at once.
    """

    def __init__(self) -> None:
        self._open: list[Tensor] = []
        self._closed: list[tuple[int, Tensor, torch.cuda.Event | None]] = []

    def __len__(self) -> int:
        """The number of steps since the last line of the log."""
        return len(self._open)

    def add(self, trace: Tensor) -> None:
        """Take the trace of one step."""
        self._open.append(trace)

    def open_rows(self) -> Tensor | None:
        """The traces [S, T] of the window that is still open, on the CPU. Waits for the device."""
        return torch.stack(self._open).cpu() if self._open else None

    def reopen(self, rows: Tensor | None, device: torch.device | str) -> None:
        """Go on with the window that ``open_rows`` returned."""
        self._open = [] if rows is None else list(rows.to(device))

    def close(self, step: int) -> None:
        """End the window with ``step``."""
        if not self._open:
            return
        rows, self._open = torch.stack(self._open), []
        if not rows.is_cuda:
            self._closed.append((step, rows, None))
            return
        host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        host.copy_(rows, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        self._closed.append((step, host, done))

    def ready(self, wait: bool = False) -> list[tuple[int, Tensor]]:
        """The closed windows that have arrived: last step, traces [S, T] on the CPU. With ``wait``, all of them."""
        arrived = []
        while self._closed:
            step, rows, done = self._closed[0]
            if done is not None and not done.query():
                if not wait:
                    break
                done.synchronize()
            arrived.append((step, rows))
            del self._closed[0]
        return arrived
