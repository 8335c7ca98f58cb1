"""Batch statistics of channels, in plain torch."""

from __future__ import annotations

import torch


def channels(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A per-channel vector [C] in a shape that broadcasts over [N, C, ...]."""
    return vector.view(1, -1, *(1,) * (like.dim() - 2))


def stats(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, rstd) per channel of a float32 or float64 tensor; the running statistics are updated in place:
    ``running = (1 - momentum) * running + momentum * batch``, the variance unbiased. An empty batch has the mean 0 and
    the variance 0, and leaves the running statistics alone."""
    if input.numel() == 0:
        mean = input.new_zeros(input.shape[1])
        return mean, torch.full_like(mean, eps**-0.5 if eps > 0 else float("inf"))
    if running_mean is not None and running_mean.dtype == input.dtype:
        mean, var = torch.ops.aten.batch_norm_update_stats(input, running_mean, running_var, momentum)
    else:
        mean, var = torch.ops.aten.batch_norm_update_stats(input, None, None, 0.0)
        if running_mean is not None and running_var is not None:  # 16-bit buffers
            count = input.numel() // input.shape[1]
            running_mean.copy_((1 - momentum) * running_mean + momentum * mean)
            running_var.copy_((1 - momentum) * running_var + momentum * (var * (count / (count - 1))))
    return mean, torch.rsqrt(var + eps)


def through_statistics(
    y: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor, grad_mean: torch.Tensor, grad_rstd: torch.Tensor
) -> torch.Tensor:
    """The gradient of a tensor from those of its batch statistics, in their dtype, with M values per channel:
    ``grad_mean / M - (y - mean) * rstd^3 * grad_rstd / M``."""
    count = max(y.numel() // max(y.shape[1], 1), 1)
    along = channels(grad_rstd * rstd**3 / count, y)
    return channels(grad_mean / count, y) - (y.to(mean.dtype) - channels(mean, y)) * along
