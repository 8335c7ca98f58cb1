"""Result files: writing and reading them, and each side's better memory format."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastgan.files import atomic_write

FOLDER = Path(__file__).resolve().parent / "results"
FORMAT = 3  # why somebody did not run stands in the file once, not in every record
OURS, THEIRS = "auto", "torch"
Record = dict[str, Any]


class Key(NamedTuple):
    """A case in a setting, whatever the memory format."""

    group: str
    case: str
    work: str
    dtype: str
    batch: int
    threads: int

    @classmethod
    def of(cls, record: Record) -> Key:
        return cls(*(record[name] for name in cls._fields))


Place = tuple[Key, str, str]  # and the memory format, and the mode of torch.compile that the record is for, mostly ""


def place_of(record: Record) -> Place:
    """What a file has one record of."""
    return Key.of(record), record["layout"], record.get("compiler", "")


def write(path: Path, content: dict[str, Any]) -> None:
    """A record per line, numbers to five digits. Each set of reasons of ``not_run`` is an entry of "reasons", and the
    records have its place. The file is the old one or the new one, whatever happens."""
    reasons: list[dict[str, str]] = []
    lines = []
    for record in content["cases"]:
        if record["not_run"] not in reasons:
            reasons.append(record["not_run"])
        placed = record | {"not_run": reasons.index(record["not_run"])}
        lines.append("  " + json.dumps(_rounded(placed), ensure_ascii=False))
    head = {name: value for name, value in content.items() if name != "cases"} | {"reasons": reasons}
    text = json.dumps(_rounded(head), indent=1, ensure_ascii=False).removesuffix("\n}")
    atomic_write(path, (text + ',\n "cases": [\n' + ",\n".join(lines) + "\n ]\n}\n").encode())


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def read(path: Path) -> dict[str, Any]:
    """The content of a result file.

    Raises:
        ValueError: a file of another format.
    """
    content = json.loads(path.read_text())
    if content.get("format") != FORMAT:
        raise ValueError(f"{path}: format {content.get('format')}, expected {FORMAT}: measure again")
    reasons = content.pop("reasons")
    for record in content["cases"]:
        record["not_run"] = reasons[record["not_run"]]
    return content


def records_of(paths: Iterable[Path]) -> list[Record]:
    """The records of several files; where two measured the same, the later file counts."""
    merged: dict[Place, Record] = {}
    for path in paths:
        for record in read(path)["cases"]:
            merged[place_of(record)] = record
    return list(merged.values())


def better(records: Iterable[Record], contender: str) -> dict[Key, Record]:
    """For each case the record of the memory format in which ``contender`` is faster."""
    found: dict[Key, Record] = {}
    for record in records:
        if contender not in record["times"]:
            continue
        best = found.get(Key.of(record))
        if best is None or median(record, contender) < median(best, contender):
            found[Key.of(record)] = record
    return found


def median(record: Record, contender: str) -> float:
    return record["times"][contender]["median"]


def ratios(records: Sequence[Record], against: str = THEIRS, ours: Collection[str] = (OURS,)) -> dict[Key, float]:
    """``against``'s time / that of the fastest of ``ours``, in the better memory format of each; of records in which
    ``against`` was measured, since a case may have others."""
    beside = [record for record in records if against in record["times"]]
    theirs, fastest = better(beside, against), [(name, better(beside, name)) for name in ours]
    found = {}
    for key, record in theirs.items():
        times = [median(best[key], name) for name, best in fastest if key in best]
        if times:
            found[key] = median(record, against) / min(times)
    return found


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
