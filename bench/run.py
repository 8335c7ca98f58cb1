"""``python -m bench run``: the loop over threads, cases and settings; the file is written as it goes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import memory
from bench.case import Case, Setting
from bench.ceilings import ceilings
from bench.harness import failed, run_case
from bench.machine import describe, file_name
from bench.plan import Options, Task, tasks
from bench.providers import COMPILED, TORCH
from bench.report import comparisons
from bench.results import FOLDER, FORMAT, Record, write

_SECONDS = {("cpu", True): 0.6, ("cpu", False): 3.0, ("cuda", True): 0.15, ("cuda", False): 1.0}


def _thread_counts(counts: Sequence[int]) -> Iterator[int]:
    """Sets each number of threads in turn, and the first one again at the end."""
    before = torch.get_num_threads()
    try:
        for count in counts:
            torch.set_num_threads(count)
            yield count
    finally:
        torch.set_num_threads(before)


def _measure(task: Task, options: Options) -> Record:
    case, setting = task.case, task.setting
    seconds = _SECONDS[options.device.type, options.quick]
    try:
        record = run_case(case, setting, task.providers, seconds, options.graphs)
    except Exception as error:  # not even torch's: too little memory, a call that failed on the GPU
        record = failed(case, setting, error)
    if task.compiler:
        record["compiler"] = task.compiler
    for mode, provider in COMPILED.items():
        if mode not in options.compiled:
            record["not_run"][provider.name] = "only with --compile" + f" {mode}" * (mode != "default")
    if case.work == "step" and options.device.type == "cpu" and options.memory:
        _peaks(record, case, setting)
    return record


def _peaks(record: Record, case: Case, setting: Setting) -> None:
    record["memory_not_measured"] = {}
    for name in record["times"]:
        if name in (provider.name for provider in COMPILED.values()):
            record["memory_not_measured"][name] = "the compiler's own memory would be counted"
            continue
        try:
            record["memory"][name] = memory.peak(case, name, setting)
        except memory.NotMeasuredError as error:
            record["memory_not_measured"][name] = str(error)


def _tell(record: Record) -> int:
    """Print a record; returns how many results were wrong."""
    place = f"{record['group']}: {record['case']}, {record['work']}, {record['dtype']}, {record['layout']}, batch "
    place += f"{record['batch']}, {record['threads']} thread{'s' * (record['threads'] > 1)}"
    for name, ours, theirs in comparisons(record):
        print(f"{place}, {name}: torch / it {theirs['median'] / ours['median']:.2f}", flush=True)
    for name, reason in record["red"].items():
        print(f"{place}, {name}: WRONG, no figure: {reason}", flush=True)
    if TORCH.name in record["memory"]:
        shares = {name: peak / record["memory"]["torch"] for name, peak in record["memory"].items() if name != "torch"}
        print(f"{place}, peak memory of torch's: {', '.join(f'{n} {s:.2f}' for n, s in shares.items())}", flush=True)
    return len(record["red"])


class TimeIsUpError(BaseException):
    """Raised into whatever runs; no Exception, which a compiler might catch and go on."""


@contextlib.contextmanager
def _until(deadline: float) -> Iterator[None]:
    """Raises TimeIsUpError at ``deadline``, by the monotonic clock; at once where it is past. Main thread only."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeIsUpError
    if left == float("inf"):
        yield
        return

    def stop(*_: object) -> None:
        raise TimeIsUpError

    handler = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, left)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def _missing(plan: Sequence[Task], counts: Sequence[int]) -> dict[str, list[str]]:
    """Names by round, and by the number of threads where there are several."""
    found: dict[str, list[str]] = {}
    for count in counts:
        for task in plan:
            found.setdefault(_title(task, count, len(counts) > 1), []).append(task.name)
    return found


def _title(task: Task, count: int, several: bool) -> str:
    return task.round + (f", {count} thread{'s' * (count > 1)}" if several else "")


def _loop(options: Options, content: dict[str, Any], out: Path) -> Iterator[Record]:
    """Measures; the file is written before a record is given: a cut run keeps its part and says what it did not reach.

    Raises:
        TimeIsUpError: the minutes are over.
    """
    deadline, plan = time.monotonic() + 60 * options.minutes, tasks(options)
    counts = options.threads or (torch.get_num_threads(),)
    missing = content["not_reached"] = _missing(plan, counts)
    for count in _thread_counts(counts):
        content["ceilings"].append(ceilings(options.device, 0.2 if options.quick else 1.0))
        for task in plan:
            with _until(deadline):
                record = _measure(task, options)
            title = _title(task, count, len(counts) > 1)
            missing[title].remove(task.name)
            if not missing[title]:
                del missing[title]
            content["cases"].append(record)
            write(out, content)
            yield record


def run(options: Options) -> int:
    """Measure what was asked for and write the result file. Returns 1 when a result was wrong, else 0."""
    out = options.out or FOLDER / file_name(options.device)
    content: dict[str, Any] = {"format": FORMAT, "machine": describe(options.device), "quick": options.quick}
    content |= {"complete": False, "load_before": os.getloadavg()[0], "ceilings": [], "not_reached": {}, "cases": []}
    wrong = 0
    try:
        for record in _loop(options, content, out):
            wrong += _tell(record)
    except TimeIsUpError:
        write(out, content)
        left = sum(map(len, content["not_reached"].values()))
        print(f"stopped after {options.minutes:g} minutes: {out} is not complete, {left} comparisons were not reached")
        return 1 if wrong else 0
    content |= {"complete": True, "load_after": os.getloadavg()[0]}
    write(out, content)
    print(f"{out}: {len(content['cases'])} comparisons, {wrong} wrong results")
    return 1 if wrong else 0
