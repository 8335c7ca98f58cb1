"""The ops between which ranks exchange sums, in one process: composed they are torch's batch norm."""

from __future__ import annotations

import pytest
import torch

from fastgan.ops.common.activation import NAMES
from tests.checks import assert_rule, assert_tight, assert_torch_layout
from tests.ops.cases import LAYOUTS, activations, batch_norm_tensors, batch_norm_then, dtypes

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::RuntimeWarning"
    ),  # the interpreter's NumPy, where a masked channel divides by 0
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
]
SLOPE, EPS = 0.2, 1e-5
OPS = torch.ops.fastgan


def compare(name, mine, theirs, judge):
    if judge.dtype is mine.dtype:
        assert_tight(name, mine, judge)
    else:
        assert_rule(name, mine, theirs, judge)


def one_rank(x, weight, bias, grad, activation):
    """[output, gradients of x, weight and bias] by the four steps."""
    rest = (NAMES[activation], SLOPE)
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    mean, var = OPS.batch_norm_act_stats(x)
    assert mean.dtype is var.dtype is torch.float64
    mean, rstd, count = mean.to(wide), torch.rsqrt(var + EPS).to(wide), x.numel() // x.shape[1]
    output = OPS.batch_norm_act_eval(x, weight, bias, mean, rstd, *rest)
    sums = OPS.batch_norm_act_backward_reduce(grad, x, weight, bias, mean, rstd, *rest)
    assert all(total.dtype is torch.float64 for total in sums)
    per_centred, per_element = (sums[0] / count * rstd).to(wide), (sums[1] / count).to(wide)
    grad_input = OPS.batch_norm_act_backward_apply(
        grad, x, weight, bias, mean, rstd, per_centred, per_element, *rest
    )  # fmt: skip
    return [output, grad_input, *(total.to(x.dtype) for total in sums)]


def torchs(x, weight, bias, grad, activation):
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
    output = batch_norm_then(activation, SLOPE)(leaves[0], None, None, *leaves[1:], True, 0.0, EPS)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


@dtypes
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "expanded"])
@activations
def test_the_steps_of_one_rank(activation, layout, dtype, backend, device):
    if backend == "triton" and dtype is torch.bfloat16 and device.type == "cpu":
        pytest.skip("the interpreter rounds to bfloat16 by truncation")
    x, weight, bias, grad = (tensor.to(device, dtype) for tensor in batch_norm_tensors((6, 5, 4, 5)))
    x, grad = LAYOUTS[layout](x), LAYOUTS[layout](grad)
    mine = one_rank(x, weight, bias, grad, activation)
    theirs = torchs(x, weight, bias, grad, activation)
    judge = torchs(*(tensor.double() for tensor in (x, weight, bias, grad)), activation)
    names = ["output", "gradient of the input", "gradient of the weight", "gradient of the bias"]
    for name, one, other, exact in zip(names, mine, theirs, judge, strict=True):
        compare(name, one, other, exact)
    for one in mine[:2]:
        assert_torch_layout("result", one, torch.empty_like(x))


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e5])
def test_the_statistics_are_exact_to_more_than_float32(mean, backend, device):
    """The mean is that of the float32 data in float64 but for a rest that the deviations' size bounds."""
    x = batch_norm_tensors((16, 5, 8, 8), mean, 0.1)[0].float().to(device)
    got_mean, got_var = OPS.batch_norm_act_stats(x)
    var, exact = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    deviations = x.double() - exact.view(1, -1, 1, 1)
    one = torch.zeros(5, dtype=torch.float32, device=device)
    # in float32 numbers of the deviations' size, of which there is no rounding error but the last
    assert_rule("mean", (got_mean - exact).float() + 0.1, one + 0.1, torch.zeros_like(exact) + 0.1)
    assert_rule("var", got_var.float(), deviations.float().square().mean((0, 2, 3)), var)


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 0, 2, 2), (2, 3, 0, 2)], ids=str)
def test_nothing_to_reduce(shape, backend, device):
    x, vector = torch.randn(shape, device=device), torch.ones(shape[1], device=device)
    mean, var = OPS.batch_norm_act_stats(x)
    assert torch.equal(mean, torch.zeros(shape[1], dtype=torch.float64, device=device)) and torch.equal(mean, var)
    sums = OPS.batch_norm_act_backward_reduce(x, x, None, None, vector, vector, 1, 0.0)
    assert all(torch.equal(total, torch.zeros_like(mean)) for total in sums)
    assert OPS.batch_norm_act_backward_apply(x, x, None, None, *[vector] * 4, 1, 0.0).shape == shape


def test_a_constant_channel(backend, device):
    x = torch.full((4, 3, 2, 2), 1e10, device=device)
    mean, var = OPS.batch_norm_act_stats(x)
    assert torch.equal(mean, x[0, :, 0, 0].double()) and torch.equal(var, torch.zeros_like(mean))
