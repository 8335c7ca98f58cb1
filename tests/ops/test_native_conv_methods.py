"""The methods of the compiled convolutions that only some shapes take: Winograd, a weight read where it is, and images
that change places."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan.native import native_reason
from fastgan.ops.conv_transpose2d import native, selection
from tests.checks import assert_exact, assert_rule
from tests.ops.cases import integers, on_threads

pytestmark = pytest.mark.skipif(native_reason("cpu") is not None, reason=str(native_reason("cpu")))

FORMATS = (torch.contiguous_format, torch.channels_last)
FORMAT_IDS = ("NCHW", "NHWC")
# (small, big) sizes of kernel 4, stride 2, padding 1: even, odd, few pixels, the big image a row short, one row more.
# Winograd wants 256 small pixels in all, and 5 of an axis from big to small.
SIZES = (
    ((4, 4), (8, 8)),
    ((5, 7), (10, 14)),
    ((4, 9), (7, 18)),
    ((6, 5), (11, 9)),
    ((8, 4), (17, 9)),
    ((9, 5), (19, 11)),
)
# (small, big) channels: whole panels of every instruction set, one beyond, one short
CHANNELS = ((16, 32), (17, 33), (47, 31), (64, 16))


def maps(small, big, weight, bias_small, bias_big, stride, padding, dilation=(1, 1)):
    """The three results by the native kernels."""
    ops, geometry = torch.ops.fastgan, (stride, padding, dilation, 1)
    with fastgan.use_backend("native"):
        return (
            ops.conv_transpose2d(small, weight, bias_big, big.shape[2:], *geometry),
            ops.conv2d(big, weight, bias_small, small.shape[2:], *geometry),
            ops.conv2d_weight(small, big, weight.shape[2:], *geometry),
        )


def judge(small, big, weight, bias_small, bias_big, stride, padding, dilation=(1, 1), dtype=torch.float64):
    """The same by torch's own convolutions."""
    small, big, weight = (t.to(dtype) for t in (small, big, weight))
    plain = F.conv_transpose2d(small[:1], weight, None, stride, padding, 0, 1, dilation).shape[2:]
    more = [max(0, o - u) for o, u in zip(big.shape[2:], plain, strict=True)]
    less = [min(0, o - u) for o, u in zip(big.shape[2:], plain, strict=True)]
    up = F.conv_transpose2d(small, weight, bias_big.to(dtype), stride, padding, more, 1, dilation)
    leaf = weight.clone().requires_grad_()
    whole = F.pad(big, (0, -less[1], 0, -less[0]))  # what is beyond the big image is zero
    down = F.conv2d(whole, leaf, None, stride, padding, dilation)
    (gradient,) = torch.autograd.grad(down, leaf, small)
    return F.pad(up, (0, less[1], 0, less[0])), down.detach() + bias_small.to(dtype)[:, None, None], gradient


def operands(make, batch, channels, sizes, kernel, memory_format, dtype=torch.float32, weight_format=FORMATS[0]):
    cs, cb = channels
    small, big = make((batch, cs, *sizes[0])), make((batch, cb, *sizes[1]))
    images = [image.to(dtype).contiguous(memory_format=memory_format) for image in (small, big)]
    weight = make((cs, cb, *kernel)).to(dtype).contiguous(memory_format=weight_format)
    return (*images, weight, make((cs,)).to(dtype), make((cb,)).to(dtype))


@pytest.mark.parametrize("memory_format", FORMATS, ids=FORMAT_IDS)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_winograd_is_exact_on_whole_numbers(sizes, channels, memory_format, isa):
    other = FORMATS[memory_format is FORMATS[0]] if sizes is SIZES[1] else memory_format
    given = operands(integers, 17, channels, sizes, (4, 4), memory_format, weight_format=other)
    for name, ours, expected in zip(
        ("up", "down", "weight"), maps(*given, (2, 2), (1, 1)), judge(*given, 2, 1), strict=True
    ):
        assert_exact(name, ours, expected)


