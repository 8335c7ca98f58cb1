"""Where the functions of a chain may run in place of a batch norm and a convolution, and where that pays: what
:class:`fastgan.nn.FusedSequential` asks before it does so."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

from fastgan import dispatch
from fastgan.functional.convolutions import Options, sizes
from fastgan.ops.batch_norm_act.autograd import FEW
from fastgan.ops.common.tuning_key import of_tensor

_LINKS = ("conv_transpose2d", "conv2d")
_ORDINARY = (torch.Tensor, torch.nn.Parameter)
Tensors = tuple[torch.Tensor | None, ...]


def transparent() -> bool:
    """Whether nothing is at work that must see, or differentiate in its own way, the layers one by one: the transforms
    of ``torch.func``, forward mode, a tracer, an exporter."""
    if torch.compiler.is_compiling():
        return not _exporting()
    return not torch._C._are_functorch_transforms_active() and (
        forward_ad._current_level < 0 and torch._C._get_tracing_state() is None and not torch.onnx.is_in_onnx_export()
    )


@torch.compiler.assume_constant_result
def _exporting() -> bool:
    """Asked outside what is compiled: there torch 2.11 says yes whatever it is compiled for."""
    return torch.compiler.is_exporting()


def kernels_on(device: str) -> bool:
    """Whether kernels of ours could be chosen for a link on that device type."""
    if torch.compiler.is_compiling():
        backends = [_of_device(name, device, dispatch.forced()) for name in _LINKS]
        return any(backend not in (None, "reference") for backend in backends)
    return any(dispatch.may_choose_kernels(f"{name}_stats", device) for name in _LINKS)


def measured() -> bool:
    """Whether measured times say which links are run."""
    return dispatch.has_tables() and dispatch.forced() is None


def is_faster(layers: tuple[Any, ...], images: Tensors, parameters: Tensors, runs: dispatch.Runs) -> bool:
    """Whether layers run faster as a chain than one by one, forward and backward, as measured times say
    (:func:`fastgan.dispatch.chain_is_faster`).

    Args:
        layers: kinds and options, as :mod:`fastgan.ops.common.tuning_key` has keys.
        images: what they take, the input first; parameters: theirs.
        runs: makes the runs that are timed, "triton" as a chain and "reference" one by one.
    """
    input: Any = images[0]
    device = input.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    sizes = [*(_taken(image, True) for image in images), *(_taken(parameter, False) for parameter in parameters)]
    key = (torch.is_grad_enabled(), low, layers, *sizes)
    return dispatch.chain_is_faster(key, (*images, *parameters), runs)


def _taken(tensor: torch.Tensor | None, batched: bool) -> Any:
    return None if tensor is None else (of_tensor(tensor, batched), tensor.requires_grad)


def ordinary(*tensors: object) -> bool:
    """Whether all are tensors without a ``__torch_function__`` or a dispatch of their own, or None."""
    return all(tensor is None or type(tensor) in _ORDINARY for tensor in tensors)


def enough_values(input: torch.Tensor) -> bool:
    """Whether float32 will do for the gradient of a batch norm of ``input``, and it is not empty."""
    return input.dim() == 4 and _enough(input.shape)


def may_link(
    name: str,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    options: Options,
    only_kernels: bool,
    beside: torch.Tensor | None = None,
) -> bool:
    """Whether a link may stand for a convolution and the batch norm after it: its output has values enough, and the
    backend that was forced has it; with ``only_kernels``, and kernels of ours are chosen for it.

    Args:
        name: "conv_transpose2d" or "conv2d"; input, weight and bias are those of the convolution.
        options: stride, padding, output_padding, groups, dilation.
        beside: channels that the convolution takes after the input's.
    """
    if input.dim() != 4:
        return False
    shape = input.shape
    if beside is not None:
        if not _fits(beside, input) or options[3] != 1:
            return False
        shape = torch.Size((shape[0], shape[1] + beside.shape[1], *shape[2:]))
    geometry, size = sizes(name, shape, weight, bias, options)
    channels = weight.shape[0] if name == "conv2d" else weight.shape[1] * geometry.groups
    if not _enough(torch.Size((input.shape[0], channels, *size))):
        return False
    if torch.compiler.is_compiling():
        backend = _of_device(name, input.device.type, dispatch.forced())
    else:
        vectors = (None,) * 4
        running = (None, None)
        arguments = (input, *vectors, beside, weight, bias, *running, size, *geometry, 0.1, 1e-5, 0, 0.0)
        backend = dispatch.would_run(f"{name}_stats", *arguments)
    return backend is not None and not (only_kernels and backend == "reference")


def _fits(beside: torch.Tensor, input: torch.Tensor) -> bool:
    """Whether a link takes the one beside the other. What does not fit is left to ``torch.cat`` and its errors."""
    same = beside.dtype is input.dtype and beside.device == input.device and beside.dim() == 4
    return same and (beside.shape[0], *beside.shape[2:]) == (input.shape[0], *input.shape[2:])


def _enough(size: torch.Size) -> bool:
    if size.numel() == 0:
        return False
    # a compiler must not see the question (ops/batch_norm_act/autograd.py)
    return torch.compiler.is_compiling() or size.numel() >= FEW * size[1]


@torch.compiler.assume_constant_result
def _of_device(name: str, device: str, forced: str | None) -> str | None:
    """The backend of a link of some size, for a compiler, which must not see how it is found: a constant by device and
    forced backend."""
    input, weight = torch.empty(FEW, 1, 1, 1, device=device), torch.empty(1, 1, 1, 1, device=device)
    geometry = ((1, 1), (0, 0), (1, 1), 1)
    arguments = (input, *(None,) * 5, weight, None, None, None, (1, 1), *geometry, 0.1, 1e-5, 0, 0.0)
    return dispatch.would_run(f"{name}_stats", *arguments)
