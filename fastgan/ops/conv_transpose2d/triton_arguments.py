"""What every launch of this slice needs: allocation, splits, and the kernels' constants."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch.backends import cudnn

from fastgan.ops.common import triton_epilogue, triton_statistics
from fastgan.ops.common.activation import Activation
from fastgan.ops.common.dtypes import accumulate_type, is_half
from fastgan.ops.common.triton_runtime import cdiv, interpreting, power_of_two
from fastgan.ops.conv_transpose2d import triton_tiles as tiles
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair, meetings

_FEW_CHANNELS = 8  # of the big image: taps and channels make columns together
_MOST_COLUMNS = 128
_FAR = 1 << 30  # elements from the first one: offsets, each the sum of two, need 64 bits


class Layout(NamedTuple):
    """A tensor without its values: what a launch is planned by, and remembered by."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def stride(self, axis: int) -> int:
        return self.strides[axis]

    def numel(self) -> int:
        return self.shape.numel()


def layout(tensor: torch.Tensor) -> Layout:
    return Layout(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def rows_of_programs(tensor: Layout, rows: int, each: int) -> int:
    """How many of ``rows`` rows of ``each`` programs are launched, for two programs a multiprocessor; they take the
    others in turn."""
    return min(rows, cdiv(2 * machine(tensor.device).processors, each))


def few_channels(tensor: Layout, weight: Pair, groups: int) -> bool:
    """Whether taps and channels of the big image are columns of one product."""
    few = groups == 1 and weight[1] <= _FEW_CHANNELS and math.prod(weight[1:]) <= _MOST_COLUMNS
    return few and tensor.dtype is not torch.float64


#: What the kernels take in the place of a tensor (triton_operands): (after,), or a batch norm's vectors, or what a
#: gradient before a batch norm is made of.
Behind = tuple[Any, ...] | None


def by_channel(behind: Behind) -> bool:
    """Whether that goes by channel."""
    return behind is not None and len(behind) > 1


def beside_operand(tensor: torch.Tensor | None) -> tuple[Any, ...] | None:
    """What the kernels are given of the channels beside the input's."""
    return None if tensor is None else (tensor, tensor.shape[1], *tensor.stride())


@dataclass
class End:
    """What the tiles of a launch tell about its output (triton_statistics): its statistics, or, where it is the
    gradient behind a ``norm`` (y, mean, rstd, weight, bias), the sums of that. The launcher fills in the rest."""

    norm: tuple[torch.Tensor, ...] = ()
    parts: torch.Tensor | None = None
    tiles: int = 0

    def told(self, tiles: int, output: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the kernel is given."""
        size = 2 * tiles * output.shape[1] if self.norm else tiles * (3 * output.shape[1] + 1)
        self.tiles = tiles
        self.parts = empty((size,), output, torch.contiguous_format, accumulate_type(output.dtype))
        y, *vectors = self.norm or (None,)
        if y is not None and y.stride() != output.stride():
            y = torch.empty_like(output).copy_(y)
        return (self.parts,) if y is None else (self.parts, y, *vectors)


class Fold(NamedTuple):
    """Tiles of small pixels within which the columns of few channels fold: their size, how many rows and columns before
    an output pixel's own they hold for their neighbours' sake, how many of them are stored, and how many tiles an image
    has."""

    block: Pair
    low: Pair
    valid: Pair
    per_image: Pair


def fold_tile(input: Layout, weight: Layout, geometry: Geometry, output_size: Pair) -> Fold | None:
    """Those of the transposed convolution, where they pay: the columns make a power of two, and at least half of a
    tile's rows and columns are stored."""
    stride, padding = geometry.stride, geometry.padding
    taps = tuple(-(-k // s) for k, s in zip(weight.shape[2:], stride, strict=True))
    sizes, width = (*taps, *stride), power_of_two(weight.shape[1])
    fits = few_channels(input, weight.shape, geometry.groups) and max(geometry.dilation) == 1 and max(sizes) <= 4
    fits = fits and all(size == power_of_two(size) for size in sizes)
    quotients = tuple(-(-size // step) for size, step in zip(output_size, stride, strict=True))
    extent = tuple(max(sizes) for sizes in zip(input.shape[2:], quotients, strict=True))
    if not fits or math.prod(sizes) * width > _MOST_COLUMNS or min(extent) < 4:
        return None
    block = tiles.fold(input.dtype, machine(input.device), math.prod(sizes) * width, *extent)
    low, valid = [0, 0], list(block)
    for axis in (0, 1):
        if extent[axis] > block[axis]:
            # an output pixel meets the small pixels from its own less -least to its own plus most
            least = padding[axis] // stride[axis] - taps[axis] + 1
            most = (stride[axis] - 1 + padding[axis]) // stride[axis]
            low[axis] = max(-least, 0)
            valid[axis] = block[axis] - low[axis] - max(most, 0)
            if 2 * valid[axis] < block[axis]:
                return None
    per_image = tuple(-(-size // stored) for size, stored in zip(quotients, valid, strict=True))
    return Fold(block, tuple(low), tuple(valid), per_image)


def split_output(
    output: torch.Tensor, bias: torch.Tensor | None, splits: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(what the kernel writes to, the bias that it adds): the output itself, or a copy for each split and no bias."""
    if splits == 1:
        return output, dense(bias)
    nhwc = output.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if nhwc else torch.contiguous_format
    shape = (splits * output.shape[0], *output.shape[1:])
    return empty(shape, output, memory_format, accumulate_type(output.dtype)), None


def add_splits(
    split: torch.Tensor, bias: torch.Tensor | None, output: torch.Tensor, act: int, negative_slope: float, splits: int
) -> None:
    """Add up what the splits wrote."""
    if splits == 1:
        return
    size, block = output.numel(), 512 if splits <= 4 else 128
    triton_epilogue.finish_kernel[(cdiv(size, block),)](
        split, dense(bias), output,
        float(negative_slope), size, splits, output.shape[1], output.stride(1),
        ACTIVATION=act, UPCAST=interpreting() and is_half(output.dtype),
        OFFSET=tl.int64 if size * splits >= _FAR else tl.int32,
        BLOCK_SPLITS=min(power_of_two(splits), 16), BLOCK=block,
    )  # fmt: skip


def close_splits(
    split: torch.Tensor,
    bias: torch.Tensor | None,
    output: torch.Tensor,
    end: End,
    activation: int,
    negative_slope: float,
    splits: int,
) -> None:
    """Add up what the splits wrote, and tell ``end`` about it."""
    channels, plane = output.shape[1], math.prod(output.shape[2:])
    rows = output.numel() // channels
    block_m, block_n = 64, tiles.covering(channels, 64)
    m_tiles = cdiv(rows, block_m)
    triton_statistics.finish_closed_kernel[(m_tiles * cdiv(channels, block_n),)](
        split, dense(bias), output, end.told(m_tiles, output),
        float(negative_slope), output.numel(), splits, rows, plane, channels, m_tiles,
        output.stride(0), output.stride(1), output.stride(3),
        ACTIVATION=activation, ACC=tl.float64 if output.dtype is torch.float64 else tl.float32,
        UPCAST=interpreting() and is_half(output.dtype),
        OFFSET=tl.int64 if output.numel() * splits >= _FAR else tl.int32, BLOCK_M=block_m, BLOCK_N=block_n,
    )  # fmt: skip


def fused_activation(tensor: torch.Tensor, activation: int, behind: Behind) -> tuple[int, int]:
    """(the activation in the kernel, the one after it): tanh itself, not its derivative, is there in float32 only."""
    if activation == Activation.TANH and tensor.dtype is torch.float64 and behind is None:
        return Activation.NONE, activation
    return activation, Activation.NONE


def channels_packed(first: Layout, second: Layout) -> bool:
    """Whether the channels of both images, or of image and weight, are neighbours in memory."""
    return first.stride(1) == 1 and second.stride(1) == 1


def dense(bias: torch.Tensor | None) -> torch.Tensor | None:
    """A bias with stride 1 (a copy of C elements if it has another)."""
    return None if bias is None else bias.contiguous()


def empty(
    shape: tuple[int, ...], like: torch.Tensor, memory_format: torch.memory_format, dtype: torch.dtype | None = None
) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=memory_format)


def pairs_inside(small: Pair, big: Pair, kernel: Pair, geometry: Geometry) -> int:
    """Pairs of a small pixel and a tap inside the big image."""
    return math.prod(meetings(*axis) for axis in zip(small, big, kernel, *geometry[:3], strict=True))


def choose_tile(tensor: Layout, work: tiles.Work) -> tiles.Tile:
    return tiles.choose(tensor.dtype, tf32(), work, machine(tensor.device))


@functools.cache
def machine(device: torch.device) -> tiles.Machine:
    """An H100 where there is no GPU, so that what is interpreted is what one would run."""
    if device.type != "cuda":
        return tiles.Machine()
    properties = torch.cuda.get_device_properties(device)
    return tiles.Machine(properties.major, properties.multi_processor_count, properties.shared_memory_per_block_optin)  # type: ignore[attr-defined]


def constants(geometry: Geometry, kernel: Pair) -> dict[str, Any]:
    stride, padding, dilation, _ = geometry
    return {
        "STRIDE_H": stride[0], "STRIDE_W": stride[1], "PAD_H": padding[0], "PAD_W": padding[1],
        "DILATION_H": dilation[0], "DILATION_W": dilation[1], "KH": kernel[0], "KW": kernel[1],
    }  # fmt: skip


def phases(geometry: Geometry) -> dict[str, int]:
    """The first tap of a phase solves (phase + padding - tap * dilation) % stride == 0."""
    gcds = [math.gcd(s, d) for s, d in zip(geometry.stride, geometry.dilation, strict=True)]
    inverses = [
        pow(d // g, -1, s // g) if s > g else 0
        for s, d, g in zip(geometry.stride, geometry.dilation, gcds, strict=True)
    ]
    return {"GCD_H": gcds[0], "GCD_W": gcds[1], "INVERSE_H": inverses[0], "INVERSE_W": inverses[1]}


def options(tile: tiles.Tile) -> dict[str, int]:
    return {
        "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k,
        "num_warps": tile.num_warps, "num_stages": tile.num_stages,
    }  # fmt: skip


def tf32() -> bool:
    """Whether torch lets convolutions round float32 operands to TF32; its default."""
    return cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]


def arithmetic(geometry: Geometry, kernel: Pair, tensor: Layout, *others: Layout) -> dict[str, Any]:
    """The accumulator, the precision of float32 products (torch's setting for convolutions), the interpreter's flag,
    and the type of pixels' numbers and of offsets into the tensors: these run beside an image by the padding and the
    kernel's span."""
    axes = zip(kernel, geometry.stride, geometry.padding, geometry.dilation, strict=True)
    beside = (0, 0, *(step + before + between * taps for taps, step, before, between in axes))
    tensors = (tensor, *others)
    spans = [
        sum((size - 1 + more) * abs(stride) for size, more, stride in zip(t.shape, beside, t.strides, strict=True))
        for t in tensors
    ]
    reach = max(*spans, *(t.numel() for t in tensors))  # an expanded tensor has more pixels than it reaches
    return {
        "ACC": tl.float64 if tensor.dtype is torch.float64 else tl.float32,
        "PRECISION": "tf32" if tensor.dtype is torch.float32 and tf32() else "ieee",
        "UPCAST": interpreting() and is_half(tensor.dtype),
        "OFFSET": tl.int64 if reach >= _FAR else tl.int32,
    }
