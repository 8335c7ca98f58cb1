"""Processes that form a gloo group and call what they are told to."""

from __future__ import annotations

import datetime
import io
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

# A collective that a rank does not join ends after this long, in an error of those who wait.
TIMEOUT = datetime.timedelta(seconds=20)


def _serve(rank: int, world: int, store: Path, pipe: Any) -> None:
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", DeprecationWarning)  # torch 2.11's own
    warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, which interprets the kernels: 1 / 0 of a masked channel
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=TIMEOUT)
    while (task := pipe.recv()) is not None:
        function, args = task
        torch.manual_seed(0)
        try:
            answer = (function(*torch.load(io.BytesIO(args), weights_only=False), rank), None)
        except Exception:
            answer = (None, traceback.format_exc())
        pipe.send(_packed(answer))
    dist.destroy_process_group()


def _packed(values: Any) -> bytes:
    """Tensors by value: pipes of torch.multiprocessing would share their memory."""
    stream = io.BytesIO()
    torch.save(values, stream)
    return stream.getvalue()


class Ranks:
    """``ranks(function, *args)``: the results of ``function(*args, rank)``, one per process. Functions are those of a
    module that the processes can import. After a failure the next call starts new processes: a rank that left a
    collective alone broke the group."""

    def __init__(self, world: int, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.starts = 0
        self.pipes: list[Any] = []
        self.processes: list[Any] = []

    def start(self) -> None:
        """Starts the processes."""
        context = multiprocessing.get_context("spawn")
        self.starts += 1
        ends = [context.Pipe() for _ in range(self.world)]
        self.pipes = [mine for mine, _ in ends]
        store = self.folder / f"store{self.starts}"
        self.processes = [
            context.Process(target=_serve, args=(rank, self.world, store, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(ends)
        ]
        for process in self.processes:
            process.start()

    def __call__(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        if not self.processes:
            self.start()
        for pipe in self.pipes:
            pipe.send((function, _packed(args)))
        answers = [torch.load(io.BytesIO(pipe.recv()), weights_only=False) for pipe in self.pipes]
        failures = [f"rank {rank}:\n{failure}" for rank, (_, failure) in enumerate(answers) if failure]
        if failures:
            self.close()
        assert not failures, "\n".join(failures)
        return [result for result, _ in answers]

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(TIMEOUT.total_seconds())
            if process.is_alive():
                process.kill()
        self.pipes, self.processes = [], []
