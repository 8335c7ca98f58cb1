"""Gradients of the convolutions as autograd sees them: masks, orders, undefined gradients, what is saved."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import fastgan
from fastgan import dispatch, functional
from tests.checks import assert_exact, assert_tight
from tests.ops.cases import Conv, Undefined, conv_cases, conv_functions, directions, integers, wide, with_gradients

NAMES = ("input", "weight", "bias")
CASE = Conv("autograd", (2, 3), (2, 3), (2, 1), (0, 1), (1, 0), channels=(2, 3))
MASKS = list(itertools.product([False, True], repeat=3))
ORDER_CASES = [
    CASE,
    Conv("groups", (2, 2), (1, 2), (1, 1), (0, 1), groups=2, channels=(4, 2)),
    Conv("dilation", (2, 2), (1, 2), (2, 1), (0, 2), (1, 1), (1, 3), channels=(1, 2), batch=1),
    Conv("padding-beyond-kernel", (4, 4), (1, 2), (2, 2), (2, 2), channels=(1, 1), batch=1),
]
by_order = pytest.mark.parametrize("case", ORDER_CASES, ids=lambda case: case.name)


def leaves(transposed, device, dtype=torch.float64, case=CASE):
    return [tensor.to(device, dtype).requires_grad_() for tensor in case.tensors(transposed, integers)]


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: "".join("01"[needed] for needed in mask))
@directions
def test_masks_of_needs_input_grad(transposed, mask, backend, device):
    ours, torchs = conv_functions(transposed)
    tensors = [tensor.to(device) for tensor in CASE.tensors(transposed, integers)]
    judged = with_gradients(lambda *args: torchs(*args, **CASE.options(transposed)), wide(tensors))[1:]
    for tensor, needed in zip(tensors, mask, strict=True):
        tensor.requires_grad_(needed)
    output = ours(*tensors, **CASE.options(transposed))
    assert output.requires_grad == any(mask)
    if any(mask):
        output.sum().backward()
    for name, tensor, judge, needed in zip(NAMES, tensors, judged, mask, strict=True):
        assert (tensor.grad is not None) == needed, name
        if needed:
            assert_exact(name, tensor.grad, judge)


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: "".join("01"[needed] for needed in mask))
@directions
def test_only_what_is_needed_runs(transposed, mask, device):
    ours, _ = conv_functions(transposed)
    tensors = [tensor.to(device) for tensor in CASE.tensors(transposed, integers)]
    for tensor, needed in zip(tensors, mask, strict=True):
        tensor.requires_grad_(needed)
    with dispatch.trace() as calls:
        output = ours(*tensors, **CASE.options(transposed))
        calls.clear()
        if any(mask):
            output.sum().backward()
    adjoint = "conv2d" if transposed else "conv_transpose2d"
    assert [op for op, _ in calls] == [adjoint] * mask[0] + ["conv2d_weight"] * mask[1]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("mask", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        CASE,
        Conv("strided", (4, 4), (4, 4), (2, 2), (1, 1), channels=(128, 64), batch=8),
        Conv("many-sums", (16, 38), (3, 3), dilation=(2, 2), channels=(846, 3), batch=1),
        Conv("many-sums-down", (16, 38), (3, 3), dilation=(2, 2), channels=(3, 846), batch=1),
        Conv("grouped", (5, 3), (5, 5), (2, 2), (1, 2), (1, 1), groups=4, channels=(8, 4)),
    ],
    ids=lambda case: case.name,
)
@directions
def test_gradients_of_the_reference_are_torchs(transposed, case, mask, memory_format, device):
    """Bit for bit: torch rounds differently in a backward and in the convolution that it could be."""
    ours, torchs = conv_functions(transposed)
    image, weight, bias = (tensor.to(device, torch.float32) for tensor in case.tensors(transposed, torch.randn))
    results = []
    for function in (ours, torchs):
        tensors = [image.contiguous(memory_format=memory_format), weight.clone(), bias.clone()]
        leaf = [tensor.requires_grad_(needed) for tensor, needed in zip(tensors, (*mask, True), strict=True)]
        with fastgan.use_backend("reference"):
            output = function(*leaf, **case.options(transposed))
            torch.manual_seed(1)
            output.backward(torch.randn_like(output))
        results.append([tensor.grad for tensor in leaf])
    for name, one, other in zip(NAMES[:2], *results, strict=False):
        assert (one is None) == (other is None), name
        if one is not None:
            assert torch.equal(one, other), name
            assert one.stride() == other.stride(), name


@by_order
@directions
def test_gradcheck(transposed, case, backend, device):
    ours, _ = conv_functions(transposed)
    gradcheck(
        lambda *args: ours(*args, **case.options(transposed)), leaves(transposed, device, case=case), fast_mode=True
    )


@by_order
@directions
def test_gradgradcheck(transposed, case, device):
    ours, _ = conv_functions(transposed)
    with fastgan.use_backend("reference"):
        gradgradcheck(
            lambda *args: ours(*args, **case.options(transposed)), leaves(transposed, device, case=case), fast_mode=True
        )


@directions
def test_gradgradcheck_of_every_backend(transposed, backend, device):
    ours, _ = conv_functions(transposed)
    case = Conv("tiny", (1, 2), (1, 2), (1, 2), channels=(1, 2), batch=1)
    gradgradcheck(
        lambda *args: ours(*args, **case.options(transposed)), leaves(transposed, device, case=case), fast_mode=True
    )


@directions
def test_third_order(transposed, backend, device):
    """By input, by weight, by both. Without output_padding: with it torch's own third order raises."""
    case = replace(CASE, output_padding=(0, 0))
    tensors = [tensor * 0.1 for tensor in leaves(transposed, device, case=case)]

    def third(function):
        x, w, b = (tensor.detach().requires_grad_() for tensor in tensors)
        value = (function(x, w, b, **case.options(transposed)) ** 3).sum()
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad((first**2).sum(), w, create_graph=True)
        return torch.autograd.grad((second**2).sum(), [x, w, b])

    ours, theirs = (third(function) for function in conv_functions(transposed))
    for name, one, other in zip(NAMES, ours, theirs, strict=True):
        assert_tight(name, one, other)


