"""The Triton kernels of the sigmoid-BCE loss: interpreted on machines without a GPU, on the GPU otherwise."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan.functional import binary_cross_entropy_with_logits
from tests.checks import DTYPES, assert_exact, assert_rule, assert_torch_layout, backend_reason

# The interpreter computes with numpy, which warns where NaN, infinity or a float16 overflow is what the test is about.
# Triton 3.6's turns loop bounds into numbers in a way that numpy 1.25 to 2.3 deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
]

REDUCTIONS = ("none", "mean", "sum")
Target = torch.Tensor | float


@pytest.fixture(autouse=True)
def only_triton(device: torch.device) -> Iterator[None]:
    """Triton or nothing, and torch.empty gives NaN, so that an element that no program writes shows."""
    reason = backend_reason("triton", device)
    if reason is not None:
        pytest.skip(reason)
    torch.use_deterministic_algorithms(True)
    try:
        with fastgan.use_backend("triton"), fastgan.dispatch.trace() as calls:
            yield
    finally:
        torch.use_deterministic_algorithms(False)
    assert calls and all(backend == "triton" for _, backend in calls), calls


def judge(
    x: torch.Tensor, target: Target, grad: torch.Tensor, reduction: str, weight: torch.Tensor | None,
    pos_weight: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Loss and gradient by their definition in extended precision, so that float64 can be judged too."""

    def wide(value: torch.Tensor | float | None) -> np.ndarray:
        tensor = value if isinstance(value, torch.Tensor) else torch.tensor(1.0 if value is None else value).double()
        return tensor.detach().double().cpu().numpy().astype(np.longdouble)

    logit, t, w, p, g = wide(x), wide(target), wide(weight), wide(pos_weight), wide(grad)
    if not isinstance(target, torch.Tensor):
        t = np.longdouble(target)
    small = np.exp(-np.abs(logit))
    likely, unlikely = 1 / (1 + small), small / (1 + small)
    softplus = np.maximum(-logit, 0) + np.log1p(small)
    loss = w * ((1 - t) * logit + (1 + (p - 1) * t) * softplus)
    gradient = w * ((1 - t) * np.where(logit >= 0, likely, unlikely) - p * t * np.where(logit >= 0, unlikely, likely))
    loss = {"none": lambda v: v, "mean": np.mean, "sum": np.sum}[reduction](loss)
    gradient = gradient * g / (x.numel() if reduction == "mean" else 1)
    loss, gradient = (torch.from_numpy(np.asarray(value, dtype=np.float64)) for value in (loss, gradient))
    return loss, gradient


