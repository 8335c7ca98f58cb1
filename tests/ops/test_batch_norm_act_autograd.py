"""Gradients of batch norm + activation as autograd sees them: masks, orders, what is saved, what may be edited."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastgan.dispatch import BACKENDS
from fastgan.functional import batch_norm_act
from tests.checks import assert_exact, assert_rule, assert_tight, set_seed
from tests.ops.cases import Undefined, activations, batch_norm_tensors, batch_norm_then

pytestmark = pytest.mark.parametrize("backend", BACKENDS, indirect=True)
NAMES = ("input", "weight", "bias")
MASKS = list(itertools.product([False, True], repeat=3))
modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def setup(device, shape=(3, 2, 2, 2), dtype=torch.float64):
    """([input, weight, bias] with gradients, grad_output, (running_mean, running_var))."""
    x, weight, bias, grad = (tensor.to(device, dtype) for tensor in batch_norm_tensors(shape, mean=0.1))
    channels = shape[1]
    buffers = torch.zeros(channels, device=device, dtype=dtype), torch.ones(channels, device=device, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (x, weight, bias)], grad, buffers


def ours(tensors, buffers, training, activation="leaky_relu"):
    x, weight, bias = tensors
    return batch_norm_act(x, *buffers, weight, bias, training, 0.1, 1e-5, activation, 0.2)


def torchs(tensors, buffers, training, activation="leaky_relu"):
    x, weight, bias = tensors
    return batch_norm_then(activation)(x, *buffers, weight, bias, training, 0.1, 1e-5)


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: "".join("01"[needed] for needed in mask))
@modes
def test_masks_of_needs_input_grad(mask, training, backend, device):
    tensors, grad, buffers = setup(device)
    judged = torch.autograd.grad(torchs(tensors, [b.clone() for b in buffers], training), tensors, grad)
    tensors = [tensor.detach().requires_grad_(needed) for tensor, needed in zip(tensors, mask, strict=True)]
    output = ours(tensors, buffers, training)
    assert output.requires_grad == any(mask)
    if any(mask):
        output.backward(grad)
    for name, tensor, judge, needed in zip(NAMES, tensors, judged, mask, strict=True):
        assert (tensor.grad is not None) == needed, name
        if needed:
            assert_tight(name, tensor.grad, judge)


@activations
@pytest.mark.parametrize("shape", [(2, 3), (3, 1), (2, 1, 2, 2), (15, 1)], ids=str)
def test_few_values_per_channel(shape, activation, backend, device):
    """The input's gradient is then a difference that cancels, of two values all of it: by the rule all the same."""
    for seed in range(10):
        set_seed(seed)
        tensors, grad, buffers = setup(device, shape, torch.float32)
        mine = torch.autograd.grad(ours(tensors, buffers, True, activation), tensors, grad)
        theirs = torch.autograd.grad(torchs(tensors, buffers, True, activation), tensors, grad)
        wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
        output = torchs(wide, [buffer.double() for buffer in buffers], True, activation)
        judged = torch.autograd.grad(output, wide, grad.double())
        for name, one, other, judge in zip(NAMES, mine, theirs, judged, strict=True):
            assert_rule(name, one, other, judge)


@activations
@modes
def test_gradcheck(activation, training, backend, device):
    tensors, _, _ = setup(device)
    gradcheck(lambda *args: fresh(args, training, activation), tensors, fast_mode=True)


@activations
@modes
def test_gradgradcheck(activation, training, backend, device):
    tensors, _, _ = setup(device)
    gradgradcheck(lambda *args: fresh(args, training, activation), tensors, fast_mode=True)


def fresh(tensors, training, activation):
    """By new buffers, so that repeated evaluations see the same ones."""
    zeros = torch.zeros_like(tensors[1]).detach()
    return ours(tensors, (zeros, zeros + 1), training, activation)


@activations
@modes
def test_second_order_is_torchs(activation, training, backend, device):
    tensors, _, buffers = setup(device, (3, 2, 3, 2))

    def penalty(function):
        output = function(tensors, [buffer.clone() for buffer in buffers], training, activation)
        gradients = torch.autograd.grad(output.square().sum(), tensors, create_graph=True)
        value = sum(gradient.square().sum() for gradient in gradients)
        return torch.autograd.grad(value, tensors)

    for name, one, other in zip(NAMES, penalty(ours), penalty(torchs), strict=True):
        assert_tight(name, one, other)


@modes
def test_weight_may_be_a_function_of_the_input(training, backend, device):
    """Second order through both paths, as in conditional batch norm."""
    tensors, _, buffers = setup(device)
    x, _, bias = tensors

    def second(function):
        output = function((x, x.mean((0, 2, 3)) + 1, bias), [buffer.clone() for buffer in buffers], training)
        (first,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, bias])

    for one, other in zip(second(ours), second(torchs), strict=True):
        assert_tight("gradient", one, other)


