"""Launches the Triton kernels of this slice: allocation, grids, arguments."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch.backends import cudnn

from fastgan.ops.common import activation as activations
from fastgan.ops.common import triton_epilogue
from fastgan.ops.common.activation import Activation
from fastgan.ops.common.dtypes import accumulate_type, is_half
from fastgan.ops.common.triton_runtime import interpreting, launch_device
from fastgan.ops.conv_transpose2d import triton_columns as columns
from fastgan.ops.conv_transpose2d import triton_kernels as kernels
from fastgan.ops.conv_transpose2d import triton_tiles as tiles
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair, meetings, output_memory_format

_FEW_CHANNELS = 8  # of the big image: taps and channels make columns together
_MOST_COLUMNS = 128
_FAR = 1 << 30  # elements from the first one: offsets need 64 bits, with room for what is masked beside a tensor
_OUTSIDE = 1.15  # products with taps outside the image too, over those inside, at most


def conv_transpose2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    output_size: Pair,
    geometry: Geometry,
    activation: int = Activation.NONE,
    negative_slope: float = 0.0,
) -> torch.Tensor:
    """Small [N, C_in, h, w] -> activation(big [N, C_out, H, W]); all phases in one launch."""
    stride, groups = geometry.stride, geometry.groups
    batch, _, h, w = input.shape
    cs, cb = weight.shape[0] // groups, weight.shape[1]
    output = _empty((batch, cb * groups, *output_size), input, output_memory_format(input, weight))
    if output.numel() == 0:
        return output
    act, later = _fused(input, activation)
    rows, cols = (-(-size // step) for size, step in zip(output_size, stride, strict=True))
    taps = [-(-k // s) for k, s in zip(weight.shape[2:], stride, strict=True)]
    fold = _fold_tile(input, weight, geometry, (max(h, rows), max(w, cols)), taps)
    if fold is not None:
        _columns_up(input, weight, bias, output, geometry, fold, taps, act, negative_slope)
        return activations.apply_(output, later, negative_slope)
    phases = math.prod(stride) * groups
    mean = _met((h, w), output_size, weight.shape[2:], geometry) / math.prod(output_size)
    tile = _tile(
        input, tiles.Work(phases, batch * rows * cols, cb, math.prod(taps) * cs, mean * cs, cs, _packed(input, weight))
    )
    m_tiles, n_tiles = triton.cdiv(batch * rows * cols, tile.block_m), triton.cdiv(cb, tile.block_n)
    with launch_device(input):
        split, epilogue = _splits(output, bias, act, tile.splits)
        kernels.conv_transpose2d_kernel[(phases * n_tiles * m_tiles * tile.splits,)](
            input, weight, epilogue[0], split,
            float(negative_slope), batch, cs, cb, h, w, *output_size, rows, cols, m_tiles, n_tiles, groups, tile.splits,
            *input.stride(), *weight.stride(), output.numel(), *output.stride(),
            **_constants(geometry, weight.shape[2:]), **_phases(geometry), ACTIVATION=epilogue[1],
            **_arithmetic(input, weight, split), **_options(tile),
        )  # fmt: skip
        _finish(split, bias, output, act, negative_slope, tile.splits)
    return activations.apply_(output, later, negative_slope)


def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    output_size: Pair,
    geometry: Geometry,
    activation: int = Activation.NONE,
    negative_slope: float = 0.0,
) -> torch.Tensor:
    """Big [N, C_in, H, W] -> activation(small [N, C_out, h, w])."""
    groups = geometry.groups
    batch, _, big_h, big_w = input.shape
    cs, cb = weight.shape[0] // groups, weight.shape[1]
    output = _empty((batch, cs * groups, *output_size), input, output_memory_format(input, weight))
    if output.numel() == 0:
        return output
    act, later = _fused(input, activation)
    pixels, taps = batch * output_size[0] * output_size[1], weight.shape[2] * weight.shape[3]
    few = _few_channels(input, weight.shape, groups)
    mean = taps if few else _met(output_size, (big_h, big_w), weight.shape[2:], geometry) / math.prod(output_size)
    depth = cb * taps if few else cb
    tile = _tile(input, tiles.Work(groups, pixels, cs, taps * cb, mean * cb, depth, _packed(input, weight)))
    m_tiles, n_tiles = triton.cdiv(pixels, tile.block_m), triton.cdiv(cs, tile.block_n)
    with launch_device(input):
        if few:
            step = _rows_of_programs(input, m_tiles, n_tiles)
            columns.conv2d_columns_kernel[(n_tiles * step,)](
                input, weight, _dense(bias), output,
                float(negative_slope), batch, cs, *output_size, big_h, big_w, n_tiles, step,
                *input.stride(), *weight.stride(), *output.stride(),
                **_constants(geometry, weight.shape[2:]), CB=cb, ACTIVATION=act,
                **_arithmetic(input, weight, output), **_options(tile),
            )  # fmt: skip
            return activations.apply_(output, later, negative_slope)
        split, epilogue = _splits(output, bias, act, tile.splits)
        kernels.conv2d_kernel[(groups * n_tiles * m_tiles * tile.splits,)](
            input, weight, epilogue[0], split,
            float(negative_slope), batch, cs, cb, *output_size, big_h, big_w, m_tiles, n_tiles, groups, tile.splits,
            *input.stride(), *weight.stride(), output.numel(), *output.stride(),
            **_constants(geometry, weight.shape[2:]), ACTIVATION=epilogue[1],
            **_arithmetic(input, weight, split), **_options(tile),
        )  # fmt: skip
        _finish(split, bias, output, act, negative_slope, tile.splits)
    return activations.apply_(output, later, negative_slope)


def conv2d_weight(small: torch.Tensor, big: torch.Tensor, kernel_size: Pair, geometry: Geometry) -> torch.Tensor:
    """Small [N, C_small, h, w] and big [N, C_big, H, W] -> [C_small, C_big / groups, KH, KW]."""
    groups = geometry.groups
    batch, _, h, w = small.shape
    cs, cb = small.shape[1] // groups, big.shape[1] // groups
    shape = (cs * groups, cb, *kernel_size)
    output = _empty(shape, small, output_memory_format(small, big))
    if output.numel() == 0:
        return output
    pixels, taps = batch * h * w, kernel_size[0] * kernel_size[1]
    if pixels == 0 or big.numel() == 0:
        return output.zero_()
    met = _met((h, w), big.shape[2:], kernel_size, geometry)
    # where few taps lie outside the image all of them are columns of one product, and the small image is read once
    wide_pays = groups == 1 and is_half(small.dtype) and cb % 16 == 0 and _OUTSIDE * met >= taps * h * w
    few = _few_channels(small, shape, groups) or wide_pays
    wide, programs = (taps * cb, 1) if few else (cb, taps * groups)
    mean = pixels if few else batch * met / taps
    tile = _tile(small, tiles.Work(programs, cs, wide, pixels, mean, pixels, _packed(small, big)))
    m_tiles, n_tiles = triton.cdiv(cs, tile.block_m), triton.cdiv(wide, tile.block_n)
    grid = (m_tiles * n_tiles * programs * tile.splits,)
    with launch_device(small):
        split, _ = _splits(output, None, Activation.NONE, tile.splits)
        strides = (*small.stride(), *big.stride(), output.numel(), *output.stride())
        constants = {**_constants(geometry, kernel_size), **_arithmetic(small, big, split), **_options(tile)}
        if few:
            per_split = triton.cdiv(triton.cdiv(pixels, tile.block_k), tile.splits) * tile.block_k
            columns.conv2d_weight_columns_kernel[grid](
                small, big, split, pixels, cs, h, w, *big.shape[2:], m_tiles, n_tiles, per_split, *strides,
                CB=cb, **constants,
            )  # fmt: skip
        else:
            kernels.conv2d_weight_kernel[grid](
                small, big, split, batch, cs, cb, h, w, *big.shape[2:], m_tiles, n_tiles, groups, tile.splits, *strides,
                ONE_PLACE=batch % tile.block_k == 0, **constants,
            )  # fmt: skip
        _finish(split, None, output, Activation.NONE, 0.0, tile.splits)
    return output


def _columns_up(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    output: torch.Tensor,
    geometry: Geometry,
    block: Pair,
    taps: list[int],
    act: int,
    negative_slope: float,
) -> None:
    """The transposed convolution of few output channels, folded inside tiles of ``block`` small pixels."""
    stride, padding = geometry.stride, geometry.padding
    low, valid, count = [], [], []
    for axis in (0, 1):
        quotients = -(-output.shape[2 + axis] // stride[axis])
        before = taps[axis] - 1 - padding[axis] // stride[axis]
        after = (stride[axis] - 1 + padding[axis]) // stride[axis]
        whole = max(quotients, input.shape[2 + axis]) <= block[axis]
        low.append(0 if whole else max(before, 0))
        valid.append(block[axis] if whole else block[axis] - low[axis] - max(after, 0))
        count.append(triton.cdiv(quotients, valid[axis]))
    step = _rows_of_programs(input, input.shape[0] * count[0] * count[1], 1)
    with launch_device(input):
        columns.conv_transpose2d_columns_kernel[(step,)](
            input, weight, _dense(bias), output,
            float(negative_slope), input.shape[0], *weight.shape[:2], *input.shape[2:], *output.shape[2:],
            *count, *low, *valid, step,
            *input.stride(), *weight.stride(), *output.stride(),
            STRIDE_H=stride[0], STRIDE_W=stride[1], PAD_H=padding[0], PAD_W=padding[1],
            KH=weight.shape[2], KW=weight.shape[3], TAPS_H=taps[0], TAPS_W=taps[1],
            ACTIVATION=act, **_arithmetic(input, weight, output),
            BLOCK_H=block[0], BLOCK_W=block[1], BLOCK_C=tiles.power_of_two(weight.shape[1]),
            BLOCK_K=tiles.covering(weight.shape[0], 64 if is_half(input.dtype) else 16), num_warps=8, num_stages=1,
        )  # fmt: skip


def _rows_of_programs(tensor: torch.Tensor, rows: int, each: int) -> int:
    """How many of ``rows`` rows of ``each`` programs are launched, for two programs a multiprocessor; they take the
    others in turn."""
    return min(rows, triton.cdiv(2 * _machine(tensor.device).processors, each))


def _few_channels(tensor: torch.Tensor, weight: Pair, groups: int) -> bool:
    """Whether taps and channels of the big image are columns of one product."""
    few = groups == 1 and weight[1] <= _FEW_CHANNELS and math.prod(weight[1:]) <= _MOST_COLUMNS
    return few and tensor.dtype is not torch.float64


def _fold_tile(
    input: torch.Tensor, weight: torch.Tensor, geometry: Geometry, size: Pair, taps: list[int]
) -> Pair | None:
    """The tile of small pixels that :func:`_columns_up` folds, where it pays: the columns make a power of two, and few
    pixels of a tile are there for its neighbours' sake alone."""
    sizes = (*taps, *geometry.stride)
    fits = _few_channels(input, weight.shape, geometry.groups) and max(geometry.dilation) == 1
    fits = fits and all(size == tiles.power_of_two(size) for size in sizes)
    fits = fits and math.prod(sizes) * tiles.power_of_two(weight.shape[1]) <= _MOST_COLUMNS
    if not fits or max(*taps, *geometry.stride) > 4 or min(size) < 4:
        return None
    return tiles.fold(input.dtype, _machine(input.device), *size)


