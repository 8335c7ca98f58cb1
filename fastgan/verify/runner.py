"""Runs the cases: torch in float64 as the judge, torch at the dtype, and fastgan on a forced backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fastgan import dispatch
from fastgan.verify.cases import Case, Tensors
from fastgan.verify.rule import Verdict, judge_result

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("NCHW", "NHWC", "strided")
# below this share of the largest value the activation's slope is a matter of rounding
_CORNER = 1e-3


@dataclass(frozen=True)
class Result:
    """One result of one case on one backend, judged."""

    op: str
    case: str
    result: str
    dtype: str
    layout: str
    backend: str
    verdict: Verdict


@dataclass(frozen=True)
class NotRun:
    """A case that a backend does not run, in the backend's own words."""

    op: str
    backend: str
    reason: str


@contextlib.contextmanager
def no_tf32() -> Iterator[None]:
    """Full float32 arithmetic in convolutions and matrix products inside the block."""
    cudnn: Any = torch.backends.cudnn  # without stubs for the newer settings
    cuda = torch.backends.cuda
    owners = (cudnn.conv, cudnn.rnn, cuda.matmul)
    before = [owner.fp32_precision for owner in owners]
    cudnn.allow_tf32 = False
    cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32 = before[0] == "tf32"
        cuda.matmul.allow_tf32 = before[2] == "tf32"
        for owner, precision in zip(owners, before, strict=True):
            # only where the two flags above cannot say it: torch complains about setting both without need
            if owner.fp32_precision != precision:
                owner.fp32_precision = precision


def applies(case: Case, dtype: torch.dtype) -> bool:
    """float64 is the judge's own dtype; there the convolutions are checked on small integers, where sums are exact."""
    return dtype is not torch.float64 or case.op.startswith("conv")


def verify_case(case: Case, dtype: torch.dtype, backends: list[str], device: torch.device) -> list[Result | NotRun]:
    """The output and each gradient of ``case`` in every layout on every backend, or why a backend does not run it."""
    double = {name: tensor.to(device) for name, tensor in _draw(case, dtype).items()}
    grad = _grad_output(case, double)
    judge = _results(case, case.run_torch, double, grad)
    found: list[Result | NotRun] = []
    for layout in LAYOUTS:
        typed = {
            name: _lay_out(tensor.to(torch.float32 if name in case.wide and dtype.itemsize == 2 else dtype), layout)
            for name, tensor in double.items()
        }
        typed_grad = _lay_out(grad.to(dtype), layout)
        theirs = _results(case, case.run_torch, typed, typed_grad)
        for backend in backends:
            try:
                ours = _results(case, case.run_fastgan, typed, typed_grad, backend)
            except dispatch.BackendError as error:
                found.append(NotRun(case.op, backend, str(error).partition("asked for: ")[2] or str(error)))
                continue
            place = (str(dtype).removeprefix("torch."), layout, backend)
            found += [
                Result(case.op, case.name, name, *place, judge_result(ours[name], theirs[name], judge[name]))
                for name in judge
            ]
    return found


def _draw(case: Case, dtype: torch.dtype) -> Tensors:
    """The case's tensors in float64, already rounded to what ``dtype`` can hold."""
    generator = torch.Generator().manual_seed(sum(map(ord, case.name)))
    tensors = case.draw(generator)
    if dtype is torch.float64:
        return {
            name: torch.randint(-4, 5, tensor.shape, generator=generator).double() for name, tensor in tensors.items()
        }
    return {name: tensor.to(dtype).double() for name, tensor in tensors.items()}


def _grad_output(case: Case, double: Tensors) -> torch.Tensor:
    """What is sent backwards: small integers, 0 where the activation's slope is a matter of rounding."""
    # copies: a batch norm updates its running statistics
    before = (case.corner or case.run_torch)(**{name: tensor.clone() for name, tensor in double.items()})
    generator = torch.Generator().manual_seed(0)
    grad = torch.randint(-4, 5, before.shape, generator=generator).double().to(before.device)
    if case.corner is not None:
        grad[before.abs() < _CORNER * before.abs().max()] = 0
    return grad


def _lay_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values in another place in memory: channels last, or every second element of a wider tensor."""
    if layout == "NHWC" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "strided" and tensor.dim() > 0:
        wider = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1])
        wider[..., ::2] = tensor
        return wider[..., ::2]
    return tensor.contiguous()


def _results(
    case: Case, function: object, tensors: Tensors, grad: torch.Tensor, backend: str | None = None
) -> dict[str, torch.Tensor]:
    """Output and gradients; ``backend`` is forced where it has a kernel for the step."""
    # detach() keeps the strides; buffers that a function updates in place are copied
    leaves = {
        name: tensor.detach().requires_grad_() if name in case.differentiate else tensor.clone()
        for name, tensor in tensors.items()
    }
    with contextlib.ExitStack() as stack:
        if backend is not None:
            stack.enter_context(dispatch.use_backend(backend))
        output = function(**leaves)  # type: ignore[operator]
    with contextlib.ExitStack() as stack:
        if backend is not None:
            stack.enter_context(dispatch.use_backend(backend))
        gradients = torch.autograd.grad(output, [leaves[name] for name in case.differentiate], grad)
    results = {"output": output.detach()}
    results.update((f"grad {name}", g) for name, g in zip(case.differentiate, gradients, strict=True))
    if "running_var" in leaves:
        results.update((name, leaves[name]) for name in ("running_mean", "running_var"))
    return results
