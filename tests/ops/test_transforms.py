"""torch.func and forward mode: grad, vmap, jvp and what they make together, beside torch's own ops."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad, gradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

import fastgan
from fastgan import functional
from tests.checks import assert_tight
from tests.ops.cases import activations, batch_norm_then

# torch scripts its decompositions for forward mode, and warns that it does.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def conv_transpose2d(x, w, b, **activation):
    return functional.conv_transpose2d(x, w, b, 2, 1, 1, 2, **activation)


def torch_conv_transpose2d(x, w, b):
    return F.conv_transpose2d(x, w, b, 2, 1, 1, 2)


def conv2d(x, w, b, **activation):
    return functional.conv2d(x, w, b, (2, 1), 1, groups=2, **activation)


def torch_conv2d(x, w, b):
    return F.conv2d(x, w, b, (2, 1), 1, groups=2)


def batch_norm(activation):
    """Ours, by batch statistics; takes (x, weight, bias)."""
    return lambda x, w, b: functional.batch_norm_act(
        x, None, None, w, b, True, activation=activation, negative_slope=0.2
    )


def torch_batch_norm(activation):
    """The definition in elementary ops: torch 2.14 differentiates jvp(F.batch_norm) wrongly in training."""

    def definition(x, w, b):
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        z = (x - mean) / (var + 1e-5).sqrt() * w[:, None, None] + b[:, None, None]
        return {"none": lambda z: z, "relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, 0.2)}[activation](z)

    return definition


def batch_norm_eval(x, w, b):
    return functional.batch_norm_act(x, MEAN, VAR, w, b, False, activation="leaky_relu", negative_slope=0.2)


def torch_batch_norm_eval(x, w, b):
    return batch_norm_then("leaky_relu")(x, MEAN, VAR, w, b, False, 0.1, 1e-5)


MEAN, VAR = torch.tensor([0.1, -0.2, 0.3, 0.4]).double(), torch.tensor([0.5, 1.0, 1.5, 2.0]).double()
AFTER_CONVOLUTIONS = {"relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, 0.2), "tanh": torch.tanh}
LOSS = {"weight": torch.rand(3, 1).double(), "pos_weight": torch.rand(4).double() + 0.5}


def loss(reduction, extra):
    options = {"reduction": reduction, **(LOSS if extra else {})}
    return functools.partial(functional.binary_cross_entropy_with_logits, **options)


def torch_loss(reduction, extra):
    options = {"reduction": reduction, **(LOSS if extra else {})}
    return functools.partial(F.binary_cross_entropy_with_logits, **options)


#: name: (ours, torch's, arguments)
CASES = {
    "conv_transpose2d": (
        conv_transpose2d,
        torch_conv_transpose2d,
        lambda: (draw(2, 4, 3, 3), draw(4, 2, 3, 2), draw(4)),
    ),
    "conv2d": (conv2d, torch_conv2d, lambda: (draw(2, 4, 5, 4), draw(2, 2, 3, 2), draw(2))),
    **{
        f"conv_transpose2d_{name}": (
            functools.partial(conv_transpose2d, activation=name, negative_slope=0.2),
            lambda x, w, b, act=act: act(torch_conv_transpose2d(x, w, b)),
            lambda: (draw(2, 4, 3, 3), draw(4, 2, 3, 2), draw(4)),
        )
        for name, act in AFTER_CONVOLUTIONS.items()
    },
    "conv2d_tanh": (
        functools.partial(conv2d, activation="tanh"),
        lambda x, w, b: torch_conv2d(x, w, b).tanh(),
        lambda: (draw(2, 4, 5, 4), draw(2, 2, 3, 2), draw(2)),
    ),
    **{
        f"batch_norm_{name}": (batch_norm(name), torch_batch_norm(name), lambda: (draw(3, 4, 2, 3), draw(4), draw(4)))
        for name in ("none", "relu", "leaky_relu")
    },
    "batch_norm_eval": (batch_norm_eval, torch_batch_norm_eval, lambda: (draw(3, 4, 2, 3), draw(4), draw(4))),
    **{
        f"loss_{reduction}{'_weighted' * extra}": (
            loss(reduction, extra),
            torch_loss(reduction, extra),
            lambda: (draw(3, 4), torch.rand(3, 4).double()),
        )
        for reduction in ("none", "mean", "sum")
        for extra in (False, True)
    },
}
cases = pytest.mark.parametrize("name", CASES)


def compare(name, transform):
    """``transform(function, arguments, another draw of them)``, a tree of tensors, of ours and of torch's."""
    ours, theirs, arguments = CASES[name]
    args, other = arguments(), arguments()
    one, two = (torch.utils._pytree.tree_leaves(transform(function, args, other)) for function in (ours, theirs))
    assert len(one) == len(two) > 0
    for i, (mine, expected) in enumerate(zip(one, two, strict=True)):
        assert_tight(f"{name}, result {i}", mine, expected)


def square(function):
    return lambda *args: function(*args).square().sum()


def every(args):
    return tuple(range(len(args)))


@cases
def test_grad(name):
    compare(name, lambda f, args, _: grad(square(f), every(args))(*args))


