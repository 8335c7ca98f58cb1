"""The compiled loss against the float64 formula: value and gradient in one pass, and the backward that scales it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import _reduction

import fastgan
from fastgan.functional import binary_cross_entropy_with_logits
from fastgan.native import native_reason
from tests.checks import DTYPES, assert_exact, assert_rule
from tests.ops.cases import on_threads

REDUCTIONS = ("none", "mean", "sum")
CODE = {name: _reduction.get_enum(name) for name in REDUCTIONS}

# Every test runs with every instruction set, and every result of an operator is computed with 1, 2 and 5 threads.
pytestmark = [
    pytest.mark.skipif(native_reason("cpu") is not None, reason=str(native_reason("cpu"))),
    pytest.mark.usefixtures("isa"),
]


def native(input, target=None, target_value=0.0, reduction="none", need_grad=True):
    return on_threads(
        lambda: torch.ops.fastgan_native.bce_with_logits(input, target, target_value, CODE[reduction], need_grad)
    )


def native_backward(gradient, grad_output, reduction):
    """In place and not, which must agree."""

    def in_place():
        result = gradient.clone()
        torch.ops.fastgan_native.bce_with_logits_backward_(result, grad_output, CODE[reduction])
        return [result]

    call = torch.ops.fastgan_native.bce_with_logits_backward
    [result], [overwritten] = on_threads(lambda: [call(gradient, grad_output, CODE[reduction])]), on_threads(in_place)
    assert torch.equal(result, overwritten) or result.isnan().any()
    return result


def judge(input, target, reduction):
    """Loss and unscaled gradient in float64, from the definition."""
    x, t = input.double(), target.double()
    loss = (1 - t) * x + (-x).clamp_min(0) + torch.log1p(torch.exp(-x.abs()))
    reduced = {"none": lambda v: v, "mean": torch.mean, "sum": torch.sum}[reduction](loss)
    return reduced, torch.sigmoid(x) - t


def check(input, target, reduction):
    loss, grad = native(input, target, reduction=reduction)
    expected_loss, expected_grad = judge(input, target, reduction)
    torch_loss = F.binary_cross_entropy_with_logits(input, target, reduction=reduction)
    assert_rule("loss", loss, torch_loss, expected_loss)
    assert_rule("grad", grad, torch.sigmoid(input) - target, expected_grad)
    assert loss.device == grad.device == input.device


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (1023,), (1025,), (2, 1, 64, 64), (65537,)], ids=str)
def test_loss_and_gradient(dtype, reduction, shape):
    input = (torch.randn(shape, dtype=torch.float64) * 4).to(dtype)
    check(input, torch.rand(shape, dtype=torch.float64).to(dtype), reduction)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_magnitude(dtype):
    """From one to the underflow of exp(-|x|) and on to the largest number, both signs and both zeros."""
    magnitudes = torch.cat(
        [torch.linspace(0, 120, 20001), torch.tensor([1e3, 1e4, 3e38]), torch.logspace(-40, 0, 2000)]
    )
    x = torch.cat([magnitudes, -magnitudes]).to(dtype)
    x = x[x.isfinite()]
    for target_value in (0.0, 1.0, 0.25):
        for value in (x, x[x.abs() < 20], x[x.abs() < 1e-2]):
            check(value, torch.full_like(value, target_value), "none")


def test_exp_and_log1p_are_accurate_over_their_whole_range():
    """For the right side of the discriminator the loss is log1p(exp(-|x|)) and the gradient sigmoid(-|x|), down to the
    subnormal numbers: a piece has values of one size, so that the rule judges their relative error."""
    magnitudes = torch.cat([torch.logspace(-30, -1, 2900), torch.linspace(0.1, 104, 20800)])
    loss, _ = native(magnitudes, torch.ones_like(magnitudes))
    _, gradient = native(-magnitudes, torch.zeros_like(magnitudes))
    exponential = torch.exp(-magnitudes.double())
    judges = torch.log1p(exponential), exponential / (1 + exponential)
    theirs = (
        F.binary_cross_entropy_with_logits(magnitudes, torch.ones_like(magnitudes), reduction="none"),
        torch.sigmoid(-magnitudes),
    )
    for name, ours, other, judge in zip(("loss", "gradient"), (loss, gradient), theirs, judges, strict=True):
        for pieces in zip(ours.split(50), other.split(50), judge.split(50), strict=True):
            assert_rule(name, *pieces)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target_value", [0.0, 1.0, 0.9, 1 / 3])
def test_number_as_target_is_the_filled_tensor(dtype, target_value):
    input = torch.randn(3000).to(dtype)
    for reduction in REDUCTIONS:
        ours = native(input, None, target_value, reduction)
        filled = native(input, torch.full_like(input, target_value), reduction=reduction)
        assert all(torch.equal(a, b) for a, b in zip(ours, filled, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty(dtype):
    input = torch.empty(0, 3, dtype=dtype)
    loss, grad = native(input)
    assert loss.shape == grad.shape == (0, 3)
    assert math.isnan(native(input, reduction="mean")[0])
    assert native(input, reduction="sum")[0].item() == 0


def test_gradient_not_wanted():
    for reduction in REDUCTIONS:
        input = torch.randn(2000)
        loss, grad = native(input, reduction=reduction, need_grad=False)
        assert grad.shape == (0,)
        assert torch.equal(loss, native(input, reduction=reduction)[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_infinities_and_nan_as_torch(dtype):
    values = [math.inf, -math.inf, math.nan, 0.0, -0.0, 2.0]
    pairs = list(itertools.product(values, [0.0, 1.0, 0.5, math.nan]))
    input, target = (torch.tensor(column, dtype=dtype) for column in zip(*pairs, strict=True))
    leaf = input.clone().requires_grad_()
    expected = F.binary_cross_entropy_with_logits(leaf, target, reduction="none")
    expected.sum().backward()
    # Repeated, so that both the vectorised loop and its remainder see every pair.
    loss, grad = native(input.repeat(5)[: 5 * len(pairs) - 3], target.repeat(5)[: 5 * len(pairs) - 3])
    for ours, theirs in ((loss, expected.detach()), (grad, leaf.grad)):
        theirs = theirs.repeat(5)[: len(ours)]
        assert torch.equal(ours.isnan(), theirs.isnan())
        assert torch.equal(ours.isinf(), theirs.isinf())
        assert torch.equal(ours[theirs.isinf()], theirs[theirs.isinf()])


def test_one_nan_is_seen_in_the_sum():
    input = torch.zeros(5000)
    input[4321] = math.nan
    loss, grad = native(input, reduction="mean")
    assert math.isnan(loss)
    assert grad.isnan().nonzero().flatten().tolist() == [4321]


def test_sums_of_a_million_halves():
    input = torch.full((1_000_000,), -8.0, dtype=torch.float16)
    check(input, torch.zeros_like(input), "mean")
    check(input, torch.zeros_like(input), "sum")
    assert native(input, target_value=1.0, reduction="sum")[0].item() == math.inf  # 8 million, beyond float16


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_size_that_is_shared_among_threads(dtype, reduction):
    input, target = torch.randn(200_001).to(dtype), torch.rand(200_001).to(dtype)
    _, gradient = native(input, target, reduction=reduction)
    seed = torch.randn(200_001) if reduction == "none" else torch.tensor(0.7)
    native_backward(gradient, seed.to(dtype), reduction)


@pytest.mark.parametrize(
    ("input", "target", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), None, "input must be float64"),
        (torch.zeros(3, dtype=torch.complex64), None, "input must be float64"),
        (torch.zeros(3, 4).t(), None, "input must be contiguous"),
        (torch.zeros(3, 4), torch.zeros(4, 3).t(), "target must be contiguous"),
        (
            torch.zeros(3),
            torch.zeros(3, dtype=torch.float64),
            r"target must have the dtype of input \(Float\), got Double",
        ),
        (torch.zeros(3), torch.zeros(1), "target must have the shape of input"),
    ],
)
def test_errors_name_the_argument(input, target, message):
    with pytest.raises(RuntimeError, match=f"^bce_with_logits: {message}"):
        native(input, target)


def test_unknown_reduction():
    with pytest.raises(RuntimeError, match="reduction must be"):
        torch.ops.fastgan_native.bce_with_logits(torch.zeros(3), None, 0.0, 3, True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (1025,), (0, 3)], ids=str)
def test_backward(dtype, reduction, shape):
    gradient, one = torch.randn(shape).to(dtype), torch.tensor(0.7).to(dtype)
    divisor = max(gradient.numel(), 1) if reduction == "mean" else 1
    for seed in (one, one.expand(shape)) if reduction != "none" else (one.expand(shape), torch.randn(shape).to(dtype)):
        judge = gradient.double() * (seed.double() / divisor)
        assert_rule("gradient", native_backward(gradient, seed, reduction), gradient * (seed / divisor), judge)


def test_backward_in_float16_does_not_round_one_over_n():
    """1 / N is subnormal in float16 and a scaled loss's scale close to its largest number; their product is neither."""
    size = 2**17
    gradient = torch.full((size,), -0.5, dtype=torch.float16)
    result = native_backward(gradient, torch.tensor(32768.0, dtype=torch.float16), "mean")
    assert_exact("gradient", result, torch.full((size,), -0.125, dtype=torch.float64))


