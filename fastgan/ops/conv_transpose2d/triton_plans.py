"""What a launch is made of but for its tensors: which kernel, with which tiles, on which grid, and its numbers. Making
a plan takes longer than a launch, so it is made once for each kind of call."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch

from fastgan.ops.common.dtypes import accumulate_type, is_half
from fastgan.ops.common.triton_runtime import cdiv, power_of_two
from fastgan.ops.conv_transpose2d import triton_tiles as tiles
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair, output_memory_format
from fastgan.ops.conv_transpose2d.triton_arguments import (
    Fold,
    Layout,
    arithmetic,
    channels_packed,
    choose_tile,
    constants,
    few_channels,
    fold_tile,
    options,
    pairs_inside,
    phases,
    rows_of_programs,
    tf32,
)

_OUTSIDE = 1.15  # products with taps outside the image too, over those inside, at most
_FEW_BESIDE, _FEW_TAPS = 4, 8  # channels beside a link's input, and taps in a row, that go without matrix products
_PLANS = 1 << 12

Planner = TypeVar("Planner", bound=Callable[..., Any])


class Plan(NamedTuple):
    """A launch.

    Attributes:
        shape, memory_format: the output's.
        grid: programs; () where there is nothing to do.
        numbers: the kernel's arguments after its tensors and the slope.
        options: the kernel's constants, but for ACTIVATION.
        splits: among how many programs a sum is split.
        tiles: of pixels, each of which may tell something.
        columns: whether taps and channels of the big image are columns of one product.
    """

    shape: tuple[int, ...]
    memory_format: torch.memory_format
    grid: tuple[int, ...]
    numbers: tuple[int, ...]
    options: dict[str, Any]
    splits: int = 1
    tiles: int = 0
    columns: bool = False


_remembered: list[Any] = []


def _planned(function: Planner) -> Planner:
    """Remembers plans by all arguments and torch's setting for float32 products."""

    @functools.lru_cache(maxsize=_PLANS)
    def made(_tf32: bool, *args: Any) -> Any:
        return function(*args)

    _remembered.append(made)

    @functools.wraps(function)
    def plan(*args: Any) -> Any:
        return made(args[0].dtype is torch.float32 and tf32(), *args)

    return cast(Planner, plan)


def forget() -> None:
    """Plans are made anew: for whoever changes what they depend on beside their arguments."""
    for made in _remembered:
        made.cache_clear()


