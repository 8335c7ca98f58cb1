"""Runs cases: correctness first, then torch and fastgan side by side."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bench.cases import QUICK_BATCH, Case, Pair, Results, Setting
from bench.timing import graphed, measure
from fastgan import dispatch
from fastgan.ops.common import triton_runtime
from fastgan.verify.rule import Verdict, judge_result

Call = Callable[[], Results]


class RedError(AssertionError):
    """A result breaks the numerics rule: the case gets no figure."""


def _norm_verdict(ours: Tensor, theirs: Tensor, judge: Tensor) -> Verdict:
    """The rule with the L2 norm over the whole result."""
    ulp = torch.finfo(theirs.dtype).eps * float(judge.norm())
    theirs_error, error = float((theirs.double() - judge).norm()), float((ours.double() - judge).norm())
    return Verdict(error if ours.dtype == theirs.dtype else float("inf"), theirs_error, 2 * theirs_error + 2 * ulp)


def _flat(results: Results) -> Results:
    """The loss, and all gradients as one vector."""
    gradients = [value.flatten() for name, value in results.items() if name != "d_loss"]
    return {"d_loss": results["d_loss"], "gradient": torch.cat(gradients)}


def check(pair: Pair, ours: Results, theirs: Results, judge: Results) -> float:
    """The largest ``error / allowed`` over all results.

    Raises:
        RedError: one is above 1; the message names it.
    """
    if pair.norm:
        ours, theirs, judge = (_flat(results) for results in (ours, theirs, judge))
    worst = 0.0
    for name, result in judge.items():
        verdict = (_norm_verdict if pair.norm else judge_result)(ours[name], theirs[name], result)
        if not verdict.ok:
            raise RedError(f"{name}: error {verdict.error:.3g}, allowed {verdict.allowed:.3g}")
        worst = max(worst, verdict.strain)
    return worst


def forced(backend: str, call: Call) -> Call:
    """``call`` with a backend forced; "auto" forces none."""
    if backend == "auto":
        return call

    def run() -> Results:
        with dispatch.use_backend(backend):
            return call()

    return run


@contextlib.contextmanager
def _cudnn_benchmark() -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def run_case(case: Case, setting: Setting, backends: list[str], budget: float, graphs: bool = False) -> dict[str, Any]:
    """One case in one setting, as plain data: ``times`` per contender, which backend ran each op, why others did not.

    A contender that breaks the rule is listed under ``red`` with the reason and has no time. A backend whose choices
    are those of another contender is not timed twice.
    """
    record: dict[str, Any] = {"group": case.group, "case": case.name, "work": case.work}
    record |= {"dtype": str(setting.dtype).removeprefix("torch."), "batch": setting.batch}
    record |= {"layout": ("NHWC" if setting.channels_last else "NCHW") if case.images else "-"}
    not_run, red, ops, strain, contenders = {}, {}, {}, {}, {}
    with _cudnn_benchmark():
        base = case.setup(setting)
        theirs, judge = base.torch(), base.judge()
        contenders["torch"] = base.torch
        for backend in backends:
            if backend == "triton" and triton_runtime.interpreting():
                not_run[backend] = "TRITON_INTERPRET=1: the interpreter's speed says nothing"
                continue
            pair = case.setup(setting)  # anew: a training step starts from the same weights
            call = forced(backend, pair.fastgan)
            try:
                with dispatch.trace() as calls:
                    ours = call()
                strain[backend] = check(pair, ours, theirs, judge)
            except dispatch.BackendError as error:
                not_run[backend] = str(error).partition("asked for: ")[2] or str(error)
                continue
            except RedError as error:
                red[backend] = str(error)
                continue
            ran = dict(sorted(set(calls)))
            same = next((name for name, other in ops.items() if other == ran), None)
            if same is not None:
                not_run[backend] = f"runs the same kernels as {same}"
                continue
            ops[backend], contenders[backend] = ran, call
        if graphs and case.work != "step":
            contenders |= {f"{name}, CUDA graph": graphed(call) for name, call in list(contenders.items())}
        times = measure(contenders, setting.device, budget)
    record |= {"times": {name: dataclasses.asdict(time) for name, time in times.items()}}
    return record | {"ops": ops, "error_over_allowed": strain, "not_run": not_run, "red": red}


def settings(case: Case, device: torch.device, quick: bool) -> list[Setting]:
    """Both memory formats; float32, and bfloat16 on a GPU; batch 128, or 32 where it is to be quick on a CPU."""
    dtypes = (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,)
    batch = QUICK_BATCH if quick and device.type == "cpu" else Setting.batch
    formats = (False, True) if case.images else (False,)
    return [Setting(device, dtype, last, batch) for dtype in dtypes for last in formats]
