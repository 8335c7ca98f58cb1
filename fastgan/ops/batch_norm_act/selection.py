"""Native or Triton on a GPU: a table with its reasons.

It counts where neither is forced, a table of measured times does not know the call, and committed measurements allow
both (``auto_on``), which those of a GPU do not yet: the reasons are counts of passes and launches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """``case`` says in words which inputs ``holds`` is true of."""

    case: str
    holds: Callable[[torch.Tensor], bool]
    backend: str
    why: str


def _has_gaps(input: torch.Tensor) -> bool:
    return not (input.is_contiguous() or input.movedim(1, -1).is_contiguous())


def _loads_narrowly(input: torch.Tensor) -> bool:
    """Whether no vector divides a row, as csrc's gpu_plan.h sees it: a plane of NCHW, the channels where they are last
    or planes have one pixel, or, of one channel, everything."""
    channels, plane = input.shape[1], math.prod(input.shape[2:])
    row = input.numel() if channels == 1 else plane if input.is_contiguous() and plane > 1 else channels
    return row % (16 // input.element_size()) != 0 and (input.element_size() != 2 or row % 4 != 0)


#: The first row that holds decides.
TABLE = (
    Row("gaps in the input", _has_gaps, "triton", "the native kernels take none"),
    Row(
        "rows that no vector divides, as 7x7 planes of NCHW",
        _loads_narrowly,
        "triton",
        "both load element by element, and Triton's tiles have more loads at once",
    ),
    Row(
        "everything else",
        lambda input: True,
        "native",
        "where a group of channels fits a cluster, 2 S and 3 S against 3 S and 5 S and one launch against three; "
        "elsewhere the same passes, two launches against three, and a launcher in C++",
    ),
)


def row(input: torch.Tensor) -> Row:
    """The row that decides about this input on a GPU."""
    return next(row for row in TABLE if row.holds(input))


def native_pays(input: torch.Tensor, *_rest: Any) -> bool:
    """``pays`` of the native backend; on a CPU it has no rival."""
    return input.device.type == "cpu" or row(input).backend == "native"


def native_pays_backward(grad_output: torch.Tensor, input: torch.Tensor, *_rest: Any) -> bool:
    """The same of ops that take grad_output first."""
    return native_pays(input)