@pytest.mark.parametrize("special", [math.inf, -math.inf, math.nan])
def test_backward_of_special_numbers_as_torch(special):
    gradient = torch.tensor([0.0, -0.0, 2.0, special])
    for seed in (torch.tensor(special), torch.tensor([special, 1.0, special, 0.0])):
        assert_exact("gradient", native_backward(gradient, seed, "none"), (gradient * seed).double())


@pytest.mark.parametrize(
    ("gradient", "grad_output", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), torch.tensor(1.0), "gradient must be float64"),
        (torch.zeros(3, 4).t(), torch.tensor(1.0), "gradient must be contiguous"),
        (torch.zeros(3), torch.tensor(1.0, dtype=torch.float64), "grad_output must have the dtype of gradient"),
        (torch.zeros(3), torch.zeros(1), "grad_output must have the shape of gradient"),
        (torch.zeros(3, 4), torch.zeros(4, 3).t(), "grad_output must be contiguous, or one number expanded"),
    ],
)
def test_errors_of_backward_name_the_argument(gradient, grad_output, message):
    with pytest.raises(RuntimeError, match=f"^bce_with_logits_backward: {message}"):
        torch.ops.fastgan_native.bce_with_logits_backward(gradient, grad_output, 1)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_use_backend_runs_forward_and_backward(reduction):
    x, target = torch.randn(2000, requires_grad=True), torch.rand(2000)
    seed = torch.randn(2000) if reduction == "none" else torch.tensor(1.0)
    with fastgan.use_backend("native"), fastgan.dispatch.trace() as calls:
        value = binary_cross_entropy_with_logits(x, target, reduction=reduction)
        [kept] = torch.autograd.grad(value, x, seed, retain_graph=True)
        [last] = torch.autograd.grad(value, x, seed)
    names = ("bce_with_logits", "bce_with_logits_backward", "bce_with_logits_backward_")
    assert calls == [(name, "native") for name in names]
    assert torch.equal(kept, last) and kept.data_ptr() != last.data_ptr()


