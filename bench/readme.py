"""The speed table of the README, generated from the result files that are committed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.case import BATCH, LOSSES
from bench.machine import ROOT
from bench.report import warnings
from bench.results import Key, geometric_mean, ratios, read

README = ROOT / "README.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def _row(key: Key) -> str | None:
    """The row of the table that a case belongs to; None: it is not in the table."""
    if key.dtype != "float32" or key.group == "tiny calls":
        return None
    if key.group == "odd shapes":
        return f"odd shapes, {key.work}"
    if key.group == "training step":
        return f"{key.case} training step, batch {key.batch}"
    if key.group in LOSSES:
        return f"{key.group}, {key.case}, {key.work}"
    if key.group == "network":
        return f"{key.case} alone, {key.work}, batch {key.batch}"
    if key.group == "inference":
        return f"{key.case} generator at work, batch {key.batch}".replace(" G generator", " generator")
    return f"{key.group}, {key.work}, batch {key.batch}"


def _section(content: dict[str, Any]) -> list[str]:
    """One machine: torch's time / fastgan's as geometric mean (worst – best), a column for each number of threads."""
    found = ratios(content["cases"])
    fixed = ("odd shapes", *LOSSES, "inference")
    if any(key.batch == BATCH and key.group not in fixed for key in found):
        found = {key: ratio for key, ratio in found.items() if key.group in fixed or key.batch == BATCH}
    threads = sorted({key.threads for key in found})
    rows: dict[str, dict[int, list[float]]] = {}
    for key, ratio in found.items():
        row = _row(key)
        if row is not None:
            rows.setdefault(row, {}).setdefault(key.threads, []).append(ratio)
    machine = content["machine"]
    commit = (machine.get("commit") or "unknown")[:12] + (" and more" if machine.get("uncommitted_changes") else "")
    facts = [machine["device"], "float32", f"torch {machine['torch']}", f"commit {commit}", machine["date"]]
    heads = [f"{count} thread{'s' * (count > 1)}" for count in threads]
    lines = [f"**{', '.join(facts)}.** {' '.join(warnings(content))}".rstrip(), ""]
    lines += ["| torch's time / fastgan's, better memory format of each | cases | " + " | ".join(heads) + " |"]
    lines += ["|" + " --- |" * (2 + len(heads))]
    for row, columns in rows.items():
        cells = [_cell(columns.get(count, [])) for count in threads]
        lines.append(f"| {row} | {max(map(len, columns.values()))} | " + " | ".join(cells) + " |")
    return lines


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    mean = f"{geometric_mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} – {max(values):.2f})"


def table(files: Iterable[Path]) -> str:
    """What stands between the markers, for these result files."""
    lines: list[str] = []
    for file in files:
        lines += ["", *_section(read(file))]
    return "\n".join(lines).lstrip("\n") + "\n"


def committed() -> list[Path]:
    """The result files in bench/results/."""
    return sorted((Path(__file__).resolve().parent / "results").glob("*.json"))


def with_table(text: str, generated: str) -> str:
    """``text`` with what stands between its markers replaced.

    Raises:
        ValueError: it has no markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{generated}{END}{after}"


def rewrite(path: Path = README) -> None:
    """Write the table anew."""
    path.write_text(with_table(path.read_text(), table(committed())))
