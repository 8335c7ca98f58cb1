"""The links of a chain and its ends against torch's batch norm, activation and convolution: values and gradients of
every order, per backend."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan.functional import batch_norm_stats, normalize_act
from tests.checks import assert_exact, assert_tight
from tests.ops.cases import (
    Conv,
    activations,
    batch_norm_tensors,
    conv_cases,
    conv_functions,
    directions,
    dtypes,
    integers,
    wide,
)
from tests.ops.links import (
    CHAINED,
    EPS,
    GROUPED,
    LINKS,
    NAMES,
    SLOPE,
    assert_near,
    chain_operands,
    compare,
    cotangents,
    operands,
    our_chain,
    our_link,
    rule_cases,
    torchs_chain,
    torchs_link,
    with_gradients,
)


@dtypes
@directions
@rule_cases
@activations
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_link(case, transposed, activation, layout, dtype, device, link_backend):
    compare(case, transposed, activation, operands(case, transposed), dtype, device, layout)


@dtypes
@directions
@pytest.mark.parametrize("what", ["no bias", "no affine", "no norm"])
def test_what_a_link_may_be_without(what, transposed, dtype, device, link_backend):
    tensors = operands(GROUPED, transposed, what != "no bias", what != "no affine")
    if what == "no norm":
        tensors[1:5] = [None] * 4
    compare(GROUPED, transposed, "relu", tensors, dtype, device)


@dtypes
@directions
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "no-norm"])
def test_channels_beside_those_of_the_input(norm, channels, transposed, dtype, device, link_backend):
    tensors = operands(CHAINED, transposed, beside=channels)
    if not norm:
        tensors[1:5] = [None] * 4
    compare(CHAINED, transposed, "leaky_relu", tensors, dtype, device, "nhwc" if norm else "nchw")


@conv_cases
@directions
@pytest.mark.parametrize("beside", [0, 2])
def test_every_geometry(beside, case, transposed, device, link_backend):
    """In float64, as tight as an order of summation allows."""
    if beside and case.groups > 1:
        pytest.skip("no channels beside groups")
    mine, theirs = our_link(case, transposed, "leaky_relu"), torchs_link(case, transposed, "leaky_relu")
    given = [t if t is None else t.to(device) for t in operands(case, transposed, beside=beside)]
    outputs = theirs(*given)
    if outputs[0].numel() // outputs[0].shape[1] < 2:
        pytest.skip("one value per channel")
    seeds = [seed.to(device) for seed in cotangents(outputs)]
    for one, other in zip(with_gradients(mine, given, seeds), with_gradients(theirs, given, seeds), strict=True):
        for i, (result, expected) in enumerate(zip(one, other, strict=True)):
            assert_tight(f"{i}", result, expected)


@directions
@pytest.mark.parametrize(("kernel", "size"), [(4, (5, 7)), (5, (4, 3)), (2, (5, 5))], ids=str)
def test_same_padding(transposed, kernel, size, device, link_backend):
    """TensorFlow's, uneven: as the convolution of ours by itself, which has its own tests."""
    case = Conv("same", kernel=(kernel, kernel), channels=(3, 4))
    x = torch.randn(2, 3 if transposed else 4, *size, dtype=torch.float64, device=device)
    mean, rstd = (t.detach() for t in batch_norm_stats(x))
    weight = torch.randn(case.weight_shape, dtype=torch.float64, device=device)
    given, options = [x, mean, rstd, weight], {"stride": 2, "padding": "same"}

    def mine(x, mean, rstd, weight):
        return LINKS[transposed](x, weight, norm=(mean, rstd, None, None, "relu", 0.0), **options)

    def plain(x, mean, rstd, weight):
        taken = F.relu((x - mean.view(1, -1, 1, 1)) * rstd.view(1, -1, 1, 1))
        output = conv_functions(transposed)[0](taken, weight, **options)
        var, mean = torch.var_mean(output, (0, 2, 3), correction=0)
        return output, mean, torch.rsqrt(var + EPS)

    seeds = [seed.to(device) for seed in cotangents(mine(*given))]
    for one, other in zip(with_gradients(mine, given, seeds), with_gradients(plain, given, seeds), strict=True):
        for result, expected in zip(one, other, strict=True):
            assert_tight("same", result, expected)


@directions
@dtypes
def test_integers_are_exact(transposed, dtype, device, link_backend):
    case = GROUPED
    shape = case.small_shape if transposed else case.big_shape
    x, weight = (integers(s, torch.float64, 2).to(device) for s in (shape, case.weight_shape))
    expected = conv_functions(transposed)[1](x, weight, **case.options(transposed))
    assert_exact("output", LINKS[transposed](x.to(dtype), weight.to(dtype), **case.options(transposed))[0], expected)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("batch", [4, 5])
