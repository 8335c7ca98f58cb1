"""The same call a thousand times, on the same numbers: are the bits the same? ``python -m bench.repeat_gpu``.

Every op, forward and backward, on our kernels alone: cuDNN is bit-repeatable in torch's deterministic mode only.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastgan import dispatch
from tests.workloads import CONVOLUTIONS, LOSSES, SMALL, prepared

NAMES = (
    *CONVOLUTIONS,
    "batch_norm_act training leaky_relu",
    "batch_norm_act eval relu",
    "loss mean",
    "loss none",
    "loss discriminator",
)
BACKENDS = ("triton", "native")
# The native loss knows tensors without gaps in one order alone, so losses are in that one.
KINDS = ((torch.float32, "nchw"), (torch.bfloat16, "nhwc"))
MANY_BLOCKS = (32, 64, 16)  # images, channels, pixels a side: what blocks add up must not depend on who comes first
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(results: Sequence[Tensor]) -> list[Tensor]:
    """As integers: -0 is not 0, and a NaN is itself."""
    return [each.detach().view(_WORDS[each.element_size()]) for each in results]


def repeat(call: Callable[[], Sequence[Tensor]], count: int, seconds: float) -> tuple[int, str]:
    """(calls that were made, at most ``count`` and for ``seconds``; what differs, or "")."""
    deadline = time.monotonic() + seconds
    first = _bits(call())
    for done in range(1, count):
        if time.monotonic() > deadline:
            return done, ""
        for i, (one, other) in enumerate(zip(first, _bits(call()), strict=True)):
            if not torch.equal(one, other):
                different = int((one != other).sum())
                return done + 1, f"call {done + 1}, result {i}: {different} of {one.numel()} values have other bits"
    return count, ""


def run(device: torch.device, count: int, seconds: float) -> tuple[int, int, int]:
    """Prints a line each; returns how many ran, how many were not repeatable, and how many were cut by the time."""
    size = MANY_BLOCKS if device.type == "cuda" else SMALL
    ran = wrong = cut = 0
    plan = list(itertools.product(NAMES, BACKENDS, KINDS))
    plan = [(name, backend, (dtype, "nchw" if name in LOSSES else layout)) for name, backend, (dtype, layout) in plan]
    for i, (name, backend, (dtype, layout)) in enumerate(plan):
        begin, share = time.monotonic(), seconds / (len(plan) - i)  # of what is left: who is quick leaves more
        place = f"{name}, {backend}, {str(dtype).removeprefix('torch.')}, {layout}"
        call = prepared(name, size, dtype, layout, device)
        try:
            with dispatch.use_backend(backend):
                call()  # Triton compiles now, on nobody's time
                begin = time.monotonic()
                done, difference = repeat(call, count, share)
        except dispatch.BackendError as error:
            print(f"{place}: not run: {error}", flush=True)
            continue
        seconds -= time.monotonic() - begin
        ran, wrong, cut = ran + 1, wrong + bool(difference), cut + (not difference and done < count)
        print(f"{place}: " + (f"DIFFERS: {difference}" if difference else f"{done} of {count} equal"), flush=True)
    return ran, wrong, cut


def main(argv: Sequence[str]) -> int:
    """Returns 0, or 1 where bits differ or nothing could run."""
    parser = argparse.ArgumentParser(prog="python -m bench.repeat_gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), metavar="S", help="of repeating, shared among the calls"
    )
    args = parser.parse_args(argv)
    ran, wrong, cut = run(torch.device(args.device), args.repeats, args.seconds)
    print(f"{ran} calls repeated, {wrong} with other bits, {cut} fewer than {args.repeats} times")
    return 1 if wrong or not ran else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
