"""Backward of the sigmoid-BCE loss.

Forward computes the loss and its elementwise gradient in one pass; backward scales it, in place where it is the last to
use it: a second tensor of that size costs more, in page faults, than the arithmetic. Gradients to a target tensor,
and everything under ``create_graph`` or in forward mode, are made of torch's differentiable ops, so every gradient
order is right.
"""

from __future__ import annotations

from typing import Any

import torch

from fastgan.dispatch import call
from fastgan.ops.bce_with_logits import reference
from fastgan.ops.common import forward_mode
from fastgan.ops.common.dtypes import accumulate_type


def bce_with_logits(
    input: torch.Tensor,
    target: torch.Tensor | None,
    target_value: float,
    weight: torch.Tensor | None,
    pos_weight: torch.Tensor | None,
    reduction: int,
) -> torch.Tensor:
    """The loss; ``target_value`` counts where there is no target tensor."""
    need_grad = torch.is_grad_enabled() and input.requires_grad
    arguments = (input, target, target_value, weight, pos_weight, reduction, need_grad)
    if forward_mode.bare(input, target):
        return call("bce_with_logits", *arguments)[0]
    return forward_mode.with_jvp(BCEWithLogits, BCEWithLogitsWithJvp).apply(*arguments)[0]


def owns_what_it_saves() -> bool:
    """Whether nobody but the graph gets a tensor that a Function saves now: hooks of saved tensors would."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is None


def is_last_use() -> bool:
    """Whether the backward that runs now frees the saved tensors after it (no ``retain_graph``)."""
    return not torch.compiler.is_compiling() and not torch._C._autograd._get_current_graph_task_keep_graph()


class BCEWithLogits(torch.autograd.Function):
    """(input, target, target_value, weight, pos_weight, reduction, need_grad) -> (loss, gradient); the second output is
    the unscaled elementwise gradient, not differentiable, an empty tensor unless ``need_grad``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return call("bce_with_logits", *args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        input, target, ctx.target_value, weight, pos_weight, ctx.reduction, _ = inputs
        _, gradient = output
        ctx.may_overwrite = owns_what_it_saves()
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(gradient)
        # input and target belong to the caller: saving them costs nothing and detects edits in place
        ctx.save_for_backward(gradient, input, target, weight, pos_weight)
        ctx.save_for_forward(gradient, input, target, weight, pos_weight)

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor | None, _unused: Any) -> tuple[Any, ...]:
        gradient, input, target, weight, pos_weight = ctx.saved_tensors
        need_input, need_target = ctx.needs_input_grad[:2]
        if grad_loss is None:
            return (None,) * 7
        has_gradient = gradient.numel() or not input.numel()  # under vmap forward cannot know that it will be needed
        if has_gradient and not need_target and not forward_mode.differentiable_backward():
            if ctx.may_overwrite and is_last_use():
                call("bce_with_logits_backward_", gradient, grad_loss, ctx.reduction)
                return (gradient, *(None,) * 6)
            return (call("bce_with_logits_backward", gradient, grad_loss, ctx.reduction), *(None,) * 6)
        # Not from the saved gradient: it is a constant, and this may be differentiated again.
        by_input, by_target = reference.partials(
            input, ctx.target_value if target is None else target, weight, pos_weight, (need_input, need_target)
        )
        grad_loss = grad_loss.to(accumulate_type(grad_loss.dtype))
        if ctx.reduction == reference.MEAN and input.numel():
            grad_loss = grad_loss / input.numel()
        return (
            (grad_loss * by_input).to(input.dtype) if by_input is not None else None,
            (grad_loss * by_target).to(target.dtype) if by_target is not None else None,
            *(None,) * 5,
        )


class BCEWithLogitsWithJvp(BCEWithLogits):
    """Differentiable in forward mode too."""

    @staticmethod
    def jvp(
        ctx: Any,
        input: torch.Tensor | None,
        target: torch.Tensor | None,
        _value: None,
        along_weight: torch.Tensor | None,
        along_pos_weight: torch.Tensor | None,
        *_unused: Any,
    ) -> tuple[torch.Tensor | None, None]:
        forward_mode.refuse_nested("binary_cross_entropy_with_logits")
        for name, tangent in (("weight", along_weight), ("pos_weight", along_pos_weight)):
            if tangent is not None:
                raise RuntimeError(
                    "The function 'binary_cross_entropy_with_logits' is not differentiable with respect to argument "
                    f"'{name}'. This input cannot have a tangent."
                )
        _, x, t, weight, pos_weight = ctx.saved_tensors
        partials = reference.partials(
            x, ctx.target_value if t is None else t, weight, pos_weight, (input is not None, target is not None)
        )
        pairs = zip(partials, (input, target), strict=True)
        total = forward_mode.add([by * tangent for by, tangent in pairs if by is not None and tangent is not None])
        if total is None:
            return None, None
        if ctx.reduction != reference.NONE:
            total = total.mean() if ctx.reduction == reference.MEAN else total.sum()
        return total.to(x.dtype if t is None else t.dtype), None
