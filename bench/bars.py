"""The bars that fastgan's CPU kernels are held against, each computed from result files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.ops import BOTH, FORWARD, RECORDED
from bench.results import OURS, THEIRS, Key, Record, better, geometric_mean, median, ratios

COMPILED = "torch.compile"


@dataclass(frozen=True)
class Bar:
    """``against``'s time / fastgan's over ``count`` cases must reach ``mean`` (geometric) and ``worst``."""

    text: str
    group: str
    work: str
    count: int
    mean: float | None = None
    worst: float | None = None
    case: str = ""  # the start of their names
    batch: int | None = 128
    against: str = THEIRS

    def wants(self, key: Key) -> bool:
        """Whether the case is one of these; float32 only."""
        mine = (key.group, key.work, key.dtype) == (self.group, self.work, "float32")
        return mine and key.case.startswith(self.case) and self.batch in (None, key.batch)


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    work: str
    threads: int
    bar: str
    measured: str
    met: str


_UP, _DOWN, _NORM, _LOSS = "conv_transpose2d", "conv2d", "batch_norm_act", "bce_with_logits"
_FOUR = "the four DCGAN layers"
BARS: tuple[Bar, ...] = (
    Bar(f"conv_transpose2d forward, {_FOUR}", _UP, FORWARD, 4, mean=2.5, worst=1.1, case="DCGAN"),
    Bar(f"conv_transpose2d forward + backward, {_FOUR}", _UP, BOTH, 4, mean=2.0, worst=1.05, case="DCGAN"),
    Bar("conv2d forward + backward, D's four layers", _DOWN, BOTH, 4, mean=1.5, worst=1.0, case="DCGAN"),
    Bar("odd shapes, forward", "odd shapes", FORWARD, 100, worst=0.9, batch=None),
    Bar("odd shapes, forward + backward", "odd shapes", BOTH, 100, worst=0.9, batch=None),
    Bar("BN + activation forward + backward", _NORM, BOTH, 10, mean=2.5),
    Bar("BN + activation forward + backward", _NORM, BOTH, 10, mean=1.3, against=COMPILED),
    Bar("BCE forward + backward, 65,536 logits", _LOSS, BOTH, 1, mean=4.0, case="65536 ", batch=None),
    Bar("BCE forward + backward, 1M logits", _LOSS, BOTH, 1, mean=4.0, case="1048576 ", batch=None),
    Bar("BCE forward + backward, 128 logits", _LOSS, BOTH, 1, mean=1.0, case="128 ", batch=None),
    *(
        Bar(f"whole {name} step", "training step", "step", 1, mean=least, case=name, against=against)
        for name, least in (("DCGAN", 2.5), ("cGAN", 2.2))
        for against in (THEIRS, COMPILED)
    ),
    *(
        Bar(f"generator inference, {name}, batch {batch}", "inference", FORWARD, 1, mean=least, case=name, batch=batch)
        for batch, least in ((1, 1.5), (64, 2.0))
        for name in ("DCGAN", "cGAN")
    ),
)
OVERHEAD_TIMES, OVERHEAD_MORE, OVERHEAD_CASES = 2.0, 15e-6, 4  # two activations, recorded for backward and not


def _verdict(measured: float | None, bar: float, at_least: bool, complete: bool) -> str:
    if measured is None or not complete:
        return "not measured"
    if measured >= bar if at_least else measured <= bar:
        return "yes"
    share = 1 - measured / bar if at_least else measured / bar - 1
    return f"no, missed by {share:.0%}"


def _speed(bar: Bar, records: Sequence[Record], threads: int) -> list[Line]:
    found = {key: ratio for key, ratio in ratios(records, bar.against).items() if bar.wants(key)}
    values = list(found.values())
    work = bar.text if bar.against == THEIRS else f"{bar.text}, against {bar.against}"
    complete = len(values) >= bar.count
    short = "" if complete else f" ({len(values)} of {bar.count} cases)"
    lines = []
    statistics: tuple[tuple[float | None, str, Callable[[Sequence[float]], float]], ...] = (
        (bar.mean, "" if bar.count == 1 else "geometric mean ", geometric_mean),
        (bar.worst, "worst ", min),
    )
    for least, words, statistic in statistics:
        if least is None:
            continue
        measured = statistic(values) if values else None
        shown = "-" if measured is None else f"{measured:.2f}"
        if statistic is min and found:
            shown += f" ({min(found, key=found.__getitem__).case})"
        verdict = _verdict(measured, least, True, complete)
        lines.append(Line(work, threads, f"{words}at least {least:g}", shown + short, verdict))
    return lines


def _overhead(records: Sequence[Record], threads: int) -> list[Line]:
    def wanted(key: Key) -> bool:
        return key.group == "tiny calls" and key.case.startswith("BN") and key.work in (FORWARD, RECORDED)

    theirs = {key: median(r, THEIRS) for key, r in better(records, THEIRS).items() if wanted(key)}
    ours = {key: median(r, OURS) for key, r in better(records, OURS).items() if wanted(key)}
    both = ours.keys() & theirs.keys()
    complete = len(both) >= OVERHEAD_CASES
    times = max((ours[key] / theirs[key] for key in both), default=None)
    more = max((ours[key] - theirs[key] for key in both), default=None)
    work = "host overhead of BN + activation, forward"
    return [
        Line(
            work,
            threads,
            f"at most {OVERHEAD_TIMES:g} times torch's pair",
            "-" if times is None else f"{times:.2f}",
            _verdict(times, OVERHEAD_TIMES, False, complete),
        ),
        Line(
            work,
            threads,
            f"at most {1e6 * OVERHEAD_MORE:g} µs more",
            "-" if more is None else f"{1e6 * more:.1f} µs",
            _verdict(more, OVERHEAD_MORE, False, complete),
        ),
    ]


def _memory(records: Sequence[Record], threads: int) -> Line:
    """fastgan in its faster memory format against the smaller of torch's two."""
    step = [r for r in records if (r["group"], r["case"], r["batch"]) == ("training step", "DCGAN", 128)]
    ours = [r["memory"][OURS] for r in better(step, OURS).values() if OURS in r["memory"]]
    theirs = [r["memory"][THEIRS] for r in step if THEIRS in r["memory"]]
    share = ours[0] / min(theirs) if ours and theirs else None
    shown = "-" if share is None else f"{share:.2f} ({ours[0] / 1e6:.0f} MB against {min(theirs) / 1e6:.0f})"
    verdict = _verdict(share, 1.0, False, True)
    return Line("peak memory of the DCGAN step", threads, "at most 1 of torch's", shown, verdict)


def bars(records: Sequence[Record]) -> list[Line]:
    """Every bar, for each number of threads that was measured."""
    lines = []
    for threads in sorted({record["threads"] for record in records}):
        mine = [record for record in records if record["threads"] == threads and record["dtype"] == "float32"]
        for bar in BARS:
            lines += _speed(bar, mine, threads)
        lines += [*_overhead(mine, threads), _memory(mine, threads)]
    return lines


def markdown(records: Sequence[Record]) -> str:
    """The table of all bars, and how many are met."""
    lines = ["| work | threads | bar | measured | met |", "|" + " --- |" * 5]
    found = bars(records)
    lines += [f"| {line.work} | {line.threads} | {line.bar} | {line.measured} | {line.met} |" for line in found]
    met = sum(line.met == "yes" for line in found)
    return "\n".join([*lines, "", f"{met} of {len(found)} bars are met."]) + "\n"
