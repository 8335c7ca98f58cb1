"""A link of a chain and what it stands for, in torch's ops: operands, cases, comparison."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastgan.functional import batch_norm_stats, conv2d_stats, conv_transpose2d_stats, normalize_act
from tests.checks import assert_rule, assert_tight, assert_torch_layout
from tests.ops.cases import LAYOUTS, Conv, batch_norm_tensors, batch_norm_then, conv_functions, wide

LINKS = {True: conv_transpose2d_stats, False: conv2d_stats}
SLOPE, EPS = 0.2, 1e-5
# Channels enough that the largest error of a vector is not one channel's luck.
CHAINED = Conv("dcgan-k4s2p1", (4, 4), (4, 4), (2, 2), (1, 1), channels=(16, 12), batch=3)
GROUPED = Conv("groups", (3, 4), (3, 3), (2, 1), (1, 0), groups=2, channels=(16, 12), batch=3)
DILATED = Conv("dilation", (5, 4), (3, 2), (1, 2), (1, 0), dilation=(2, 1), channels=(13, 17), batch=2)
rule_cases = pytest.mark.parametrize("case", [CHAINED, GROUPED, DILATED], ids=lambda case: case.name)


def operands(case, transposed, bias=True, affine=True, beside=0):
    """[input, mean, rstd, gamma, beta, beside, weight, bias] in float64; the statistics are not quite the input's, and
    ``beside`` has so many channels."""
    shape = case.small_shape if transposed else case.big_shape
    x, gamma, beta, _ = batch_norm_tensors(shape)
    mean = x.mean((0, 2, 3)) + 0.05
    rstd = 1.1 / x.std((0, 2, 3))
    channels = case.channels[1 if transposed else 0]
    sizes = list(case.weight_shape)
    sizes[0 if transposed else 1] += beside
    weight = torch.randn(sizes, dtype=torch.float64)
    vectors = [gamma, beta] if affine else [None, None]
    vectors.append(torch.randn(shape[0], beside, *shape[2:], dtype=torch.float64) if beside else None)
    return [x, mean, rstd, *vectors, weight, torch.randn(channels).double() if bias else None]


def at(dtype, tensors):
    """The operands in that dtype, the statistics in the accumulate type."""
    acc = torch.float64 if dtype is torch.float64 else torch.float32
    return [t if t is None else t.to(acc if i in (1, 2) else dtype) for i, t in enumerate(tensors)]


def our_link(case, transposed, activation, **kwargs):
    options = case.options(transposed) | kwargs

    def run(x, mean, rstd, gamma, beta, beside, weight, bias):
        norm = None if mean is None else (mean, rstd, gamma, beta, activation, SLOPE)
        return LINKS[transposed](x, weight, bias, norm=norm, beside=beside, **options)

    return run


def torchs_link(case, transposed, activation):
    """torch's ops one after the other, in the dtype of the tensors; statistics in the accumulate type."""
    convolution, options = conv_functions(transposed)[1], case.options(transposed)
    act = {"none": lambda z: z, "relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, SLOPE)}[activation]

    def run(x, mean, rstd, gamma, beta, beside, weight, bias):
        taken = x
        if mean is not None:
            shape = (1, -1, 1, 1)
            z = (x.to(mean.dtype) - mean.view(shape)) * rstd.view(shape)
            z = z if gamma is None else z * gamma.view(shape)
            z = z if beta is None else z + beta.view(shape)
            taken = act(z).to(x.dtype)
        taken = taken if beside is None else torch.cat((taken, beside), 1)
        output = convolution(taken, weight, bias, **options)
        acc = torch.float64 if x.dtype is torch.float64 else torch.float32
        var, mean = torch.var_mean(output.to(acc), (0, 2, 3), correction=0)
        return output, mean, torch.rsqrt(var + EPS)

    return run


def with_gradients(function, tensors, cotangents):
    """[outputs, gradients of all given tensors]."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    outputs = function(*leaves)
    seeds = [c.to(o.dtype) for c, o in zip(cotangents, outputs, strict=True)]
    given = [leaf for leaf in leaves if leaf is not None]
    found = torch.autograd.grad(outputs, given, seeds, materialize_grads=True)
    return [o.detach() for o in outputs], list(found)


def cotangents(outputs):
    return [torch.randn(o.shape, dtype=torch.float64) + (i == 0) for i, o in enumerate(outputs)]


def assert_near(name, mine, torchs, judge):
    """The rule; in float64, where torch is the judge, another order of summation."""
    if mine.dtype is torch.float64:
        assert_tight(name, mine, judge)
    else:
        assert_rule(name, mine, torchs, judge)


NAMES = ("input", "mean", "rstd", "gamma", "beta", "beside", "weight", "bias")


def compare(case, transposed, activation, tensors, dtype, device, layout="nchw"):
    """Outputs and all gradients of a link by the rule."""
    mine, theirs = our_link(case, transposed, activation), torchs_link(case, transposed, activation)
    given = [None if t is None else t.to(device) for t in at(dtype, tensors)]
    given = [LAYOUTS[layout](t) if t is not None and t.dim() == 4 else t for t in given]
    judges = wide(given)
    seeds = [seed.to(device) for seed in cotangents(theirs(*judges))]
    results = [with_gradients(f, t, seeds) for f, t in ((mine, given), (theirs, given), (theirs, judges))]
    names = [name for name, tensor in zip(NAMES, given, strict=True) if tensor is not None]
    labels = ["output", "mean", "rstd", *(f"gradient of {name}" for name in names)]
    if dtype in (torch.float16, torch.bfloat16):
        # statistics are of what is stored: elsewhere they are as far off as the rounding of a few hundred values is
        # uneven, in torch's convolution as in ours
        output = results[0][0][0]
        for result, tensor in zip(results[1:], (output.float(), output.double()), strict=True):
            var, mean = torch.var_mean(tensor, (0, 2, 3), correction=0)
            result[0][1:] = [mean, torch.rsqrt(var + EPS)]
    for label, mine, torchs, judge in zip(labels, *([*r[0], *r[1]] for r in results), strict=True):
        assert_near(label, mine, torchs, judge)
    assert_torch_layout("output", results[0][0][0], results[1][0][0])


def our_chain(x, g0, b0, w1, g1, b1, w2, g2, b2, activation="leaky_relu", last="none"):
    mean, rstd = batch_norm_stats(x)
    y, mean, rstd = conv_transpose2d_stats(x, w1, None, 2, 1, norm=(mean, rstd, g0, b0, activation, SLOPE))
    y, mean, rstd = conv2d_stats(y, w2, None, 2, 1, norm=(mean, rstd, g1, b1, activation, SLOPE))
    return normalize_act(y, mean, rstd, g2, b2, last, SLOPE)


def torchs_chain(x, g0, b0, w1, g1, b1, w2, g2, b2, activation="leaky_relu", last="none"):
    norm = batch_norm_then(activation, SLOPE)
    y = F.conv_transpose2d(norm(x, None, None, g0, b0, True), w1, None, 2, 1)
    y = F.conv2d(norm(y, None, None, g1, b1, True), w2, None, 2, 1)
    return batch_norm_then(last, SLOPE)(y, None, None, g2, b2, True)


def chain_operands(batch=4):
    x, g0, b0, _ = batch_norm_tensors((batch, 3, 3, 2))
    shapes = ((3, 5, 4, 4), (5,), (5,), (6, 5, 4, 4), (6,), (6,))
    return [x, g0, b0, *(torch.randn(shape, dtype=torch.float64) for shape in shapes)]
