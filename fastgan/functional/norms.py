"""Batch norm with an activation, by the statistics of one process or of all."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from fastgan.functional.onnx import for_onnx
from fastgan.ops.batch_norm_act import autograd as _bn
from fastgan.ops.batch_norm_act import checks as _bn_checks
from fastgan.ops.batch_norm_act import small as _bn_small
from fastgan.ops.batch_norm_act import sync as _bn_sync
from fastgan.ops.common import activation as _activation
from fastgan.ops.common.overrides import overridable


@overridable
def batch_norm_act(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "relu",
    negative_slope: float = 0.01,
) -> torch.Tensor:
    """Batch norm and an activation in one op: :func:`torch.nn.functional.batch_norm`, then ``activation``.

    ``y = act((x - mean) / sqrt(var + eps) * weight + bias)`` per channel, by batch statistics (biased variance) in
    training and by the running ones otherwise (Ioffe & Szegedy 2015, algorithms 1 and 2). Backward saves the input and
    two vectors, no activation-sized tensor.

    Args:
        input: ``[N, C, ...]``, at least 2 dimensions.
        running_mean, running_var: ``[C]``; updated in place when ``training`` (the variance unbiased), needed
        otherwise. weight, bias: ``[C]`` or None (1 and 0); the input's dtype, or float32 with a float16 or bfloat16
        input. training: use batch statistics.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.
        activation: "relu", "leaky_relu" or "none". ReLU keeps NaN; at 0 its slope is 0 and LeakyReLU's the negative
        one. negative_slope: slope of "leaky_relu" for inputs <= 0.

    Returns:
        A tensor of the input's shape, dtype and strides (as ``torch.empty_like`` gives them).

    Raises:
        ValueError: one value per channel in training; unknown activation; no running statistics in eval mode.
        RuntimeError: a vector that does not have C elements, or sits on another device.
        TypeError: a dtype that does not fit.

    Gradient order: any; second and higher orders run through torch's ops (eager only).

    Example:
        >>> import torch
        >>> batch_norm_act(torch.tensor([[1.0], [3.0]]), None, None, training=True, eps=0.0).tolist()
        [[0.0], [1.0]]
    """
    act = _activation.parse(activation)
    _bn_checks.check(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if _bn_small.left_to_torch(input, running_mean, running_var, weight, bias):
        return _bn_small.batch_norm_act(
            input, running_mean, running_var, weight, bias, training, momentum, eps, act, negative_slope
        )
    if for_onnx():
        output = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return _activation.apply(output, act, negative_slope)
    if training:
        return _bn.train(input, weight, bias, running_mean, running_var, momentum, eps, act, negative_slope)
    assert running_mean is not None and running_var is not None  # checked above
    return _bn.evaluate(input, weight, bias, running_mean, running_var, eps, act, negative_slope)


@overridable
def sync_batch_norm_act(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "relu",
    negative_slope: float = 0.01,
    process_group: Any = None,
) -> torch.Tensor:
    """:func:`batch_norm_act` in training, by the statistics of the batches of all ranks of ``process_group`` together.

    The ranks' counts, means and variances are merged by Chan's formula (Chan, Golub & LeVeque 1983); batches may differ
    in size and may be empty. One collective forward and one backward, in which every rank of the group takes part. With
    no process group initialised, or one rank, it is :func:`batch_norm_act`.

    Args:
        input, running_mean, running_var, weight, bias, momentum, eps, activation, negative_slope: as in
            :func:`batch_norm_act`; vectors are the same on all ranks.
        process_group: a group of ``torch.distributed``; None means all ranks.

    Returns:
        A tensor of the input's shape, dtype and strides. The gradient of the input is that of the sum of the ranks'
        losses; those of weight and bias are this rank's part of it, which DistributedDataParallel adds up.

    Raises:
        ValueError: one value per channel in the whole group; unknown activation.
        RuntimeError: a vector that does not have C elements, or sits on another device.
        TypeError: a dtype that does not fit.

    Gradient order: any, the same on all ranks; second and higher orders run through torch's ops (eager only).

    Example:
        >>> import torch
        >>> sync_batch_norm_act(torch.tensor([[1.0], [3.0]]), None, None, eps=0.0).tolist()
        [[0.0], [1.0]]
    """
    group = _bn_sync.world(process_group)
    if group is None:
        return batch_norm_act(
            input, running_mean, running_var, weight, bias, True, momentum, eps, activation, negative_slope
        )
    act = _activation.parse(activation)
    _bn_checks.check_tensors(input, running_mean, running_var, weight, bias, momentum, eps)
    _bn_checks.check_pair(running_mean, running_var)
    return _bn_sync.SyncBatchNormActTrain.apply(
        input, weight, bias, running_mean, running_var, momentum, eps, act, negative_slope, group
    )[0]
