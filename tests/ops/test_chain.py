"""The links of a chain and its ends against torch's batch norm, activation and convolution: values, gradients,
statistics, per backend."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan import dispatch
from fastgan.functional import batch_norm_stats, conv2d_stats, conv_transpose2d_stats, normalize_act
from fastgan.info import SAMPLES
from tests.checks import assert_exact, assert_rule, assert_tight, assert_torch_layout
from tests.ops.cases import (
    LAYOUTS,
    Conv,
    activations,
    batch_norm_tensors,
    batch_norm_then,
    conv_cases,
    conv_functions,
    directions,
    dtypes,
    integers,
    interpreter_overflows,
    wide,
)

LINKS = {True: conv_transpose2d_stats, False: conv2d_stats}
SLOPE, EPS = 0.2, 1e-5
# Channels enough that the largest error of a vector is not one channel's luck.
CHAINED = Conv("dcgan-k4s2p1", (4, 4), (4, 4), (2, 2), (1, 1), channels=(16, 12), batch=3)
GROUPED = Conv("groups", (3, 4), (3, 3), (2, 1), (1, 0), groups=2, channels=(16, 12), batch=3)
DILATED = Conv("dilation", (5, 4), (3, 2), (1, 2), (1, 0), dilation=(2, 1), channels=(13, 17), batch=2)
rule_cases = pytest.mark.parametrize("case", [CHAINED, GROUPED, DILATED], ids=lambda case: case.name)


@pytest.fixture(params=["reference", "triton"])
def backend(request, device):
    """As conftest's, for the backends that a link has."""
    name = request.param
    for op in ("conv2d_stats", "conv2d_stats_backward", "batch_norm_stats"):
        reason = dispatch.why_not(op, *SAMPLES[op](device))[name]
        if reason is not None:
            pytest.skip(reason)
    with fastgan.use_backend(name), dispatch.trace() as calls:
        yield name
    wrong = [call for call in calls if call[1] != name]
    assert not wrong, f"asked for {name}, but these ran: {wrong}"


def operands(case, transposed, bias=True, affine=True):
    """[input, mean, rstd, gamma, beta, weight, bias] in float64; the statistics are not quite the input's."""
    shape = case.small_shape if transposed else case.big_shape
    x, gamma, beta, _ = batch_norm_tensors(shape)
    mean = x.mean((0, 2, 3)) + 0.05
    rstd = 1.1 / x.std((0, 2, 3))
    channels = case.channels[1 if transposed else 0]
    weight = torch.randn(case.weight_shape, dtype=torch.float64)
    vectors = [gamma, beta] if affine else [None, None]
    return [x, mean, rstd, *vectors, weight, torch.randn(channels).double() if bias else None]


def at(dtype, tensors):
    """The operands in that dtype, the statistics in the accumulate type."""
    acc = torch.float64 if dtype is torch.float64 else torch.float32
    return [t if t is None else t.to(acc if i in (1, 2) else dtype) for i, t in enumerate(tensors)]


def our_link(case, transposed, activation, **kwargs):
    options = case.options(transposed) | kwargs

    def run(x, mean, rstd, gamma, beta, weight, bias):
        norm = None if mean is None else (mean, rstd, gamma, beta, activation, SLOPE)
        return LINKS[transposed](x, weight, bias, norm=norm, **options)

    return run


