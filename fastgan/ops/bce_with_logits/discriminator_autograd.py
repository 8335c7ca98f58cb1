"""Backward of the discriminator's loss: as that of the loss of one tensor of logits (autograd.py), for both at once."""

from __future__ import annotations

from typing import Any

import torch

from fastgan.dispatch import call
from fastgan.ops.bce_with_logits import reference
from fastgan.ops.bce_with_logits.autograd import bce_with_logits, is_last_use, owns_what_it_saves
from fastgan.ops.common import forward_mode
from fastgan.ops.common.dtypes import accumulate_type, round_to


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor, real_target: float) -> torch.Tensor:
    """Mean loss of the real logits against ``real_target`` plus that of the fake ones against 0.

    Two losses, added, where one op cannot be: logits of two dtypes, torch.func's transforms, forward mode.
    """
    if real.dtype != fake.dtype or forward_mode.transformed():
        first = bce_with_logits(real, None, round_to(real.dtype, real_target), None, None, reference.MEAN)
        return first + bce_with_logits(fake, None, 0.0, None, None, reference.MEAN)
    real_target = round_to(real.dtype, real_target)
    if forward_mode.bare(real, fake):
        return call("discriminator_loss", real, fake, real_target, False)[0]
    return DiscriminatorLoss.apply(real, fake, real_target)[0]


class DiscriminatorLoss(torch.autograd.Function):
    """(real, fake, real_target) -> (loss, real gradient, fake gradient); the last two are unscaled, elementwise and not
    differentiable."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        real, fake, ctx.real_target = args
        loss, *gradients = call("discriminator_loss", real, fake, ctx.real_target, True)
        ctx.may_overwrite = owns_what_it_saves()
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*gradients)
        ctx.save_for_backward(*gradients, real, fake)
        return loss, *gradients

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor | None, *_unused: Any) -> tuple[torch.Tensor | None, ...]:
        *gradients, real, fake = ctx.saved_tensors
        if grad_loss is None:
            return None, None, None
        if not forward_mode.differentiable_backward():
            if ctx.may_overwrite and is_last_use():
                call("discriminator_loss_backward_", *gradients, grad_loss)
                return *gradients, None
            return *call("discriminator_loss_backward", *gradients, grad_loss), None
        # Not from the saved gradients: they are constants, and this may be differentiated again.
        return (
            _gradient(real, ctx.real_target, grad_loss) if ctx.needs_input_grad[0] else None,
            _gradient(fake, 0.0, grad_loss) if ctx.needs_input_grad[1] else None,
            None,
        )


def _gradient(logits: torch.Tensor, target: float, grad_loss: torch.Tensor) -> torch.Tensor:
    """Of the mean loss against that target, in differentiable ops."""
    by_logits, _ = reference.partials(logits, target, None, None, (True, False))
    assert by_logits is not None
    grad_loss = grad_loss.to(accumulate_type(grad_loss.dtype)) / max(logits.numel(), 1)
    return (grad_loss * by_logits).to(logits.dtype)
