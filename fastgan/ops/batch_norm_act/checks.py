"""Argument checks of batch norm + activation, with torch's own words where torch has them."""

from __future__ import annotations

import torch

from fastgan.ops.common.dtypes import accumulate_type, check_floating, is_half


def check(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> None:
    """Raise before anything is launched; see :func:`fastgan.functional.batch_norm_act` for what and when."""
    check_tensors(input, running_mean, running_var, weight, bias, momentum, eps)
    if training:
        check_more_than_one(input.shape, input.shape[1])
    elif running_mean is None or running_var is None:
        missing = "running_mean" if running_mean is None else "running_var"
        raise ValueError(f"Expected {missing} to be defined when training=False")
    check_pair(running_mean, running_var)


def check_tensors(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    momentum: float,
    eps: float,
) -> None:
    """What must hold in every mode."""
    if not isinstance(input, torch.Tensor):
        raise TypeError(f"batch_norm_act(): argument 'input' (position 1) must be Tensor, not {type(input).__name__}")
    check_floating("input", input)
    if input.dim() < 2:
        raise ValueError(f"batch_norm_act: expected input with at least 2 dimensions, but got size {list(input.shape)}")
    check_numbers("batch_norm_act", momentum, eps)
    vectors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    check_vectors("batch_norm_act", vectors, input, input.shape[1])
    check_not_differentiable("batch_norm_act", running_mean, running_var)


def check_numbers(function: str, momentum: float, eps: float) -> None:
    """What is added to the variance, and the share of the new statistics."""
    if not isinstance(momentum, (int, float)):
        raise TypeError(f"{function}(): argument 'momentum' must be float, not {type(momentum).__name__}")
    if not isinstance(eps, (int, float)) or eps < 0:
        raise ValueError(f"{function}: eps must be a number >= 0, but got {eps!r}")


def check_vectors(function: str, vectors: dict[str, torch.Tensor | None], input: torch.Tensor, channels: int) -> None:
    """Vectors of so many elements that fit to the dtype and the device of the input."""
    dtype, device = input.dtype, input.device
    for name, vector in vectors.items():
        if vector is None:
            continue
        if not isinstance(vector, torch.Tensor):
            raise TypeError(f"{function}(): argument '{name}' must be Tensor, not {type(vector).__name__}")
        if vector.dim() != 1 or vector.shape[0] != channels or vector.dtype is not dtype or vector.device != device:
            _check_vector(name, vector, input, channels)


def check_not_differentiable(
    function: str, running_mean: torch.Tensor | None, running_var: torch.Tensor | None
) -> None:
    """Running statistics get no gradient."""
    for name, vector in (("running_mean", running_mean), ("running_var", running_var)):
        if vector is not None and vector.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"The function '{function}' is not differentiable with respect to argument '{name}'. "
                "This input cannot have requires_grad True."
            )


def check_statistics(function: str, mean: torch.Tensor | None, rstd: torch.Tensor | None, input: torch.Tensor) -> None:
    """Those of the input's channels, as :func:`fastgan.functional.batch_norm_stats` gives them."""
    wide, channels = accumulate_type(input.dtype), input.shape[1]
    for name, vector in (("mean", mean), ("rstd", rstd)):
        if not isinstance(vector, torch.Tensor):
            raise TypeError(f"{function}(): argument '{name}' must be Tensor, not {type(vector).__name__}")
        _check_size(name, vector, channels)
        if vector.dtype is not wide:
            raise TypeError(f"{name} must have dtype {wide} for an input of {input.dtype}, but got {vector.dtype}")
        _check_device(name, vector, input)


def check_more_than_one(size: torch.Size, channels: int) -> None:
    """More than one value per channel, or none."""
    if size.numel() // max(channels, 1) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")


def check_pair(running_mean: torch.Tensor | None, running_var: torch.Tensor | None) -> None:
    """Both running statistics or none."""
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must be given together or both be None")


def _check_vector(name: str, vector: torch.Tensor, input: torch.Tensor, channels: int) -> None:
    _check_size(name, vector, channels)
    if vector.dtype != input.dtype and not (is_half(input.dtype) and vector.dtype is torch.float32):
        raise TypeError(
            f"{name} must have the dtype of input ({input.dtype})"
            f"{' or float32' if is_half(input.dtype) else ''}, but got {vector.dtype}"
        )
    _check_device(name, vector, input)


def _check_size(name: str, vector: torch.Tensor, channels: int) -> None:
    if vector.dim() != 1 or vector.shape[0] != channels:
        raise RuntimeError(
            f"{name} should contain {channels} elements not {vector.numel()}, got size {list(vector.shape)}"
        )


def _check_device(name: str, vector: torch.Tensor, input: torch.Tensor) -> None:
    if vector.device != input.device:
        raise RuntimeError(
            "Expected all tensors to be on the same device, "
            f"but input is on {input.device} and {name} on {vector.device}"
        )