@cases
def test_grad_of_grad(name):
    def inner(f, args):
        return lambda *a: sum(g.square().sum() for g in grad(square(f), every(args))(*a))

    compare(name, lambda f, args, _: grad(inner(f, args), every(args))(*args))


@cases
def test_jvp(name):
    compare(name, lambda f, args, tangents: jvp(f, args, tangents))


@cases
def test_jvp_by_one_argument(name):
    for i in range(len(CASES[name][2]())):
        compare(name, lambda f, args, t, i=i: jvp(lambda x: f(*args[:i], x, *args[i + 1 :]), (args[i],), (t[i],)))


@cases
def test_jvp_of_grad_and_grad_of_jvp(name):
    compare(name, lambda f, args, tangents: jvp(grad(square(f), every(args)), args, tangents))
    compare(name, lambda f, args, t: grad(lambda *a: jvp(f, a, t)[1].square().sum(), every(args))(*args))


@cases
def test_jacobians_and_hessian(name):
    compare(name, lambda f, args, _: jacrev(f, 0)(*args))
    compare(name, lambda f, args, _: jacfwd(f, 0)(*args))
    compare(name, lambda f, args, _: hessian(square(f), 1)(*args))


def stack(*trees):
    return tuple(torch.stack(leaves) for leaves in zip(*trees, strict=True))


@cases
def test_vmap(name):
    """Over all arguments, over each alone, along another dimension, and twice."""
    compare(name, lambda f, args, other: vmap(f)(*stack(args, other)))
    for i in range(len(CASES[name][2]())):
        dims = tuple(0 if k == i else None for k in range(len(CASES[name][2]())))
        compare(name, lambda f, a, b, i=i, dims=dims: vmap(f, dims)(*a[:i], torch.stack((a[i], b[i])), *a[i + 1 :]))
    compare(name, lambda f, a, b: vmap(f, -1)(*(x.movedim(0, -1) for x in stack(a, b))))
    compare(name, lambda f, a, b: vmap(vmap(f))(*stack(stack(a, b), stack(b, a))))


@cases
def test_gradients_per_sample(name):
    """vmap of grad, as differential privacy and Fisher matrices need it."""
    compare(name, lambda f, a, b: vmap(grad(square(f), every(a)))(*stack(a, b)))
    shared = (0, *(None,) * (len(CASES[name][2]()) - 1))
    compare(name, lambda f, a, b: vmap(grad(square(f), every(a)), shared)(torch.stack((a[0], b[0])), *a[1:]))


@cases
def test_batched_backward(name):
    def rows(f, args, _):
        leaves = [arg.clone().requires_grad_() for arg in args]
        output = f(*leaves)
        seeds = torch.arange(3 * output.numel()).double().reshape(3, *output.shape).sin()
        return torch.autograd.grad(output, leaves, seeds, is_grads_batched=True)

    compare(name, rows)


@cases
def test_dual_tensors(name):
    """Forward mode without torch.func."""

    def tangent(f, args, tangents):
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(a, t) for a, t in zip(args, tangents, strict=True)]
            return forward_ad.unpack_dual(f(*duals)).tangent

    compare(name, tangent)


@cases
def test_gradcheck_of_forward_mode(name):
    ours, _, arguments = CASES[name]
    args = [arg.requires_grad_() for arg in arguments()]
    assert gradcheck(ours, args, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)


@cases
def test_forward_mode_in_forward_mode_is_refused(name):
    ours, _, arguments = CASES[name]
    args, tangents = arguments(), arguments()
    with pytest.raises(RuntimeError, match="forward-mode differentiation inside forward-mode"):
        jvp(lambda *a: jvp(ours, a, tangents)[1], args, tangents)


@activations
def test_statistics_under_vmap(activation):
    """Models stacked for an ensemble have statistics each; shared ones cannot be updated."""
    layer = fastgan.nn.BatchNormAct2d(3, activation=activation, negative_slope=0.2).double()
    states = [{name: tensor.clone() for name, tensor in layer.state_dict().items()} for _ in range(2)]
    states[1]["running_mean"] += 1
    x = draw(2, 4, 3, 5, 5)
    expected = []
    for state, images in zip(states, x, strict=True):
        own = {name: tensor.clone() for name, tensor in state.items()}
        expected.append((functional_call(layer, own, (images,)), own))
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    output = vmap(lambda state, images: functional_call(layer, state, (images,)))(stacked, x)
    for i, (result, own) in enumerate(expected):
        assert_tight("output", output[i], result)
        for name in ("running_mean", "running_var"):
            assert_tight(name, stacked[name][i], own[name])
    # statistics that are vmapped along their last dimension: [C, B]
    mean, var = torch.zeros(3, 2).double(), torch.ones(3, 2).double()

    def train(images, mean, var):
        return functional.batch_norm_act(images, mean, var, training=True)

    vmap(train, (0, 1, 1))(x, mean, var)
    own_mean, own_var = torch.zeros(3).double(), torch.ones(3).double()
    train(x[1], own_mean, own_var)
    assert_tight("running_mean", mean[:, 1], own_mean)
    assert_tight("running_var", var[:, 1], own_var)
    with pytest.raises(RuntimeError, match=r"running_mean and running_var, .* not vmapped"):
        vmap(lambda images: functional.batch_norm_act(images, MEAN[:3].clone(), VAR[:3].clone(), training=True))(x)
