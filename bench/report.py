"""Result files as Markdown: every comparison, losses as plainly as wins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_HEAD = ("case", "work", "dtype", "layout", "fastgan by", "torch ms", "fastgan ms", "torch / fastgan", "")
_FACTS = ("device", "cpu", "threads", "cores", "driver", "torch", "cuda", "cudnn", "triton", "commit", "date", "quick")


def _milliseconds(time: dict[str, float]) -> str:
    return f"{1e3 * time['median']:.3g} ({1e3 * time['q20']:.3g}–{1e3 * time['q80']:.3g})"


def _word(ours: dict[str, float], theirs: dict[str, float]) -> str:
    """A difference is one only where the middle 60 % of both do not meet."""
    if ours["q80"] < theirs["q20"]:
        return "faster"
    return "slower" if ours["q20"] > theirs["q80"] else "equal"


def comparisons(record: dict[str, Any]) -> list[tuple[str, dict[str, float], dict[str, float]]]:
    """(contender, its time, torch's time in the same mode) for each contender of one case."""
    times = record["times"]
    found = []
    for name, ours in times.items():
        backend, _, mode = name.partition(", ")
        if backend != "torch":
            found.append((name, ours, times[f"torch, {mode}" if mode else "torch"]))
    return found


def _by(record: dict[str, Any], contender: str) -> str:
    """ "auto" with what it chose: the ops' backends, each once."""
    backend, comma, mode = contender.partition(", ")
    chosen = sorted(set(record["ops"][backend].values()))
    return (f"auto: {' + '.join(chosen)}" if backend == "auto" else backend) + comma + mode


def table(records: Sequence[dict[str, Any]]) -> list[str]:
    """The rows of one group of cases as a Markdown table."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + " --- |" * len(_HEAD)]
    for record in records:
        start = f"| {record['case']} | {record['work']} | {record['dtype']} | {record['layout']} | "
        for name, ours, theirs in comparisons(record):
            ratio = theirs["median"] / ours["median"]
            cells = (_by(record, name), _milliseconds(theirs), _milliseconds(ours), f"{ratio:.2f}", _word(ours, theirs))
            lines.append(start + " | ".join(cells) + " |")
        lines += [f"{start}{name} | no figure: {reason} | | | wrong |" for name, reason in record["red"].items()]
    return lines


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def summary(records: Sequence[dict[str, Any]]) -> list[str]:
    """For each group and dtype: torch's better layout against fastgan's better layout, as chosen by default."""
    best: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for record in records:
        key = tuple(record[name] for name in ("group", "work", "dtype", "case"))
        for contender in ("torch", "auto"):
            if contender in record["times"]:
                times = best.setdefault(key, {}).setdefault(contender, [])
                times.append(record["times"][contender]["median"])
    ratios: dict[tuple[str, ...], list[float]] = {}
    for key, times in best.items():
        if "auto" in times:
            ratios.setdefault(key[:3], []).append(min(times["torch"]) / min(times["auto"]))
    lines = ["| op | work | dtype | cases | torch / fastgan, geometric mean | worst | best |", "|" + " --- |" * 7]
    for (group, work, dtype), values in ratios.items():
        numbers = f"{_geometric_mean(values):.2f} | {min(values):.2f} | {max(values):.2f}"
        lines.append(f"| {group} | {work} | {dtype} | {len(values)} | {numbers} |")
    return lines


def markdown(content: dict[str, Any]) -> str:
    """A whole result file. Ratios above 1: fastgan is faster; below 1: torch is."""
    facts = content["machine"] | {"quick": content["quick"]}
    lines = [", ".join(f"{name} {facts[name]}" for name in _FACTS if facts.get(name) is not None), ""]
    if content["load_before"] > 0.5 * content["machine"]["cores"]:
        lines += [
            f"**Other work ran on this machine (load {content['load_before']:.1f} before): figures are rough.**",
            "",
        ]
    if not content["complete"]:
        lines += ["**The run was cut: cases are missing.**", ""]
    lines += ["Medians with 20 % and 80 % quantiles, interleaved. torch / fastgan above 1: fastgan is faster."]
    lines += ["", "## Default choice, better layout of each side", "", *summary(content["cases"])]
    for group in dict.fromkeys(record["group"] for record in content["cases"]):
        lines += ["", f"## {group}", "", *table([r for r in content["cases"] if r["group"] == group])]
    reasons = {}
    for record in content["cases"]:
        reasons |= {f"{record['group']}, {name}: {reason}": None for name, reason in record["not_run"].items()}
    if reasons:
        lines += ["", "## Not timed", "", *(f"* {reason}" for reason in reasons)]
    return "\n".join(lines) + "\n"