def _splits(
    output: torch.Tensor, bias: torch.Tensor | None, act: int, splits: int
) -> tuple[torch.Tensor, tuple[torch.Tensor | None, int]]:
    """(what the kernel writes to, (bias, activation) that it applies): the output itself, or a copy for each split."""
    if splits == 1:
        return output, (_dense(bias), act)
    memory_format = (
        torch.channels_last if output.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    )
    copies = _empty((splits * output.shape[0], *output.shape[1:]), output, memory_format, accumulate_type(output.dtype))
    return copies, (None, Activation.NONE)


def _finish(
    split: torch.Tensor, bias: torch.Tensor | None, output: torch.Tensor, act: int, negative_slope: float, splits: int
) -> None:
    """Add up what the splits wrote."""
    if splits == 1:
        return
    size, block = output.numel(), 512 if splits <= 4 else 128
    triton_epilogue.finish_kernel[(triton.cdiv(size, block),)](
        split, _dense(bias), output,
        float(negative_slope), size, splits, output.shape[1], output.stride(1),
        ACTIVATION=act, UPCAST=interpreting() and is_half(output.dtype),
        OFFSET=tl.int64 if size * splits >= _FAR else tl.int32,
        BLOCK_SPLITS=min(tiles.power_of_two(splits), 16), BLOCK=block,
    )  # fmt: skip


