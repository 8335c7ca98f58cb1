"""The regression check: what got slower, or needs more memory, from one result file to another.

Compared are ratios of ratios: fastgan's time over torch's time of the same run, so that what the machine did that day
falls out as far as it fell on both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bench.results import THEIRS, Place, Record, place_of


@dataclass(frozen=True)
class Share:
    """fastgan's time / torch's, and the least and the most that the quantiles of both allow."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: dict[str, float], theirs: dict[str, float]) -> Share:
        return cls(ours["median"] / theirs["median"], ours["q20"] / theirs["q80"], ours["q80"] / theirs["q20"])


@dataclass
class Comparison:
    """One line per finding. ``slower`` (or more memory) and ``wrong`` are regressions; ``gone``: figures of the first
    file that the second does not have; ``count``: figures that both have."""

    slower: list[str] = field(default_factory=list)
    faster: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    count: int = 0

    @property
    def regressed(self) -> bool:
        return bool(self.slower or self.wrong)


def _by_place(content: dict[str, Any]) -> dict[Place, Record]:
    return {place_of(record): record for record in content["cases"]}


def _words(place: Place, contender: str) -> str:
    key, layout, compiler = place
    beside = f" beside torch.compile {compiler}" if compiler else ""
    threads = f"{key.threads} thread{'s' * (key.threads > 1)}"
    where = f"{key.group}: {key.case}, {key.work}, {key.dtype}, batch {key.batch}, {layout}, {threads}"
    return f"{where}, {contender}{beside}"


def compare(first: dict[str, Any], second: dict[str, Any], threshold: float = 0.1) -> Comparison:
    """What changed by more than ``threshold`` (0.1: 10 %) and by more than the quantiles of both runs explain."""
    found, others = Comparison(), _by_place(second)
    for place, old in _by_place(first).items():
        new = others.get(place)
        for contender in old["times"]:
            if not contender.startswith(THEIRS):  # nor torch.compile
                _contender(found, place, contender, old, new, threshold)
        if new is not None:
            _memory(found, place, old, new, threshold)
    return found


def _contender(
    found: Comparison, place: Place, contender: str, old: Record, new: Record | None, threshold: float
) -> None:
    name = _words(place, contender)
    if new is None or contender not in new["times"]:
        if new is not None and contender in new["red"]:
            found.wrong.append(f"{name}: {new['red'][contender]}")
        else:
            found.gone.append(name)
        return
    found.count += 1
    mode = contender.partition(", ")[2]
    base = f"{THEIRS}, {mode}" if mode else THEIRS
    before, after = (Share.of(record["times"][contender], record["times"][base]) for record in (old, new))
    change = after.middle / before.middle
    line = f"{name}: {change:.2f} times the time (of torch's {before.middle:.2f}, now {after.middle:.2f})"
    if change > 1 + threshold and after.low > before.high:
        found.slower.append(line)
    elif change < 1 / (1 + threshold) and after.high < before.low:
        found.faster.append(line)


def _memory(found: Comparison, place: Place, old: Record, new: Record, threshold: float) -> None:
    for contender in old["memory"].keys() & new["memory"].keys() - {THEIRS}:
        if not (old["memory"].get(THEIRS) and new["memory"].get(THEIRS)):
            continue
        before, after = (record["memory"][contender] / record["memory"][THEIRS] for record in (old, new))
        if after > before * (1 + threshold):
            name = _words(place, contender)
            found.slower.append(f"{name}: peak memory {before:.2f} of torch's, now {after:.2f}")


def text(comparison: Comparison, first: dict[str, Any], second: dict[str, Any]) -> str:
    """What :func:`compare` found, for people."""
    lines = []
    for name in ("device", "torch"):
        before, after = first["machine"].get(name), second["machine"].get(name)
        if before != after:
            lines.append(f"not the same {name}: {before}, {after}")
    for title, found in (
        ("wrong, no figure", comparison.wrong),
        ("slower", comparison.slower),
        ("faster", comparison.faster),
        ("measured in the first file only", comparison.gone),
    ):
        lines += [f"{title}: {len(found)}", *(f"  {line}" for line in found)]
    lines.append(f"compared: {comparison.count}")
    return "\n".join(lines) + "\n"