def torchs_link(case, transposed, activation):
    """torch's ops one after the other, in the dtype of the tensors; statistics in the accumulate type."""
    convolution, options = conv_functions(transposed)[1], case.options(transposed)
    act = {"none": lambda z: z, "relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, SLOPE)}[activation]

    def run(x, mean, rstd, gamma, beta, weight, bias):
        taken = x
        if mean is not None:
            shape = (1, -1, 1, 1)
            z = (x.to(mean.dtype) - mean.view(shape)) * rstd.view(shape)
            z = z if gamma is None else z * gamma.view(shape)
            z = z if beta is None else z + beta.view(shape)
            taken = act(z).to(x.dtype)
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


NAMES = ("input", "mean", "rstd", "gamma", "beta", "weight", "bias")


def compare(case, transposed, activation, tensors, dtype, device, layout="nchw"):
    """Outputs and all gradients of a link by the rule."""
    mine, theirs = our_link(case, transposed, activation), torchs_link(case, transposed, activation)
    given = [None if t is None else t.to(device) for t in at(dtype, tensors)]
    given[0], given[5] = LAYOUTS[layout](given[0]), LAYOUTS[layout](given[5])
    judges = wide(given)
    seeds = [seed.to(device) for seed in cotangents(theirs(*judges))]
    results = [with_gradients(f, t, seeds) for f, t in ((mine, given), (theirs, given), (theirs, judges))]
    names = [name for name, tensor in zip(NAMES, given, strict=True) if tensor is not None]
    labels = ["output", "mean", "rstd", *(f"gradient of {name}" for name in names)]
    for label, mine, torchs, judge in zip(labels, *([*r[0], *r[1]] for r in results), strict=True):
        assert_near(label, mine, torchs, judge)
    assert_torch_layout("output", results[0][0][0], results[1][0][0])


@dtypes
@directions
@rule_cases
@activations
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_link(case, transposed, activation, layout, dtype, device, backend):
    compare(case, transposed, activation, operands(case, transposed), dtype, device, layout)


@dtypes
@directions
@pytest.mark.parametrize("what", ["no bias", "no affine", "no norm"])
def test_what_a_link_may_be_without(what, transposed, dtype, device, backend):
    tensors = operands(GROUPED, transposed, what != "no bias", what != "no affine")
    if what == "no norm":
        tensors[1:5] = [None] * 4
    compare(GROUPED, transposed, "relu", tensors, dtype, device)


@conv_cases
@directions
def test_every_geometry(case, transposed, device, backend):
    """In float64, as tight as an order of summation allows."""
    mine, theirs = our_link(case, transposed, "leaky_relu"), torchs_link(case, transposed, "leaky_relu")
    given = [t.to(device) for t in operands(case, transposed)]
    outputs = theirs(*given)
    if outputs[0].numel() // outputs[0].shape[1] < 2:
        pytest.skip("one value per channel")
    seeds = [seed.to(device) for seed in cotangents(outputs)]
    for one, other in zip(with_gradients(mine, given, seeds), with_gradients(theirs, given, seeds), strict=True):
        for i, (result, expected) in enumerate(zip(one, other, strict=True)):
            assert_tight(f"{i}", result, expected)


@directions
@pytest.mark.parametrize(("kernel", "size"), [(4, (5, 7)), (5, (4, 3)), (2, (5, 5))], ids=str)
def test_same_padding(transposed, kernel, size, device, backend):
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
def test_integers_are_exact(transposed, dtype, device, backend):
    case = GROUPED
    shape = case.small_shape if transposed else case.big_shape
    x, weight = (integers(s, torch.float64, 2).to(device) for s in (shape, case.weight_shape))
    expected = conv_functions(transposed)[1](x, weight, **case.options(transposed))
    assert_exact("output", LINKS[transposed](x.to(dtype), weight.to(dtype), **case.options(transposed))[0], expected)


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


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("batch", [4, 5])
def test_a_chain_and_its_second_order(activation, batch, device, backend):
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
def test_a_chain_by_the_rule(dtype, device, backend):
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
def test_gradgradcheck(transposed, device, backend):
    case = Conv("small", (2, 3), (2, 2), (2, 1), channels=(2, 2))
    tensors = [t.to(device).requires_grad_() for t in operands(case, transposed)]
    function = our_link(case, transposed, "leaky_relu")
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


def test_gradgradcheck_of_the_ends(device, backend):
    x, weight, bias, _ = (t.to(device).requires_grad_() for t in batch_norm_tensors((3, 2, 2, 2)))
    statistics = [t.detach().requires_grad_() for t in batch_norm_stats(x)]
    for function, arguments in (
        (batch_norm_stats, (x,)),
        (lambda *args: normalize_act(*args, "leaky_relu", SLOPE), (x, *statistics, weight, bias)),
    ):
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)