def _fused(tensor: torch.Tensor, activation: int) -> tuple[int, int]:
    """(the activation in the kernel, the one after it): tanh is there in float32 only."""
    if activation == Activation.TANH and tensor.dtype is torch.float64:
        return Activation.NONE, activation
    return activation, Activation.NONE


def _packed(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether the channels of both images, or of image and weight, are neighbours in memory."""
    return first.stride(1) == 1 and second.stride(1) == 1


def _dense(bias: torch.Tensor | None) -> torch.Tensor | None:
    """A bias with stride 1 (a copy of C elements if it has another)."""
    return None if bias is None else bias.contiguous()


def _empty(
    shape: tuple[int, ...], like: torch.Tensor, memory_format: torch.memory_format, dtype: torch.dtype | None = None
) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=memory_format)


def _met(small: Pair, big: Pair, kernel: Pair, geometry: Geometry) -> int:
    """Pairs of a small pixel and a tap inside the big image."""
    return math.prod(meetings(*axis) for axis in zip(small, big, kernel, *geometry[:3], strict=True))


def _tile(tensor: torch.Tensor, work: tiles.Work) -> tiles.Tile:
    return tiles.choose(tensor.dtype, _tf32(), work, _machine(tensor.device))


@functools.cache
def _machine(device: torch.device) -> tiles.Machine:
    """An H100 where there is no GPU, so that what is interpreted is what one would run."""
    if device.type != "cuda":
        return tiles.Machine()
    properties = torch.cuda.get_device_properties(device)
    return tiles.Machine(properties.major, properties.multi_processor_count, properties.shared_memory_per_block_optin)  # type: ignore[attr-defined]


def _constants(geometry: Geometry, kernel: Pair) -> dict[str, Any]:
    stride, padding, dilation, _ = geometry
    return {
        "STRIDE_H": stride[0], "STRIDE_W": stride[1], "PAD_H": padding[0], "PAD_W": padding[1],
        "DILATION_H": dilation[0], "DILATION_W": dilation[1], "KH": kernel[0], "KW": kernel[1],
    }  # fmt: skip


def _phases(geometry: Geometry) -> dict[str, int]:
    """The first tap of a phase solves (phase + padding - tap * dilation) % stride == 0."""
    gcds = [math.gcd(s, d) for s, d in zip(geometry.stride, geometry.dilation, strict=True)]
    inverses = [
        pow(d // g, -1, s // g) if s > g else 0
        for s, d, g in zip(geometry.stride, geometry.dilation, gcds, strict=True)
    ]
    return {"GCD_H": gcds[0], "GCD_W": gcds[1], "INVERSE_H": inverses[0], "INVERSE_W": inverses[1]}


def _options(tile: tiles.Tile) -> dict[str, int]:
    return {
        "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k,
        "num_warps": tile.num_warps, "num_stages": tile.num_stages,
    }  # fmt: skip


def _tf32() -> bool:
    """Whether torch lets convolutions round float32 operands to TF32; its default."""
    return cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]


def _arithmetic(tensor: torch.Tensor, *others: torch.Tensor) -> dict[str, Any]:
    """The accumulator, the precision of float32 products (torch's setting for convolutions), the interpreter's flag,
    and the type of offsets into the tensors."""
    reach = max(sum((n - 1) * abs(s) for n, s in zip(t.shape, t.stride(), strict=True)) for t in (tensor, *others))
    return {
        "ACC": tl.float64 if tensor.dtype is torch.float64 else tl.float32,
        "PRECISION": "tf32" if tensor.dtype is torch.float32 and _tf32() else "ieee",
        "UPCAST": interpreting() and is_half(tensor.dtype),
        "OFFSET": tl.int64 if reach >= _FAR else tl.int32,
    }