def check(
    x: torch.Tensor, target: Target, reduction: str = "mean", weight: torch.Tensor | None = None,
    pos_weight: torch.Tensor | None = None, grad: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Loss and gradient under the rule; returns them."""

    def evaluate(function: Callable[..., torch.Tensor], target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = x.detach().requires_grad_()
        loss = function(leaf, target, weight, reduction=reduction, pos_weight=pos_weight)
        (gradient,) = torch.autograd.grad(loss, leaf, torch.ones_like(loss) if grad is None else grad)
        return loss, gradient

    with fastgan.dispatch.trace() as calls:
        ours = evaluate(binary_cross_entropy_with_logits, target)
    assert calls == [("bce_with_logits", "triton"), ("bce_with_logits_backward_", "triton")]
    full = target if isinstance(target, torch.Tensor) else torch.full_like(x, target)
    theirs = evaluate(F.binary_cross_entropy_with_logits, full)
    right = judge(x, target, torch.ones(()) if grad is None else grad, reduction, weight, pos_weight)
    for name, *values in zip(("loss", "gradient"), ours, theirs, right, strict=True):
        assert_rule(name, *values)
    assert_torch_layout("gradient", ours[1], torch.empty_like(x))
    if reduction == "none":
        assert_torch_layout("loss", ours[0], torch.empty_like(x))
    return ours


def logits(*shape: int, dtype: torch.dtype = torch.float32, device: torch.device) -> torch.Tensor:
    return (3 * torch.randn(shape, dtype=torch.float64)).to(dtype).to(device)


def labels(*shape: int, dtype: torch.dtype = torch.float32, device: torch.device) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64).to(dtype).to(device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("target", [0.0, 1.0, 0.9, "tensor"])
def test_values(target: float | str, reduction: str, dtype: torch.dtype, device: torch.device) -> None:
    x = logits(7, 11, dtype=dtype, device=device)
    check(x, labels(7, 11, dtype=dtype, device=device) if target == "tensor" else float(target), reduction)


@pytest.mark.parametrize("size", [1, 2, 1023, 1024, 1025, 4095, 4096, 4097, 17 * 1024 + 5])
def test_tile_edges(size: int, device: torch.device) -> None:
    """One program with up to 4 tiles, several programs, several programs with several tiles."""
    x, t = logits(size, device=device), labels(size, device=device)
    for reduction in REDUCTIONS:
        check(x, t, reduction)


def layouts(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "nchw": tensor,
        "nhwc": tensor.contiguous(memory_format=torch.channels_last),
        "transposed": tensor.transpose(0, 3).contiguous().transpose(0, 3),
        "sliced": F.pad(tensor, (1, 2, 0, 1))[:, :, :-1, 1:-2],
        "expanded": tensor[:, :1].expand(-1, tensor.shape[1], -1, -1),
    }


@pytest.mark.parametrize("input_layout", ["nchw", "nhwc", "transposed", "sliced", "expanded"])
def test_layouts(input_layout: str, device: torch.device) -> None:
    x = layouts(logits(2, 3, 4, 5, device=device))[input_layout]
    for t in layouts(labels(2, 3, 4, 5, device=device)).values():
        for reduction in ("none", "mean"):
            check(x, t, reduction)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (4, 1), (3, 4, 5), (3, 1, 1)])
def test_weights(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    x, t = logits(3, 4, 5, dtype=dtype, device=device), labels(3, 4, 5, dtype=dtype, device=device)
    weight, pos_weight = (0.5 + labels(*shape, dtype=dtype, device=device) for _ in range(2))
    for reduction in REDUCTIONS:
        check(x, t, reduction, weight=weight)
        check(x, t, reduction, pos_weight=pos_weight)
        check(x.transpose(0, 2).contiguous().transpose(0, 2), t, reduction, weight, pos_weight)


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "transposed", "sliced", "expanded"])
def test_gradient_of_another_layout(layout: str, device: torch.device) -> None:
    x = logits(2, 3, 4, 5, device=device)
    grad = layouts(torch.randn(2, 3, 4, 5, device=device))[layout]
    for one in layouts(x).values():
        check(one, 1.0, "none", grad=grad)
    check(x, 1.0, "none", grad=torch.full((), 0.7, device=device).expand(x.shape))


def test_small_scale_in_float16(device: torch.device) -> None:
    """1 / N is denormal in float16, and so is the gradient unless what comes from above is large."""
    x = logits(20_000, dtype=torch.float16, device=device)
    check(x, 1.0, "mean", grad=torch.full((), 2.0**14, dtype=torch.float16, device=device))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_many_halves(dtype: torch.dtype, device: torch.device) -> None:
    check(logits(40_000, dtype=dtype, device=device), labels(40_000, dtype=dtype, device=device), "mean")


@pytest.mark.parametrize(
    ("input_dtype", "target_dtype"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float32, torch.float64)],
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_mixed_dtypes(
    reduction: str, input_dtype: torch.dtype, target_dtype: torch.dtype, device: torch.device
) -> None:
    check(logits(30, dtype=input_dtype, device=device), labels(30, dtype=target_dtype, device=device), reduction)


def test_zero_dimensional(device: torch.device) -> None:
    for reduction in REDUCTIONS:
        loss, _ = check(logits(device=device), labels(device=device), reduction)
        assert loss.shape == ()


def test_empty(device: torch.device) -> None:
    x = torch.zeros(0, 3, device=device, requires_grad=True)
    for reduction, expected in (("none", None), ("mean", float("nan")), ("sum", 0.0)):
        loss = binary_cross_entropy_with_logits(x, 1.0, reduction=reduction)
        (gradient,) = torch.autograd.grad(loss, x, torch.ones_like(loss))
        assert gradient.shape == (0, 3)
        if expected is None:
            assert loss.shape == (0, 3)
        else:
            assert_exact("loss", loss, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("target", [1.0, 0.0])
@pytest.mark.parametrize("start", range(-120, 120, 10))
def test_accuracy_over_the_range(start: int, target: float, device: torch.device) -> None:
    """The rule's scale is the largest value of a tensor, so small losses are judged among their own kind."""
    check(torch.linspace(start, start + 10, 1024, device=device), target, "none")


@pytest.mark.parametrize("target", [0.0, 1.0, 0.25])
def test_special_values(target: float, device: torch.device) -> None:
    """At infinity the results are torch's, NaN where its are; elsewhere every logit is judged alone."""
    inf = float("inf")
    for value in (inf, -inf, float("nan"), 1e4, -1e4, 3e38, -3e38, 0.0, -0.0):
        x = torch.tensor([value], device=device, requires_grad=True)
        if abs(value) < inf:
            check(x, target)
            continue
        ours = binary_cross_entropy_with_logits(x, target)
        theirs = F.binary_cross_entropy_with_logits(x, torch.full_like(x, target))
        assert_exact("loss", ours, theirs.detach().double())
        gradients = (torch.autograd.grad(loss, x)[0] for loss in (ours, theirs))
        assert_exact("gradient", next(gradients), next(gradients).double())


def test_gradient_at_zero(device: torch.device) -> None:
    for target in (0.0, 1.0, 0.25):
        _, gradient = check(torch.zeros(3, device=device), target, "sum")
        assert_exact("gradient", gradient, torch.full((3,), 0.5 - target, dtype=torch.float64))


def test_number_equals_filled_tensor(device: torch.device) -> None:
    for dtype in DTYPES:
        x = logits(100, dtype=dtype, device=device)
        for one, other in zip(check(x, 0.75), check(x, torch.full_like(x, 0.75)), strict=True):
            assert torch.equal(one, other)


def test_no_gradient_wanted(device: torch.device) -> None:
    x = logits(5000, device=device)
    loss, _ = check(x, 1.0)
    assert torch.equal(binary_cross_entropy_with_logits(x, 1.0), loss)


def test_programs_do_not_depend_on_each_other(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted programs run one after another; in another order they give the same bits."""
    if device.type != "cpu":
        pytest.skip("a GPU runs programs in an order of its own")
    from triton.runtime import interpreter

    x, t = logits(9000, device=device), labels(9000, device=device)
    expected = [check(x, t, reduction) for reduction in REDUCTIONS]

    longest = 0

    def shuffled(*bounds: int) -> list[int]:
        nonlocal longest
        order = list(range(*bounds))
        if len(bounds) == 1:  # a grid axis; loops inside kernels give start, stop and step
            random.Random(0).shuffle(order)
            longest = max(longest, len(order))
        return order

    monkeypatch.setattr(interpreter, "range", shuffled, raising=False)
    for reduction, before in zip(REDUCTIONS, expected, strict=True):
        for one, other in zip(check(x, t, reduction), before, strict=True):
            assert torch.equal(one, other)
    assert longest > 2, "no grid was shuffled"