@pytest.mark.parametrize(
    ("gradient", "grad_output", "reason"),
    [
        (torch.zeros(3, 4).t(), torch.tensor(1.0), "contiguous gradient"),
        (torch.zeros(3), torch.tensor(1.0, dtype=torch.float64), "one dtype"),
        (torch.zeros(3, 4), torch.zeros(4, 3).t(), "contiguous incoming gradient"),
        (torch.zeros(3, device="meta"), torch.zeros((), device="meta"), "no native kernels for meta tensors"),
        (torch.zeros(3), torch.zeros((), device="meta"), "tensors on one device, got cpu and meta"),
    ],
)
def test_the_reason_why_not(gradient, grad_output, reason):
    assert reason in fastgan.dispatch.why_not("bce_with_logits_backward", gradient, grad_output, 1)["native"]


@pytest.mark.parametrize("op", ["bce_with_logits_backward", "bce_with_logits_backward_"])
def test_backward_on_cuda_needs_nothing_but_the_module(op):
    """Fake tensors: no GPU is needed. Whoever forces it gets it; auto, without a measurement, does not choose it."""
    with FakeTensorMode():
        gradient, one = torch.empty(3, 4, device="cuda"), torch.empty((), device="cuda")
        assert fastgan.dispatch.why_not(op, gradient, one, 1)["native"] == native_reason("cuda")
        assert "contiguous gradient" in fastgan.dispatch.why_not(op, gradient.t(), one, 1)["native"]
