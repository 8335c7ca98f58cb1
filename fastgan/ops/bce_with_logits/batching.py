"""How the loss runs under :func:`torch.vmap`: as the unreduced loss of all samples, each reduced on its own."""

from __future__ import annotations

import math
from typing import Any

import torch

from fastgan.ops.bce_with_logits.reference import MEAN, NONE
from fastgan.ops.common.dtypes import accumulate_type


def _front(tensor: torch.Tensor | None, dim: int | None, rank: int) -> torch.Tensor | None:
    """The vmapped dimension first, then ones up to ``rank`` more: it broadcasts to [B, ...] as it did without B."""
    if tensor is None or dim is None:
        return tensor
    tensor = tensor.movedim(dim, 0)
    return tensor.reshape(tensor.shape[0], *(1,) * (rank + 1 - tensor.dim()), *tensor.shape[1:])


def _stacked(info: Any, tensor: torch.Tensor, dim: int | None) -> tuple[int, ...]:
    """The shape of all samples of ``tensor`` together, the vmapped dimension first."""
    return (info.batch_size, *(size for d, size in enumerate(tensor.shape) if d != dim))


def forward_rule(
    info: Any,
    in_dims: tuple[int | None, ...],
    input: torch.Tensor,
    target: torch.Tensor | None,
    target_value: float,
    weight: torch.Tensor | None,
    pos_weight: torch.Tensor | None,
    reduction: int,
    need_grad: bool,
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[int, int | None]]:
    """The batching rule of bce_with_logits."""
    rank, shape = input.dim() - (in_dims[0] is not None), _stacked(info, input, in_dims[0])
    dims = (in_dims[0], in_dims[1], in_dims[3], in_dims[4])
    x, t, w, p = (
        _front(tensor, dim, rank) for tensor, dim in zip((input, target, weight, pos_weight), dims, strict=True)
    )
    assert x is not None
    dtype = input.dtype if target is None else target.dtype
    if reduction != NONE:  # one rounding, after the reduction
        wide = accumulate_type(torch.promote_types(input.dtype, dtype))
        x, t = (None if tensor is None else tensor.to(wide) for tensor in (x, t))
    x, t = (None if tensor is None else tensor.expand(shape) for tensor in (x, t))
    loss, gradient = torch.ops.fastgan.bce_with_logits(x, t, target_value, w, p, NONE, need_grad)
    if reduction != NONE:
        rows = loss.unsqueeze(-1).flatten(1)
        loss = (rows.mean(1) if reduction == MEAN else rows.sum(1)).to(dtype)
    return (loss, gradient.to(input.dtype)), (0, 0 if need_grad else None)


def backward_rule(
    info: Any, in_dims: tuple[int | None, ...], gradient: torch.Tensor, grad_output: torch.Tensor, reduction: int
) -> tuple[torch.Tensor, int]:
    """The batching rule of bce_with_logits_backward."""
    rank, shape = gradient.dim() - (in_dims[0] is not None), _stacked(info, gradient, in_dims[0])
    elementwise, grad = _front(gradient, in_dims[0], rank), _front(grad_output, in_dims[1], rank)
    assert elementwise is not None and grad is not None
    if reduction == MEAN:  # over the elements of a sample
        grad = grad.to(accumulate_type(grad.dtype)) / max(math.prod(shape[1:]), 1)
    return torch.ops.fastgan.bce_with_logits_backward(elementwise.expand(shape), grad.expand(shape), NONE), 0
