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
    "batch_norm_act": lambda: ours.batch_norm_act(*norm_operands(requires_grad=False)),
    "loss": lambda: ours.binary_cross_entropy_with_logits(torch.randn(8, requires_grad=True), torch.rand(8)),
    "loss of a number": lambda: ours.binary_cross_entropy_with_logits(torch.randn(8, requires_grad=True), 1.0),
}
TORCHS = {
    "conv2d": "ConvolutionBackward",
    "conv_transpose2d": "ConvolutionBackward",
    "conv2d leaky_relu": "LeakyReluBackward",
    "loss": "BinaryCrossEntropyWithLogitsBackward",
    "loss of a number": "BinaryCrossEntropyWithLogitsBackward",
}
calls = pytest.mark.parametrize("name", CALLS)


recorded = pytest.mark.parametrize("name", TORCHS)


def is_torchs(name, output):
    return type(output.grad_fn).__name__.startswith(TORCHS[name])


@recorded
def test_small_calls_are_torchs(name):
    for _ in range(2):  # the second time it is known
        assert is_torchs(name, CALLS[name]())


def test_a_small_norm_is_torchs_without_gradients_alone(monkeypatch):
    ran = []
    run = dispatch._run
    monkeypatch.setattr(dispatch, "_run", lambda op, *args: ran.append(op) or run(op, *args))
    ours.batch_norm_act(*norm_operands(requires_grad=False))
    with torch.no_grad():
        ours.batch_norm_act(*norm_operands(training=False))
    assert not ran
    ours.batch_norm_act(*norm_operands())
    ours.batch_norm_act(torch.randn(64, 8, 16, 16), None, None, training=True)
    assert ran == ["batch_norm_act_train"] * 2


@calls
def test_not_where_a_backend_was_asked_for(name):
    CALLS[name]()
    with use_backend("reference"):
        output = CALLS[name]()
        assert name not in TORCHS or not is_torchs(name, output)
    with dispatch.trace() as seen:
        CALLS[name]()
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
    assert not is_torchs(
        "loss", ours.binary_cross_entropy_with_logits(torch.randn(1 << 16, requires_grad=True), torch.rand(1 << 16))
    )


def by_name(name):
    """(function, operands that need gradients, the others)."""
    if name.startswith("conv"):
        operands = up_operands() if name == "conv_transpose2d" else conv_operands()
        return getattr(ours, name.split()[0]), operands, {}
    if name == "batch_norm_act":
        input, mean, var, weight, bias, _ = norm_operands()
        return (lambda x, w, b: ours.batch_norm_act(x, mean, var, w, b, False)), [input, weight, bias], {}
    target = torch.rand(8) if name == "loss" else 1.0
    return ours.binary_cross_entropy_with_logits, [torch.randn(8, requires_grad=True)], {"target": target}


