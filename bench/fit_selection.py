"""``python -m bench.fit_selection``: measure the native convolutions beside torch's on random shapes, fit the seconds
per term of fastgan/ops/conv_transpose2d/selection.py to that, and print them."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bench import machine, odd
from bench.results import FOLDER
from bench.timing import measure
from fastgan import dispatch
from fastgan.ops.conv_transpose2d import native, selection
from fastgan.ops.conv_transpose2d.geometry import conv2d_sizes, conv_transpose2d_sizes

OPS = ("conv_transpose2d", "conv2d", "conv2d_weight")
KINDS = ((3, 1, 1), (5, 2, 2), (2, 2, 0), (4, 2, 1), (4, 2, 1), (1, 1, 0), (7, 1, 3), (4, 1, 0))
DCGAN = ((512, 256, 2), (256, 128, 4), (128, 64, 8), (64, 3, 16), (129, 128, 7), (128, 64, 14))
FEW_PIXELS = 40  # shapes with at most 16 small pixels in all
SWEEPS = 3000
Shape = dict[str, Any]  # batch, groups, channels (all, of small and big), small, big, and the geometry


def _shape(rng: random.Random) -> Shape | None:
    transposed = rng.random() < 0.5
    kernel, stride, padding = rng.choice(KINDS)
    dilation = rng.choice((1, 1, 1, 2)) if kernel > 2 else 1
    groups = rng.choice((1, 1, 1, 2, 4, 16))
    channels = [groups * max(odd._log_uniform(rng, 1024) // groups, 1) for _ in range(2)]
    size = (odd._log_uniform(rng, 48), odd._log_uniform(rng, 48))
    pairs = [(number, number) for number in (kernel, stride, padding, dilation)]
    try:
        if transposed:
            small, big = size, conv_transpose2d_sizes(size, pairs[0], pairs[1], pairs[2], (0, 0), pairs[3])[1]
        else:
            small, big = conv2d_sizes(size, *pairs)[1], size
    except RuntimeError:
        return None
    batch = odd._log_uniform(rng, 256)
    products = batch * channels[0] * channels[1] // groups * kernel**2 * small[0] * small[1]
    values = batch * max(channels[0] * small[0] * small[1], channels[1] * big[0] * big[1])
    if min(*small, *big) < 1 or products > odd.MOST_PRODUCTS * 2 or values > odd.MOST_VALUES * 2:
        return None
    geometry = (*pairs[1:], groups)
    return {"batch": batch, "channels": channels, "small": small, "big": big, "kernel": pairs[0], "geometry": geometry}


def shapes(count: int, seed: int) -> Iterator[Shape]:
    """DCGAN's layers at some batch sizes, shapes of few pixels, then ``count`` random ones."""
    for first, second, size in DCGAN:
        for batch in (1, 8, 16, 32, 128):
            if first * second * size**2 * 16 * batch <= 4e8:
                sizes = {"small": (size, size), "big": (2 * size, 2 * size), "kernel": (4, 4)}
                yield {"batch": batch, "channels": (first, second), **sizes, "geometry": ((2, 2), (1, 1), (1, 1), 1)}
    rng, few, found = random.Random(seed + 1), 0, 0
    while few < FEW_PIXELS:
        if (shape := _shape(rng)) is not None and shape["batch"] * math.prod(shape["small"]) <= 16:
            few += 1
            yield shape
    rng = random.Random(seed)
    while found < count:
        if (shape := _shape(rng)) is not None:
            found += 1
            yield shape


def arguments(op: str, shape: Shape, memory_format: torch.memory_format) -> tuple[Any, ...]:
    """Of ``torch.ops.fastgan.<op>``."""
    first, second = shape["channels"]
    small = torch.randn(shape["batch"], first, *shape["small"]).contiguous(memory_format=memory_format)
    big = torch.randn(shape["batch"], second, *shape["big"]).contiguous(memory_format=memory_format)
    if op == "conv2d_weight":
        return (small, big, shape["kernel"], *shape["geometry"])
    weight = torch.randn(first, second // shape["geometry"][-1], *shape["kernel"]).contiguous(
        memory_format=memory_format
    )
    image, size = (small, shape["big"]) if op == "conv_transpose2d" else (big, shape["small"])
    return (image, weight, None, size, *shape["geometry"])


def _on(backend: str, op: str, args: tuple[Any, ...]) -> Callable[[], Any]:
    run = dispatch._table[op][backend].run
    return lambda: run(*args)


