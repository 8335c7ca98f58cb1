"""Launches the Triton kernels of the sigmoid-BCE loss: one dense memory order for all operands, allocation, grids."""

from __future__ import annotations

import functools

import torch
import triton.language as tl

from fastgan.ops.bce_with_logits import triton_kernels as kernels
from fastgan.ops.bce_with_logits.reference import MEAN, NONE, scale_of
from fastgan.ops.common.dtypes import accumulate_type
from fastgan.ops.common.triton_runtime import cdiv, launch_device, power_of_two, processors

BLOCK = 1024  # elements of a tile: 8 per thread with 4 warps, one 16-byte access for halves
ONE_PROGRAM = 4 * BLOCK  # up to here one program adds everything up: one launch instead of two
PROGRAMS_PER_SM = 8
MAX_PROGRAMS = 2048  # the finishing kernel sees all partial sums at once


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without gaps: the tensor itself, or a copy in the layout that ``torch.empty_like`` gives."""
    if tensor.is_contiguous():
        return tensor
    return _ordered(tensor, torch.empty_like(tensor, device="meta"), tensor.device)


def _ordered(tensor: torch.Tensor, like: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor``, broadcast to ``like``'s shape, in the memory order of the dense ``like``: itself if it has that order
    already, otherwise a copy."""
    if tensor.shape == like.shape and all(
        own == other or size == 1 for own, other, size in zip(tensor.stride(), like.stride(), like.shape, strict=True)
    ):
        return tensor
    return torch.empty_like(like, dtype=tensor.dtype, device=device).copy_(tensor)


def _type(dtype: torch.dtype) -> tl.dtype:
    """The accumulate type of ``dtype``, as Triton names it."""
    return tl.float64 if accumulate_type(dtype) is torch.float64 else tl.float32


def forward(
    input: torch.Tensor,
    target: torch.Tensor | None,
    target_value: float,
    weight: torch.Tensor | None,
    pos_weight: torch.Tensor | None,
    reduction: int,
    need_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, gradient of the unreduced loss by the input, or an empty tensor). As ``reference.forward``."""
    dtype = input.dtype if target is None else target.dtype
    gradient = torch.empty_like(input) if need_grad else input.new_empty(0)
    elementwise = torch.empty_like(input, dtype=dtype) if reduction == NONE else None
    size = input.numel()
    if size == 0:
        empty = input.new_full((), float("nan") if reduction == MEAN else 0.0, dtype=dtype)
        return (empty if elementwise is None else elementwise), gradient
    x = _dense(input)
    others = [None if other is None else _ordered(other, x, x.device) for other in (target, weight, pos_weight)]
    widest = functools.reduce(torch.promote_types, (other.dtype for other in others if other is not None), input.dtype)
    divisor = float(size) if reduction == MEAN else 1.0
    tiles = cdiv(size, BLOCK)
    per_program = 1 if reduction == NONE else _tiles_per_program(size, input.device)
    programs = cdiv(tiles, per_program)
    loss = input.new_empty((), dtype=dtype) if elementwise is None else elementwise
    # one program writes the loss itself, several write partial sums
    sums = None if elementwise is not None else loss
    if sums is not None and programs > 1:
        sums = input.new_empty(programs, dtype=torch.float64)
    with launch_device(input):
        kernels.bce_with_logits_kernel[(programs,)](
            x, *others, elementwise, gradient if need_grad else None, sums,
            float(target_value), divisor if programs == 1 else 1.0, size, per_program,
            ACC=_type(widest), BLOCK=BLOCK,
        )  # fmt: skip
        if sums is not None and programs > 1:
            kernels.bce_with_logits_finish_kernel[(1,)](sums, loss, divisor, programs, BLOCK=power_of_two(programs))
    return loss, gradient


def _tiles_per_program(size: int, device: torch.device) -> int:
    """So many that a bounded number of programs, enough to fill the device, covers everything."""
    tiles = cdiv(size, BLOCK)
    if size <= ONE_PROGRAM:
        return tiles
    return cdiv(tiles, min(PROGRAMS_PER_SM * processors(device), MAX_PROGRAMS))


def backward(gradient: torch.Tensor, grad_output: torch.Tensor, reduction: int) -> torch.Tensor:
    """As ``reference.backward``."""
    grad_input = torch.empty_like(gradient)
    _scale(_dense(gradient), grad_output, reduction, grad_input)
    return grad_input


def backward_(gradient: torch.Tensor, grad_output: torch.Tensor, reduction: int) -> None:
    """As ``reference.backward_``."""
    dense = _dense(gradient)
    _scale(dense, grad_output, reduction, dense)
    if dense is not gradient:
        gradient.copy_(dense)


def _scale(dense: torch.Tensor, grad_output: torch.Tensor, reduction: int, grad_input: torch.Tensor) -> None:
    """``dense`` times ``grad_output`` and the reduction's factor into ``grad_input``, of the same memory order."""
    size = dense.numel()
    if size == 0:
        return
    # a sum's gradient arrives expanded from one number: every stride is 0
    scalar = all(stride == 0 or n == 1 for stride, n in zip(grad_output.stride(), grad_output.shape, strict=True))
    with launch_device(dense):
        kernels.bce_with_logits_backward_kernel[(cdiv(size, BLOCK),)](
            dense, grad_output if scalar else _ordered(grad_output, dense, dense.device), grad_input,
            scale_of(dense, reduction), size,
            ACC=_type(dense.dtype), SCALAR=scalar, BLOCK=BLOCK,
        )  # fmt: skip


