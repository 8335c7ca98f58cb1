"""What compute-sanitizer is to look at: ``compute-sanitizer python -m bench.sanitize_gpu``.

The native loss and batch norm + activation, forward and backward, forced, because ``auto`` may choose torch's kernels.
One size leaves a block partly empty, the other takes several blocks.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence

import torch

from fastgan import dispatch
from tests.workloads import LOSSES, NORMS, prepared

_SIZES = ((2, 3, 5), (9, 16, 16))
_DTYPES = (torch.float32, torch.bfloat16)


def run(device: torch.device) -> int:
    """Returns how many of them ran; the others say why not."""
    count, reasons = 0, {}
    for name, size, dtype, layout in itertools.product((*NORMS, *LOSSES), _SIZES, _DTYPES, ("nchw", "nhwc")):
        try:
            with dispatch.use_backend("native"):
                prepared(name, size, dtype, layout, device)()
        except dispatch.BackendError as error:
            reasons[f"{name}, {dtype}, {layout}: not run: {error}"] = None
            continue
        count += 1
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    for reason in reasons:
        print(reason)
    return count


def main(argv: Sequence[str]) -> int:
    """Returns 0, or 1 where nothing could run."""
    parser = argparse.ArgumentParser(prog="python -m bench.sanitize_gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    args = parser.parse_args(argv)
    count = run(torch.device(args.device))
    print(f"{count} native calls ran, forward and backward")
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
