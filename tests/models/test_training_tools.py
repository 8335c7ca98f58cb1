"""What people wrap around a training step: autocast, GradScaler, activation checkpointing, hooks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fastgan
from fastgan import functional
from tests.checks import assert_rule, assert_tight
from tests.models.test_twins import PAIRS, make_inputs

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
halves = pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)


def pair(name):
    """The network, its twin of torch's layers with the same weights, both float32, and one batch."""
    mine, twin = (make() for make in PAIRS[name])
    twin.load_state_dict(mine.state_dict())
    first, *labels = (tensor[0] for tensor in make_inputs(mine))
    return mine, twin, (first.float(), *labels)


def dtypes_of(network, inputs, low):
    """The dtype of the output of every layer with weights, by name, under autocast; and the network's."""
    seen = {}
    for name, module in network.named_modules():
        if list(module.parameters(recurse=False)):
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out.dtype}))
    with torch.autocast("cpu", low):
        output = network(*inputs)
        loss = functional.binary_cross_entropy_with_logits(output.float(), 1.0)
    loss.backward()
    return {**seen, "output": output.dtype}, output.detach()


@halves
@pytest.mark.parametrize("name", PAIRS)
def test_autocast_is_torchs(name, low):
    """Every layer in torch's dtype, parameters and statistics in float32, statistics moved as torch moves them."""
    mine, twin, inputs = pair(name)
    start = {label: buffer.clone() for label, buffer in mine.named_buffers()}
    judge = copy.deepcopy(twin).double()
    ours, output = dtypes_of(mine, inputs, low)
    theirs, expected = dtypes_of(twin, inputs, low)
    assert ours == theirs
    assert_rule("output", output, expected, judge(inputs[0].double(), *inputs[1:]).detach())
    assert {parameter.grad.dtype for parameter in mine.parameters()} == {torch.float32}
    for label, buffer in mine.named_buffers():
        other, exact = twin.get_buffer(label), judge.get_buffer(label)
        assert buffer.dtype == other.dtype and not torch.equal(buffer, start[label]), label
        if buffer.is_floating_point():
            assert_rule(label, buffer.to(low), other.to(low), exact)


def test_grad_scaler():
    """float16 with a scaled loss: finite steps move the weights, a step with an overflow moves nothing."""
    network, _, inputs = pair("dcgan-d")
    optimizer, scaler = torch.optim.Adam(network.parameters(), 2e-4), torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def step(factor):
        before = [parameter.detach().clone() for parameter in network.parameters()]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = functional.binary_cross_entropy_with_logits(network(inputs[0]), 1.0)
        scaler.scale(loss * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        return [not torch.equal(one, two) for one, two in zip(before, network.parameters(), strict=True)]

    assert all(step(1.0)) and scaler.get_scale() == 2.0**10
    assert not any(step(float("inf"))) and scaler.get_scale() == 2.0**9
    assert all(step(1.0))
    assert all(parameter.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
def test_checkpointing(reentrant):
    """The gradients are those without it; the statistics count the forward twice, as torch's."""
    layers = [
        fastgan.nn.ConvTranspose2d(4, 6, 4, 2, 1),
        fastgan.nn.BatchNormAct2d(6, activation="leaky_relu"),
        fastgan.nn.Conv2d(6, 3, 3),
        fastgan.nn.BatchNormAct2d(3),
    ]
    network = nn.Sequential(*layers).double()
    plain = copy.deepcopy(network)
    x = torch.randn(3, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    outputs = [checkpoint_sequential(network, 2, x, use_reentrant=reentrant), plain(x)]
    grads = []
    for module, output in zip((network, plain), outputs, strict=True):
        (output.square().sum()).backward()
        grads.append([parameter.grad for parameter in module.parameters()] + [x.grad])
        x.grad = None
    for one, two in zip(*grads, strict=True):
        assert_tight("gradient", one, two)
    # the last segment of checkpoint_sequential runs as it is, the first twice
    assert int(network[1].num_batches_tracked) == 2 and int(network[3].num_batches_tracked) == 1


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.parametrize("name", ["dcgan-g", "cgan-d"])
def test_checkpointed_networks(name, reentrant):
    network, _, (first, *labels) = pair(name)
    network.double()
    plain, x = copy.deepcopy(network), first.double().requires_grad_()
    checkpoint(network, x, *labels, use_reentrant=reentrant).square().sum().backward()
    one, x.grad = x.grad, None
    plain(x, *labels).square().sum().backward()
    assert_tight("gradient of the input", one, x.grad)
    for (label, parameter), other in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert_tight(label, parameter.grad, other.grad)


def test_hooks_of_modules_and_tensors():
    """Forward hooks may replace the output, backward hooks the gradient; tensor hooks see it."""
    layer = fastgan.nn.BatchNormAct2d(3).double()
    seen = []
    layer.register_forward_hook(lambda _m, _i, output: output * 2)
    layer.register_full_backward_hook(lambda _m, grad_input, _g: (grad_input[0] * 3,))
    layer.weight.register_hook(lambda grad: seen.append(grad.clone()))
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x).square().sum(), x, retain_graph=True)
    plain = fastgan.nn.BatchNormAct2d(3).double()
    (expected,) = torch.autograd.grad((plain(x) * 2).square().sum(), x)
    assert_tight("gradient", grad, 3 * expected)
    layer(x).square().sum().backward()
    assert torch.equal(seen[0], layer.weight.grad)