@_planned
def up(
    input: Layout,
    weight: Layout,
    beside: Layout | None,
    output_size: Pair,
    geometry: Geometry,
    behind: int,
    told: bool,
) -> Plan:
    """That of ``triton_launch.conv_transpose2d``; ``behind``: how many things are taken in the input's place."""
    stride, groups = geometry.stride, geometry.groups
    batch, channels, h, w = input.shape
    cs, cb = channels // groups, weight.shape[1]
    shape = (batch, cb * groups, *output_size)
    output, memory_format = _output(shape, input, weight)
    if output.numel() == 0:
        return _nothing(shape, memory_format)
    fold = None if told or behind > 1 else fold_tile(input, weight, geometry, output_size)
    if fold is not None:
        return _columns_up(input, weight, output, memory_format, geometry, fold)
    rows, cols = (-(-size // step) for size, step in zip(output_size, stride, strict=True))
    taps = [-(-k // s) for k, s in zip(weight.shape[2:], stride, strict=True)]
    programs = math.prod(stride) * groups
    mean = pairs_inside((h, w), output_size, weight.shape[2:], geometry) / math.prod(output_size)
    flags = (channels_packed(input, weight), int(behind > 0), False, told, beside is not None)
    work = tiles.Work(programs, batch * rows * cols, cb, math.prod(taps) * cs, mean * cs, cs, *flags)
    tile = choose_tile(input, work)
    m_tiles, n_tiles = cdiv(batch * rows * cols, tile.block_m), cdiv(cb, tile.block_n)
    others = (weight, _split(output, tile.splits), *(() if beside is None else (beside,)))
    return Plan(
        shape,
        memory_format,
        (programs * n_tiles * m_tiles * tile.splits,),
        (
            batch, cs, cb, h, w, *output_size, rows, cols, m_tiles, n_tiles, groups, tile.splits,
            *input.strides, *weight.strides, output.numel(), *output.strides,
        ),
        {
            **constants(geometry, weight.shape[2:]), **phases(geometry),
            **arithmetic(geometry, weight.shape[2:], input, *others), **options(tile),
        },
        tile.splits,
        math.prod(stride) * m_tiles,
    )  # fmt: skip


@_planned
def down(
    input: Layout,
    weight: Layout,
    beside: Layout | None,
    output_size: Pair,
    geometry: Geometry,
    behind: int,
    told: bool,
) -> Plan:
    """That of ``triton_launch.conv2d``; ``behind`` as above."""
    groups = geometry.groups
    batch, channels, big_h, big_w = input.shape
    cs, cb = weight.shape[0] // groups, channels // groups
    shape = (batch, cs * groups, *output_size)
    output, memory_format = _output(shape, input, weight)
    if output.numel() == 0:
        return _nothing(shape, memory_format)
    pixels, taps = batch * output_size[0] * output_size[1], weight.shape[2] * weight.shape[3]
    few = not behind and not told and few_channels(input, weight.shape, groups)
    inside = pairs_inside(output_size, (big_h, big_w), weight.shape[2:], geometry) / math.prod(output_size)
    mean, depth = (taps, cb * taps) if few else (inside, cb)
    flags = (channels_packed(input, weight), int(behind > 0), few, told, beside is not None)
    work = tiles.Work(groups, pixels, cs, taps * cb, mean * cb, depth, *flags)
    tile = choose_tile(input, work)
    m_tiles, n_tiles = cdiv(pixels, tile.block_m), cdiv(cs, tile.block_n)
    numbers: tuple[int, ...] = (batch, cs, *output_size, big_h, big_w)
    strides = (*input.strides, *weight.strides)
    shared = {**constants(geometry, weight.shape[2:]), **options(tile)}
    if few:
        step = rows_of_programs(input, m_tiles, n_tiles)
        numbers = (*numbers, n_tiles, step, *strides, *output.strides)
        shared |= {"CB": cb, **arithmetic(geometry, weight.shape[2:], input, weight, output)}
        return Plan(shape, memory_format, (n_tiles * step,), numbers, shared, columns=True)
    others = (weight, _split(output, tile.splits), *(() if beside is None else (beside,)))
    numbers = (batch, cs, cb, *numbers[2:], m_tiles, n_tiles, groups, tile.splits, *strides)
    return Plan(
        shape,
        memory_format,
        (groups * n_tiles * m_tiles * tile.splits,),
        (*numbers, output.numel(), *output.strides),
        {**shared, **arithmetic(geometry, weight.shape[2:], input, *others)},
        tile.splits,
        m_tiles,
    )


class WeightPlan(NamedTuple):
    """A plan and, for columns, whether one of them is free for the sums of the small image by channel."""

    plan: Plan
    free: bool = False


@_planned
def weight(small: Layout, big: Layout, kernel_size: Pair, geometry: Geometry, behind: int) -> WeightPlan:
    """That of ``triton_launch.conv2d_weight``; ``behind``: in how many images' places something is taken."""
    groups = geometry.groups
    batch, _, h, w = small.shape
    cs, cb = small.shape[1] // groups, big.shape[1] // groups
    shape = (cs * groups, cb, *kernel_size)
    output, memory_format = _output(shape, small, big)
    pixels, taps = batch * h * w, kernel_size[0] * kernel_size[1]
    if output.numel() == 0 or pixels == 0 or big.numel() == 0:
        return WeightPlan(_nothing(shape, memory_format))
    met = pairs_inside((h, w), big.shape[2:], kernel_size, geometry)
    # where few taps lie outside the image all of them are columns of one product, and the small image is read once
    wide_pays = groups == 1 and is_half(small.dtype) and cb % 16 == 0 and _OUTSIDE * met >= taps * h * w
    few = few_channels(small, shape, groups) or wide_pays
    wide, programs = (taps * cb, 1) if few else (cb, taps * groups)
    mean = pixels if few else batch * met / taps
    packed, gathered = channels_packed(small, big), few and not wide_pays
    tile = choose_tile(small, tiles.Work(programs, cs, wide, pixels, mean, pixels, packed, behind, gathered))
    m_tiles, n_tiles = cdiv(cs, tile.block_m), cdiv(wide, tile.block_n)
    strides = (*small.strides, *big.strides, output.numel(), *output.strides)
    numbers = arithmetic(geometry, kernel_size, small, big, _split(output, tile.splits))
    shared = {**constants(geometry, kernel_size), **numbers, **options(tile)}
    grid, sizes = (m_tiles * n_tiles * programs * tile.splits,), (*big.shape[2:], m_tiles, n_tiles)
    if few:
        per_split = cdiv(cdiv(pixels, tile.block_k), tile.splits) * tile.block_k
        arguments = (pixels, cs, h, w, *sizes, per_split, *strides)
        plan = Plan(shape, memory_format, grid, arguments, {**shared, "CB": cb}, tile.splits, columns=True)
        # a column takes the sums with all their digits
        return WeightPlan(plan, wide < n_tiles * tile.block_n and numbers["PRECISION"] == "ieee")
    arguments = (batch, cs, cb, h, w, *sizes, groups, tile.splits, *strides)
    one_place = {"ONE_PLACE": batch % tile.block_k == 0}
    return WeightPlan(Plan(shape, memory_format, grid, arguments, {**shared, **one_place}, tile.splits))


@_planned
def beside(grad: Layout, image: Layout, weight: Layout, geometry: Geometry, transposed: bool) -> Plan | None:
    """That of the gradients of the channels beside a link's input; ``weight``: their part of it. None where there are
    so many of them, or of taps, that two products do better."""
    kernel, (batch, channels, *size) = weight.shape[2:], image.shape
    if channels > _FEW_BESIDE or kernel[1] > _FEW_TAPS or image.numel() == 0 or grad.numel() == 0:
        return None
    (stride, padding, dilation, _), c, rows = geometry, grad.shape[1], batch * math.prod(size)
    block_c = min(power_of_two(c), 64)
    block_m = 4096 // block_c
    row_tiles, each = cdiv(rows, block_m), math.prod(kernel) * c * channels
    shares = grad._replace(shape=torch.Size((row_tiles, each, 1, 1)), strides=(each, 1, 1, 1))
    numbers = arithmetic(geometry, kernel, grad, image, weight, shares)
    ones = (1, 1)
    factor, step, divisor = (stride, dilation, ones) if transposed else (ones, tuple(-d for d in dilation), stride)
    shift = tuple(-p for p in padding) if transposed else padding
    order = (0, 1) if transposed else (1, 0)
    return Plan(
        (row_tiles, *kernel, channels, c),
        torch.contiguous_format,
        (row_tiles * channels,),
        (
            rows, channels, c, *size, *grad.shape[2:], *grad.strides, *image.strides,
            *(weight.strides[axis] for axis in order), *weight.strides[2:],
        ),
        {
            **{f"{name}_{axis}": pair[i] for i, axis in enumerate("HW") for name, pair in
               {"FACTOR": factor, "SHIFT": shift, "STEP": step, "DIVISOR": divisor}.items()},
            "KH": kernel[0], "KW": kernel[1], "UNROLL": 4 if is_half(grad.dtype) else 1,  # more would spill
            **{name: numbers[name] for name in ("ACC", "UPCAST", "OFFSET")},
            "BLOCK_M": block_m, "BLOCK_C": block_c, "num_warps": 8, "num_stages": 1,
        },
        row_tiles,
    )  # fmt: skip


def _columns_up(
    input: Layout, weight: Layout, output: Layout, memory_format: torch.memory_format, geometry: Geometry, fold: Fold
) -> Plan:
    """The transposed convolution of few output channels, folded inside tiles of small pixels."""
    stride, padding = geometry.stride, geometry.padding
    step = rows_of_programs(input, input.shape[0] * math.prod(fold.per_image), 1)
    return Plan(
        tuple(output.shape),
        memory_format,
        (step,),
        (
            input.shape[0], *weight.shape[:2], *input.shape[2:], *output.shape[2:],
            *fold.per_image, *fold.low, *fold.valid, step, *input.strides, *weight.strides, *output.strides,
        ),
        {
            "STRIDE_H": stride[0], "STRIDE_W": stride[1], "PAD_H": padding[0], "PAD_W": padding[1],
            "KH": weight.shape[2], "KW": weight.shape[3],
            "TAPS_H": -(-weight.shape[2] // stride[0]), "TAPS_W": -(-weight.shape[3] // stride[1]),
            **arithmetic(geometry, weight.shape[2:], input, weight, output),
            "BLOCK_H": fold.block[0], "BLOCK_W": fold.block[1], "BLOCK_C": power_of_two(weight.shape[1]),
            "BLOCK_K": tiles.covering(weight.shape[0], 64 if is_half(input.dtype) else 16),
            "num_warps": 8, "num_stages": 1,
        },
        columns=True,
    )  # fmt: skip


def _nothing(shape: tuple[int, ...], memory_format: torch.memory_format) -> Plan:
    return Plan(shape, memory_format, (), (), {})


def _output(shape: tuple[int, ...], first: Layout, second: Layout) -> tuple[Layout, torch.memory_format]:
    """The layout that the output has by torch's rule, from those of the operands."""
    metas = (torch.empty_strided(each.shape, each.strides, dtype=each.dtype, device="meta") for each in (first, second))
    memory_format = output_memory_format(*metas)
    strides = torch.empty(shape, device="meta", memory_format=memory_format).stride()
    return Layout(torch.Size(shape), strides, first.dtype, first.device), memory_format


def _split(output: Layout, splits: int) -> Layout:
    """What the kernel writes to: the output, or a copy of it for each split."""
    if splits == 1:
        return output
    shape = torch.Size((splits * output.shape[0], *output.shape[1:]))
    return output._replace(shape=shape, dtype=accumulate_type(output.dtype))
