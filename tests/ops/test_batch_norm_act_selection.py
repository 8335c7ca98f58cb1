"""Native or Triton on a GPU, as the table says, asked with fake tensors: no GPU is needed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastgan import dispatch
from fastgan.ops.batch_norm_act import selection

TRITON = {
    "gaps": lambda: torch.empty(4, 16, 8, 9, device="cuda")[..., :8],
    "7x7 planes": lambda: torch.empty(4, 16, 7, 7, device="cuda"),
    "7x7 planes of halves": lambda: torch.empty(4, 16, 7, 7, device="cuda", dtype=torch.bfloat16),
    "odd channels last": lambda: torch.empty(4, 15, 8, 8, device="cuda").contiguous(memory_format=torch.channels_last),
    "odd channels alone": lambda: torch.empty(64, 15, device="cuda"),
}
NATIVE = {
    "NCHW": lambda: torch.empty(4, 15, 8, 8, device="cuda"),
    "halves that only four divide": lambda: torch.empty(4, 16, 2, 2, device="cuda", dtype=torch.float16),
    "NHWC, 7x7": lambda: torch.empty(4, 16, 7, 7, device="cuda").contiguous(memory_format=torch.channels_last),
    "channels alone": lambda: torch.empty(64, 16, device="cuda"),
    "planes of one pixel, which are channels alone": lambda: torch.empty(64, 16, 1, 1, device="cuda"),
    "one channel, which is one plane of all images": lambda: torch.empty(8, 1, 7, 7, device="cuda"),
}
CASES = [
    *((name, make, "triton") for name, make in TRITON.items()),
    *((n, make, "native") for n, make in NATIVE.items()),
]


@pytest.mark.parametrize(("name", "make", "expected"), CASES, ids=[case[0] for case in CASES])
def test_the_table_decides_where_measurements_allow_both(name, make, expected, monkeypatch):
    """As it will be with "cuda" in ``auto_on``; of a gap the native backend says itself that it takes none."""
    for op in ("batch_norm_act_train", "batch_norm_act_backward"):
        row = {
            key: dataclasses.replace(
                backend,
                auto_on=backend.auto_on | ({"cuda"} if key != "reference" else set()),
                supports=dispatch.always,
            )
            for key, backend in dispatch._table[op].items()
        }
        monkeypatch.setitem(dispatch._table, op, row)
    with FakeTensorMode():
        input, vector = make(), torch.empty(16, device="cuda")
        forward = (input, vector, vector, None, None, 0.1, 1e-5, 1, 0.0)
        backward = (input, input, vector, vector, vector, vector, True, 1, 0.0)
        assert dispatch.select("batch_norm_act_train", *forward).name == expected
        assert dispatch.select("batch_norm_act_backward", *backward).name == expected
        assert selection.row(input).backend == expected


def test_without_measurements_a_gpu_gets_neither():
    with FakeTensorMode():
        input, vector = NATIVE["NCHW"](), torch.empty(15, device="cuda")
        forward = (input, vector, vector, None, None, 0.1, 1e-5, 1, 0.0)
        assert dispatch.select("batch_norm_act_train", *forward).name == "reference"


def test_a_cpu_is_not_asked():
    for make in (lambda: torch.empty(4, 16, 7, 7), lambda: torch.empty(4, 16, 8, 9)[..., :8]):
        assert selection.native_pays(make()) and selection.native_pays_backward(make(), make())


def test_every_row_has_a_reason_and_the_last_one_is_for_the_rest():
    assert all(row.why and row.case and row.backend in ("native", "triton") for row in selection.TABLE)
    with FakeTensorMode():
        for make in NATIVE.values():
            assert selection.row(make()) is selection.TABLE[-1]
