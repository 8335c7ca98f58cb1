"""The compiled convolutions against their definition in float64: random geometries, whole numbers, bit for bit."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch

import fastgan
from fastgan.dispatch import why_not
from fastgan.native import native_reason
from fastgan.ops.conv_transpose2d import reference
from fastgan.ops.conv_transpose2d.geometry import Geometry, output_memory_format
from tests.checks import assert_exact, assert_rule
from tests.ops.cases import LAYOUTS, integers, on_threads

pytestmark = pytest.mark.skipif(native_reason("cpu") is not None, reason=str(native_reason("cpu")))

OPS = ("conv_transpose2d", "conv2d", "conv2d_weight")
HALVES = (torch.bfloat16, torch.float16)
# around the panels of 8, 16 and 32 columns and of 6 and 8 rows
CHANNELS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 129)
MOST_PRODUCTS = 2e6


@dataclass(frozen=True)
class Map:
    """What the three ops share. ``channels``: of (small, big), per group."""

    batch: int
    groups: int
    channels: tuple[int, int]
    small: tuple[int, int]
    big: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def geometry(self):
        return Geometry(self.stride, self.padding, self.dilation, self.groups)

    @property
    def shapes(self):
        """Of the small image, the big one and the weight."""
        cs, cb = self.channels
        return (
            (self.batch, self.groups * cs, *self.small),
            (self.batch, self.groups * cb, *self.big),
            (self.groups * cs, cb, *self.kernel),
        )

    def inputs(self, op):
        """(shapes of the two operands, shape of the result)."""
        small, big, weight = self.shapes
        return {
            "conv_transpose2d": ((small, weight), big),
            "conv2d": ((big, weight), small),
            "conv2d_weight": ((small, big), weight),
        }[op]

    def args(self, op, first, second, bias=None):
        if op == "conv2d_weight":
            return (first, second, self.kernel, *self.geometry)
        return (first, second, bias, self.big if op == "conv_transpose2d" else self.small, *self.geometry)


def stamp(map):
    """The size of all that the small image's taps reach, before cropping."""
    sizes = (map.small, map.stride, map.dilation, map.kernel)
    return [(i - 1) * s + d * (k - 1) + 1 for i, s, d, k in zip(*sizes, strict=True)]


