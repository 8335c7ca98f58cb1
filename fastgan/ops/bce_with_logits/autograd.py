"""Backward of the sigmoid-BCE loss.

Forward computes the loss and its elementwise gradient in one pass; backward scales it. Gradients to a target tensor,
and everything under ``create_graph``, go through torch's own differentiable op, so every gradient order is right.
"""

from __future__ import annotations

from typing import Any

import torch

from fastgan.ops.bce_with_logits import reference

_ops = torch.ops.fastgan


class BCEWithLogits(torch.autograd.Function):
    """(input, target, target_value, weight, pos_weight, reduction, need_grad) -> (loss, gradient); the second output is
    the unscaled elementwise gradient, not differentiable, an empty tensor unless ``need_grad``."""

    @staticmethod
    def forward(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return _ops.bce_with_logits(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        input, target, ctx.target_value, weight, pos_weight, ctx.reduction, _ = inputs
        _, gradient = output
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(gradient)
        # input and target belong to the caller: saving them costs nothing and detects edits in place
        ctx.save_for_backward(gradient, input, target, weight, pos_weight)

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor | None, _unused: Any) -> tuple[Any, ...]:
        gradient, input, target, weight, pos_weight = ctx.saved_tensors
        need_input, need_target = ctx.needs_input_grad[:2]
        if grad_loss is None:
            return (None,) * 7
        if not need_target and not torch.is_grad_enabled():
            scale = 1 / input.numel() if ctx.reduction == reference.MEAN and input.numel() else 1.0
            return (_ops.bce_with_logits_backward(gradient, grad_loss, scale), *(None,) * 6)
        with torch.enable_grad():
            # views cut the inner graph off from what lies before: target may be a function of input
            x = input.view_as(input)
            t = None if target is None else target.view_as(target)
            loss = reference.differentiable(x, t, ctx.target_value, weight, pos_weight, ctx.reduction)
        wanted = [tensor for tensor, need in ((x, need_input), (t, need_target)) if need and tensor is not None]
        gradients = iter(torch.autograd.grad(loss, wanted, grad_loss, create_graph=torch.is_grad_enabled()))
        return (next(gradients) if need_input else None, next(gradients) if need_target else None, *(None,) * 5)
