"""How much scratch memory the compiled convolutions keep."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fastgan.native import native_reason
from tests.ops.test_native_conv import DCGAN, OPS, RGB, changed

pytestmark = pytest.mark.skipif(native_reason("cpu") is not None, reason=str(native_reason("cpu")))

MOST_SCRATCH = 8  # MB on the calling thread: of packed weights, a chunk's images and sums

# Close to what supports() accepts: channels times taps, images of either side, taps.
EXTREMES = {
    "conv_transpose2d": (
        changed(DCGAN, batch=2, channels=(2048, 8)),
        changed(DCGAN, batch=2, channels=(8, 8), small=(63, 64), big=(126, 128)),
        changed(RGB, batch=2, channels=(64, 3), small=(63, 64), big=(126, 128)),
        changed(DCGAN, batch=1, channels=(2048, 64), small=(8, 8), big=(16, 16)),
        changed(DCGAN, batch=4, channels=(192, 64), small=(32, 32), big=(64, 64)),
        changed(DCGAN, batch=64, channels=(512, 256), small=(4, 4), big=(8, 8)),
        changed(DCGAN, batch=1, channels=(193, 57), small=(4, 254), big=(9, 509)),
        changed(DCGAN, batch=4, channels=(1024, 1024), small=(2, 2), big=(4, 4)),
        changed(
            RGB,
            batch=1,
            channels=(16, 3),
            kernel=(5, 5),
            stride=(1, 1),
            padding=(2, 2),
            small=(127, 128),
            big=(127, 128),
        ),
    ),
    "conv2d": (
        changed(DCGAN, batch=2, channels=(8, 2048)),
        changed(DCGAN, batch=2, channels=(8, 32), small=(63, 64), big=(126, 128)),
        changed(DCGAN, batch=4, channels=(192, 64), small=(32, 32), big=(64, 64)),
        changed(DCGAN, batch=64, channels=(512, 256), small=(5, 5), big=(10, 10)),
        changed(RGB, batch=2, channels=(64, 3), small=(63, 64), big=(126, 128)),
        changed(
            RGB,
            channels=(4, 1),
            kernel=(2, 2),
            stride=(9, 9),
            padding=(5000, 5000),
            dilation=(10000, 10000),
            small=(1, 1),
        ),
    ),
    "conv2d_weight": (
        changed(DCGAN, batch=2, channels=(512, 512)),
        changed(DCGAN, batch=2, channels=(32, 32), small=(63, 64), big=(126, 128)),
        changed(RGB, batch=2, channels=(32, 3), small=(63, 64), big=(126, 128)),
        changed(DCGAN, batch=32, channels=(512, 256), small=(4, 4), big=(8, 8)),
        changed(DCGAN, batch=4, channels=(4096, 16), small=(4, 4), big=(8, 8)),
        changed(
            RGB,
            batch=1,
            channels=(16, 3),
            kernel=(5, 5),
            stride=(1, 1),
            padding=(2, 2),
            small=(127, 128),
            big=(127, 128),
        ),
        changed(DCGAN, channels=(8, 8), kernel=(1, 1), stride=(1, 100000), padding=(0, 0), small=(64, 1), big=(64, 1)),
        changed(DCGAN, channels=(8, 9), kernel=(64, 64), stride=(1, 1), padding=(31, 31), small=(9, 9), big=(9, 9)),
    ),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("op", OPS)
def test_scratch_memory_is_bounded(op):
    """What a process grows by, outputs apart."""
    code = f"""
import torch
from tests.ops.test_native_conv import RGB, native, operands
from tests.ops.test_native_conv_scratch import EXTREMES
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
ready = [(map, operands(map, {op!r})) for map in (RGB, *EXTREMES[{op!r}])]
native({op!r}, *ready[0][0].args({op!r}, *ready[0][1]))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak is what is used now: making operands used more
before, kept = peak(), []
for map, tensors in ready[1:]:
    kept.append(native({op!r}, *map.args({op!r}, *tensors)))
print(peak() - before - sum(output.numel() * 4 for output in kept) / 2**20)
"""
    # With a fixed threshold each large block is a mapping of its own, and no hole in the heap when it is freed.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    # Under make sanitize AddressSanitizer would keep what was freed, to catch its use.
    environment["ASAN_OPTIONS"] = (
        os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=0:thread_local_quarantine_size_kb=0"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    sanitized = "libasan" in os.environ.get("LD_PRELOAD", "")  # it keeps a byte of its own for every eight
    assert float(done.stdout) * (8 / 9 if sanitized else 1) < MOST_SCRATCH, done.stdout