def random_map(rng):
    """Sizes that belong together as torch defines them, or (a third) any sizes and a padding of any sign."""

    def pair(values):
        return rng.choice(values), rng.choice(values)

    while True:
        groups = rng.choice((1, 1, 1, 1, 2, 3, 5))
        channels = pair(CHANNELS if groups < 3 else CHANNELS[:12])
        if rng.random() < 0.3:
            channels = channels[0], rng.choice((1, 2, 3, 5, 7, 8))
        kernel, stride, dilation = pair(range(1, 8)), pair((1, 1, 2, 2, 2, 3, 4)), pair((1, 1, 1, 2, 3))
        if rng.random() < 0.3:
            kernel, stride, dilation = (4, 4), (2, 2), (1, 1)
        small = pair(rng.choice(((1,), (1, 2, 3, 4), range(1, 21))))
        found = Map(rng.randint(1, 9), groups, channels, small, (1, 1), kernel, stride, (0, 0), dilation)
        if rng.random() < 0.35:
            sizes, padding = pair(range(1, 21)), pair(range(-3, 8))
        else:
            full = stamp(found)
            padding = tuple(rng.randint(0, min(5, (f - 1) // 2)) for f in full)
            extra = [rng.randint(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)]
            sizes = tuple(f - 2 * p + e for f, p, e in zip(full, padding, extra, strict=True))
        products = found.batch * groups * channels[0] * channels[1] * kernel[0] * kernel[1] * small[0] * small[1]
        if products <= MOST_PRODUCTS and max(sizes) <= 40:
            return Map(found.batch, groups, channels, small, sizes, kernel, stride, padding, dilation)


def meetings(map, axis, k):
    """(small pixels, the big pixels that they meet through tap k)."""
    i = torch.arange(map.small[axis])
    o = i * map.stride[axis] - map.padding[axis] + k * map.dilation[axis]
    inside = (o >= 0) & (o < map.big[axis])
    return i[inside], o[inside]


def judge(op, map, first, second, bias=None):
    """The definition, tap by tap, in float64."""
    groups, (cs, cb) = map.groups, map.channels
    first, second = first.double(), second.double()
    first = first.unflatten(1, (groups, -1))
    second = second.unflatten(1 if op == "conv2d_weight" else 0, (groups, -1))
    result = {
        "conv_transpose2d": first.new_zeros(map.batch, groups, cb, *map.big),
        "conv2d": first.new_zeros(map.batch, groups, cs, *map.small),
        "conv2d_weight": first.new_zeros(groups, cs, cb, *map.kernel),
    }[op]
    for ky in range(map.kernel[0]):
        for kx in range(map.kernel[1]):
            (i_h, o_h), (i_w, o_w) = meetings(map, 0, ky), meetings(map, 1, kx)
            small, big = (..., i_h[:, None], i_w), (..., o_h[:, None], o_w)
            if op == "conv_transpose2d":
                result[big] += torch.einsum("ngahw,gab->ngbhw", first[small], second[..., ky, kx])
            elif op == "conv2d":
                result[small] += torch.einsum("ngbhw,gab->ngahw", first[big], second[..., ky, kx])
            else:
                result[..., ky, kx] = torch.einsum("ngahw,ngbhw->gab", first[small], second[big])
    result = result.reshape(map.inputs(op)[1])
    return result if bias is None else result + bias.double().view(-1, 1, 1)


def native(op, *args):
    with fastgan.use_backend("native"):
        return getattr(torch.ops.fastgan, op)(*args)


@pytest.fixture
def nan_filled():
    """New tensors are full of NaN: what a kernel does not write is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def operands(map, op, layouts=("nchw", "nchw"), dtype=torch.float32, make=integers, bias=True):
    shapes, result = map.inputs(op)
    first, second = (LAYOUTS[name](make(shape).to(dtype)) for name, shape in zip(layouts, shapes, strict=True))
    return first, second, make((result[1],)).to(dtype) if bias and op != "conv2d_weight" else None


def check(op, map, layouts=("nchw", "nchw"), dtype=torch.float32, bias=True):
    """Whole numbers: sums are exact, so the result is the float64 one, rounded once in 16 bits. A call on NaN comes
    first: what it leaves in scratch memory must not show."""
    first, second, start = operands(map, op, layouts, dtype, bias=bias)
    dirty = native(op, *map.args(op, first * float("nan"), second * float("nan"), start))
    result = native(op, *map.args(op, first, second, start))
    assert dirty.shape == result.shape == map.inputs(op)[1]
    name = f"{op}, {map}, {layouts}"
    assert result.dtype is dtype
    assert result.is_contiguous(memory_format=output_memory_format(first, second)), name
    assert_exact(name, result, judge(op, map, first, second, start).to(dtype).double())


BLOCKS, BLOCK = 6, 40


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_geometries(op, block, isa, nan_filled):
    rng = random.Random(f"{op} {block}")
    names = tuple(LAYOUTS)
    for _ in range(BLOCK):
        map = random_map(rng)
        dtype = rng.choice((torch.float32, torch.float32, *HALVES))
        check(op, map, (rng.choice(names), rng.choice(names)), dtype, rng.random() < 0.7)


DCGAN = Map(5, 1, (13, 17), (4, 4), (8, 8), (4, 4), (2, 2), (1, 1), (1, 1))
RGB = Map(5, 1, (13, 3), (4, 4), (8, 8), (4, 4), (2, 2), (1, 1), (1, 1))


def changed(map, **values):
    return Map(**{**map.__dict__, **values})


@pytest.mark.parametrize("of_second", LAYOUTS)
@pytest.mark.parametrize("of_first", LAYOUTS)
@pytest.mark.parametrize("op", OPS)
def test_every_layout(op, of_first, of_second, nan_filled):
    for map in (DCGAN, RGB, changed(RGB, groups=3), changed(DCGAN, groups=2, batch=2)):
        for dtype in (torch.float32, torch.bfloat16):
            check(op, map, (of_first, of_second), dtype)


# Each side of every condition of few_columns() in cpu.cpp: only the first of a group is taken by columns.
COLUMNS = {
    "rgb": RGB,
    "7 channels": changed(RGB, channels=(13, 7)),
    "8 channels": changed(RGB, channels=(13, 8)),
    "128 columns": Map(3, 1, (9, 2), (3, 3), (10, 10), (8, 8), (1, 1), (0, 0), (1, 1)),
    "130 columns": Map(3, 1, (9, 2), (3, 3), (15, 7), (13, 5), (1, 1), (0, 0), (1, 1)),
    "4 small channels": changed(RGB, channels=(4, 3)),
    "3 small channels": changed(RGB, channels=(3, 3)),
    "the stamps cover the image": changed(RGB, padding=(1, 0), big=(9, 10)),
    "one row more": changed(RGB, padding=(1, 0), big=(10, 10)),
    "one column more": changed(RGB, padding=(1, 0), big=(9, 11)),
    "negative padding": changed(RGB, padding=(1, -1), big=(8, 9)),
    "cropped to one pixel": changed(RGB, padding=(4, 5), big=(1, 1)),
    "stride beyond the kernel": changed(RGB, stride=(5, 6), padding=(0, 0), big=(19, 22)),
    "dilated": changed(RGB, dilation=(2, 3), padding=(2, 1), big=(9, 14)),
    "one pixel": changed(RGB, small=(1, 1), padding=(0, 0), big=(4, 4)),
    "several panels of small channels": changed(RGB, channels=(129, 3)),
    "grouped": changed(RGB, groups=4, channels=(5, 2)),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("op", OPS)
def test_few_channels_of_the_big_image(op, name, isa, nan_filled):
    for layouts in (("nchw", "nchw"), ("nhwc", "nhwc"), ("nhwc", "nchw")):
        for dtype in (torch.float32, *HALVES):
            check(op, COLUMNS[name], layouts, dtype)


@pytest.mark.parametrize("small", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33])
@pytest.mark.parametrize("op", OPS)
def test_around_the_edges_of_tiles(op, small, isa, nan_filled):
    for big in (1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65):
        for batch in (1, 7):
            check(op, changed(DCGAN, channels=(small, big), batch=batch, small=(2, 2), big=(4, 4)))


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_real_numbers_by_the_rule(op, dtype, isa):
    maps = (
        DCGAN,
        RGB,
        changed(DCGAN, channels=(128, 65)),
        changed(DCGAN, channels=(512, 130)),
        changed(RGB, channels=(64, 3), small=(16, 16), big=(32, 32)),
    )
    for map in (*maps, changed(DCGAN, kernel=(3, 5), stride=(1, 2), big=(4, 9), groups=2)):
        first, second, bias = operands(map, op, dtype=dtype, make=torch.randn)
        args = map.args(op, first, second, bias)
        with fastgan.use_backend("reference"):
            theirs = getattr(torch.ops.fastgan, op)(*args)
        assert_rule(f"{op}, {map}", native(op, *args), theirs, judge(op, map, first, second, bias))


@pytest.mark.parametrize("op", OPS)
def test_long_sums_by_the_rule(op, isa):
    """Thousands of products of one sign: a single chain of float32 additions is 1.8 times as far off as allowed."""
    map = changed(DCGAN, batch=16, channels=(512, 64), small=(2, 2), big=(4, 4))
    first, second, bias = operands(map, op, make=lambda shape: 1 + torch.rand(shape))
    args = map.args(op, first, second, bias)
    with fastgan.use_backend("reference"):
        theirs = getattr(torch.ops.fastgan, op)(*args)
    assert_rule(op, native(op, *args), theirs, judge(op, map, first, second, bias))


@pytest.mark.parametrize("op", OPS)
def test_the_definition_is_the_references(op):
    """The judge above and reference.py's, which was written apart from it."""
    rng = random.Random(1)
    for _ in range(20):
        map = random_map(rng)
        first, second, bias = operands(map, op, make=lambda shape: integers(shape, torch.float64))
        expected = judge(op, map, first, second, bias)
        args = map.args(op, first, second, bias)
        assert_exact(op, getattr(reference, op)(*args[: -len(map.geometry)], map.geometry), expected)
        if op == "conv_transpose2d":
            assert_exact(op, reference.conv_transpose2d_scatter(first, second, bias, map.big, map.geometry), expected)


# Enough work for several tasks per thread, in each of the methods.
LARGE = {
    "direct": changed(DCGAN, batch=33, channels=(65, 129)),
    "many panels": changed(DCGAN, batch=3, channels=(33, 513)),
    "many images": changed(DCGAN, batch=129, channels=(17, 33)),
    "columns": changed(RGB, batch=65, channels=(65, 3), small=(8, 8), big=(16, 16)),
    "groups": changed(DCGAN, batch=33, groups=3, channels=(33, 17)),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("op", OPS)
def test_threads_and_repeats_do_not_change_a_bit(op, name, isa):
    for layout in ("nchw", "nhwc"):
        first, second, bias = operands(LARGE[name], op, (layout, layout), make=torch.randn)
        args = LARGE[name].args(op, first, second, bias)
        [once] = on_threads(lambda args=args: [native(op, *args)])
        for _ in range(3):
            native(op, *RGB.args(op, *operands(RGB, op)))
            assert torch.equal(native(op, *args), once)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("op", OPS)
def test_whole_numbers_of_a_large_case(op, name, isa, nan_filled):
    for layout in ("nchw", "nhwc"):
        check(op, LARGE[name], (layout, layout))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("map", [DCGAN, RGB, changed(DCGAN, groups=2)], ids=["direct", "columns", "groups"])
@pytest.mark.parametrize("op", OPS)
def test_one_special_pixel_touches_only_its_window(op, map, value, isa):
    """No zero that pads a tile meets it, and no neighbour that it is loaded with. Of the weight gradient the pixel is
    one of the big image: by columns, one of the small image meets the zeros around the big one too."""
    first, second, bias = operands(map, op)
    which = 1 if op == "conv2d_weight" else 0
    images = [first, second]
    images[1 - which] = images[1 - which].abs() + 1  # no product with zero, which would turn inf into NaN
    clean = judge(op, map, *images, bias)
    generator = random.Random(0)
    for _ in range(12):
        place = tuple(generator.randrange(size) for size in images[which].shape)
        marked = [image.clone() for image in images]
        marked[which][place] = value
        touched = judge(op, map, *marked, bias)
        result = native(op, *map.args(op, *marked, bias))
        assert_exact(f"{op} {place}", result, touched)
        assert torch.equal(result[touched.isfinite()].double(), clean[touched.isfinite()])


def test_float16_overflows_to_infinity(isa):
    map = changed(DCGAN, channels=(64, 8))
    for op in OPS:
        first, second, _ = operands(map, op, dtype=torch.float16, make=lambda shape: torch.full(shape, 60.0))
        expected = judge(op, map, first, second).to(torch.float16)
        assert expected.isinf().any()
        assert_exact(op, native(op, *map.args(op, first, second)), expected.double())


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_nothing_to_compute(op, dtype, isa, nan_filled):
    for map in (DCGAN, RGB):
        for empty in ({"batch": 0}, {"big": (0, 4)}, {"big": (8, 0)}, {"small": (0, 4)}, {"small": (4, 0)}):
            check(op, changed(map, **empty), dtype=dtype)


@pytest.mark.parametrize("op", OPS)
def test_the_operands_are_not_written(op, isa):
    for map in (DCGAN, RGB):
        for layouts in (("nchw", "nchw"), ("nhwc", "nhwc"), ("sliced", "swapped")):
            first, second, bias = operands(map, op, layouts)
            before = [tensor.clone() for tensor in (first, second)]
            native(op, *map.args(op, first, second, bias))
            assert torch.equal(first, before[0]) and torch.equal(second, before[1])


def reason(op, map, dtype=torch.float32, device="cpu"):
    shapes, _ = map.inputs(op)
    first, second = (torch.empty(1, dtype=dtype, device=device).expand(shape) for shape in shapes)
    return why_not(op, *map.args(op, first, second))["native"]


@pytest.mark.parametrize("op", OPS)
def test_the_reason_why_not(op):
    assert reason(op, DCGAN) is None
    assert "for the CPU alone" in reason(op, DCGAN, device="meta")
    assert "float32, bfloat16 and float16, got torch.float64" in reason(op, DCGAN, torch.float64)
    huge = changed(DCGAN, small=(2048, 2048), big=(4096, 4096))
    assert "hold an image in scratch memory" in reason(op, huge)
    assert "input channels times taps" in reason("conv2d", changed(DCGAN, channels=(1, 4096)))
    assert "input channels times taps" in reason("conv_transpose2d", changed(DCGAN, channels=(4096, 1)))
    assert "at most 4096 taps" in reason("conv2d_weight", changed(RGB, kernel=(65, 64), padding=(32, 32)))