@directions
def test_every_mask_of_gradients(transposed, device, backend):
    """All 128: each gradient that is wanted is the one of all together, and no other is made."""
    tensors = [t.to(device) for t in operands(GROUPED, transposed)]
    function = our_link(GROUPED, transposed, "relu")
    seeds = [seed.to(device) for seed in cotangents(function(*tensors))]
    everything = with_gradients(function, tensors, seeds)[1]
    for mask in range(1, 128):
        leaves = [t.detach().requires_grad_(bool(mask >> i & 1)) for i, t in enumerate(tensors)]
        torch.autograd.backward(function(*leaves), seeds)
        for i, (leaf, expected) in enumerate(zip(leaves, everything, strict=True)):
            assert (leaf.grad is not None) == bool(mask >> i & 1)
            if leaf.grad is not None:
                assert_tight(NAMES[i], leaf.grad, expected)


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("buffers", [torch.float32, torch.bfloat16], ids=str)
@directions
def test_running_statistics(transposed, buffers, dtype, momentum, device, backend):
    if dtype is torch.float32 and buffers is torch.bfloat16:
        pytest.skip("buffers are of the input's dtype, or float32")
    tensors = [t.to(device) for t in at(dtype, operands(GROUPED, transposed))]
    channels = GROUPED.channels[1 if transposed else 0]
    start = [torch.randn(channels, device=device).to(buffers), torch.rand(channels, device=device).to(buffers)]
    mine = [t.clone() for t in start]
    link = our_link(
        GROUPED, transposed, "relu", running_mean=mine[0], running_var=mine[1], momentum=momentum
    )  # fmt: skip
    output = link(*tensors)[0]
    theirs, judges = [t.clone() for t in start], [t.double() for t in start]
    F.batch_norm(output, *theirs, None, None, True, momentum)
    F.batch_norm(output.double(), *judges, None, None, True, momentum)
    for name, *results in zip(("running_mean", "running_var"), mine, theirs, judges, strict=True):
        assert_rule(name, *results)
    ends = [t.clone() for t in start]
    batch_norm_stats(output, *ends, momentum)
    for name, *results in zip(("running_mean", "running_var"), ends, theirs, judges, strict=True):
        assert_rule(f"{name} at the start of a chain", *results)


@pytest.mark.parametrize("place", ["input", "weight", "output", "mean"])
def test_an_edit_of_what_backward_needs_raises(place, device, backend):
    tensors = [t.to(device) for t in operands(CHAINED, True)]
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    shifted = [leaf * 1 for leaf in leaves]
    output, mean, _ = our_link(CHAINED, True, "relu")(*shifted)
    with torch.no_grad():
        {"input": shifted[0], "weight": shifted[5], "output": output, "mean": mean}[place].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@interpreter_overflows