@directions
def test_same_padding_has_every_order(transposed, device):
    ours, _ = conv_functions(transposed)
    x, w = (
        torch.randn(s, dtype=torch.float64, device=device, requires_grad=True) for s in ((2, 2, 3, 2), (2, 2, 3, 2))
    )
    with fastgan.use_backend("reference"):
        gradgradcheck(lambda x, w: ours(x, w, stride=(2, 1), padding="same"), [x, w], fast_mode=True)


@directions
def test_an_undefined_gradient_is_no_gradient(transposed, backend, device):
    ours, _ = conv_functions(transposed)
    tensors = leaves(transposed, device)
    output = Undefined.apply(ours(*tensors, **CASE.options(transposed)))
    (output.sum() + tensors[0].sum()).backward()
    assert_exact("input", tensors[0].grad, torch.ones_like(tensors[0]))
    assert tensors[1].grad is None and tensors[2].grad is None


@directions
def test_retain_graph_gives_the_same_gradients_twice(transposed, backend, device):
    ours, _ = conv_functions(transposed)
    tensors = leaves(transposed, device)
    output = ours(*tensors, **CASE.options(transposed)).sum()
    first = torch.autograd.grad(output, tensors, retain_graph=True)
    second = torch.autograd.grad(output, tensors)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(output, tensors)


@pytest.mark.parametrize("edited", [0, 1], ids=["input", "weight"])
@directions
def test_editing_a_saved_tensor_raises(transposed, edited, backend, device):
    ours, _ = conv_functions(transposed)
    tensors = leaves(transposed, device)
    output = ours(*tensors, **CASE.options(transposed))
    with torch.no_grad():
        tensors[edited].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@directions
def test_an_operand_that_is_not_needed_is_not_saved(transposed, backend, device):
    """A frozen weight's gradient does not need the input: editing the input then is legal, as in torch."""
    ours, torchs = conv_functions(transposed)
    x, w, b = leaves(transposed, device)
    w.requires_grad_(False)
    output = ours(x, w, b, **CASE.options(transposed))
    expected = torch.autograd.grad(torchs(x, w, b, **CASE.options(transposed)).sum(), x)[0]
    with torch.no_grad():
        x.add_(1)
    assert_exact("input", torch.autograd.grad(output.sum(), x)[0], expected)


@directions
def test_input_and_weight_may_be_one_tensor(transposed, backend, device):
    ours, torchs = conv_functions(transposed)
    x = integers((2, 2, 3, 3), torch.float64).to(device).requires_grad_()
    mine = torch.autograd.grad(ours(x, x).square().sum(), x)[0]
    assert_exact("gradient", mine, torch.autograd.grad(torchs(x, x).square().sum(), x)[0])


@directions
def test_hooks_see_the_gradient(transposed, backend, device):
    ours, _ = conv_functions(transposed)
    tensors = leaves(transposed, device)
    tensors[1].register_hook(lambda gradient: gradient * 2)
    ours(*tensors, **CASE.options(transposed)).sum().backward()
    plain = with_gradients(lambda *args: ours(*args, **CASE.options(transposed)), tensors)[2]
    assert_exact("weight", tensors[1].grad, plain * 2)


@pytest.fixture
def poisoned():
    """torch.empty gives NaN, so an element that nobody writes shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@conv_cases
@directions
def test_every_output_is_written(transposed, case, backend, device, poisoned):
    ours, _ = conv_functions(transposed)
    tensors = [tensor.to(device) for tensor in case.tensors(transposed, integers)]
    for tensor in with_gradients(lambda *args: ours(*args, **case.options(transposed)), tensors):
        assert tensor.isfinite().all()


def test_every_output_is_written_where_no_tap_reaches(backend, device, poisoned):
    x, w = torch.ones(1, 2, 3, 3, device=device), torch.ones(2, 3, 1, 2, device=device)
    for tensor in with_gradients(lambda *args: functional.conv_transpose2d(*args, None, 4, "same"), [x, w]):
        assert tensor.isfinite().all()


@directions
def test_repeats_are_bit_equal(transposed, backend, device):
    ours, _ = conv_functions(transposed)
    tensors = [tensor.to(device) for tensor in CASE.tensors(transposed, torch.randn)]
    first = with_gradients(lambda *args: ours(*args, **CASE.options(transposed)), tensors)
    for _ in range(1000 if device.type == "cuda" else 3):
        again = with_gradients(lambda *args: ours(*args, **CASE.options(transposed)), tensors)
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