@needs_native
@calls
def test_values_and_gradients_are_those_of_the_kernels(name):
    function, operands, rest = by_name(name)
    with torch.set_grad_enabled(name != "batch_norm_act"):
        small = function(*operands, **rest)
    with use_backend("native"):
        big = function(*operands, **rest)
        gradients = torch.autograd.grad(big.sum(), operands)
    torch.testing.assert_close(small, big.detach() if name == "batch_norm_act" else big)
    if name != "batch_norm_act":
        for one, other in zip(torch.autograd.grad(small.sum(), operands), gradients, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
def test_a_small_norm_in_training_by_the_rule(activation, memory_format):
    x, slope = 3 + torch.randn(6, 8, 5, 5), 0.2
    weight, bias, grad = 1 + torch.rand(8), torch.rand(8), torch.randn(6, 8, 5, 5)

    def run(function, dtype):
        leaves = [
            t.to(dtype, copy=True).requires_grad_() for t in (x.contiguous(memory_format=memory_format), weight, bias)
        ]
        mean, var = torch.zeros(8, dtype=dtype), torch.ones(8, dtype=dtype)
        output = function(leaves[0], mean, var, leaves[1], leaves[2], True)
        output.backward(grad.to(dtype))
        return [output.detach(), *(leaf.grad for leaf in leaves), mean, var]

    def torchs(*args):
        output = F.batch_norm(*args)
        leaky = F.leaky_relu(output, slope) if activation == "leaky_relu" else output
        return output.relu() if activation == "relu" else leaky

    def mine(*args):
        return ours.batch_norm_act(*args, activation=activation, negative_slope=slope)

    names = ("output", "input", "weight", "bias", "running_mean", "running_var")
    results = run(mine, torch.float32), run(torchs, torch.float32), run(torchs, torch.float64)
    for name, one, theirs, exact in zip(names, *results, strict=True):
        assert_rule(name, one, theirs, exact)


def test_any_order_of_gradient():
    """float64 goes our way, so float32: each order against that of float64."""
    input, _, _, weight, bias, _ = norm_operands()
    cases = (
        (lambda x, w, b: ours.conv2d(x, w, b).square().sum(), conv_operands()),
        (lambda x, w, b: ours.batch_norm_act(x, None, None, w, b, True).pow(3).sum(), [input, weight, bias]),
        (lambda x: ours.binary_cross_entropy_with_logits(x, 0.5, reduction="sum"), [torch.randn(5)]),
    )
    for function, operands in cases:
        results = []
        for dtype in (torch.float32, torch.float64):
            leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in operands]
            value = function(*leaves)
            for _ in range(3):
                (gradient,) = torch.autograd.grad(value, leaves[:1], create_graph=True)
                value = gradient.square().sum()
            results.append(gradient.double())
        torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3 * float(results[1].detach().abs().max()))


def test_the_output_may_be_edited_in_place():
    for name in ("conv2d", "batch_norm_act"):
        function, operands, _ = by_name(name)
        output = function(*operands)
        output += 1
        output.sum().backward()


def test_running_statistics_may_change_before_backward():
    input, mean, var, weight, bias, _ = norm_operands()
    output = ours.batch_norm_act(input, mean, var, weight, bias, True)
    mean.zero_()
    output.sum().backward()


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
        ({"stride": True}, TypeError),
        ({"stride": (1, True)}, TypeError),
        ({"groups": True}, TypeError),
        ({"padding": -1}, RuntimeError),
        ({"groups": 3}, RuntimeError),
        ({"activation": "elu"}, ValueError),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else value.__name__,
)
def test_bad_arguments_raise_after_a_good_call_too(changed, error):
    input, weight, bias = (tensor.detach() for tensor in conv_operands())
    good = {"input": input, "weight": weight, "bias": bias, "stride": (1, 1), "padding": 0, "groups": 1}
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
        with torch.no_grad():
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
    input, mean, var, weight, bias, _ = norm_operands(requires_grad=False)
    output = ours.batch_norm_act(input, mean, var, weight, bias, True, activation="leaky_relu", negative_slope=slope)
    assert torch.equal(output, F.leaky_relu(F.batch_norm(input, None, None, weight, bias, True), slope))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_layouts_are_kept(memory_format):
    input, mean, var, weight, bias, _ = norm_operands(requires_grad=False)
    x = input.contiguous(memory_format=memory_format)
    for case in (x, x.transpose(2, 3), x[:, :, :, :2]):
        assert ours.batch_norm_act(case, mean, var, weight, bias, True).stride() == torch.empty_like(case).stride()


def test_layouts_of_a_convolution_are_ours():
    weight = torch.randn(8, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    for device, batch in (("cpu", 2), ("cpu", 0), ("meta", 2)):
        input = torch.randn(batch, 4, 6, 6, device=device)
        with dispatch.trace():
            expected = ours.conv2d(input, weight.to(device)).stride()
        assert ours.conv2d(input, weight.to(device)).stride() == expected


def test_a_tensor_of_zeros_that_has_no_memory():
    zeros = torch._efficientzerotensor((64, 64, 8, 8))
    assert torch.equal(ours.batch_norm_act(zeros, torch.zeros(64), torch.ones(64)), torch.zeros(64, 64, 8, 8))
