"""The rows of the table: one per function or layer, dtype and layout."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.autograd import gradcheck, gradgradcheck

from fastgan.ops.common.dtypes import FLOATING
from tests.upstream import judge
from tests.upstream.samples import LAYOUTS, SUBJECTS, Sample, dtypes, lay_out, samples


@dataclass
class Row:
    """Numbers of samples, unless said otherwise."""

    subject: str
    dtype: torch.dtype
    layout: str
    samples: int = 0
    other_layout: int = 0  # too few dimensions for this one
    compared: int = 0  # tensors, and the output's strides
    failures: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)  # by our message
    differentiated: int = 0
    passed: Counter[str] = field(default_factory=Counter)  # gradcheck, gradgradcheck, torch forward, forward
    no_forward: Counter[str] = field(default_factory=Counter)  # by our message


def rows(device: torch.device, subjects: Sequence[str] = SUBJECTS) -> Iterator[Row]:
    """Every row; a dtype that ours refuses has one, for the contiguous layout."""
    for subject in subjects:
        for dtype in dtypes(subject, device):
            for layout in LAYOUTS if dtype in FLOATING else ("contiguous",):
                row = run(subject, dtype, layout, device)
                if row.samples > row.other_layout:
                    yield row


def run(subject: str, dtype: torch.dtype, layout: str, device: torch.device) -> Row:
    """One row."""
    row = Row(subject, dtype, layout)
    with warnings.catch_warnings():
        # samples use deprecated arguments, have outputs without elements, and so on
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        for sample in samples(subject, device, dtype):
            row.samples += 1
            if lay_out(sample, layout) is None:
                row.other_layout += 1
            else:
                _compare(row, sample)
    taken = row.samples - row.other_layout
    if dtype in FLOATING and taken and not row.compared:
        row.failures.append("nothing was compared")
    if dtype not in FLOATING and row.refused.total() != taken:
        row.failures.append(f"{taken - row.refused.total()} samples of {dtype} were not refused")
    return row


def _compare(row: Row, sample: Sample) -> None:
    try:
        for _, complaint in judge.compare(sample, row.layout):
            row.compared += 1
            if complaint is not None:
                row.failures.append(f"{sample.name}, {complaint}")
    except Exception as error:
        message = judge.one_line(error)
        if not isinstance(error, AssertionError) and any(words in message for words in judge.REFUSALS):
            row.refused[message] += 1
        else:
            row.failures.append(f"{sample.name}, {type(error).__name__}: {message}")
        return
    if row.dtype is torch.float64:
        _differentiate(row, sample)


def _differentiate(row: Row, sample: Sample) -> None:
    if any(leaf.numel() == 0 for leaf in judge.leaves_and_call(sample, row.layout, sample.ours)[0]):
        return  # nothing to move
    row.differentiated += 1
    for check in (gradcheck, gradgradcheck):
        complaint = judge.gradients_are_right(sample, row.layout, check)
        if complaint is None:
            row.passed[check.__name__] += 1
        else:
            row.failures.append(f"{sample.name}, {complaint}")
    try:
        theirs, ours = (judge.forward_mode(sample, row.layout, f) for f in (sample.theirs, sample.ours))
    except Exception as error:
        row.failures.append(f"{sample.name}, forward mode: {type(error).__name__}: {judge.one_line(error)}")
        return
    row.passed["torch forward"] += isinstance(theirs, torch.Tensor)
    if isinstance(ours, str):
        row.no_forward[ours] += 1
    elif isinstance(theirs, str) or (complaint := judge.complaint("tangent", ours, theirs, theirs)) is None:
        row.passed["forward"] += 1
    else:
        row.failures.append(f"{sample.name}, {complaint}")