def discriminator_loss(
    real: torch.Tensor, fake: torch.Tensor, real_target: float, need_grad: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As ``reference.discriminator_loss``; one launch up to ONE_PROGRAM elements of each, else two."""
    gradients = [torch.empty_like(logits) if need_grad else logits.new_empty(0) for logits in (real, fake)]
    sizes = real.numel(), fake.numel()
    if 0 in sizes:  # the mean of nothing is NaN; the gradients of the other
        for logits, gradient, target in zip((real, fake), gradients, (real_target, 0.0), strict=True):
            if need_grad and logits.numel():
                gradient.copy_(forward(logits, None, target, None, None, NONE, True)[1])
        return real.new_full((), float("nan")), gradients[0], gradients[1]
    per_program = _tiles_per_program(max(sizes), real.device)
    programs = cdiv(cdiv(max(sizes), BLOCK), per_program)
    loss = real.new_empty(())
    sums = loss if programs == 1 else real.new_empty(programs, dtype=torch.float64)
    with launch_device(real):
        kernels.discriminator_loss_kernel[(programs,)](
            _dense(real), _dense(fake), *(gradients if need_grad else (None, None)), sums,
            float(real_target), 1 / sizes[0], 1 / sizes[1], *sizes, per_program,
            ACC=_type(real.dtype), BLOCK=BLOCK,
        )  # fmt: skip
        if programs > 1:
            kernels.bce_with_logits_finish_kernel[(1,)](sums, loss, 1.0, programs, BLOCK=power_of_two(programs))
    return loss, gradients[0], gradients[1]


def discriminator_loss_backward(
    real_gradient: torch.Tensor, fake_gradient: torch.Tensor, grad_output: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``reference.discriminator_loss_backward``."""
    outputs = torch.empty_like(real_gradient), torch.empty_like(fake_gradient)
    _scale_both((_dense(real_gradient), _dense(fake_gradient)), grad_output, outputs)
    return outputs


def discriminator_loss_backward_(
    real_gradient: torch.Tensor, fake_gradient: torch.Tensor, grad_output: torch.Tensor
) -> None:
    """As ``reference.discriminator_loss_backward_``."""
    dense = _dense(real_gradient), _dense(fake_gradient)
    _scale_both(dense, grad_output, dense)
    for scaled, gradient in zip(dense, (real_gradient, fake_gradient), strict=True):
        if scaled is not gradient:
            gradient.copy_(scaled)


Pair = tuple[torch.Tensor, torch.Tensor]


def _scale_both(dense: Pair, grad_output: torch.Tensor, outputs: Pair) -> None:
    """Each of ``dense`` times ``grad_output`` over its size into its output, of the same memory order."""
    sizes = dense[0].numel(), dense[1].numel()
    if max(sizes) == 0:
        return
    with launch_device(dense[0]):
        kernels.discriminator_loss_backward_kernel[(cdiv(max(sizes), BLOCK),)](
            *dense, grad_output, *outputs, *(1 / max(size, 1) for size in sizes), *sizes,
            ACC=_type(dense[0].dtype), BLOCK=BLOCK,
        )  # fmt: skip