@directions
@dtypes
def test_nan_stays_in_its_channel(transposed, dtype, device, backend):
    """Of the output, where it comes from the weight; and of its group, where it comes from the input."""
    tensors = [t.to(device) for t in at(dtype, operands(GROUPED, transposed))]
    link = our_link(GROUPED, transposed, "relu")
    clean = link(*tensors)
    poisoned = [t.clone() for t in tensors]
    poisoned[5][(0, 1) if transposed else 1] = float("nan")
    for result, expected in zip(link(*poisoned), clean, strict=True):
        assert [bool(row.isnan().any()) for row in result.transpose(0, min(1, result.dim() - 1))] == [
            channel == 1 for channel in range(expected.shape[min(1, expected.dim() - 1)])
        ]
    poisoned = [t.clone() for t in tensors]
    poisoned[0][0, 0, 0, 0] = float("nan")
    half = clean[1].numel() // 2
    mean = link(*poisoned)[1]
    assert mean[:half].isnan().all() and torch.equal(mean[half:], clean[1][half:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_large_mean(dtype, device, backend):
    """mean 1e4, std 0.1, at the start of a chain: statistics and what the convolution takes."""
    x = batch_norm_tensors((8, 3, 5, 5), mean=1e4, std=0.1)[0].to(device, dtype)
    weight = torch.randn(3, 4, 2, 2, dtype=torch.float64).to(device, dtype)

    def mine(x, weight):
        mean, rstd = batch_norm_stats(x)
        return conv_transpose2d_stats(x, weight, norm=(mean, rstd, None, None, "none", 0.0))[0]

    def theirs(x, weight):
        return F.conv_transpose2d(F.batch_norm(x, None, None, training=True), weight)

    assert_rule("output", mine(x, weight), theirs(x, weight), theirs(x.double(), weight.double()))
    shifted = torch.tensor([1e4] * 4, dtype=torch.float64).to(device, dtype)
    y, mean, rstd = conv_transpose2d_stats(torch.randn_like(x) / 20, weight, shifted)
    judge = F.batch_norm(y.double(), None, None, training=True)
    normal = normalize_act(y, mean, rstd, None, None, "none")
    assert_rule("after it", normal, F.batch_norm(y, None, None, training=True), judge)


@directions
def test_an_empty_batch(transposed, device, backend):
    case = Conv("empty", (3, 4), (3, 3), channels=(2, 3), batch=0)
    x, weight, bias = (t.to(device).requires_grad_() for t in case.tensors(transposed, torch.randn))
    running = [torch.ones(bias.numel(), device=device), torch.ones(bias.numel(), device=device)]
    output, mean, rstd = LINKS[transposed](x, weight, bias, running_mean=running[0], running_var=running[1])
    assert output.shape == conv_functions(transposed)[1](x, weight, bias).shape
    assert not mean.any() and torch.allclose(rstd, torch.full_like(rstd, EPS**-0.5))
    assert all(torch.equal(vector, torch.ones_like(vector)) for vector in running)
    (output.sum() + mean.sum() + rstd.sum()).backward()
    assert weight.grad is not None and not weight.grad.any()


def test_autocast(device):
    """The convolution in low precision, the statistics in float32; an input that is wide is normalised before."""
    with fastgan.use_backend("reference"):
        x = (batch_norm_tensors((4, 3, 5, 5), mean=1e4, std=0.1)[0]).float().to(device)
        weight, gamma = torch.randn(3, 4, 2, 2, device=device), torch.rand(3, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            mean, rstd = batch_norm_stats(x)
            output, *statistics = conv_transpose2d_stats(x, weight, norm=(mean, rstd, gamma, None, "relu", 0.0))
            normal = F.relu(F.batch_norm(x, None, None, gamma, None, True))
            theirs = F.conv_transpose2d(normal, weight)
            again = conv_transpose2d_stats(
                output, weight.new_ones(4, 2, 1, 1), norm=(*statistics, None, None, "relu", 0)
            )
    assert output.dtype is again[0].dtype is torch.bfloat16
    assert {t.dtype for t in (mean, rstd, *statistics, *again[1:])} == {torch.float32}
    assert_rule("output", output, theirs, F.conv_transpose2d(normal.double(), weight.double()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_compiled_chain_is_one_graph():
    given = chain_operands()
    compiled = torch.compile(our_chain, fullgraph=True, backend="aot_eager")
    seeds = [torch.randn(4, 6, 3, 2, dtype=torch.float64)]
    results = [with_gradients(lambda *t, f=f: (f(*t),), given, seeds) for f in (compiled, our_chain)]
    for mine, eager in zip(*results, strict=True):
        for i, (one, other) in enumerate(zip(mine, eager, strict=True)):
            assert_tight(f"{i}", one, other)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own, of what it loads for a jvp
@pytest.mark.parametrize("how", ["vmap", "grad", "jvp"])
def test_transforms_are_refused(how):
    x, weight = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 3, 3)
    call = {
        "vmap": lambda: torch.func.vmap(lambda x: conv2d_stats(x, weight)[0])(x[None]),
        "grad": lambda: torch.func.grad(lambda x: conv2d_stats(x, weight)[0].sum())(x),
        "jvp": lambda: torch.func.jvp(lambda x: conv2d_stats(x, weight)[0], (x,), (x,)),
    }[how]
    with pytest.raises(RuntimeError, match="setup_context"):
        call()
