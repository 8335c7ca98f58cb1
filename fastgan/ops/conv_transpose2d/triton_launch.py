"""Launches the Triton kernels of this slice: allocation, tile sizes, grids."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch.backends import cudnn

from fastgan.ops.common.dtypes import accumulate_type, is_half
from fastgan.ops.common.triton_runtime import interpreting, launch_device
from fastgan.ops.conv_transpose2d import triton_kernels as kernels
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair, output_memory_format


def conv_transpose2d(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, geometry: Geometry
) -> torch.Tensor:
    """Small [N, C_in, h, w] -> big [N, C_out, H, W]; all phases in one launch."""
    stride, _, dilation, groups = geometry
    batch, _, h, w = input.shape
    cs, cb = weight.shape[0] // groups, weight.shape[1]
    output = _empty((batch, cb * groups, *output_size), input, output_memory_format(input, weight))
    if output.numel() == 0:
        return output
    rows, columns = (-(-size // step) for size, step in zip(output_size, stride, strict=True))
    pixels = batch * rows * columns
    block_m, block_n, block_k = _tiles(input.dtype, pixels, cb, cs)
    m_tiles, n_tiles = triton.cdiv(pixels, block_m), triton.cdiv(cb, block_n)
    gcds = [math.gcd(s, d) for s, d in zip(stride, dilation, strict=True)]
    # the first tap of a phase solves (phase + padding - tap * dilation) % stride == 0
    inverses = [pow(d // g, -1, s // g) if s > g else 0 for s, d, g in zip(stride, dilation, gcds, strict=True)]
    with launch_device(input):
        kernels.conv_transpose2d_kernel[(stride[0] * stride[1] * groups * n_tiles * m_tiles,)](
            input, weight, _packed(bias), output,
            batch, cs, cb, h, w, *output_size, rows, columns, m_tiles, n_tiles, groups,
            *input.stride(), *weight.stride(), *output.stride(),
            **_constants(geometry, weight.shape[2:]),
            GCD_H=gcds[0], GCD_W=gcds[1], INVERSE_H=inverses[0], INVERSE_W=inverses[1],
            **_arithmetic(input), BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k,
        )  # fmt: skip
    return output


def conv2d(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, geometry: Geometry
) -> torch.Tensor:
    """Big [N, C_in, H, W] -> small [N, C_out, h, w]."""
    groups = geometry.groups
    batch, _, big_h, big_w = input.shape
    cs, cb = weight.shape[0] // groups, weight.shape[1]
    output = _empty((batch, cs * groups, *output_size), input, output_memory_format(input, weight))
    if output.numel() == 0:
        return output
    pixels = batch * output_size[0] * output_size[1]
    block_m, block_n, block_k = _tiles(input.dtype, pixels, cs, cb)
    m_tiles, n_tiles = triton.cdiv(pixels, block_m), triton.cdiv(cs, block_n)
    with launch_device(input):
        kernels.conv2d_kernel[(groups * n_tiles * m_tiles,)](
            input, weight, _packed(bias), output,
            batch, cs, cb, *output_size, big_h, big_w, m_tiles, n_tiles,
            *input.stride(), *weight.stride(), *output.stride(),
            **_constants(geometry, weight.shape[2:]), **_arithmetic(input),
            BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k,
        )  # fmt: skip
    return output


def conv2d_weight(small: torch.Tensor, big: torch.Tensor, kernel_size: Pair, geometry: Geometry) -> torch.Tensor:
    """Small [N, C_small, h, w] and big [N, C_big, H, W] -> [C_small, C_big / groups, KH, KW]."""
    groups = geometry.groups
    batch, _, h, w = small.shape
    cs, cb = small.shape[1] // groups, big.shape[1] // groups
    shape = (cs * groups, cb, *kernel_size)
    output = _empty(shape, small, output_memory_format(small, big))
    if output.numel() == 0:
        return output
    pixels = batch * h * w
    if pixels == 0 or big.numel() == 0:
        return output.zero_()
    block_m, block_n = _channel_tile(cs, 64), _channel_tile(cb, _width(small.dtype))
    block_k = _depth(small.dtype)
    m_tiles, n_tiles = triton.cdiv(cs, block_m), triton.cdiv(cb, block_n)
    programs = m_tiles * n_tiles * kernel_size[0] * kernel_size[1] * groups
    splits = _splits(programs, triton.cdiv(pixels, block_k))
    per_split = triton.cdiv(triton.cdiv(pixels, block_k), splits) * block_k
    partial = torch.empty((splits, *shape), dtype=accumulate_type(small.dtype), device=small.device)
    with launch_device(small):
        kernels.conv2d_weight_kernel[(programs * splits,)](
            small, big, partial,
            pixels, cs, cb, h, w, *big.shape[2:], m_tiles, n_tiles, groups, per_split,
            *small.stride(), *big.stride(),
            **_constants(geometry, kernel_size), **_arithmetic(small),
            BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k,
        )  # fmt: skip
    return output.copy_(partial.sum(0) if splits > 1 else partial[0])


def _packed(bias: torch.Tensor | None) -> torch.Tensor | None:
    """A bias with stride 1 (a copy of C elements if it has another)."""
    return None if bias is None else bias.contiguous()


def _empty(shape: tuple[int, ...], like: torch.Tensor, memory_format: torch.memory_format) -> torch.Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _channel_tile(channels: int, most: int) -> int:
    """A power of two that covers the channels; matrix instructions need at least 16."""
    return min(most, max(16, triton.next_power_of_2(channels)))


def _depth(dtype: torch.dtype) -> int:
    """Largest BLOCK_K. With twice that the float32 and float64 kernels spill registers."""
    return 32 if is_half(dtype) else 16


def _width(dtype: torch.dtype) -> int:
    """Largest BLOCK_N. With twice that IEEE float32, which has no matrix instruction, spills registers on sm_100."""
    return 32 if dtype is torch.float32 and not _tf32() else 64


def _tiles(dtype: torch.dtype, pixels: int, out_channels: int, in_channels: int) -> tuple[int, int, int]:
    """(BLOCK_M, BLOCK_N, BLOCK_K) of the image kernels; 128 rows where they do not spill and leave many programs."""
    block_m = 128 if is_half(dtype) and pixels > 4096 else 64
    return block_m, _channel_tile(out_channels, _width(dtype)), _channel_tile(in_channels, _depth(dtype))


def _splits(programs: int, k_tiles: int) -> int:
    """Splits of the pixel loop that bring a small weight to about 512 programs, at least 8 tiles of work in each."""
    return max(1, min(512 // programs, k_tiles // 8))


def _constants(geometry: Geometry, kernel: Pair) -> dict[str, Any]:
    stride, padding, dilation, _ = geometry
    return {
        "STRIDE_H": stride[0], "STRIDE_W": stride[1], "PAD_H": padding[0], "PAD_W": padding[1],
        "DILATION_H": dilation[0], "DILATION_W": dilation[1], "KH": kernel[0], "KW": kernel[1],
    }  # fmt: skip


def _tf32() -> bool:
    """Whether torch lets convolutions round float32 operands to TF32; its default."""
    return cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]


def _arithmetic(tensor: torch.Tensor) -> dict[str, Any]:
    """The accumulator, the precision of float32 products (torch's setting for convolutions), the interpreter's flag."""
    return {
        "ACC": tl.float64 if tensor.dtype is torch.float64 else tl.float32,
        "PRECISION": "tf32" if tensor.dtype is torch.float32 and _tf32() else "ieee",
        "UPCAST": interpreting() and is_half(tensor.dtype),
    }
