"""The only tolerance code. The judge is float64; torch at the same dtype sets the scale of what is allowed."""

from __future__ import annotations

import math

import torch

from fastgan.dispatch import why_not

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
CUDA = torch.cuda.is_available()


def set_seed(number: int) -> None:
    """``torch.manual_seed``; without a GPU only the CPU's generator is seeded, with the same numbers.

    torch's own notes its caller then, for a GPU that may be found later: a millisecond, more than many a test takes.
    """
    if CUDA:
        torch.manual_seed(number)
    else:
        torch.random.default_generator.manual_seed(number)


def backend_reason(name: str, device: torch.device) -> str | None:
    """Why ``name`` cannot run the loss on ``device`` (the op that every backend has), or None."""
    return why_not("bce_with_logits", torch.zeros(1, device=device), None, 1.0, None, None, 1, True)[name]


def error(actual: torch.Tensor, judge: torch.Tensor) -> float:
    """Largest absolute difference to the float64 result; equal infinities and NaNs at the same places count as 0."""
    assert judge.dtype is torch.float64, "the judge is float64"
    assert actual.shape == judge.shape, f"shape {tuple(actual.shape)}, expected {tuple(judge.shape)}"
    actual, judge = actual.detach().double().cpu(), judge.detach().cpu()
    largest = _largest(actual - judge)
    if math.isfinite(largest):  # then so is every value of both: what follows costs more than many a test
        return largest
    assert torch.equal(actual.isnan(), judge.isnan()), "NaN in different places"
    same = (actual == judge) | judge.isnan()
    difference = (actual - judge).abs()[~same]
    return float(difference.max()) if difference.numel() else 0.0


def _largest(tensor: torch.Tensor) -> float:
    """The largest absolute value; NaN if one is NaN."""
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def bound(torch_result: torch.Tensor, judge: torch.Tensor) -> float:
    """``2 * err(torch) + 2 ulp``, ulp = eps(dtype) * max |judge|."""
    largest = _largest(judge.detach())
    if not math.isfinite(largest):
        largest = _largest(judge.detach().nan_to_num(0.0, 0.0, 0.0))
    ulp = torch.finfo(torch_result.dtype).eps * largest
    return 2 * error(torch_result, judge) + 2 * ulp


def assert_rule(name: str, ours: torch.Tensor, torch_result: torch.Tensor, judge: torch.Tensor) -> None:
    """The rule: ``err(ours, f64) <= 2 * err(torch at that dtype, f64) + 2 ulp``; dtype and shape are torch's."""
    assert ours.dtype == torch_result.dtype, f"{name}: dtype {ours.dtype}, torch gives {torch_result.dtype}"
    assert ours.shape == torch_result.shape, (
        f"{name}: shape {tuple(ours.shape)}, torch gives {tuple(torch_result.shape)}"
    )
    mine, allowed = error(ours, judge), bound(torch_result, judge)
    assert mine <= allowed, (
        f"{name}: error {mine:.3e} exceeds {allowed:.3e} (torch's error {error(torch_result, judge):.3e})"
    )


def assert_exact(name: str, ours: torch.Tensor, judge: torch.Tensor) -> None:
    """Integer-valued data: bit-equal to the float64 result."""
    assert error(ours, judge) == 0.0, f"{name}: not exact, error {error(ours, judge)}"


def assert_torch_layout(name: str, ours: torch.Tensor, torch_result: torch.Tensor) -> None:
    """The strides are torch's."""
    assert ours.stride() == torch_result.stride(), (
        f"{name}: strides {ours.stride()}, torch gives {torch_result.stride()}"
    )


def assert_tight(name: str, ours: torch.Tensor, expected: torch.Tensor) -> None:
    """Both computed in float64, in another order of summation: ``torch.testing.assert_close``, float64 defaults."""
    assert ours.dtype == expected.dtype == torch.float64, (
        f"{name}: float64 expected, got {ours.dtype}, {expected.dtype}"
    )
    torch.testing.assert_close(ours, expected, equal_nan=True, msg=lambda text: f"{name}: {text}")
