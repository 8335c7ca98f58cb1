"""What a run measures, and in which order: as the registry has it, or what matters first where the time is limited."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.case import BATCH, QUICK_BATCH, Case, Setting, settings
from bench.cases import CASES
from bench.providers import COMPILED, PROVIDERS, TORCH, Provider

# Of each kind of case one: where the time is limited they come before the others, torch.compile included.
FIRST = (
    "training step: DCGAN, step",
    "block: DCGAN G 128→64, 8→16, forward+backward",
    "block: DCGAN D 64→128, 16→8, forward+backward",
    "conv_transpose2d: DCGAN 128→64, 8→16, forward+backward",
    "batch_norm_act: DCGAN G 64 at 16x16, forward+backward",
    "batch_norm_act: DCGAN D 128 at 8x8, forward+backward",
    "bce_with_logits: 1048576 logits, forward+backward",
    "discriminator_loss: 128 of each, forward+backward",
)
# Seconds that a comparison may take on a GPU by its compiler, a training step three times that. Assumed, not measured,
# and for the plan that is printed alone.
_ASSUMED = {"": 1.0, "default": 8.0, "max-autotune": 25.0}


@dataclass(frozen=True)
class Options:
    """What ``run`` was asked for, as its ``--help`` explains it; ``compiled``: torch.compile's modes."""

    device: torch.device
    quick: bool = False
    out: Path | None = None
    only: str = ""
    groups: Sequence[str] = ()
    batches: Sequence[int] = ()
    threads: Sequence[int] = ()
    minutes: float = float("inf")
    graphs: bool = False
    compiled: Sequence[str] = ()
    memory: bool = True

    @property
    def limited(self) -> bool:
        return self.minutes < float("inf")

    def cases(self) -> list[Case]:
        chosen = [case for case in CASES if self.only in case.id]
        return [case for case in chosen if not self.groups or case.group in self.groups]

    def settings(self, case: Case) -> list[Setting]:
        usual = QUICK_BATCH if self.quick and self.device.type == "cpu" else BATCH
        return settings(case, self.device, tuple(self.batches) or (usual,))


@dataclass(frozen=True)
class Task:
    """A record to be: who is measured side by side on a case. ``compiler``: the mode of torch.compile that this record
    is for; "": it is not for one."""

    case: Case
    setting: Setting
    providers: tuple[Provider, ...]
    compiler: str = ""
    rank: tuple[int, ...] = ()
    round: str = "all"

    @property
    def name(self) -> str:
        """For people: the case, the setting and the mode of torch.compile."""
        dtype, layout = str(self.setting.dtype).removeprefix("torch."), "NHWC" if self.setting.channels_last else "NCHW"
        compiler = f", {COMPILED[self.compiler].name}" if self.compiler else ""
        return f"{self.case.id}, {dtype}, {layout}, batch {self.setting.batch}{compiler}"

    @property
    def seconds(self) -> float:
        """What it is assumed to take."""
        return _ASSUMED[self.compiler] * (3 if self.case.work == "step" else 1)


def _companies(options: Options) -> dict[str, tuple[Provider, ...]]:
    """Who is measured together, by the mode of torch.compile that has a record of its own.

    Two modes never share a record: what Dynamo has compiled for one is dropped for the other. Without a time limit the
    first mode is in everybody's record; with one all come apart, so that compiling can wait.
    """
    usual = tuple(p for p in PROVIDERS if p not in COMPILED.values())
    ours = tuple(p for p in PROVIDERS if p.ours)
    if options.limited or not options.compiled:
        return {"": usual} | {mode: (*ours, COMPILED[mode]) for mode in options.compiled}
    first, *others = options.compiled
    return {"": (*usual, COMPILED[first])} | {mode: (*ours, COMPILED[mode]) for mode in others}


def _ranked(task: Task, batches: Sequence[int]) -> Task:
    """``task`` with its place and its round where the time is limited.

    First NHWC, batch by batch, in each bfloat16 before float32: FIRST, FIRST beside torch.compile, the others; a case
    that has a size of its own goes with the first batch. Then all batches in one round: FIRST beside max-autotune,
    NCHW, the others beside torch.compile, the others beside max-autotune.
    """
    mode, other = list(_ASSUMED).index(task.compiler), task.case.id not in FIRST
    index = 0 if task.case.batches else batches.index(task.setting.batch)
    dtype = str(task.setting.dtype).removeprefix("torch.")
    single = dtype == "float32"
    title = f"{'other' if other else 'first'} cases"
    title += f" beside {COMPILED[task.compiler].name}" if task.compiler else ""
    if _nchw(task):
        return dataclasses.replace(task, rank=(2, index, other, single), round="NCHW")
    if mode == 0 or (mode == 1 and not other):
        title = f"batch {batches[index]}, {dtype}, {title}"
        return dataclasses.replace(task, rank=(0, index, single, other, mode), round=title)
    return dataclasses.replace(task, rank=(2 + mode if other else 1, index, single), round=title)


def _nchw(task: Task) -> bool:
    return task.case.images and not task.setting.channels_last


def tasks(options: Options) -> list[Task]:
    """All that ``options`` ask for, in the order in which it is measured; where the time is limited torch.compile is
    measured in NHWC alone."""
    found = [
        Task(case, setting, providers, compiler)
        for compiler, providers in _companies(options).items()
        for case in options.cases()
        for setting in options.settings(case)
    ]
    if not options.limited:
        return found
    found = [task for task in found if not (task.compiler and _nchw(task))]
    batches = list(dict.fromkeys(task.setting.batch for task in found if not task.case.batches)) or [BATCH]
    return sorted((_ranked(task, batches) for task in found), key=lambda task: task.rank)


def listing(options: Options) -> str:
    """What would be measured, a line a comparison, and who would take part; rounds where the time is limited. Needs no
    GPU."""
    found = tasks(options)
    lines = [task.name for task in found]
    if options.limited:
        lines += _rounds(found, options)
    names = [TORCH.name, *dict.fromkeys(provider.name for task in found for provider in task.providers)]
    graphs = ", each without and with CUDA graphs" if options.graphs else ""
    return "\n".join([*lines, f"{len(found)} comparisons of {len(options.cases())} cases: {', '.join(names)}{graphs}"])


def _rounds(found: Sequence[Task], options: Options) -> list[str]:
    lines, total = [], 0.0
    for title in dict.fromkeys(task.round for task in found):
        mine = [task for task in found if task.round == title]
        total += sum(task.seconds for task in mine) / 60
        groups = Counter(task.case.group for task in mine)
        counts = ", ".join(f"{count} {group}" for group, count in groups.items())
        lines.append(f"round {len(lines) + 1}: {title}: {counts}; until minute {total:.1f}")
    minutes = f"assumed, not measured: {total:.0f} minutes for all rounds, of which {options.minutes:g} are given"
    return [*lines, f"rounds: {minutes}; what is not reached is listed in the results"]
