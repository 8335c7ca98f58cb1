"""The sigmoid-BCE loss in plain torch: value and gradient, and the differentiable form for everything rarer."""

from __future__ import annotations

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
    softplus = (-x).clamp_min(0) + torch.log1p(torch.exp(-x.abs()))
    loss = (1 - t) * x + (softplus if p is None else (1 + (p - 1) * t) * softplus)
    if w is not None:
        loss = loss * w
    out_dtype = input.dtype if target is None else target.dtype  # torch's rule
    loss = (loss.mean() if reduction == MEAN else loss.sum() if reduction == SUM else loss).to(out_dtype)
    if not need_grad:
        return loss, input.new_empty(0)
    sigmoid = torch.sigmoid(x)
    gradient = sigmoid - t if p is None else (1 - t) * sigmoid - p * t * torch.sigmoid(-x)
    if w is not None:
        gradient = gradient * w
    return loss, torch.empty_like(input).copy_(gradient)


def backward(gradient: torch.Tensor, grad_output: torch.Tensor, scale: float) -> torch.Tensor:
    """``gradient * grad_output * scale``, the product in the accumulate type: 1 / N can be too small for float16."""
    dtype = accumulate_type(gradient.dtype)
    return torch.empty_like(gradient).copy_(gradient.to(dtype) * (grad_output.to(dtype) * scale))


def differentiable(
    input: torch.Tensor,
    target: torch.Tensor | None,
    target_value: float,
    weight: torch.Tensor | None,
    pos_weight: torch.Tensor | None,
    reduction: int,
) -> torch.Tensor:
    """The loss as torch's own differentiable op."""
    name = {NONE: "none", MEAN: "mean", SUM: "sum"}[reduction]
    if target is None:
        target = torch.full_like(input, target_value, requires_grad=False)
    return F.binary_cross_entropy_with_logits(input, target, weight, reduction=name, pos_weight=pos_weight)
