"""What is verified: a dozen shapes per op, the layers of DCGAN and cGAN at a small batch and the corners."""

from __future__ import annotations

import functools

from fastgan.verify.cases import Case, conv_case, loss_case, norm_case

up = functools.partial(conv_case, "conv_transpose2d")
down = functools.partial(conv_case, "conv2d")
norm, loss = norm_case, loss_case

_K4 = {"stride": 2, "padding": 1}

CASES: tuple[Case, ...] = (
    up("DCGAN 512→256 at 2x2", ((2, 512, 2, 2), (512, 256, 4, 4)), **_K4, bias=False, quick=True),
    up("DCGAN 256→128 at 4x4", ((2, 256, 4, 4), (256, 128, 4, 4)), **_K4, bias=False),
    up("DCGAN 128→64 at 8x8", ((2, 128, 8, 8), (128, 64, 4, 4)), **_K4, bias=False),
    up("DCGAN 64→3 at 16x16", ((2, 64, 16, 16), (64, 3, 4, 4)), **_K4, quick=True),
    up("DCGAN k5 same", ((2, 64, 4, 4), (64, 32, 5, 5)), stride=2, padding="same", quick=True),
    up("DCGAN 1x1→4x4", ((2, 100, 1, 1), (100, 64, 4, 4)), bias=False),
    up("cGAN 129→128 at 7x7", ((2, 129, 7, 7), (129, 128, 4, 4)), **_K4, bias=False),
    up("cGAN 128→64 at 14x14", ((1, 128, 14, 14), (128, 64, 4, 4)), **_K4, bias=False),
    up(
        "odd sizes, output_padding",
        ((3, 5, 7, 9), (5, 6, 3, 3)),
        stride=2,
        padding=1,
        output_padding=1,
        small=True,
        quick=True,
    ),
    up("uneven stride and kernel", ((2, 3, 5, 4), (3, 4, 2, 5)), stride=(3, 1), padding=(0, 2), small=True),
    up("groups 4", ((2, 16, 5, 6), (16, 6, 4, 4)), **_K4, groups=4, small=True, quick=True),
    up("depthwise", ((2, 17, 5, 5), (17, 1, 3, 3)), stride=2, groups=17),
    up(
        "dilation 2",
        ((2, 6, 5, 6), (6, 7, 3, 3)),
        stride=2,
        padding=2,
        dilation=2,
        output_padding=1,
        small=True,
        quick=True,
    ),
    up("stride > kernel, same", ((2, 4, 3, 5), (4, 3, 2, 2)), stride=3, padding="same", small=True),
    down("DCGAN 3→64 at 32x32", ((2, 3, 32, 32), (64, 3, 4, 4)), **_K4, quick=True),
    down("DCGAN 64→128 at 16x16", ((2, 64, 16, 16), (128, 64, 4, 4)), **_K4, bias=False),
    down("DCGAN 128→256 at 8x8", ((2, 128, 8, 8), (256, 128, 4, 4)), **_K4, bias=False),
    down("DCGAN 256→512 at 4x4", ((2, 256, 4, 4), (512, 256, 4, 4)), **_K4, bias=False, quick=True),
    down("cGAN 2→64 at 28x28, same", ((2, 2, 28, 28), (64, 2, 4, 4)), stride=2, padding="same"),
    down(
        "cGAN 128→256 at 7x7, same",
        ((2, 128, 7, 7), (256, 128, 4, 4)),
        stride=2,
        padding="same",
        bias=False,
        quick=True,
    ),
    down("cGAN 64→1 at 28x28, k7 same", ((2, 64, 28, 28), (1, 64, 7, 7)), stride=1, padding="same"),
    down("1x1 kernel", ((3, 33, 5, 5), (17, 33, 1, 1)), small=True),
    down("odd sizes", ((3, 5, 7, 9), (6, 5, 3, 3)), stride=2, padding=1, small=True, quick=True),
    down("uneven stride and kernel", ((2, 3, 11, 7), (4, 3, 2, 5)), stride=(3, 1), padding=(0, 2), small=True),
    down("groups 4", ((2, 16, 6, 5), (24, 4, 4, 4)), **_K4, groups=4, small=True, quick=True),
    down("depthwise", ((2, 17, 9, 9), (17, 1, 3, 3)), stride=2, groups=17),
    down("dilation 2", ((2, 6, 9, 8), (7, 6, 3, 3)), stride=2, padding=2, dilation=2, small=True, quick=True),
    norm("DCGAN 512 at 2x2", (8, 512, 2, 2), "relu", quick=True),
    norm("DCGAN 256 at 4x4", (4, 256, 4, 4), "relu"),
    norm("DCGAN 64 at 16x16", (4, 64, 16, 16), "relu", quick=True),
    norm("DCGAN D 128 at 8x8", (4, 128, 8, 8), "leaky_relu", quick=True),
    norm("cGAN 128 at 14x14", (4, 128, 14, 14), "relu"),
    norm("cGAN D 256 at 4x4", (4, 256, 4, 4), "leaky_relu"),
    norm("no activation", (4, 33, 7, 7), "none", small=True),
    norm("odd sizes", (3, 7, 5, 9), "leaky_relu", small=True, quick=True),
    norm("two values a channel", (2, 5, 1, 1), "leaky_relu", small=True),
    norm("mean 100", (4, 16, 8, 8), "leaky_relu", mean=100.0, quick=True),
    norm("eval, relu", (2, 17, 9, 5), "relu", training=False, small=True, quick=True),
    norm("eval, leaky_relu", (4, 64, 8, 8), "leaky_relu", training=False),
    loss("128 logits, real", (128,), target=1.0, small=True, quick=True),
    loss("128 logits, fake", (128,), target=0.0, small=True),
    loss("128 logits, smoothed", (128,), target=0.9),
    loss("128 logits, tensor", (128,), small=True),
    loss("128 large logits", (128,), target=1.0, scale=1e4, small=True, quick=True),
    loss("one logit", (1,), target=1.0),
    loss("65536 logits", (65536,), target=1.0, quick=True),
    loss("65536 logits, tensor", (65536,)),
    loss("image of logits", (4, 3, 5, 7), small=True, quick=True),
    loss("unreduced", (4, 3, 5, 7), reduction="none", small=True),
    loss("sum", (4, 3, 5, 7), reduction="sum", target=0.0),
    loss("weight and pos_weight", (4, 3, 5, 7), weighted=True, quick=True),
)
