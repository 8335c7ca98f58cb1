"""The sigmoid-BCE loss in plain torch: value and gradient, and the differentiable gradients for everything rarer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from fastgan.ops.common.dtypes import accumulate_type

NONE, MEAN, SUM = 0, 1, 2


def _wide(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(accumulate_type(tensor.dtype))


def forward(
    input: torch.Tensor,
    target: torch.Tensor | None,
    target_value: float,
    weight: torch.Tensor | None,
    pos_weight: torch.Tensor | None,
    reduction: int,
    need_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, gradient of the unreduced loss by the input, or an empty tensor).

    With x the logit, t the target, p the positive weight and w the weight (torch.nn.BCEWithLogitsLoss):

        loss     = w * ((1 - t) * x + (1 + (p - 1) * t) * (max(-x, 0) + log1p(exp(-|x|))))
        gradient = w * ((1 - t) * sigmoid(x) - p * t * (1 - sigmoid(x)))
    """
    x, w, p = _wide(input), _wide(weight), _wide(pos_weight)
    assert x is not None
    t = target_value if target is None else target.to(accumulate_type(target.dtype))
    loss = _loss(x, t, w, p)
    out_dtype = input.dtype if target is None else target.dtype  # torch's rule
    loss = (loss.mean() if reduction == MEAN else loss.sum() if reduction == SUM else loss).to(out_dtype)
    return loss, _gradient(input, x, t, w, p) if need_grad else input.new_empty(0)


def _loss(x: torch.Tensor, t: torch.Tensor | float, w: torch.Tensor | None, p: torch.Tensor | None) -> torch.Tensor:
    """The unreduced loss."""
    softplus = (-x).clamp_min(0) + torch.log1p(torch.exp(-x.abs()))
    loss = (1 - t) * x + (softplus if p is None else (1 + (p - 1) * t) * softplus)
    return loss if w is None else loss * w


def _gradient(input: torch.Tensor, *operands: Any) -> torch.Tensor:
    """That of :func:`_by_input`, in the input's layout and dtype."""
    return torch.empty_like(input).copy_(_by_input(*operands))


def _by_input(x: torch.Tensor, t: torch.Tensor | float, w: torch.Tensor | None, p: torch.Tensor | None) -> torch.Tensor:
    """The gradient of the unreduced loss by the input."""
    sigmoid = torch.sigmoid(x)
    gradient = sigmoid - t if p is None else (1 - t) * sigmoid - p * t * torch.sigmoid(-x)
    return gradient if w is None else gradient * w


def scale_of(gradient: torch.Tensor, reduction: int) -> float:
    """What the reduction multiplies the gradient of each element by."""
    return 1 / gradient.numel() if reduction == MEAN and gradient.numel() else 1.0


def backward(gradient: torch.Tensor, grad_output: torch.Tensor, reduction: int) -> torch.Tensor:
    """``gradient * grad_output``, over the number of elements if the loss was their mean. In the accumulate type: 1 / N
    can be too small for float16."""
    return torch.empty_like(gradient).copy_(_scaled(gradient, grad_output, reduction))


def backward_(gradient: torch.Tensor, grad_output: torch.Tensor, reduction: int) -> None:
    """:func:`backward`, written over ``gradient``."""
    gradient.copy_(_scaled(gradient, grad_output, reduction))


def _scaled(gradient: torch.Tensor, grad_output: torch.Tensor, reduction: int) -> torch.Tensor:
    dtype = accumulate_type(gradient.dtype)
    return gradient.to(dtype) * (grad_output.to(dtype) * scale_of(gradient, reduction))


def discriminator_loss(
    real: torch.Tensor, fake: torch.Tensor, real_target: float, need_grad: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(mean loss of ``real`` against ``real_target`` + that of ``fake`` against 0, both gradients before they are
    averaged, or empty tensors)."""
    means, gradients = [], []
    for logits, target in ((real, real_target), (fake, 0.0)):
        x = logits.to(accumulate_type(logits.dtype))
        means.append(_loss(x, target, None, None).mean())
        gradients.append(_gradient(logits, x, target, None, None) if need_grad else logits.new_empty(0))
    return (means[0] + means[1]).to(real.dtype), gradients[0], gradients[1]


def discriminator_loss_backward(
    real_gradient: torch.Tensor, fake_gradient: torch.Tensor, grad_output: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`backward` of both means."""
    return backward(real_gradient, grad_output, MEAN), backward(fake_gradient, grad_output, MEAN)


def discriminator_loss_backward_(
    real_gradient: torch.Tensor, fake_gradient: torch.Tensor, grad_output: torch.Tensor
) -> None:
    """:func:`discriminator_loss_backward`, written over the gradients."""
    backward_(real_gradient, grad_output, MEAN)
    backward_(fake_gradient, grad_output, MEAN)


def partials(
    input: torch.Tensor,
    target: torch.Tensor | float,
    weight: torch.Tensor | None,
    pos_weight: torch.Tensor | None,
    wanted: tuple[bool, bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The partial derivatives of the unreduced loss by the input and by the target, those wanted, in differentiable
    torch ops: forward's gradient, and ``w * ((p - 1) * (max(-x, 0) + log1p(exp(-|x|))) - x)``."""
    x, w, p = _wide(input), _wide(weight), _wide(pos_weight)
    assert x is not None
    t = target.to(accumulate_type(target.dtype)) if isinstance(target, torch.Tensor) else target
    by_input = _by_input(x, t, w, p) if wanted[0] else None
    by_target = None
    if wanted[1]:
        by_target = -x if p is None else (1 - p) * F.logsigmoid(x) - x
        by_target = by_target if w is None else by_target * w
    return by_input, by_target
