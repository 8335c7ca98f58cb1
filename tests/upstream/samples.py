"""PyTorch's own samples, which ship in its wheel: OpInfo's for functions, ModuleInfo's for layers, in four layouts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils._pytree import tree_flatten, tree_unflatten

import fastgan
from tests.ops.cases import LAYOUTS as STRIDES
from tests.upstream.routing import routed

FUNCTIONS = ("conv_transpose2d", "conv2d", "batch_norm", "binary_cross_entropy_with_logits")
#: The layers of torch's ModuleInfo that call one of the functions.
MODULES = (
    "ConvTranspose2d",
    "LazyConvTranspose2d",
    "Conv2d",
    "LazyConv2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BCEWithLogitsLoss",
)
#: torch's layer: our drop-in.
DROP_INS: dict[str, Callable[..., nn.Module]] = {
    "ConvTranspose2d": fastgan.nn.ConvTranspose2d,
    "Conv2d": fastgan.nn.Conv2d,
    "BatchNorm2d": functools.partial(fastgan.nn.BatchNormAct2d, activation="none"),
    "BCEWithLogitsLoss": fastgan.nn.BCEWithLogitsLoss,
}
SUBJECTS = (
    *(f"F.{name}" for name in FUNCTIONS),
    *(f"nn.{name}" for name in MODULES),
    *(f"fastgan.nn.{name}" for name in DROP_INS),
)


def internal(name: str) -> Any:
    """The module ``torch.testing._internal.<name>``, or a skip.

    Importing it forbids to set cuDNN's flags for the rest of the process, which is meant for torch's own tests; undone.
    """
    module = pytest.importorskip(f"torch.testing._internal.{name}", reason=f"torch ships no {name}")
    torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True
    return module


def op_info(name: str) -> Any:
    """OpInfo's entry for ``torch.nn.functional.<name>``."""
    (entry,) = (
        op
        for op in internal("common_methods_invocations").op_db
        if (op.name, op.variant_test_name) == (f"nn.functional.{name}", "")
    )
    return entry


def module_info(name: str) -> Any:
    """ModuleInfo's entry for ``torch.nn.<name>``."""
    (entry,) = (info for info in internal("common_modules").module_db if info.name == f"nn.{name}")
    return entry


@dataclass(frozen=True)
class Sample:
    """``ours(*args, **kwargs)`` is to be what ``theirs`` is. A layer's first argument is its state."""

    name: str
    ours: Callable[..., torch.Tensor]
    theirs: Callable[..., torch.Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def dtypes(subject: str, device: torch.device) -> list[torch.dtype]:
    """What torch supports there, the floating ones first; of layers those that upstream tests, and the 16-bit ones."""
    kind, _, name = subject.rpartition(".")
    if kind == "F":
        supported = set(op_info(name).supported_dtypes(device.type))
    else:
        supported = {*module_info(name).dtypes, torch.float16, torch.bfloat16}
    return sorted(supported, key=lambda dtype: (not dtype.is_floating_point, -dtype.itemsize, str(dtype)))


def samples(subject: str, device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    """Every sample of a name in :data:`SUBJECTS`."""
    kind, _, name = subject.rpartition(".")
    if kind == "F":
        theirs = getattr(F, name)
        differentiable = dtype.is_floating_point or dtype.is_complex
        for i, sample in enumerate(op_info(name).sample_inputs(str(device), dtype, requires_grad=differentiable)):
            yield Sample(f"sample {i}", routed(theirs), theirs, (sample.input, *sample.args), dict(sample.kwargs))
        return
    for training in (True, False):
        yield from _module_samples(name, kind == "fastgan.nn", device, dtype, training)


def _module_samples(
    name: str, drop_in: bool, device: torch.device, dtype: torch.dtype, training: bool
) -> Iterator[Sample]:
    info = module_info(name)
    options = {"device": str(device), "dtype": dtype, "requires_grad": True, "training": training}
    for i, sample in enumerate(info.module_inputs_func(info, **options)):
        constructor, forward = sample.constructor_input, sample.forward_input
        if forward is None:
            continue
        module = info.module_cls(*constructor.args, **constructor.kwargs).to(device, dtype).train(training)
        if isinstance(module, LazyModuleMixin):
            module(*forward.args, **forward.kwargs)  # makes the parameters
        theirs = functools.partial(functional_call, module)
        ours = routed(theirs)
        if drop_in:
            replacement = DROP_INS[name](*constructor.args, **constructor.kwargs).to(device, dtype).train(training)
            ours = functools.partial(functional_call, replacement)
        state = {key: value.detach().requires_grad_() for key, value in module.named_parameters()}
        state |= dict(module.named_buffers())
        label = f"sample {i} in {'training' if training else 'eval'}"
        yield Sample(label, ours, theirs, (state, forward.args, forward.kwargs), {})


#: None for a tensor of too few dimensions. "noncontiguous" is upstream's own: gaps with NaN between the numbers.
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {
    "contiguous": lambda tensor: tensor.contiguous(),
    "channels_last": lambda tensor: STRIDES["nhwc"](tensor) if tensor.dim() == 4 else None,
    "transposed": lambda tensor: STRIDES["transposed"](tensor) if tensor.dim() >= 2 else None,
    "noncontiguous": lambda tensor: internal("common_utils").noncontiguous_like(tensor) if tensor.dim() else None,
}


def lay_out(sample: Sample, layout: str, wide: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The sample's arguments as leaves of their own in a layout, ``wide`` in float64; None if no tensor has it."""
    flat, spec = tree_flatten((sample.args, sample.kwargs))
    fits = [LAYOUTS[layout](value) is not None for value in flat if isinstance(value, torch.Tensor)]
    if not any(fits):
        return None
    return tree_unflatten([_leaf(value, layout, wide) for value in flat], spec)


def _leaf(value: Any, layout: str, wide: bool) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    copy = value.detach().to(torch.float64 if wide and value.is_floating_point() else value.dtype, copy=True)
    placed = LAYOUTS[layout](copy)
    return (copy if placed is None else placed).requires_grad_(value.requires_grad)
