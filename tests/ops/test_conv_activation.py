"""The convolutions with an activation after them: values, gradients of both orders, what is saved, the corners."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

import fastgan
from fastgan import dispatch, functional
from fastgan.ops.common.activation import AFTER_CONVOLUTIONS
from tests.checks import assert_exact, assert_rule, assert_torch_layout
from tests.ops.cases import (
    LAYOUTS,
    Conv,
    Undefined,
    conv_cases,
    conv_functions,
    directions,
    dtypes,
    integers,
    interpreter_overflows,
    on_threads,
    wide,
    with_gradients,
)

SLOPE = 0.25  # a power of two: integers stay exact
NAMES = ("output", "input", "weight", "bias")
ACTIVATIONS = [name for name in AFTER_CONVOLUTIONS if name != "none"]
activations = pytest.mark.parametrize("activation", ACTIVATIONS)
pointed = pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
CASE = Conv("usual", (3, 2), (3, 4), (2, 1), (1, 1), channels=(3, 4))
#: The native kernels' paths: columns and the direct method, whole panels and tails.
CHANNELS = [(64, 3), (3, 64), (5, 7), (32, 40)]


def then(activation, slope=SLOPE):
    """torch's activation."""
    return {"relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, slope), "tanh": torch.tanh}[activation]


def functions(transposed, activation, case=CASE, slope=SLOPE):
    """(ours in one op, torch's two)."""
    ours, torchs = conv_functions(transposed)
    options, act = case.options(transposed), then(activation, slope)
    return (
        lambda *args: ours(*args, **options, activation=activation, negative_slope=slope),
        lambda *args: act(torchs(*args, **options)),
    )


def moderate(shape):
    return torch.randn(shape) * 0.3


def check(transposed, activation, case, tensors, dtype=torch.float32):
    """Output and gradients by the rule; of integers exact where the dtype holds them."""
    ours, torchs = functions(transposed, activation, case)
    grad = integers(with_gradients(torchs, tensors)[0].shape).to(tensors[0])
    mine = with_gradients(ours, tensors, grad)
    theirs = with_gradients(torchs, tensors, grad)
    judges = with_gradients(torchs, wide(tensors), grad)
    for name, one, other, judge in zip(NAMES, mine, theirs, judges, strict=True):
        assert_rule(name, one, other, judge)
        if activation != "tanh" and dtype in (torch.float32, torch.float64):
            assert_exact(name, one, judge)
    assert_torch_layout("output", mine[0], theirs[0])


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "expanded"])
@dtypes
@activations
@directions
def test_layouts_and_dtypes(transposed, activation, dtype, layout, backend, device):
    make = moderate if activation == "tanh" else integers
    tensors = [tensor.to(device, dtype) for tensor in CASE.tensors(transposed, make)]
    # torch lays an output out by the strides of its input, of which only the usual ones are promised
    tensors[0] = LAYOUTS[layout](tensors[0])
    ours, torchs = functions(transposed, activation)
    grad = integers(torchs(*tensors).shape).to(device, dtype)
    mine, theirs, judges = (
        with_gradients(function, given, grad)
        for function, given in ((ours, tensors), (torchs, tensors), (torchs, wide(tensors)))
    )
    for name, one, other, judge in zip(NAMES, mine, theirs, judges, strict=True):
        assert_rule(name, one, other, judge)
    unfused = conv_functions(transposed)[0](*tensors, **CASE.options(transposed))
    assert mine[0].stride() == unfused.stride()


@conv_cases
@activations
@directions
def test_geometries_of_the_native_kernels(transposed, activation, case):
    """The other backends apply the activation to the whole output, whatever its geometry."""
    with fastgan.use_backend("native"):
        check(transposed, activation, case, case.tensors(transposed, moderate if activation == "tanh" else integers))


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@activations
@directions
def test_every_path_of_the_native_kernels(transposed, activation, layout, channels, isa):
    case = Conv("k4s2p1", (5, 6), (4, 4), (2, 2), (1, 1), channels=channels, batch=3)
    make = moderate if activation == "tanh" else integers
    tensors = case.tensors(transposed, make)
    tensors[0] = LAYOUTS[layout](tensors[0])
    with fastgan.use_backend("native"), dispatch.trace() as calls:
        on_threads(lambda: with_gradients(functions(transposed, activation, case)[0], tensors))
        check(transposed, activation, case, tensors)
    assert (("conv_transpose2d_act" if transposed else "conv2d_act"), "native") in calls


