"""Result files as Markdown: every comparison, losses as plainly as wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.case import LOSSES
from bench.results import OURS, THEIRS, Key, Record, geometric_mean, ratios

_HEAD = ("case", "work", "dtype", "batch", "layout", "threads", "fastgan by", "torch", "fastgan", "torch / fastgan", "")
_BASELINES = (
    "Its time / fastgan's, geometric means over the cases, better layout of each side, a graph beside a graph: of the"
    " default choice / of the backend that was fastest in each case (number of cases). Above 1: fastgan is faster."
)
_FACTS = ("device", "cpu", "cores", "driver", "torch", "cuda", "cudnn", "triton", "commit", "date", "quick")


def duration(time: dict[str, float]) -> str:
    """The median and the quantiles, in a unit that suits the median."""
    scale, unit = (1e6, "µs") if time["median"] < 1e-4 else (1e3, "ms")
    median, q20, q80 = (f"{scale * time[name]:.3g}" for name in ("median", "q20", "q80"))
    return f"{median} ({q20}–{q80}) {unit}"


def _word(ours: dict[str, float], theirs: dict[str, float]) -> str:
    """A difference is one only where the middle 60 % of both do not meet."""
    if ours["q80"] < theirs["q20"]:
        return "faster"
    return "slower" if ours["q20"] > theirs["q80"] else "equal"


def comparisons(record: Record) -> list[tuple[str, dict[str, float], dict[str, float]]]:
    """(contender, its time, torch's time in the same mode) for each contender of one case."""
    times = record["times"]
    found = []
    for name, ours in times.items():
        contender, _, mode = name.partition(", ")
        if contender != "torch":
            found.append((name, ours, times[f"torch, {mode}" if mode else "torch"]))
    return found


def _by(record: Record, contender: str) -> str:
    """ "auto" with what it chose: the ops' backends, each once."""
    backend, comma, mode = contender.partition(", ")
    chosen = sorted(set(record["ops"].get(backend, {}).values()))
    return (f"auto: {' + '.join(chosen)}" if backend == "auto" else backend) + comma + mode


def _head(names: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]


def table(records: Sequence[Record]) -> list[str]:
    """The rows of one group of cases as a Markdown table."""
    lines = _head(_HEAD)
    for record in records:
        cells = [str(record[name]) for name in ("case", "work", "dtype", "batch", "layout", "threads")]
        start = "| " + " | ".join(cells) + " | "
        for name, ours, theirs in comparisons(record):
            ratio = theirs["median"] / ours["median"]
            rest = (_by(record, name), duration(theirs), duration(ours), f"{ratio:.2f}", _word(ours, theirs))
            lines.append(start + " | ".join(rest) + " |")
        lines += [f"{start}{name} | no figure: {reason} | | | wrong |" for name, reason in record["red"].items()]
    return lines


def _setting(key: Key) -> tuple[str, ...]:
    """What the cases of a row have in common; those of some groups have a batch size each."""
    batch = "-" if key.group in ("odd shapes", *LOSSES) else str(key.batch)
    return key.group, key.work, key.dtype, batch, str(key.threads)


def summary(records: Sequence[Record]) -> list[str]:
    """For each group and setting: torch's better layout against fastgan's better layout, as chosen by default."""
    found: dict[tuple[str, ...], list[float]] = {}
    for key, ratio in ratios(records).items():
        found.setdefault(_setting(key), []).append(ratio)
    names = ("op", "work", "dtype", "batch", "threads", "cases", "torch / fastgan, geometric mean", "worst", "best")
    lines = _head(names)
    for setting, values in found.items():
        numbers = f"{geometric_mean(values):.2f} | {min(values):.2f} | {max(values):.2f}"
        lines.append("| " + " | ".join(setting) + f" | {len(values)} | {numbers} |")
    return lines


def baselines(records: Sequence[Record]) -> list[str]:
    """For each group and setting, beside each form of torch that was measured: two geometric means of its time / ours,
    of the default choice and of the fastest backend in each case; and how many of all these ratios are below 1."""
    forms = sorted({name for record in records for name in record["times"] if name.startswith(THEIRS)}, key=_form)
    backends = {name for record in records for name in record["ops"]}
    rows: dict[tuple[str, ...], dict[tuple[str, bool], list[float]]] = {}
    for form in forms:
        mode = form.partition(", ")[2]
        for best, ours in ((False, (OURS,)), (True, backends)):
            names = [f"{name}, {mode}" if mode else name for name in ours]
            for key, ratio in ratios(records, form, names).items():
                rows.setdefault(_setting(key), {}).setdefault((form, best), []).append(ratio)
    lines = _head(("op", "work", "dtype", "batch", "threads", *forms, "default below 1", "fastest below 1"))
    for setting, found in rows.items():
        cells = [_means(found.get((form, False), []), found.get((form, True), [])) for form in forms]
        for best in (False, True):
            values = [value for (_, kind), some in found.items() if kind == best for value in some]
            lost = sum(value < 1 for value in values)
            cells.append(f"{lost} of {len(values)}" + (f", worst {min(values):.2f}" if lost else ""))
        lines.append("| " + " | ".join([*setting, *cells]) + " |")
    return lines


def _form(name: str) -> tuple[str, ...]:
    """torch, torch.compile, torch.compile max-autotune; each without and with a CUDA graph."""
    return name.partition(", ")


def _means(default: Sequence[float], fastest: Sequence[float]) -> str:
    if not fastest:
        return "-"
    first = f"{geometric_mean(default):.2f}" if default else "-"
    return f"{first} / {geometric_mean(fastest):.2f} ({len(fastest)})"


def memory(records: Sequence[Record]) -> list[str]:
    """Peak memory, where it was measured."""
    lines = _head(("case", "work", "dtype", "batch", "layout", "threads", "contender", "peak MB", "of torch's"))
    for record in records:
        cells = [f"{record['group']}: {record['case']}"]
        cells += [str(record[name]) for name in ("work", "dtype", "batch", "layout", "threads")]
        peaks = record["memory"]
        for name, peak in peaks.items():
            share = f"{peak / peaks['torch']:.2f}" if peaks.get("torch") else "-"
            lines.append("| " + " | ".join([*cells, name, f"{peak / 1e6:.1f}", share]) + " |")
        for name, reason in record.get("memory_not_measured", {}).items():
            lines.append("| " + " | ".join([*cells, name, f"not measured: {reason}", "-"]) + " |")
    return lines if len(lines) > 2 else []


def warnings(content: dict[str, Any]) -> list[str]:
    """What makes the figures of a file rough."""
    found = []
    if content["load_before"] > 0.5 * content["machine"]["cores"]:
        found.append(f"Other work ran on this machine (load {content['load_before']:.1f} before): figures are rough.")
    if not content["complete"]:
        missing = content.get("not_reached", {})
        left = sum(map(len, missing.values()))
        count = (
            f"{left} of {left + len(content['cases'])} comparisons were not reached" if left else "cases are missing"
        )
        found.append(f"The run was cut: {count}.")
    return found


def not_reached(missing: dict[str, list[str]]) -> list[str]:
    """What a run that was cut did not come to, a line a round, and below it which comparisons."""
    lines = []
    for title, names in missing.items():
        lines += [f"* {title}: {len(names)}", *(f"    * {name}" for name in names)]
    return lines


def markdown(content: dict[str, Any]) -> str:
    """A whole result file. Ratios above 1: fastgan is faster; below 1: torch is."""
    facts, records = content["machine"] | {"quick": content["quick"]}, content["cases"]
    lines = [", ".join(f"{name} {facts[name]}" for name in _FACTS if facts.get(name) is not None), ""]
    for warning in warnings(content):
        lines += [f"**{warning}**", ""]
    for roof in content.get("ceilings", []):
        lines += [
            f"Ceilings on {roof['threads']} thread{'s' * (roof['threads'] > 1)}: {roof['gemm_gflops']:.4g} GFLOP/s"
            f" (float32 GEMM), {roof['copy_gbs']:.4g} GB/s (copy).",
            "",
        ]
    lines += ["Medians with 20 % and 80 % quantiles, interleaved. torch / fastgan above 1: fastgan is faster."]
    lines += ["", "## Default choice, better layout of each side", "", *summary(records)]
    if any(name.startswith(THEIRS) and name != THEIRS for record in records for name in record["times"]):
        lines += ["", "## Beside each form of torch", "", _BASELINES, "", *baselines(records)]
    for group in dict.fromkeys(record["group"] for record in records):
        lines += ["", f"## {group}", "", *table([r for r in records if r["group"] == group])]
    peaks = memory(records)
    lines += ["", "## Peak memory", "", *peaks] if peaks else []
    reasons = {}
    for record in records:
        reasons |= {f"{record['group']}, {name}: {reason}": None for name, reason in record["not_run"].items()}
    if reasons:
        lines += ["", "## Not timed", "", *(f"* {reason}" for reason in reasons)]
    if content.get("not_reached"):
        lines += ["", "## Not reached", "", *not_reached(content["not_reached"])]
    return "\n".join(lines) + "\n"