def measure_all(count: int, seed: int, budget: float) -> list[dict[str, Any]]:
    """A record per op, shape and memory format: the arguments in numbers and the seconds of both sides."""
    records = []
    for number, shape in enumerate(shapes(count, seed)):
        for op in OPS:
            for memory_format in (torch.contiguous_format, torch.channels_last):
                args = arguments(op, shape, memory_format)
                if dispatch.why_not(op, *args)["native"] is not None:
                    continue
                contenders = {name: _on(name, op, args) for name in ("native", "reference")}
                for call in contenders.values():
                    call()
                times = measure(contenders, torch.device("cpu"), budget)
                call = native.numbers(op, *args)
                seconds = {name: taken.median for name, taken in times.items()}
                records.append({"call": call._asdict(), "seconds": seconds})
        if number % 20 == 0:
            print(number, time.strftime("%H:%M:%S"), flush=True)
    return records


def call_of(record: dict[str, Any]) -> selection.Call:
    return selection.Call(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in record["call"].items()}
    )


def fit(rows: list[tuple[float, ...]], seconds: list[float]) -> list[float]:
    """Non-negative seconds per term that make the estimates' relative errors small: coordinate descent."""
    weighted = torch.tensor(rows, dtype=torch.float64) / torch.tensor(seconds, dtype=torch.float64)[:, None]
    scale = weighted.norm(dim=0).clamp_min(1e-300)
    columns = weighted / scale
    gram, target = (columns.T @ columns).tolist(), columns.sum(0).tolist()
    x = [0.0] * len(target)
    for _ in range(SWEEPS):
        for i, row in enumerate(gram):
            rest = sum(a * b for a, b in zip(row, x, strict=True)) - row[i] * x[i]
            x[i] = max((target[i] - rest) / row[i], 0.0) if row[i] else 0.0
    return [value / float(size) for value, size in zip(x, scale, strict=True)]


def fit_all(records: list[dict[str, Any]]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(native, torch): method to seconds per term."""
    fitted = []
    for terms, side in ((selection.native_terms, "native"), (selection.torch_terms, "reference")):
        rows, seconds = defaultdict(list), defaultdict(list)
        for record in records:
            method, row = terms(call_of(record))
            rows[method].append(row)
            seconds[method].append(record["seconds"][side])
        fitted.append({method: fit(rows[method], seconds[method]) for method in sorted(rows)})
    return fitted[0], fitted[1]


def summary(records: list[dict[str, Any]], fitted: tuple[dict[str, list[float]], dict[str, list[float]]]) -> str:
    """Per op: the measured cases, those in which native is below 0.9 of torch's speed, how many of them are chosen all
    the same, and the geometric mean of torch's time over that of the choice."""
    found: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for record in records:
        call, seconds = call_of(record), record["seconds"]
        found[call.op].append((seconds["reference"] / seconds["native"], selection.gain(call, *fitted) > 0))
    lines = []
    for op, cases in found.items():
        slow = [chosen for ratio, chosen in cases if ratio < 0.9]
        mean = math.exp(sum(math.log(ratio) for ratio, chosen in cases if chosen) / len(cases))
        lines.append(f"# {op}: {len(cases)} cases, native below 0.9: {len(slow)}, chosen: {sum(slow)}; mean {mean:.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fit_selection", description=__doc__)
    parser.add_argument("--count", type=int, default=280, metavar="N", help="random shapes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=17, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.03, metavar="S", help="per op, shape and layout, at least")
    parser.add_argument("--fit", type=Path, metavar="FILE", help="fit to an earlier measurement instead")
    args = parser.parse_args()
    device = torch.device("cpu")
    path = args.fit or FOLDER / "selection" / machine.file_name(device)
    if args.fit is None:
        torch.set_num_threads(1)
        content = {"machine": machine.describe(device), "records": measure_all(args.count, args.seed, args.seconds)}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    records = json.loads(path.read_text())["records"]
    fitted = fit_all(records)
    for name, table in zip(("NATIVE", "TORCH"), fitted, strict=True):
        print(f"{name}: dict[str, Terms] = {{")
        for method, terms in table.items():
            print(f'    "{method}": ({", ".join(f"{value:.3g}" for value in terms)}),')
        print("}")
    print(summary(records, fitted))


if __name__ == "__main__":
    main()