@pytest.mark.parametrize("channels", [1, 9])
@directions
def test_tanh_over_the_whole_range(transposed, channels, isa):
    """By the rule among the results of each power of two, so that small ones count as much; NaN and infinities too."""
    patterns = torch.arange(-(2**31), 2**31, 65521 * 4).to(torch.int32).view(torch.float32)
    special = torch.tensor([float("inf"), -float("inf"), float("nan"), 1e-45, -1e-45, 1e-38, -1e-38])
    x = torch.cat([patterns, torch.linspace(-11, 11, 20011), torch.linspace(-0.6, 0.6, 10007), special])
    x = x[-(x.numel() // 64 * 64) :].view(-1, 1, 8, 8).expand(-1, channels, -1, -1)
    weight = torch.ones(channels, 1, 1, 1)
    with fastgan.use_backend("native"):
        mine = conv_functions(transposed)[0](x, weight, groups=channels, activation="tanh")
    theirs, judge = x.tanh(), x.double().tanh()
    assert torch.equal(mine.isnan(), judge.isnan())
    powers = judge.frexp().exponent.where(~judge.isnan(), 99)
    for power in powers.unique():
        same = powers == power
        assert_rule(f"tanh of about 2^{power}", mine[same], theirs[same], judge[same])


@interpreter_overflows
@pytest.mark.parametrize("slope", [0.25, 0.0])
@activations
@directions
def test_corners(transposed, activation, slope, backend, device):
    """NaN, infinities and zeros, forward and backward, as torch's two ops have them."""
    values = [0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf"), float("nan"), 1e-45, -1e-45, -1e-38]
    x = torch.tensor(values, device=device).view(1, 1, 2, 5)
    weight = torch.ones(1, 1, 1, 1, device=device)
    ours, torchs = functions(transposed, activation, Conv("point"), slope)

    def run(function, x):
        leaf = x.clone().requires_grad_()
        output = function(leaf, weight.to(x.dtype))
        return output.detach(), *torch.autograd.grad(output, leaf, torch.full_like(output, 3.0))

    for name, *results in zip(NAMES, run(ours, x), run(torchs, x), run(torchs, x.double()), strict=False):
        assert_rule(name, *results)


@pytest.mark.parametrize("activation", ["none", *ACTIVATIONS])
@directions
def test_one_op_runs(transposed, activation, backend, device):
    tensors = [tensor.to(device) for tensor in CASE.tensors(transposed, integers)]
    with dispatch.trace() as calls:
        conv_functions(transposed)[0](*tensors, **CASE.options(transposed), activation=activation)
    name = "conv_transpose2d" if transposed else "conv2d"
    assert calls == [(name if activation == "none" else f"{name}_act", backend)]


@activations
@directions
def test_gradcheck(transposed, activation, backend, device):
    tensors = [(t * 0.3).double().to(device).requires_grad_() for t in CASE.tensors(transposed, torch.randn)]
    gradcheck(functions(transposed, activation)[0], tensors, fast_mode=True)


@activations
@directions
def test_gradgradcheck(transposed, activation, backend, device):
    case = Conv("tiny", (1, 2), (1, 2), (1, 2), channels=(1, 2), batch=1)
    tensors = [t.double().to(device).requires_grad_() for t in case.tensors(transposed, torch.randn)]
    gradgradcheck(functions(transposed, activation, case)[0], tensors, fast_mode=True)


@activations
@directions
def test_double_backward_in_float32(transposed, activation, backend, device):
    """A gradient penalty: the native kernels have no float64."""

    def penalty(function, tensors):
        x, w, b = (tensor.detach().requires_grad_() for tensor in tensors)
        (gradient,) = torch.autograd.grad(function(x, w, b).square().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), [x, w, b])

    make = moderate if activation == "tanh" else lambda shape: integers(shape, limit=2)
    tensors = [tensor.to(device) for tensor in CASE.tensors(transposed, make)]
    ours, torchs = functions(transposed, activation)
    results = penalty(ours, tensors), penalty(torchs, tensors), penalty(torchs, wide(tensors))
    for name, mine, theirs, judge in zip(NAMES[1:], *results, strict=True):
        assert_rule(name, mine, theirs, judge)


@pytest.mark.parametrize("mask", list(itertools.product([False, True], repeat=3)), ids=str)
@activations
@directions
def test_masks_of_needs_input_grad(transposed, activation, mask, device):
    ours, torchs = functions(transposed, activation)
    tensors = [tensor.to(device) for tensor in CASE.tensors(transposed, integers)]
    judges = with_gradients(torchs, wide(tensors))[1:]
    for tensor, needed in zip(tensors, mask, strict=True):
        tensor.requires_grad_(needed)
    output = ours(*tensors)
    assert output.requires_grad == any(mask)
    if any(mask):
        output.sum().backward()
    theirs = with_gradients(torchs, tensors)[1:]
    for name, tensor, other, judge, needed in zip(NAMES[1:], tensors, theirs, judges, mask, strict=True):
        assert (tensor.grad is not None) == needed, name
        if needed:
            assert_rule(name, tensor.grad, other, judge)


@activations
@directions
def test_an_undefined_gradient_is_no_gradient(transposed, activation, backend, device):
    tensors = [t.to(device).requires_grad_() for t in CASE.tensors(transposed, integers)]
    output = Undefined.apply(functions(transposed, activation)[0](*tensors))
    (output.sum() + tensors[0].sum()).backward()
    assert_exact("input", tensors[0].grad, torch.ones_like(tensors[0]).double())
    assert tensors[1].grad is None and tensors[2].grad is None


@activations
@directions
def test_nothing_but_operands_and_output_is_saved(transposed, activation, backend, device):
    tensors = [t.to(device).requires_grad_() for t in CASE.tensors(transposed, integers)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        output = functions(transposed, activation)[0](*tensors)
    assert sorted(saved) == sorted(t.data_ptr() for t in (*tensors[:2], output))


@pytest.mark.parametrize("edited", ["input", "weight", "output"])
@activations
@directions
def test_editing_a_saved_tensor_raises(transposed, activation, edited, backend, device):
    tensors = [t.to(device).requires_grad_() for t in CASE.tensors(transposed, integers)]
    output = functions(transposed, activation)[0](*tensors)
    with torch.no_grad():
        {"input": tensors[0], "weight": tensors[1], "output": output}[edited].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@activations
@directions
def test_unbatched(transposed, activation, backend, device):
    ours, _ = functions(transposed, activation)
    x, w, b = (tensor.to(device) for tensor in CASE.tensors(transposed, integers))
    assert torch.equal(ours(x[0], w, b), ours(x[:1], w, b)[0])


@activations
@directions
def test_empty_batch(transposed, activation, backend, device):
    tensors = [tensor.to(device) for tensor in CASE.tensors(transposed, integers)]
    output, *gradients = with_gradients(functions(transposed, activation)[0], [tensors[0][:0], *tensors[1:]])
    assert output.shape[0] == 0 and not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@activations
@directions
def test_autocast(transposed, activation, low, backend, device):
    """The dtypes of a convolution and an activation after it, the same numbers up to the output's rounding."""
    tensors = CASE.tensors(transposed, moderate if activation == "tanh" else integers)
    ours, torchs = functions(transposed, activation)
    with torch.autocast(device.type, low):
        mine, theirs = (with_gradients(f, [t.to(device) for t in tensors]) for f in (ours, torchs))
    judges = with_gradients(torchs, [tensor.to(low).double().to(device) for tensor in tensors])
    for name, one, other, judge in zip(NAMES, mine, theirs, judges, strict=True):
        assert_rule(name, one, other, judge)


@pointed
@directions
def test_a_slope_of_zero(transposed, activation, backend, device):
    """The output of negative values is -0, from which the gradient is 0."""
    ours, torchs = functions(transposed, activation, slope=0.0)
    tensors = [tensor.to(device) for tensor in CASE.tensors(transposed, integers)]
    for name, mine, judge in zip(
        NAMES, with_gradients(ours, tensors), with_gradients(torchs, wide(tensors)), strict=True
    ):
        assert_exact(name, mine, judge)


@pytest.mark.parametrize("slope", [-0.2, float("nan")])
def test_slopes_that_the_output_does_not_tell(slope, device):
    x, w = torch.ones(1, 1, 3, 3, device=device), torch.ones(1, 1, 2, 2, device=device)
    for function in (functional.conv2d, functional.conv_transpose2d):
        with pytest.raises(ValueError, match="negative_slope must be >= 0"):
            function(x, w, activation="leaky_relu", negative_slope=slope)
        function(x, w, activation="relu", negative_slope=slope)  # which has none


def test_the_native_op_names_what_is_wrong():
    from fastgan.native import native_reason

    if native_reason("cpu") is not None:
        pytest.skip(str(native_reason("cpu")))
    x, w = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 1, 1)
    with pytest.raises(RuntimeError, match="conv_image: activation must be 0"):
        torch.ops.fastgan_native.conv_image(x, w, None, x.clone(), False, (1, 1), (0, 0), (1, 1), 1, 4, 0.0)
