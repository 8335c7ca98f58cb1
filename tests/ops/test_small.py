"""Small calls in eager mode: torch's own ops run in place of ours, where no backend is forced and nobody looks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import fastgan.functional as ours
from fastgan import dispatch, nn, use_backend
from fastgan.native import native_reason
from tests.checks import assert_rule

needs_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="about the choice on a CPU")
needs_native = pytest.mark.skipif(native_reason("cpu") is not None, reason=str(native_reason("cpu")))
pytestmark = needs_cpu


def conv_operands(dtype=torch.float32):
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((2, 4, 6, 6), (8, 4, 3, 3), (8,))]


def up_operands():
    return [torch.randn(shape, requires_grad=True) for shape in ((2, 8, 5, 5), (8, 4, 3, 3), (4,))]


def norm_operands(training=True, requires_grad=True):
    input, weight, bias = (torch.randn(shape, requires_grad=requires_grad) for shape in ((4, 8, 3, 3), (8,), (8,)))
    return (input, torch.zeros(8), torch.ones(8), weight, bias, training)


CALLS = {
    "conv2d": lambda: ours.conv2d(*conv_operands(), padding=1),
    "conv_transpose2d": lambda: ours.conv_transpose2d(*up_operands(), stride=2, output_padding=1),
    "conv2d leaky_relu": lambda: ours.conv2d(*conv_operands(), activation="leaky_relu", negative_slope=0.2),
    "batch_norm_act": lambda: ours.batch_norm_act(*norm_operands()),
    "loss": lambda: ours.binary_cross_entropy_with_logits(torch.randn(8, requires_grad=True), torch.rand(8)),
    "loss of a number": lambda: ours.binary_cross_entropy_with_logits(torch.randn(8, requires_grad=True), 1.0),
}
TORCHS = {
    "conv2d": "ConvolutionBackward",
    "conv_transpose2d": "ConvolutionBackward",
    "conv2d leaky_relu": "LeakyReluBackward",
    "batch_norm_act": "ReluBackward",
    "loss": "BinaryCrossEntropyWithLogitsBackward",
    "loss of a number": "BinaryCrossEntropyWithLogitsBackward",
}
calls = pytest.mark.parametrize("name", CALLS)


def is_torchs(name, output):
    return type(output.grad_fn).__name__.startswith(TORCHS[name])


@calls
def test_small_calls_are_torchs(name):
    for _ in range(2):  # the second time it is known
        assert is_torchs(name, CALLS[name]())


@calls
def test_not_where_a_backend_was_asked_for(name):
    CALLS[name]()
    with use_backend("reference"):
        assert not is_torchs(name, CALLS[name]())
    with dispatch.trace() as seen:
        assert not is_torchs(name, CALLS[name]())
    assert seen


class Watch(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


@calls
def test_a_mode_and_a_profiler_see_our_op(name):
    CALLS[name]()
    with Watch() as watch:
        CALLS[name]()
    assert any(function.startswith("fastgan.") for function in watch.seen)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        CALLS[name]()
    assert any(event.key.startswith("fastgan::") for event in profile.key_averages())


@needs_native
def test_large_calls_are_ours():
    with dispatch.trace() as seen:  # what is chosen; without the trace the choice is the same
        ours.conv2d(torch.randn(64, 64, 16, 16), torch.randn(128, 64, 4, 4), stride=2, padding=1)
    assert seen == [("conv2d", "native")]
    x, w = torch.randn(64, 64, 16, 16, requires_grad=True), torch.randn(128, 64, 4, 4, requires_grad=True)
    assert not is_torchs("conv2d", ours.conv2d(x, w, stride=2, padding=1))
    big = (torch.randn(64, 64, 8, 8, requires_grad=True), torch.zeros(64), torch.ones(64))
    assert not is_torchs("batch_norm_act", ours.batch_norm_act(*big, training=True))
    assert not is_torchs(
        "loss", ours.binary_cross_entropy_with_logits(torch.randn(1 << 16, requires_grad=True), torch.rand(1 << 16))
    )


@calls
def test_values_and_gradients_are_those_of_our_ops(name):
    torch.manual_seed(1)
    small = CALLS[name]()
    torch.manual_seed(1)
    with dispatch.trace():
        big = CALLS[name]()
    assert_rule("output", small, big, big.double())
    for one in (small, big):
        one.sum().backward()


def test_any_order_of_gradient():
    tensors = [tensor.detach().double().requires_grad_() for tensor in conv_operands()]
    assert torch.autograd.gradgradcheck(ours.conv2d, tensors, fast_mode=True)
    logits = torch.randn(5, requires_grad=True)
    (first,) = torch.autograd.grad(
        ours.binary_cross_entropy_with_logits(logits, 0.5, reduction="sum"), logits, create_graph=True
    )
    (second,) = torch.autograd.grad(first.sum(), logits)
    p = logits.detach().double().sigmoid()
    torch.testing.assert_close(second, (p * (1 - p)).float())


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"weight": torch.zeros(8, 4, 3, 3, dtype=torch.float64)}, RuntimeError),
        ({"bias": torch.zeros(8, dtype=torch.float64)}, RuntimeError),
        ({"bias": torch.zeros(7)}, RuntimeError),
        ({"weight": torch.zeros(8, 3, 3, 3)}, RuntimeError),
        ({"input": torch.zeros(2, 4)}, RuntimeError),
        ({"input": None}, TypeError),
        ({"stride": 0}, RuntimeError),
        ({"stride": 1.0}, TypeError),
        ({"stride": (1.0, 1.0)}, TypeError),
        ({"padding": -1}, RuntimeError),
        ({"groups": 3}, RuntimeError),
        ({"activation": "elu"}, ValueError),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else value.__name__,
)
def test_bad_arguments_raise_after_a_good_call_too(changed, error):
    input, weight, bias = (tensor.detach() for tensor in conv_operands())
    good = {"input": input, "weight": weight, "bias": bias, "stride": 1, "padding": 0, "groups": 1}
    for _ in range(2):
        ours.conv2d(**good)
        with pytest.raises(error):
            ours.conv2d(**{**good, **changed})


def test_lists_are_options_too():
    input, weight, bias = (tensor.detach() for tensor in conv_operands())
    expected = F.conv2d(input, weight, bias, [2, 1], [1, 0])
    for _ in range(2):
        assert torch.equal(ours.conv2d(input, weight, bias, [2, 1], [1, 0]), expected)


def test_autocast_still_casts():
    input, weight, bias = (tensor.detach() for tensor in conv_operands())
    ours.conv2d(input, weight, bias)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            assert ours.conv2d(input, weight, bias).dtype == torch.bfloat16
        assert ours.conv2d(input, weight, bias).dtype == torch.float32


def test_running_statistics_and_modes_of_a_small_norm():
    mine, theirs = nn.BatchNormAct2d(8, activation="leaky_relu", negative_slope=0.2), torch.nn.BatchNorm2d(8)
    for _ in range(3):
        x = torch.randn(4, 8, 3, 3)
        assert torch.equal(mine(x), F.leaky_relu(theirs(x), 0.2))
    for name, buffer in theirs.named_buffers():
        assert torch.equal(buffer, dict(mine.named_buffers())[name]), name


def test_a_training_forward_between_does_not_disturb_eval():
    """torch saves the running statistics themselves for backward; ours saves what they were."""
    input, mean, var, weight, bias, _ = norm_operands()
    output = ours.batch_norm_act(input, mean, var, weight, bias, False)
    expected = torch.autograd.grad(output.sum(), input, retain_graph=True)[0]
    ours.batch_norm_act(input.detach() + 1, mean, var, weight, bias, True)
    assert torch.equal(torch.autograd.grad(output.sum(), input)[0], expected)


@pytest.mark.parametrize("slope", [-0.5, 0.0, 0.2])
def test_slopes(slope):
    input, mean, var, weight, bias, _ = norm_operands()
    output = ours.batch_norm_act(input, mean, var, weight, bias, True, activation="leaky_relu", negative_slope=slope)
    expected = F.leaky_relu(F.batch_norm(input, None, None, weight, bias, True), slope)
    assert torch.equal(output, expected)
    for one, other in zip(
        torch.autograd.grad(output.sum(), (input, weight)),
        torch.autograd.grad(expected.sum(), (input, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_layouts_are_kept(memory_format):
    input, mean, var, weight, bias, _ = norm_operands(requires_grad=False)
    x = input.contiguous(memory_format=memory_format)
    for case in (x, x.transpose(2, 3), x[:, :, :, :2]):
        assert ours.batch_norm_act(case, mean, var, weight, bias, True).stride() == torch.empty_like(case).stride()