@modes
def test_the_input_may_be_a_function_of_the_weight(training, backend, device):
    """The other way round: the gradient to the weight itself must not also run through the input."""
    tensors, _, buffers = setup(device)
    x, weight, bias = (tensor.detach().requires_grad_() for tensor in tensors)

    def second(function):
        scaled = x * weight.view(1, -1, 1, 1) ** 2
        output = function((scaled, weight, bias), [buffer.clone() for buffer in buffers], training)
        (first,) = torch.autograd.grad(output.square().sum(), weight, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, weight, bias])

    for one, other in zip(second(ours), second(torchs), strict=True):
        assert_tight("gradient", one, other)


def test_eval_forward_train_forward_then_backward_of_the_first(backend, device):
    tensors, grad, buffers = setup(device)
    judged = torch.autograd.grad(torchs(tensors, [b.clone() for b in buffers], False), tensors, grad)
    output = ours(tensors, buffers, False)
    before = [buffer.clone() for buffer in buffers]
    ours([tensor.detach() * 3 + 1 for tensor in tensors], buffers, True)
    assert not any(torch.equal(one, other) for one, other in zip(buffers, before, strict=True))
    for name, one, judge in zip(NAMES, torch.autograd.grad(output, tensors, grad), judged, strict=True):
        assert_tight(name, one, judge)


def test_two_forwards_and_one_backward(backend, device):
    """The discriminator's step: real and fake batches, one loss."""
    tensors, grad, buffers = setup(device)
    fake = (tensors[0].detach() * 2 - 0.3).requires_grad_()

    def step(function):
        own = [buffer.clone() for buffer in buffers]
        first = function(tensors, own, True)
        second = function([fake, *tensors[1:]], own, True)
        return [*torch.autograd.grad((first * grad).sum() - (second * grad).sum(), [*tensors, fake]), *own]

    for one, other in zip(step(ours), step(torchs), strict=True):
        assert_tight("result", one, other)


@modes
def test_an_undefined_gradient_is_no_gradient(training, backend, device):
    tensors, _, buffers = setup(device)
    (Undefined.apply(ours(tensors, buffers, training)).sum() + tensors[0].sum()).backward()
    assert_exact("input", tensors[0].grad, torch.ones_like(tensors[0]))
    assert tensors[1].grad is None and tensors[2].grad is None


@modes
def test_retain_graph_gives_the_same_gradients_twice(training, backend, device):
    tensors, grad, buffers = setup(device)
    output = ours(tensors, buffers, training)
    first = torch.autograd.grad(output, tensors, grad, retain_graph=True)
    second = torch.autograd.grad(output, tensors, grad)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(output, tensors, grad)


@pytest.mark.parametrize("edited", [0, 1, 2], ids=NAMES)
@modes
def test_editing_a_saved_tensor_raises(edited, training, backend, device):
    tensors, grad, buffers = setup(device)
    output = ours(tensors, buffers, training, "relu")
    with torch.no_grad():
        tensors[edited].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward(grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@activations
@modes
def test_beyond_its_operands_only_two_vectors_are_saved(dtype, activation, training, backend, device):
    tensors, _, buffers = setup(device, (4, 3, 8, 8), dtype)
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    extra = []

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            extra.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ours(tensors, buffers, training, activation)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    assert [(tuple(tensor.shape), tensor.dtype) for tensor in extra] == [((3,), wide)] * 2


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_leaves_the_input_as_it_is(low, backend, device):
    tensors, _, buffers = setup(device, dtype=torch.float32)
    with torch.autocast(device.type, low):
        wide = ours(tensors, buffers, True)
        narrow = ours([tensors[0].to(low), *tensors[1:]], buffers, True)
    assert wide.dtype == torch.float32 and narrow.dtype == low
    assert torch.equal(wide, ours(tensors, buffers, True))
    narrow.sum().backward()
    assert tensors[0].grad.dtype == tensors[1].grad.dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 2, 3, 2), (5, 3), (2, 33, 9, 5), (0, 3, 2, 2)], ids=str)
@modes
def test_every_output_is_written(shape, training, backend, device):
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        tensors, grad, buffers = setup(device, shape, torch.float32)
        output = ours(tensors, buffers, training)
        gradients = torch.autograd.grad(output, tensors, grad)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(tensor.isfinite().all() for tensor in (output, *gradients, *buffers))


def test_repeats_are_bit_equal(backend, device):
    tensors, grad, _ = setup(device, (3, 5, 9, 8), torch.float32)

    def step():
        own = torch.zeros(5, device=device), torch.ones(5, device=device)
        output = ours(tensors, own, True)
        return [output, *torch.autograd.grad(output, tensors, grad), *own]

    first = step()
    for _ in range(1000 if device.type == "cuda" else 3):
        assert all(torch.equal(one, other) for one, other in zip(first, step(), strict=True))


def test_double_backward_does_not_touch_the_statistics(backend, device):
    tensors, grad, buffers = setup(device)
    output = ours(tensors, buffers, True)
    after = [buffer.clone() for buffer in buffers]
    (first,) = torch.autograd.grad(output, tensors[0], grad, create_graph=True)
    first.square().sum().backward()
    assert all(torch.equal(one, other) for one, other in zip(buffers, after, strict=True))
