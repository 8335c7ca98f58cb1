"""The choice of backend: forced, automatic, and refused with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

import fastgan
from fastgan import dispatch
from fastgan import functional as FF
from fastgan.dispatch import Backend


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_trace_names_op_and_backend_in_order() -> None:
    x = torch.ones(1, 1, 2, 2, requires_grad=True)
    with fastgan.use_backend("reference"), dispatch.trace() as calls:
        FF.conv_transpose2d(x, torch.ones(1, 1, 2, 2)).sum().backward()
    assert calls == [("conv_transpose2d", "reference"), ("conv2d", "reference")]


def test_traces_nest_and_end() -> None:
    with dispatch.trace() as outer:
        with dispatch.trace() as inner:
            FF.binary_cross_entropy_with_logits(torch.zeros(2), 1.0)
        FF.binary_cross_entropy_with_logits(torch.zeros(2), 1.0)
    FF.binary_cross_entropy_with_logits(torch.zeros(2), 1.0)
    assert len(inner) == 1 and len(outer) == 2


def test_use_backend_restores_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), fastgan.use_backend("triton"):
        raise ZeroDivisionError
    with dispatch.trace() as calls:
        FF.conv2d(torch.ones(1, 1, 2, 2).double(), torch.ones(1, 1, 1, 1).double())
    assert calls == [("conv2d", "reference")]


def test_use_backend_nests() -> None:
    with fastgan.use_backend("triton"), fastgan.use_backend("reference"), dispatch.trace() as calls:
        FF.conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1))
    assert calls == [("conv2d", "reference")]


def test_unknown_backend_raises_and_lists_the_known_ones() -> None:
    message = "unknown backend 'cudnn'.*'reference', 'triton', 'native'"
    with pytest.raises(ValueError, match=message), fastgan.use_backend("cudnn"):
        pass


def test_forced_backend_without_a_kernel_raises_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "unheard_of cannot run on the backend 'native'.*unheard_of has no native kernel"
    monkeypatch.setitem(dispatch._table, "unheard_of", {"reference": Backend("reference", abs, dispatch.always)})
    with fastgan.use_backend("native"), pytest.raises(fastgan.BackendError, match=message):
        dispatch.select("unheard_of", torch.ones(1))


def test_forced_triton_on_cpu_tensors_raises_without_the_interpreter() -> None:
    code = (
        "import torch, fastgan\n"
        "with fastgan.use_backend('triton'): fastgan.functional.binary_cross_entropy_with_logits(torch.zeros(2), 1.0)"
    )
    result = _run(code, TRITON_INTERPRET="0")
    assert result.returncode != 0
    assert "cannot run on the backend 'triton'" in result.stderr
    assert "Triton needs CUDA tensors" in result.stderr or "triton is not installed" in result.stderr


def test_backend_environment_variable_is_read_once_at_import() -> None:
    code = (
        "import os, torch, fastgan\n"
        "os.environ['FASTGAN_BACKEND'] = 'native'\n"
        "f = fastgan.functional.binary_cross_entropy_with_logits\n"
        "with fastgan.dispatch.trace() as calls: f(torch.zeros(2), 1.0)\n"
        "print(calls)"
    )
    result = _run(code, FASTGAN_BACKEND="reference")
    assert result.stdout.strip() == "[('bce_with_logits', 'reference')]", result.stderr


def test_backend_environment_variable_with_a_wrong_value_names_itself() -> None:
    result = _run("import fastgan", FASTGAN_BACKEND="fast")
    assert result.returncode != 0
    assert "FASTGAN_BACKEND: unknown backend 'fast'" in result.stderr


def test_why_not_gives_a_reason_or_none_for_every_backend() -> None:
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    reasons = dispatch.why_not("conv2d", x, x, None, (1, 1), (1, 1), (0, 0), (1, 1), 1)
    assert set(reasons) == set(dispatch.BACKENDS)
    assert reasons["reference"] is None
    assert reasons["native"] is not None and "float32" in reasons["native"]


def test_auto_takes_what_was_measured_to_be_faster_where_it_runs_and_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(auto_on: str, reason: str | None, pays: bool) -> dict[str, Backend]:
        native = Backend("native", abs, lambda x: reason, frozenset({auto_on}), lambda x: pays)
        return {"native": native, "reference": Backend("reference", abs, dispatch.always)}

    def chosen(*args: Any) -> str:
        monkeypatch.setitem(dispatch._table, "unheard_of", row(*args))
        return dispatch.select("unheard_of", torch.ones(1)).name

    assert chosen("cpu", None, True) == "native"
    assert chosen("cuda", None, True) == chosen("cpu", "no", True) == chosen("cpu", None, False) == "reference"
    with fastgan.use_backend("native"):  # whether it pays is not asked of one that was asked for
        assert chosen("cpu", None, False) == "native"


def test_ops_live_in_the_dispatcher() -> None:
    for op in dispatch.op_names():
        assert hasattr(torch.ops.fastgan, op)


def test_selects_asks_for_ops_that_not_every_backend_has(device):
    x = torch.ones(1, device=device)
    assert not dispatch.selects("triton", "conv2d_act_backward", x)
    for name in ("reference", "native"):
        with fastgan.use_backend(name):
            assert not dispatch.selects("triton", "conv2d_act_backward", x)
    with fastgan.use_backend("triton"):
        assert dispatch.selects("triton", "conv2d_act_backward", x)