def test_a_chain_and_its_second_order(activation, batch, device, link_backend):
    """Gradients and the gradients of a penalty on them, in float64 against torch's own layers."""
    given = [t.to(device) for t in chain_operands(batch)]
    results = []
    weights = torch.randn(batch, 6, 3, 2, dtype=torch.float64, device=device)
    directions = [torch.randn_like(t) for t in given]
    for chain in (our_chain, torchs_chain):
        leaves = [t.detach().requires_grad_() for t in given]
        output = chain(*leaves, activation, activation)
        first = torch.autograd.grad((output * weights).sum(), leaves, retain_graph=True)
        again = torch.autograd.grad((output * weights).sum(), leaves, create_graph=True)
        penalty = sum((d * g).sum() for d, g in zip(directions, again, strict=True)) + again[0].square().sum()
        second = torch.autograd.grad(penalty, leaves, materialize_grads=True)
        results.append([output.detach(), *first, *(g.detach() for g in again), *second])
    for i, (mine, theirs) in enumerate(zip(*results, strict=True)):
        assert_tight(f"result {i}", mine, theirs)


@dtypes
def test_a_chain_by_the_rule(dtype, device, link_backend):
    given = [t.to(device, dtype) for t in chain_operands(8)]
    judges = wide(given)
    grad = (torch.randn(8, 6, 3, 2, dtype=torch.float64)).to(device)
    results = []
    for chain, tensors in ((our_chain, given), (torchs_chain, given), (torchs_chain, judges)):
        leaves = [t.detach().requires_grad_() for t in tensors]
        output = chain(*leaves, "none")
        results.append([output.detach(), *torch.autograd.grad(output, leaves, grad.to(output.dtype))])
    for i, (mine, torchs, judge) in enumerate(zip(*results, strict=True)):
        assert_near(f"result {i}", mine, torchs, judge)


@directions
@pytest.mark.parametrize("beside", [0, 1])
def test_gradgradcheck(beside, transposed, device):
    """Higher orders are made of torch's ops and the convolutions' own Functions, whatever the backend."""
    case = Conv("small", (2, 3), (2, 2), (2, 1), channels=(2, 2))
    tensors = operands(case, transposed, beside=beside)
    tensors = [t if t is None else t.to(device).requires_grad_() for t in tensors]
    function = our_link(case, transposed, "leaky_relu")
    with fastgan.use_backend("reference"):
        assert torch.autograd.gradcheck(function, tensors)
        assert torch.autograd.gradgradcheck(function, tensors)


def test_gradgradcheck_of_the_ends(device, link_backend):
    x, weight, bias, _ = (t.to(device).requires_grad_() for t in batch_norm_tensors((3, 2, 2, 2)))
    statistics = [t.detach().requires_grad_() for t in batch_norm_stats(x)]
    for function, arguments in (
        (batch_norm_stats, (x,)),
        (lambda *args: normalize_act(*args, "leaky_relu", SLOPE), (x, *statistics, weight, bias)),
    ):
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)


@directions
@pytest.mark.parametrize("beside", [0, 2])
def test_every_mask_of_gradients(beside, transposed, device, link_backend):
    """All 128 or 256 masks: each gradient that is wanted is the one of all together, and no other is made."""
    case = replace(CHAINED if beside else GROUPED, kernel=(2, 2), padding=(0, 0), batch=2)  # many runs of it
    tensors = [t if t is None else t.to(device) for t in operands(case, transposed, beside=beside)]
    names = [name for name, tensor in zip(NAMES, tensors, strict=True) if tensor is not None]
    tensors, link = [t for t in tensors if t is not None], our_link(case, transposed, "relu")

    def function(*given):
        return link(*given) if beside else link(*given[:5], None, *given[5:])

    seeds = [seed.to(device) for seed in cotangents(function(*tensors))]
    everything = with_gradients(function, tensors, seeds)[1]
    # with kernels each gradient alone, and all but each: what is made of them is made behind the op
    alone, every = [1 << i for i in range(len(names))], (1 << len(names)) - 1
    masks = range(1, every + 1) if link_backend == "reference" else (*alone, *(every - mask for mask in alone))
    for mask in masks:
        leaves = [t.detach().requires_grad_(bool(mask >> i & 1)) for i, t in enumerate(tensors)]
        torch.autograd.backward(function(*leaves), seeds)
        for i, (leaf, expected) in enumerate(zip(leaves, everything, strict=True)):
            assert (leaf.grad is not None) == bool(mask >> i & 1)
            if leaf.grad is not None:
                assert_tight(names[i], leaf.grad, expected)
