"""The links of a chain where it is easy to be wrong: running statistics, edits in place, NaN, large means, empty
batches, autocast, compilers and transforms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan.functional import batch_norm_stats, conv2d_stats, conv_transpose2d_stats, normalize_act
from tests.checks import assert_rule, assert_tight
from tests.ops.cases import (
    Conv,
    batch_norm_tensors,
    conv_functions,
    directions,
    dtypes,
    interpreter_overflows,
)
from tests.ops.links import (
    CHAINED,
    EPS,
    GROUPED,
    LINKS,
    at,
    chain_operands,
    operands,
    our_chain,
    our_link,
    with_gradients,
)


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(
    ("dtype", "buffers"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)],
    ids=str,
)
@directions
def test_running_statistics(transposed, buffers, dtype, momentum, device, link_backend):
    tensors = [t if t is None else t.to(device) for t in at(dtype, operands(GROUPED, transposed))]
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


@pytest.mark.parametrize("place", ["input", "beside", "weight", "output", "mean"])
def test_an_edit_of_what_backward_needs_raises(place, device, link_backend):
    tensors = [t.to(device) for t in operands(CHAINED, True, beside=1)]
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    shifted = [leaf * 1 for leaf in leaves]
    output, mean, _ = our_link(CHAINED, True, "relu")(*shifted)
    with torch.no_grad():
        changed = {"input": shifted[0], "beside": shifted[5], "weight": shifted[6], "output": output, "mean": mean}
        changed[place].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@interpreter_overflows
@directions
@dtypes
def test_nan_stays_in_its_channel(transposed, dtype, device, link_backend):
    """Of the output, where it comes from the weight; and of its group, where it comes from the input."""
    tensors = [t if t is None else t.to(device) for t in at(dtype, operands(GROUPED, transposed))]
    link = our_link(GROUPED, transposed, "relu")
    clean = link(*tensors)
    poisoned = [t if t is None else t.clone() for t in tensors]
    poisoned[6][(0, 1) if transposed else 1] = float("nan")
    for result, expected in zip(link(*poisoned), clean, strict=True):
        assert [bool(row.isnan().any()) for row in result.transpose(0, min(1, result.dim() - 1))] == [
            channel == 1 for channel in range(expected.shape[min(1, expected.dim() - 1)])
        ]
    poisoned = [t if t is None else t.clone() for t in tensors]
    poisoned[0][0, 0, 0, 0] = float("nan")
    half = clean[1].numel() // 2
    mean = link(*poisoned)[1]
    assert mean[:half].isnan().all() and torch.equal(mean[half:], clean[1][half:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_large_mean(dtype, device, link_backend):
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
def test_an_empty_batch(transposed, device, link_backend):
    case = Conv("empty", (3, 4), (3, 3), channels=(2, 3), batch=0)
    x, weight, bias = (t.to(device).requires_grad_() for t in case.tensors(transposed, torch.randn))
    running = [torch.ones(bias.numel(), device=device), torch.ones(bias.numel(), device=device)]
    output, mean, rstd = LINKS[transposed](x, weight, bias, running_mean=running[0], running_var=running[1])
    assert output.shape == conv_functions(transposed)[1](x, weight, bias).shape
    assert not mean.any() and torch.allclose(rstd, torch.full_like(rstd, EPS**-0.5))
    assert all(torch.equal(vector, torch.ones_like(vector)) for vector in running)
    (output.sum() + mean.sum() + rstd.sum()).backward()
    assert weight.grad is not None and not weight.grad.any()


@directions
def test_an_empty_batch_behind_a_norm(transposed, device, link_backend):
    """From the chain's start: all gradients are there, and zero."""
    case = Conv("empty", (3, 4), (3, 3), channels=(2, 3), batch=0)
    x, weight, _ = (t.to(device).requires_grad_() for t in case.tensors(transposed, torch.randn))
    gamma, beta = (torch.ones(x.shape[1], device=device, requires_grad=True) for _ in range(2))
    norm = (*batch_norm_stats(x), gamma, beta, "relu", 0.0)
    output, mean, rstd = LINKS[transposed](x, weight, None, norm=norm)
    (output.sum() + mean.sum() + rstd.sum()).backward()
    for tensor in (x, weight, gamma, beta):
        assert tensor.grad is not None and tensor.grad.shape == tensor.shape and not tensor.grad.any()


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
