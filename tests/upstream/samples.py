"""PyTorch's own samples, which ship in its wheel, and how they are run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastgan import functional


def batch_norm(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """torch's batch norm by ours."""
    return functional.batch_norm_act(input, *args, **kwargs, activation="none")


#: Name of the OpInfo entry: our function.
FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "conv_transpose2d": functional.conv_transpose2d,
    "conv2d": functional.conv2d,
    "batch_norm": batch_norm,
    "binary_cross_entropy_with_logits": functional.binary_cross_entropy_with_logits,
}


def internal(name: str) -> Any:
    """The module ``torch.testing._internal.<name>``, or a skip.

    Importing it forbids to set cuDNN's flags for the rest of the process, which is meant for torch's own tests; undone.
    """
    module = pytest.importorskip(f"torch.testing._internal.{name}", reason=f"torch ships no {name}")
    torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True
    return module


def op_info(name: str) -> Any:
    """The entry for ``torch.nn.functional.<name>``, or a skip."""
    entries = [
        op
        for op in internal("common_methods_invocations").op_db
        if (op.name, op.variant_test_name) == (f"nn.functional.{name}", "")
    ]
    if not entries:
        pytest.skip(f"this torch has no OpInfo for {name}")
    return entries[0]


def samples(name: str, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """(args, kwargs) of every sample that our function is meant for."""
    for sample in op_info(name).sample_inputs(str(device), dtype, requires_grad=True):
        args = (sample.input, *sample.args)
        if name == "batch_norm" and sample.input.dim() < 2:
            continue  # torch lets an empty vector pass as an image; ours asks for channels
        yield args, dict(sample.kwargs)


def evaluate(
    function: Callable[..., torch.Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], wide: bool = False
) -> list[torch.Tensor]:
    """[output, gradients, buffers afterwards] on copies; ``wide`` makes the copies float64."""
    flat, spec = tree_flatten((args, kwargs))
    copies = [copy(value, wide) for value in flat]
    args, kwargs = tree_unflatten(copies, spec)
    output = function(*args, **kwargs)
    tensors = [value for value in copies if isinstance(value, torch.Tensor)]
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    # the same numbers in every dtype, not symmetric
    seed = torch.arange(output.numel(), device=output.device).remainder(7).sub(2).view(output.shape).to(output.dtype)
    gradients = torch.autograd.grad(output, leaves, seed, materialize_grads=True) if output.requires_grad else ()
    return [output.detach(), *gradients, *(tensor for tensor in tensors if not tensor.requires_grad)]


def copy(value: Any, wide: bool) -> Any:
    """A leaf of its own."""
    if not isinstance(value, torch.Tensor):
        return value
    leaf = value.detach().to(torch.float64 if wide and value.is_floating_point() else value.dtype, copy=True)
    return leaf.requires_grad_(value.requires_grad)


def pooled(results: list[list[torch.Tensor]], kind: int) -> torch.Tensor:
    """Output (0) or everything else (1) of all samples in one vector: the rule is no judge of a handful of numbers."""
    return torch.cat([tensor.flatten() for result in results for tensor in (result[:1] if kind == 0 else result[1:])])
