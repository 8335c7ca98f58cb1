"""How batch norm + activation runs under :func:`torch.vmap`: the channels of all samples are more channels."""

from __future__ import annotations

from typing import Any

import torch

_ops = torch.ops.fastgan
Dims = tuple[int | None, ...]


def _images(images: torch.Tensor, dim: int | None, size: int) -> torch.Tensor:
    """[B, N, C, ...] as [N, B * C, ...]; without a vmapped dimension B copies of [N, C, ...]."""
    stacked = images.unsqueeze(1).expand(-1, size, *images.shape[1:]) if dim is None else images.movedim(dim, 1)
    return stacked.flatten(1, 2)


def _vector(vector: torch.Tensor | None, dim: int | None, size: int) -> torch.Tensor | None:
    """[B, C] or [C] as [B * C]."""
    if vector is None:
        return None
    return (vector.expand(size, -1) if dim is None else vector.movedim(dim, 0)).flatten()


def _apart(joined: torch.Tensor, size: int) -> torch.Tensor:
    """[N, B * C, ...] as [N, B, C, ...]."""
    return joined.unflatten(1, (size, joined.shape[1] // size))


def train_rule(
    info: Any,
    in_dims: Dims,
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    *rest: Any,
) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], tuple[int, int, int]]:
    """The batching rule of batch_norm_act_train.

    Raises:
        RuntimeError: the running statistics are shared, so that no sample's could be written into them.
    """
    if running_mean is not None and running_var is not None and None in in_dims[3:5]:
        raise RuntimeError(
            "batch_norm_act: running_mean and running_var, which are updated in place, are not vmapped, but other "
            "arguments are: vmap over them too, or give neither"
        )
    size = info.batch_size
    x = _images(input, in_dims[0], size)
    w, b, mean, var = (
        _vector(vector, dim, size)
        for vector, dim in zip((weight, bias, running_mean, running_var), in_dims[1:5], strict=True)
    )
    output, *statistics = _ops.batch_norm_act_train(x, w, b, mean, var, *rest)
    for running, dim, updated in ((running_mean, in_dims[3], mean), (running_var, in_dims[4], var)):
        if running is not None and dim is not None and updated is not None:
            running.movedim(dim, 0).copy_(updated.view(size, -1))
    mean, rstd = (vector.view(size, -1) for vector in statistics)
    return (_apart(output, size), mean, rstd), (1, 0, 0)


def eval_rule(info: Any, in_dims: Dims, input: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, int]:
    """The batching rule of batch_norm_act_eval."""
    size = info.batch_size
    vectors = (_vector(vector, dim, size) for vector, dim in zip(rest[:4], in_dims[1:5], strict=True))
    return _apart(_ops.batch_norm_act_eval(_images(input, in_dims[0], size), *vectors, *rest[4:]), size), 1


def backward_rule(
    info: Any, in_dims: Dims, grad_output: torch.Tensor, input: torch.Tensor, *rest: Any
) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], tuple[int, int, int]]:
    """The batching rule of batch_norm_act_backward."""
    size = info.batch_size
    images = (_images(image, dim, size) for image, dim in zip((grad_output, input), in_dims[:2], strict=True))
    vectors = (_vector(vector, dim, size) for vector, dim in zip(rest[:4], in_dims[2:6], strict=True))
    grad_input, grad_weight, grad_bias = _ops.batch_norm_act_backward(*images, *vectors, *rest[4:])
    return (_apart(grad_input, size), grad_weight.view(size, -1), grad_bias.view(size, -1)), (1, 0, 0)
