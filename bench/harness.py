"""Runs cases: correctness first, then every provider side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bench import kinks
from bench.case import Call, Case, Results, Setting, Work
from bench.kinks import Sides
from bench.providers import TORCH, Provider, UnavailableError
from bench.timing import graphed, measure
from fastgan import dispatch
from fastgan.verify.rule import Verdict, judge_result


class RedError(AssertionError):
    """A result breaks the numerics rule: the case gets no figure."""


def _norm_verdict(ours: Tensor, theirs: Tensor, judge: Tensor, their_judge: Tensor) -> Verdict:
    """The rule with the L2 norm over the whole result."""
    ulp = torch.finfo(theirs.dtype).eps * float(judge.norm())
    theirs_error, error = float((theirs.double() - their_judge).norm()), float((ours.double() - judge).norm())
    return Verdict(error if ours.dtype == theirs.dtype else float("inf"), theirs_error, 2 * theirs_error + 2 * ulp)


def _flat(results: Results) -> Results:
    """All gradients as one vector, and the rest as it is."""
    gradients = [value.flatten() for name, value in results.items() if name.startswith("grad ")]
    rest = {name: value for name, value in results.items() if not name.startswith("grad ")}
    return rest | ({"gradient": torch.cat(gradients)} if gradients else {})


def check(work: Work, ours: Results, theirs: Results, judge: Results, their_judge: Results | None = None) -> float:
    """The largest ``error / allowed`` over all results; ``their_judge`` where torch's run has a judge of its own.

    Raises:
        RedError: one is above 1; the message names it.
    """
    if ours.keys() != theirs.keys():
        raise RedError(f"results {sorted(ours)}, torch gives {sorted(theirs)}")
    their_judge = judge if their_judge is None else their_judge
    if work.norm:
        ours, theirs, judge, their_judge = (_flat(results) for results in (ours, theirs, judge, their_judge))
    worst = 0.0
    for name, result in judge.items():
        if work.norm:
            verdict = _norm_verdict(ours[name], theirs[name], result, their_judge[name])
        else:
            verdict = judge_result(ours[name], theirs[name], result)
        if not verdict.ok:
            raise RedError(f"{name}: error {verdict.error:.3g}, allowed {verdict.allowed:.3g}")
        worst = max(worst, verdict.strain)
    return worst


def run_and_check(work: Work, ours: Call, theirs: Call) -> float:
    """:func:`check` on a call of either."""
    runs = []
    for call in (ours, theirs):
        with kinks.recorded() as sides:
            runs.append((call(), sides))
    (mine, my_sides), (base, base_sides) = runs
    try:
        return check(work, mine, base, work.judge())
    except RedError:
        if work.judge_at is None:
            raise
    return _check_at(work, mine, my_sides, base, base_sides)


def _check_at(work: Work, ours: Results, our_sides: Sides, theirs: Results, their_sides: Sides) -> float:
    """:func:`check` with each run's judge on the run's sides of the kinks."""
    assert work.judge_at is not None
    try:
        return check(work, ours, theirs, work.judge_at(our_sides), work.judge_at(their_sides))
    except kinks.OtherSideError as error:
        raise RedError(str(error)) from None


@contextlib.contextmanager
def _cudnn_benchmark() -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@dataclasses.dataclass
class _First:
    """A provider's first call: what it computed, which backend ran each op, its peak of CUDA memory."""

    call: Call
    results: Results
    ops: dict[str, str]
    memory: int | None


def _first_call(provider: Provider, case: Case, setting: Setting) -> _First:
    cuda = setting.device.type == "cuda"
    before = torch.cuda.memory_allocated(setting.device) if cuda else 0
    work = case.setup(setting)  # anew: a training step starts from the same weights
    if cuda:
        torch.cuda.reset_peak_memory_stats(setting.device)
    call = provider.make(work, setting)
    with dispatch.trace() as calls:
        results = call()
    # not of what is compiled in its first call: the compiler's own memory would be in it
    peak = torch.cuda.max_memory_allocated(setting.device) - before if cuda and not provider.warm else None
    return _First(call, results, dict(sorted(set(calls))), peak)


