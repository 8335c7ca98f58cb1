"""``python -m bench run``: the loop over threads, cases and settings; the file is written as it goes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import memory
from bench.case import BATCH, QUICK_BATCH, Case, Setting, settings
from bench.cases import CASES
from bench.ceilings import ceilings
from bench.harness import run_case
from bench.machine import describe, file_name
from bench.providers import COMPILED, PROVIDERS, TORCH, Provider
from bench.report import comparisons
from bench.results import FOLDER, FORMAT, Record, write

_SECONDS = {("cpu", True): 0.6, ("cpu", False): 3.0, ("cuda", True): 0.15, ("cuda", False): 1.0}


@dataclass(frozen=True)
class Options:
    """What ``run`` was asked for, as its ``--help`` explains it."""

    device: torch.device
    quick: bool = False
    out: Path | None = None
    only: str = ""
    groups: Sequence[str] = ()
    batches: Sequence[int] = ()
    threads: Sequence[int] = ()
    minutes: float = float("inf")
    graphs: bool = False
    compiled: bool = False
    memory: bool = True

    @property
    def providers(self) -> list[Provider]:
        return [p for p in PROVIDERS if self.compiled or p is not COMPILED]

    def cases(self) -> list[Case]:
        chosen = [case for case in CASES if self.only in case.id]
        return [case for case in chosen if not self.groups or case.group in self.groups]

    def settings(self, case: Case) -> list[Setting]:
        usual = QUICK_BATCH if self.quick and self.device.type == "cpu" else BATCH
        return settings(case, self.device, tuple(self.batches) or (usual,))


def _thread_counts(options: Options) -> Iterator[int]:
    """Sets each number of threads in turn, and the first one again at the end."""
    before = torch.get_num_threads()
    try:
        for count in options.threads or (before,):
            torch.set_num_threads(count)
            yield count
    finally:
        torch.set_num_threads(before)


def _measure(case: Case, setting: Setting, options: Options) -> Record:
    seconds = _SECONDS[options.device.type, options.quick]
    record = run_case(case, setting, options.providers, seconds, options.graphs)
    if not options.compiled:
        record["not_run"][COMPILED.name] = "only with --compile"
    if case.work == "step" and options.device.type == "cpu" and options.memory:
        _peaks(record, case, setting)
    return record


def _peaks(record: Record, case: Case, setting: Setting) -> None:
    record["memory_not_measured"] = {}
    for name in record["times"]:
        if name == COMPILED.name:
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


def listing(options: Options) -> str:
    """What :func:`run` would measure, a line a comparison, and who would take part; needs no GPU."""
    lines = [
        f"{case.id}, {str(setting.dtype).removeprefix('torch.')}, {'NHWC' if setting.channels_last else 'NCHW'}, "
        f"batch {setting.batch}"
        for case in options.cases()
        for setting in options.settings(case)
    ]
    names = ", ".join(provider.name for provider in (TORCH, *options.providers))
    return "\n".join([*lines, f"{len(lines)} comparisons of {len(options.cases())} cases: {names}"])


def run(options: Options) -> int:
    """Measure what was asked for and write the result file. Returns 1 when a result was wrong, else 0."""
    out = options.out or FOLDER / file_name(options.device)
    content: dict[str, Any] = {"format": FORMAT, "machine": describe(options.device), "quick": options.quick}
    content |= {"complete": False, "load_before": os.getloadavg()[0], "ceilings": [], "cases": []}
    deadline = time.monotonic() + 60 * options.minutes
    wrong = 0
    for _ in _thread_counts(options):
        content["ceilings"].append(ceilings(options.device, 0.2 if options.quick else 1.0))
        for case in options.cases():
            for setting in options.settings(case):
                if time.monotonic() > deadline:
                    write(out, content)
                    print(f"stopped after {options.minutes:g} minutes: {out} is not complete")
                    return 1 if wrong else 0
                content["cases"].append(_measure(case, setting, options))
                write(out, content)  # as it goes: a cut run keeps its part
                wrong += _tell(content["cases"][-1])
    content |= {"complete": True, "load_after": os.getloadavg()[0]}
    write(out, content)
    print(f"{out}: {len(content['cases'])} comparisons, {wrong} wrong results")
    return 1 if wrong else 0
