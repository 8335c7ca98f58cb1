"""The batch norm + activation slice: schemas, fake kernels, backends. See README.md beside this file.

Gradients live in autograd.py; so the training op may update the running statistics in its own launch and carries no
autograd formula. Batch statistics, not running buffers, are what backward gets.
"""

from __future__ import annotations

from typing import Any

import torch

from fastgan.dispatch import Backend, always, define
from fastgan.ops.batch_norm_act import batching, native_launch, reference, selection
from fastgan.ops.common import triton_runtime
from fastgan.ops.common.dtypes import accumulate_type
from fastgan.ops.common.tuning_key import of_arguments

_ACTIVATION = "int activation, float negative_slope"


def _vector(input: torch.Tensor) -> torch.Tensor:
    return input.new_empty(input.shape[1], dtype=accumulate_type(input.dtype))


def _train_fake(input: torch.Tensor, *_rest: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(input), _vector(input), _vector(input)


def _eval_fake(input: torch.Tensor, *_rest: Any) -> torch.Tensor:
    return torch.empty_like(input)


def _backward_fake(
    grad_output: torch.Tensor, input: torch.Tensor, *_rest: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(input), _vector(input), _vector(input)


def _stats_fake(input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean = input.new_empty(input.shape[1], dtype=torch.float64)
    return mean, torch.empty_like(mean)


def _chained_stats_fake(input: torch.Tensor, *_rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return _vector(input), _vector(input)


def _backward_reduce_fake(
    grad_output: torch.Tensor, input: torch.Tensor, *_rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return _stats_fake(input)


def _backward_apply_fake(grad_output: torch.Tensor, input: torch.Tensor, *_rest: Any) -> torch.Tensor:
    return torch.empty_like(input)


def _triton(name: str) -> Any:
    def run(*args: Any) -> Any:
        from fastgan.ops.batch_norm_act import triton_launch  # on first use: see conv_transpose2d

        return getattr(triton_launch, name)(*args)

    return run


def _backends(op: str, name: str, run_reference: Any, backward: bool = False) -> list[Backend]:
    native = native_launch.backward if backward else native_launch.forward
    native_supports = native_launch.backward_reason if backward else native_launch.reason
    pays = selection.native_pays_backward if backward else selection.native_pays
    # No GPU measurement is committed yet, so neither is chosen unasked there.
    return [
        Backend("native", native(op), native_supports, frozenset({"cpu"}), pays),
        Backend("triton", _triton(name), triton_runtime.reason),
        Backend("reference", run_reference, always),
    ]


define(
    "batch_norm_act_train(Tensor input, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, "
    f"Tensor(b!)? running_var, float momentum, float eps, {_ACTIVATION}) -> (Tensor output, Tensor mean, Tensor rstd)",
    _train_fake,
    _backends("batch_norm_act_train", "train", reference.train),
    batching.train_rule,
    tuning_key=of_arguments(0),
)
define(
    "batch_norm_act_eval(Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor rstd, "
    f"{_ACTIVATION}) -> Tensor",
    _eval_fake,
    _backends("batch_norm_act_eval", "eval", reference.eval),
    batching.eval_rule,
    tuning_key=of_arguments(0),
)
define(
    "batch_norm_act_backward(Tensor grad_output, Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor rstd, "
    f"bool training, {_ACTIVATION}) -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)",
    _backward_fake,
    _backends("batch_norm_act_backward", "backward", reference.backward, backward=True),
    batching.backward_rule,
    tuning_key=of_arguments(0, 1),
)

# The steps between which the ranks of a synchronised batch norm exchange sums (sync.py); batch_norm_act_eval is the
# fourth.
define(
    "batch_norm_act_stats(Tensor input) -> (Tensor mean, Tensor var)",
    _stats_fake,
    _backends("batch_norm_act_stats", "local_stats", reference.local_stats),
    tuning_key=of_arguments(0),
)
define(
    "batch_norm_act_backward_reduce(Tensor grad_output, Tensor input, Tensor? weight, Tensor? bias, Tensor mean, "
    f"Tensor rstd, {_ACTIVATION}) -> (Tensor grad_weight, Tensor grad_bias)",
    _backward_reduce_fake,
    _backends("batch_norm_act_backward_reduce", "backward_reduce", reference.backward_reduce, backward=True),
    tuning_key=of_arguments(0, 1),
)
define(
    "batch_norm_act_backward_apply(Tensor grad_output, Tensor input, Tensor? weight, Tensor? bias, Tensor mean, "
    f"Tensor rstd, Tensor per_centred, Tensor per_element, {_ACTIVATION}) -> Tensor grad_input",
    _backward_apply_fake,
    _backends("batch_norm_act_backward_apply", "backward_apply", reference.backward_apply, backward=True),
    tuning_key=of_arguments(0, 1),
)

# What a chain of convolutions starts from (chained.py).
define(
    "batch_norm_stats(Tensor input, Tensor(a!)? running_mean, Tensor(b!)? running_var, float momentum, float eps) -> "
    "(Tensor mean, Tensor rstd)",
    _chained_stats_fake,
    [
        Backend("triton", _triton("chained_stats"), triton_runtime.reason),
        Backend("reference", reference.chained_stats, always),
    ],
    tuning_key=of_arguments(0),
)