def _verify(
    case: Case, setting: Setting, provider: Provider, work: Work, first: _First, base: _First, judge: Call
) -> float:
    """:func:`check`; where that does not do and the work has kinks, on runs of their own, whose sides are recorded."""
    try:
        return check(work, first.results, base.results, judge())
    except RedError:
        if work.judge_at is None:
            raise
    runs = []
    for other in (provider, TORCH):
        call = other.make(case.setup(setting), setting)
        with dispatch.trace(), kinks.recorded() as sides:
            runs.append((call(), sides))
    return _check_at(work, *runs[0], *runs[1])


def _blank(case: Case, setting: Setting) -> dict[str, Any]:
    layout = ("NHWC" if setting.channels_last else "NCHW") if case.images else "-"
    record: dict[str, Any] = {"group": case.group, "case": case.name, "work": case.work}
    record |= {"dtype": str(setting.dtype).removeprefix("torch."), "batch": setting.batch, "layout": layout}
    record |= {"threads": torch.get_num_threads(), "times": {}, "memory": {}, "ops": {}, "error_over_allowed": {}}
    return record | {"not_run": {}, "red": {}}


def _join(record: dict[str, Any], provider: Provider, first: _First) -> bool:
    """Write down what the first call showed. False: it runs what another contender runs already."""
    if provider.ours:
        same = next((name for name, other in record["ops"].items() if other == first.ops), None)
        if same is not None:
            record["not_run"][provider.name] = f"runs the same kernels as {same}"
            return False
        record["ops"][provider.name] = first.ops
    if first.memory is not None:
        record["memory"][provider.name] = first.memory
    return True


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def failed(case: Case, setting: Setting, error: Exception) -> dict[str, Any]:
    """The record of a case that not even torch could run."""
    return _blank(case, setting) | {"red": {TORCH.name: _first_line(error)}}


def _capture(record: dict[str, Any], contenders: dict[str, Call], work: Work, base: _First, judge: Call) -> None:
    """Add each contender's call as a CUDA graph, or the reason for none; nobody's where torch's cannot be one.

    A replayed op is held against the rule too; not so networks, whose weights and sides have moved by now.
    """
    for name in list(contenders):
        title = f"{name}, CUDA graph"
        try:
            call = graphed(contenders[name])
            if name != TORCH.name and not work.norm:
                check(work, call(), base.results, judge())
        except RedError as error:
            record["red"][title] = str(error)
        except Exception as error:
            record["not_run"][title] = _first_line(error)
            if name == TORCH.name:
                return
        else:
            contenders[title] = call


def run_case(
    case: Case, setting: Setting, providers: Sequence[Provider], budget: float, graphs: bool = False
) -> dict[str, Any]:
    """One case in one setting, as plain data: ``times`` per contender, which backend ran each op, why others did not.

    A contender that breaks the rule is listed under ``red`` with the reason and has no time. A backend whose choices
    are those of another contender is not timed twice. A provider that cannot run is listed under ``not_run``.
    """
    record, contenders = _blank(case, setting), {}
    with _cudnn_benchmark():
        work = case.setup(setting)
        base = _first_call(TORCH, case, setting)
        judge = functools.cache(work.judge)  # not computed where nobody can run
        record |= {"flops": work.flops(), "traffic": work.traffic}
        _join(record, TORCH, base)
        contenders["torch"] = base.call
        for provider in providers:
            name = provider.name
            try:
                first = _first_call(provider, case, setting)
                record["error_over_allowed"][name] = _verify(case, setting, provider, work, first, base, judge)
            except (UnavailableError, dispatch.BackendError) as error:
                record["not_run"][name] = str(error).partition("asked for: ")[2] or str(error)
                continue
            except RedError as error:
                record["red"][name] = str(error)
                continue
            except Exception as error:
                record["red" if provider.ours else "not_run"][name] = _first_line(error)
                continue
            if _join(record, provider, first):
                contenders[name] = first.call
                for _ in range(provider.warm):
                    first.call()
        if graphs:
            _capture(record, contenders, work, base, judge)
        times = measure(contenders, setting.device, min(budget, case.seconds))
    return record | {"times": {name: dataclasses.asdict(time) for name, time in times.items()}}
