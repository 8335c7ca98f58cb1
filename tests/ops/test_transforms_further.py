"""Corners of the transforms: forward over reverse without create_graph, autograd over vmap, what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from fastgan import functional
from tests.checks import assert_rule, assert_tight
from tests.ops.test_transforms import CASES, cases, stack

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")


@cases
def test_forward_over_reverse_without_create_graph(name):
    ours, theirs, arguments = CASES[name]
    args, tangents = arguments(), arguments()

    def product(function):
        """Hessian-vector product of the sum of squares, by the first argument."""
        with forward_ad.dual_level():
            first = args[0].clone().requires_grad_()
            dual = forward_ad.make_dual(first, tangents[0])
            (grad,) = torch.autograd.grad(function(dual, *args[1:]).square().sum(), first)
            return forward_ad.unpack_dual(grad).tangent

    assert_tight(name, product(ours), product(theirs))


@cases
def test_autograd_over_vmap(name):
    ours, theirs, arguments = CASES[name]
    batch = stack(arguments(), arguments())

    def gradients(function):
        leaves = [tensor.clone().requires_grad_() for tensor in batch]
        return torch.autograd.grad(torch.vmap(function)(*leaves).square().sum(), leaves)

    for i, (mine, expected) in enumerate(zip(gradients(ours), gradients(theirs), strict=True)):
        assert_tight(f"argument {i}", mine, expected)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_vmap_of_the_loss_keeps_the_precision_of_the_logits(reduction):
    """As right as sample by sample where labels are narrower: terms x and -x (label 2) nearly cancel in the sum."""
    x = 1e4 + torch.rand(3, 1, 20, dtype=torch.float64) * 1e-3 * torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    x, t = x.flatten(1), torch.tensor([0.0, 2.0]).repeat_interleave(20).expand(3, 40)

    def loss(x, t):
        return functional.binary_cross_entropy_with_logits(x, t, reduction=reduction)

    def one_by_one(x, t):
        return torch.stack([loss(one, other) for one, other in zip(x, t, strict=True)])

    assert_rule("loss", torch.vmap(loss)(x, t), one_by_one(x, t), one_by_one(x.double(), t.double()))


@pytest.mark.parametrize("argument", ["weight", "pos_weight"])
def test_no_tangent_for_the_weights_of_the_loss(argument):
    x, w = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=f"not differentiable with respect to argument '{argument}'"):
        torch.func.jvp(
            lambda w: functional.binary_cross_entropy_with_logits(x, 1.0, **{argument: w}), (w,), (torch.ones_like(w),)
        )


@pytest.mark.parametrize("argument", [1, 2], ids=["running_mean", "running_var"])
def test_no_gradient_for_the_statistics(argument):
    args = [torch.randn(3, 2), torch.zeros(2), torch.ones(2)]
    args[argument].requires_grad_()
    for function in (functional.batch_norm_act, F.batch_norm):
        with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'running"):
            function(*args)