@pytest.mark.parametrize(
    ("sizes", "weight_format"), ((SIZES[0], FORMATS[0]), (SIZES[1], FORMATS[0]), (SIZES[1], FORMATS[1])), ids=str
)
@pytest.mark.parametrize("make", (torch.randn, lambda s: 1 + torch.rand(s)), ids=("normal", "hardly different"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_winograd_by_the_rule(dtype, make, sizes, weight_format, isa):
    given = operands(make, 17, (32, 48), sizes, (4, 4), FORMATS[0], dtype, weight_format)
    results = maps(*given, (2, 2), (1, 1)), judge(*given, 2, 1, dtype=dtype), judge(*given, 2, 1)
    for name, ours, theirs, expected in zip(("up", "down", "weight"), *results, strict=True):
        assert_rule(name, ours, theirs, expected)


def test_winograd_with_any_number_of_threads(isa):
    given = operands(torch.randn, 9, (33, 65), SIZES[1], (4, 4), FORMATS[1])
    first = on_threads(lambda: maps(*given, (2, 2), (1, 1)))
    for one, two in zip(first, maps(*given, (2, 2), (1, 1)), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("where", ("pixel", "weight"))
@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_a_special_value_under_winograd_stays_in_its_window(value, where, isa):
    small, big, weight, *biases = operands(lambda s: 1 + torch.rand(s), 8, (16, 16), SIZES[1], (4, 4), FORMATS[0])
    if where == "pixel":
        small[1, 3, 2, 3] = big[2, 5, 4, 6] = value
    else:
        weight[3, 5, 1, 2] = value
    up, down, _ = maps(small, big, weight, *biases, (2, 2), (1, 1))
    for ours, expected in zip((up, down), judge(small, big, weight, *biases, 2, 1), strict=False):
        for kind in (torch.isfinite, torch.isnan, torch.isposinf):
            assert torch.equal(kind(ours), kind(expected))


def test_finite_values_whose_combinations_overflow(isa):
    """Two pixels, and two taps, of which each is a float32 and their sum is none."""
    small, big, weight, *biases = operands(lambda s: 1e-3 * torch.rand(s), 8, (16, 16), SIZES[1], (4, 4), FORMATS[0])
    for tensor in (small, big):
        tensor[1, 3, 2, 2:4] = 3e38
    up, down, _ = maps(small, big, weight, *biases, (2, 2), (1, 1))
    small[1, 3, 2, 2:4] = big[1, 3, 2, 2:4] = 0
    weight[3, 5, 1, :] = 3e38
    results = up, down, *maps(1e-3 * small, 1e-3 * big, weight, *biases, (2, 2), (1, 1))[:2]
    assert all(result.isfinite().all() for result in results)


def test_fewer_images_than_threads(isa):
    """Threads share the panels then; the bits are the same."""
    given = operands(torch.randn, 1, (48, 80), ((16, 17), (32, 34)), (4, 4), FORMATS[0])
    first = on_threads(lambda: maps(*given, (2, 2), (1, 1)))
    for name, one, two in zip(("up", "down", "weight"), first, maps(*given, (2, 2), (1, 1)), strict=True):
        assert torch.equal(one, two), name


def test_images_too_wide_for_winograd(isa):
    """Beyond its limits on one axis: the direct method."""
    given = operands(integers, 1, (16, 17), ((4, 257), (8, 514)), (4, 4), FORMATS[0])
    for name, ours, expected in zip(
        ("up", "down", "weight"), maps(*given, (2, 2), (1, 1)), judge(*given, 2, 1), strict=True
    ):
        assert_exact(name, ours, expected)


# At most 16 small pixels in all, and a weight whose rows are a multiple of 16 values:
# (batch, groups, channels of a group, small, big, kernel, stride, padding, dilation)
FEW_PIXELS = {
    "DCGAN's first": (1, 1, (64, 32), (2, 2), (4, 4), (4, 4), (2, 2), (1, 1), (1, 1)),
    "one pixel": (3, 1, (5, 16), (1, 1), (4, 4), (4, 4), (1, 1), (0, 0), (1, 1)),
    "sixteen": (1, 1, (9, 48), (4, 4), (8, 8), (4, 4), (2, 2), (1, 1), (1, 1)),
    "a part of a block": (1, 1, (9, 21), (4, 4), (8, 8), (4, 4), (2, 2), (1, 1), (1, 1)),
    "images": (5, 1, (7, 16), (1, 3), (2, 6), (4, 4), (2, 2), (1, 1), (1, 1)),
    "grouped": (2, 3, (6, 16), (2, 3), (4, 6), (4, 4), (2, 2), (1, 1), (1, 1)),
    "odd kernel": (2, 1, (8, 16), (2, 3), (6, 9), (3, 5), (3, 3), (0, 1), (1, 1)),
    "dilated": (1, 1, (8, 32), (3, 4), (8, 12), (3, 3), (2, 3), (1, 2), (2, 2)),
    "cropped": (1, 1, (8, 16), (3, 3), (1, 2), (4, 4), (2, 2), (3, 2), (1, 1)),
    "a row short": (1, 1, (8, 16), (4, 4), (7, 6), (4, 4), (2, 2), (1, 1), (1, 1)),
    "one channel, large kernel": (1, 1, (3, 1), (2, 2), (9, 10), (8, 8), (1, 2), (0, 0), (1, 1)),
    "one tap": (4, 1, (8, 32), (2, 2), (2, 2), (1, 1), (1, 1), (0, 0), (1, 1)),
    "many channels": (1, 1, (1030, 32), (2, 2), (4, 4), (4, 4), (2, 2), (1, 1), (1, 1)),
    "beyond the stamps": (1, 1, (8, 16), (2, 2), (7, 7), (4, 4), (2, 2), (0, 0), (1, 1)),
    "seventeen": (17, 1, (8, 16), (1, 1), (2, 2), (4, 4), (2, 2), (1, 1), (1, 1)),
    "rows of 27 values": (1, 1, (8, 3), (2, 2), (3, 3), (3, 3), (1, 1), (1, 1), (1, 1)),
}
NOT_STREAMED = {"beyond the stamps", "seventeen", "rows of 27 values"}


def few_pixels(name, make, weight_format, memory_format, dtype=torch.float32):
    """(input, weight, bias, output size, geometry)"""
    batch, groups, (cs, cb), small, big, kernel, *geometry = FEW_PIXELS[name]
    input = make((batch, groups * cs, *small)).to(dtype).contiguous(memory_format=memory_format)
    weight = make((groups * cs, cb, *kernel)).to(dtype).contiguous(memory_format=weight_format)
    return input, weight, make((groups * cb,)).to(dtype), big, *geometry, groups


def up(input, weight, bias, size, stride, padding, dilation, groups, dtype):
    """By torch, all of the output that the pixels reach, cut or filled up with the bias to ``size``."""
    whole = F.conv_transpose2d(input.to(dtype), weight.to(dtype), None, stride, 0, 0, groups, dilation)
    more = [p + o - i for p, o, i in zip(padding, size, whole.shape[2:], strict=True)]
    cut = F.pad(whole, (-padding[1], more[1], -padding[0], more[0]))
    return cut + bias.to(dtype)[:, None, None]


@pytest.mark.parametrize("memory_format", FORMATS, ids=FORMAT_IDS)
@pytest.mark.parametrize("weight_format", FORMATS, ids=("weight NCHW", "weight NHWC"))
@pytest.mark.parametrize("name", FEW_PIXELS)
def test_few_pixels_are_exact_on_whole_numbers(name, weight_format, memory_format, isa):
    given = few_pixels(name, integers, weight_format, memory_format)
    with fastgan.use_backend("native"):
        first = on_threads(lambda: (torch.ops.fastgan.conv_transpose2d(*given),))
    assert_exact(name, first[0], up(*given, torch.float64))


@pytest.mark.parametrize("weight_format", FORMATS, ids=FORMAT_IDS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("name", ("DCGAN's first", "images", "grouped", "dilated", "many channels"))
def test_few_pixels_by_the_rule(name, dtype, weight_format, isa):
    given = few_pixels(name, torch.randn, weight_format, FORMATS[0], dtype)
    with fastgan.use_backend("native"):
        ours = torch.ops.fastgan.conv_transpose2d(*given)
    assert_rule(name, ours, up(*given, dtype), up(*given, torch.float64))


@pytest.mark.parametrize("weight_format", FORMATS, ids=FORMAT_IDS)
@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_a_special_value_among_few_pixels_stays_in_its_window(value, weight_format, isa):
    input, weight, *rest = few_pixels("sixteen", lambda shape: 1 + torch.rand(shape), weight_format, FORMATS[0])
    input[0, 2, 0, 3] = value
    weight[4, 7, 3, 0] = -value
    with fastgan.use_backend("native"):
        ours = torch.ops.fastgan.conv_transpose2d(input, weight, *rest)
    expected = up(input, weight, *rest, torch.float64)
    for kind in (torch.isfinite, torch.isnan, torch.isposinf):
        assert torch.equal(kind(ours), kind(expected))


def test_few_pixels_with_any_strides_of_the_weight(isa):
    """Rows that are no single run, of which nothing is read where it is."""
    input, weight, *rest = few_pixels("sixteen", integers, *FORMATS)
    for view in (weight.transpose(2, 3).contiguous().transpose(2, 3), weight.repeat_interleave(2, 1)[:, ::2]):
        with fastgan.use_backend("native"):
            ours = torch.ops.fastgan.conv_transpose2d(input, view, *rest)
        assert_exact("strides", ours, up(input, view, *rest, torch.float64))


@pytest.mark.parametrize("name", FEW_PIXELS)
def test_few_pixels_as_the_kernels_decide(name):
    """few_pixels() of csrc/conv_transpose2d/method.h once more."""
    call = native.numbers("conv_transpose2d", *few_pixels(name, torch.empty, *FORMATS))
    assert selection._streamed(call) is (name not in NOT_STREAMED)


@pytest.mark.parametrize("memory_format", FORMATS, ids=FORMAT_IDS)
@pytest.mark.parametrize(("batch", "channels"), ((1, 70), (1, 5), (3, 200)), ids=str)
def test_threads_share_the_panels_of_few_images(batch, channels, memory_format, isa):
    """Few channels of the big image: with more threads than images each takes a part of the small channels."""
    sizes = ((40, 41), (40, 41))
    given = operands(integers, batch, (channels, 3), sizes, (3, 3), memory_format)
    results = on_threads(lambda: maps(*given, (1, 1), (1, 1)))
    for name, ours, expected in zip(("up", "down", "weight"), results, judge(*given, 1, 1), strict=True):
        assert_exact(name, ours, expected)


@pytest.mark.parametrize("memory_format", FORMATS, ids=FORMAT_IDS)
@pytest.mark.parametrize(
    ("kernel", "padding", "dilation"),
    (((7, 7), (3, 3), (1, 1)), ((3, 5), (0, 2), (2, 1)), ((2, 1), (1, 0), (3, 2))),
    ids=str,
)
@pytest.mark.parametrize("channels", ((1, 8), (3, 17), (2, 64)), ids=str)
def test_images_that_change_places_are_exact(channels, kernel, padding, dilation, memory_format, isa):
    big = (11, 13)
    small = tuple(o + 2 * p - d * (k - 1) for o, p, d, k in zip(big, padding, dilation, kernel, strict=True))
    given = operands(integers, 3, channels, (small, big), kernel, memory_format)
    ours = maps(*given, (1, 1), padding, dilation)
    for name, result, expected in zip(("up", "down", "weight"), ours, judge(*given, 1, padding, dilation), strict=True):
        assert_exact(name, result, expected)


@pytest.mark.parametrize("name", ("relu", "leaky_relu", "tanh"))
@pytest.mark.parametrize(
    ("batch", "channels", "kernel", "stride", "size"),
    (
        (8, (16, 24), 4, 2, 6),
        (4, (16, 24), 4, 2, 6),
        (1, (16, 24), 4, 2, 4),
        (4, (16, 3), 4, 2, 6),
        (4, (1, 16), 3, 1, 6),
        (4, (9, 10), 3, 1, 6),
    ),
    ids=str,
)
def test_the_activation_follows_every_method(batch, channels, kernel, stride, size, name, isa):
    """The same as the activation of what the plain op gives, whichever method the shape takes."""
    small, big = (size, size), (stride * size, stride * size)
    given = operands(torch.randn, batch, channels, (small, big), (kernel, kernel), FORMATS[1])
    up, down, _ = maps(*given, (stride, stride), (1, 1))
    options = {"stride": stride, "padding": 1, "activation": name, "negative_slope": 0.2}
    with fastgan.use_backend("native"):
        up_act = fastgan.functional.conv_transpose2d(given[0], given[2], given[4], **options)
        down_act = fastgan.functional.conv2d(given[1], given[2], given[3], **options)
    for plain, activated in ((up, up_act), (down, down_act)):
        double = plain.double()
        expected = {"relu": double.relu(), "leaky_relu": F.leaky_relu(double, 0.2), "tanh": double.tanh()}[name]
        theirs = {"relu": plain.relu(), "leaky_relu": F.leaky_relu(plain, 0.2), "tanh": plain.tanh()}[name]
        assert_rule(name, activated, theirs, expected)
