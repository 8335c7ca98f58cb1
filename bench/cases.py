"""The registry of cases."""

from __future__ import annotations

import dataclasses
from typing import Any

from bench import ops
from bench.case import Case
from bench.odd import odd_shapes
from bench.ops import conv, discriminator, loss, norm
from bench.whole import MODELS, block, inference, networks, step

_K4: dict[str, Any] = {"stride": 2, "padding": 1}
_SAME: dict[str, Any] = {"stride": 2, "padding": "same"}
_UP, _DOWN = "conv_transpose2d", "conv2d"
_ALL_WORKS = (ops.FORWARD, ops.RECORDED, ops.BOTH)


def _tiny(cases: list[Case]) -> list[Case]:
    """Calls so small that the host's share is all there is: two images, or the logits as they are."""
    return [dataclasses.replace(c, group="tiny calls", batches=(2,), float32_only=True, weight=None) for c in cases]


# The steps come first: a run that is cut short should have them.
CASES: list[Case] = [
    *map(step, MODELS),
    *block("DCGAN G 512→256, 2→4", (512, 2, 2), 256),
    *block("DCGAN G 256→128, 4→8", (256, 4, 4), 128),
    *block("DCGAN G 128→64, 8→16", (128, 8, 8), 64),
    *block("DCGAN D 64→128, 16→8", (64, 16, 16), 128),
    *block("DCGAN D 128→256, 8→4", (128, 8, 8), 256),
    *block("DCGAN D 256→512, 4→2", (256, 4, 4), 512),
    *conv("DCGAN 512→256, 2→4", _UP, (512, 2, 2), (512, 256, 4, 4), False, **_K4),
    *conv("DCGAN 256→128, 4→8", _UP, (256, 4, 4), (256, 128, 4, 4), False, **_K4),
    *conv("DCGAN 128→64, 8→16", _UP, (128, 8, 8), (128, 64, 4, 4), False, **_K4),
    *conv("DCGAN 64→3, 16→32", _UP, (64, 16, 16), (64, 3, 4, 4), True, **_K4),
    *conv("cGAN 129→128, 7→14", _UP, (129, 7, 7), (129, 128, 4, 4), False, **_K4),
    *conv("cGAN 128→64, 14→28", _UP, (128, 14, 14), (128, 64, 4, 4), False, **_K4),
    *conv("DCGAN 3→64, 32→16", _DOWN, (3, 32, 32), (64, 3, 4, 4), True, **_K4),
    *conv("DCGAN 64→128, 16→8", _DOWN, (64, 16, 16), (128, 64, 4, 4), False, **_K4),
    *conv("DCGAN 128→256, 8→4", _DOWN, (128, 8, 8), (256, 128, 4, 4), False, **_K4),
    *conv("DCGAN 256→512, 4→2", _DOWN, (256, 4, 4), (512, 256, 4, 4), False, **_K4),
    *conv("cGAN 2→64, 28→14, same", _DOWN, (2, 28, 28), (64, 2, 4, 4), True, **_SAME),
    *conv("cGAN 64→128, 14→7, same", _DOWN, (64, 14, 14), (128, 64, 4, 4), False, **_SAME),
    *conv("cGAN 128→256, 7→4, same", _DOWN, (128, 7, 7), (256, 128, 4, 4), False, **_SAME),
    *conv("cGAN 256→512, 4→2, same", _DOWN, (256, 4, 4), (512, 256, 4, 4), False, **_SAME),
    *conv("cGAN 64→1, 28, k7", _DOWN, (64, 28, 28), (1, 64, 7, 7), True, padding=3),
    *norm("DCGAN G 512 at 2x2", (512, 2, 2), "relu"),
    *norm("DCGAN G 256 at 4x4", (256, 4, 4), "relu"),
    *norm("DCGAN G 128 at 8x8", (128, 8, 8), "relu"),
    *norm("DCGAN G 64 at 16x16", (64, 16, 16), "relu"),
    *norm("DCGAN D 128 at 8x8", (128, 8, 8), "leaky_relu"),
    *norm("DCGAN D 256 at 4x4", (256, 4, 4), "leaky_relu"),
    *norm("DCGAN D 512 at 2x2", (512, 2, 2), "leaky_relu"),
    *norm("cGAN G 128 at 14x14", (128, 14, 14), "relu"),
    *norm("cGAN G 64 at 28x28", (64, 28, 28), "relu"),
    *norm("cGAN D 128 at 7x7", (128, 7, 7), "leaky_relu"),
    *(case for logits in (128, 4096, 65536, 1 << 20, 1 << 24) for case in loss(logits)),
    *(case for logits in (128, 65536, 1 << 20) for case in discriminator(logits)),
    *(inference(model, folded) for folded in (False, True) for model in MODELS),
    *(case for model in MODELS for case in networks(model)),
    *_tiny(norm("BN + ReLU, 8 channels at 2x2", (8, 2, 2), "relu", _ALL_WORKS)),
    *_tiny(norm("BN + LeakyReLU, 8 channels at 2x2", (8, 2, 2), "leaky_relu", _ALL_WORKS)),
    *_tiny(conv("conv_transpose2d 4→4, 2→4", _UP, (4, 2, 2), (4, 4, 4, 4), False, _ALL_WORKS, **_K4)),
    *_tiny(conv("conv2d 4→4, 4→2", _DOWN, (4, 4, 4), (4, 4, 4, 4), False, _ALL_WORKS, **_K4)),
    *_tiny(loss(8, _ALL_WORKS)),
    *odd_shapes(),
]
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(case.group for case in CASES))
