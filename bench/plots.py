"""Result files as pictures: every ratio, and the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.results import OURS, THEIRS, Key, Record, better, median, ratios

_OURS_COLOUR, _THEIRS_COLOUR = "#0072b2", "#d55e00"


def _matplotlib() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _ratio_plot(path: Path, title: str, found: dict[Key, float]) -> None:
    pyplot = _matplotlib()
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.2 * len(found)), layout="constrained")
    names = [f"{k.group}: {k.case}, {k.work}, batch {k.batch}, {k.dtype}" for k in found]
    colours = [_OURS_COLOUR if ratio >= 1 else _THEIRS_COLOUR for ratio in found.values()]
    axes.barh(range(len(found)), [ratio - 1 for ratio in found.values()], left=1, color=colours)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(found)), names, fontsize=7)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("torch's time / fastgan's, better memory format of each\n(right of 1: fastgan is faster)")
    axes.set_title(title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _roofline(path: Path, title: str, roof: dict[str, Any], records: Sequence[Record]) -> None:
    """Single ops only: of a network nobody knows what stays in a cache."""
    pyplot = _matplotlib()
    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    markers = dict(zip(dict.fromkeys(r["group"] for r in records), "osD^vP*X", strict=False))
    lowest, highest = 0.1, 1000.0
    for contender, colour in ((THEIRS, _THEIRS_COLOUR), (OURS, _OURS_COLOUR)):
        for key, record in better(records, contender).items():
            intensity = record["flops"] / record["traffic"]
            speed = record["flops"] / median(record, contender) / 1e9
            lowest, highest = min(lowest, intensity), max(highest, intensity)
            axes.plot(intensity, speed, markers[key.group], color=colour, markersize=5, alpha=0.7)
    line = [lowest / 2, roof["gemm_gflops"] / roof["copy_gbs"], highest * 2]
    axes.plot(line, [min(roof["gemm_gflops"], roof["copy_gbs"] * x) for x in line], color="black")
    for group, marker in markers.items():
        axes.plot([], [], marker, color="grey", label=group)
    for name, colour in (("torch", _THEIRS_COLOUR), ("fastgan", _OURS_COLOUR)):
        axes.plot([], [], "s", color=colour, label=name)
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte that must move", ylabel="GFLOP/s")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title(f"{title}: GEMM {roof['gemm_gflops']:.4g} GFLOP/s, copy {roof['copy_gbs']:.4g} GB/s")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plots(content: dict[str, Any], folder: Path) -> list[Path]:
    """Write the pictures of a result file: for each number of threads the ratios (odd shapes apart) and the roofline,
    float32 alone. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    device, written = content["machine"]["device"], []
    for threads in dict.fromkeys(record["threads"] for record in content["cases"]):
        mine = [record for record in content["cases"] if record["threads"] == threads]
        count = f"{threads} thread{'s' * (threads > 1)}"
        found, name = ratios(mine), f"{threads}-threads.png"
        odd = {key: ratio for key, ratio in found.items() if key.group == "odd shapes"}
        usual = {key: ratio for key, ratio in found.items() if key not in odd}
        for part, kind in ((usual, "ratios"), (odd, "odd-shapes")):
            if part:
                written.append(folder / f"{kind}-{name}")
                _ratio_plot(written[-1], f"{device}, {count}", part)
        roof = next((roof for roof in content.get("ceilings", []) if roof["threads"] == threads), None)
        placed = [r for r in mine if r["dtype"] == "float32" and r["group"] != "tiny calls"]
        placed = [r for r in placed if r.get("flops") and r.get("traffic")]
        if roof is not None and placed:
            written.append(folder / f"roofline-{name}")
            _roofline(written[-1], f"{device}, {count}, float32", roof, placed)
    return written
