"""Values of batch norm + activation: dtypes and shapes by the rule, statistics, large means, special numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from fastgan.dispatch import BACKENDS, why_not
from fastgan.functional import batch_norm_act
from tests.checks import assert_exact, assert_rule, assert_tight
from tests.ops.cases import (
    LAYOUTS,
    activations,
    batch_norm_tensors,
    batch_norm_then,
    dtypes,
    integers,
    interpreter_overflows,
    with_gradients,
)

pytestmark = pytest.mark.parametrize("backend", BACKENDS, indirect=True)
NAMES = ("output", "grad_input", "grad_weight", "grad_bias", "running_mean", "running_var")
NAN = float("nan")
SHAPES = [
    (4, 3, 5, 5),
    (2, 1, 1, 2),
    (1, 5, 3, 3),
    (9, 17, 1, 1),
    (64, 33),
    (2, 3, 7),
    (2, 2, 3, 2, 2),
    (2, 2, 40, 33),
    (3, 65, 6, 5),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


def needs_support(backend, x):
    """Skips what the backend refuses; it says so before anything runs."""
    reason = why_not("batch_norm_act_stats", x)[backend]
    if reason is not None:
        pytest.skip(reason)


def run(function, x, weight, bias, grad, mean, var, training=True, momentum=0.3, eps=1e-5, **options):
    """[output, the three gradients, running_mean, running_var afterwards]; the buffers given are copied."""
    mean, var = mean.clone(), var.clone()
    results = with_gradients(
        lambda x, w, b: function(x, mean, var, w, b, training, momentum, eps, **options), [x, weight, bias], grad
    )
    return [*results, mean, var]


def compare(
    shape, activation, dtype, device, vector_dtype=None, prepare=lambda tensor: tensor, mean=1.0, std=1.0, **options
):
    """Ours by the rule: torch at that dtype is the measure, torch in float64 of the same rounded values the judge."""
    x, weight, bias, grad = batch_norm_tensors(shape, mean, std)
    channels = shape[1]
    buffers = torch.randn(channels).double(), torch.rand(channels).double() + 0.5
    if not options.get("training", True):  # statistics of about the data's keep z away from the kink
        axes = [d for d in range(x.dim()) if d != 1]
        buffers = x.mean(axes), x.var(axes, unbiased=False) * (0.9 + 0.2 * torch.rand(channels).double())
    x, grad = (prepare(tensor.to(device, dtype)) for tensor in (x, grad))
    vectors = [tensor.to(device, vector_dtype or dtype) for tensor in (weight, bias, *buffers)]
    weight, bias, *buffers = vectors
    ours = run(lambda *args: batch_norm_act(*args, activation, 0.2), x, weight, bias, grad, *buffers, **options)
    torchs = batch_norm_then(activation)
    theirs = run(torchs, x, weight, bias, grad, *buffers, **options)
    judged = run(torchs, *(t.double() for t in (x, weight, bias, grad, *buffers)), **options)
    for name, one, other, judge in zip(NAMES, ours, theirs, judged, strict=True):
        if dtype is torch.float64:
            assert_tight(name, one, judge)
        else:
            assert_rule(name, one, other, judge)


@shapes
@activations
def test_training(shape, activation, backend, device):
    compare(shape, activation, torch.float32, device)


@shapes
@activations
def test_evaluation(shape, activation, backend, device):
    compare(shape, activation, torch.float32, device, training=False)


@dtypes
@activations
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_dtypes(dtype, activation, training, backend, device):
    compare((4, 3, 5, 5), activation, dtype, device, training=training)


@activations
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_half_input_with_float32_vectors(dtype, activation, training, backend, device):
    compare((4, 3, 5, 5), activation, dtype, device, torch.float32, training=training)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_sums_beyond_the_range_of_half(dtype, backend, device):
    compare((8, 2, 32, 16), "relu", dtype, device, torch.float32, mean=300.0, std=8.0)


@pytest.mark.parametrize("mean", [1e2, 1e3, 1e4, 1e5], ids="mean{:.0e}".format)
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (2, 2, 40, 33), (3, 65, 6, 5)], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("activation", ["none", "leaky_relu"])
def test_a_large_mean(mean, shape, memory_format, activation, backend, device):
    compare(
        shape, activation, torch.float32, device, mean=mean, std=0.1,
        prepare=lambda tensor: tensor.contiguous(memory_format=memory_format),
    )  # fmt: skip


@pytest.mark.parametrize("value", [1e10, -3e4, 0.0], ids="{:.0e}".format)
@activations
def test_a_constant_channel_is_finite(value, activation, backend, device):
    x = torch.full((3, 2, 4, 4), value, device=device)
    x[:, 1] = torch.randn(3, 4, 4, device=device)
    buffers = torch.zeros(2, device=device), torch.ones(2, device=device)
    ours = run(lambda *args: batch_norm_act(*args, activation), x, None, None, None, *buffers)
    assert all(tensor.isfinite().all() for tensor in ours)


@pytest.mark.parametrize(
    ("momentum", "mean", "var"), [(0.0, 4.0, 8.0), (0.5, 3.0, 5.0), (1.0, 2.0, 2.0)], ids=["0", "0.5", "1"]
)
@dtypes
def test_the_running_variance_of_two_values_is_unbiased(dtype, momentum, mean, var, backend, device):
    x = torch.tensor([1.0, 3.0], device=device, dtype=dtype).view(2, 1, 1, 1)
    buffers = torch.full((1,), 4.0, device=device, dtype=dtype), torch.full((1,), 8.0, device=device, dtype=dtype)
    batch_norm_act(x, *buffers, training=True, momentum=momentum)
    assert [float(buffer) for buffer in buffers] == [mean, var]


def test_momentum_0_leaves_the_statistics_alone_bit_for_bit(backend, device):
    buffers = torch.randn(3, device=device), torch.rand(3, device=device)
    before = [buffer.clone() for buffer in buffers]
    batch_norm_act(torch.randn(2, 3, 4, 4, device=device), *buffers, training=True, momentum=0.0)
    assert all(torch.equal(one, other) for one, other in zip(buffers, before, strict=True))


def test_evaluation_does_not_touch_the_statistics(backend, device):
    buffers = torch.randn(3, device=device), torch.rand(3, device=device)
    before = [buffer.clone() for buffer in buffers]
    batch_norm_act(torch.randn(2, 3, 4, 4, device=device), *buffers)
    assert all(torch.equal(one, other) for one, other in zip(buffers, before, strict=True))


@activations
def test_without_buffers(activation, backend, device):
    x, weight, bias, _ = (tensor.to(device) for tensor in batch_norm_tensors((3, 2, 4, 4)))
    ours = batch_norm_act(x, None, None, weight, bias, True, 0.1, 1e-5, activation, 0.2)
    assert_tight("output", ours, batch_norm_then(activation)(x, None, None, weight, bias, True))


@pytest.mark.parametrize(("has_weight", "has_bias"), list(itertools.product([False, True], repeat=2)), ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_without_weight_or_bias(has_weight, has_bias, training, backend, device):
    x, weight, bias, grad = (tensor.to(device) for tensor in batch_norm_tensors((3, 2, 4, 4), mean=0.1))
    weight, bias = weight if has_weight else None, bias if has_bias else None
    buffers = torch.zeros(2, device=device).double(), torch.ones(2, device=device).double()
    ours = run(lambda *args: batch_norm_act(*args, "relu"), x, weight, bias, grad, *buffers, training)
    theirs = run(batch_norm_then("relu"), x, weight, bias, grad, *buffers, training)
    for one, other in zip(ours, theirs, strict=True):
        assert_tight("result", one, other)


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 0.5])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_eps(eps, training, backend, device):
    compare((3, 2, 4, 4), "leaky_relu", torch.float64, device, eps=eps, training=training)


@activations
def test_an_empty_batch_leaves_the_statistics_alone(activation, backend, device):
    x = torch.empty(0, 3, 4, 4, device=device)
    weight, bias = torch.ones(3, device=device), torch.zeros(3, device=device)
    buffers = torch.randn(3, device=device), torch.rand(3, device=device)
    output, *gradients, mean, var = run(
        lambda *args: batch_norm_act(*args, activation), x, weight, bias, None, *buffers
    )
    assert output.shape == gradients[0].shape == x.shape
    assert not gradients[1].any() and not gradients[2].any()
    assert torch.equal(mean, buffers[0]) and torch.equal(var, buffers[1])


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_no_channels(training, backend, device):
    empty = torch.empty(0, device=device)
    output = batch_norm_act(torch.empty(2, 0, 3, 3, device=device), empty, empty.clone(), training=training)
    assert output.shape == (2, 0, 3, 3)


def at_unit_statistics(x, activation, slope, grad):
    """[output, grad_input] in eval mode with mean 0, variance 1, eps 0: z is x itself."""
    buffers = torch.zeros(1, device=x.device), torch.ones(1, device=x.device)
    return with_gradients(
        lambda x: batch_norm_act(x, *buffers, None, None, False, 0.1, 0.0, activation, slope), [x], grad
    )


@interpreter_overflows
@pytest.mark.parametrize("slope", [0.2, 0.0, 1.0, -0.5])
@activations
def test_the_activation_at_special_numbers_is_torchs(activation, slope, backend, device):
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, NAN, float("inf"), -float("inf")], device=device).view(-1, 1)
    grad = torch.full_like(x, 3.0)
    ours = at_unit_statistics(x, activation, slope, grad)
    act = {"none": lambda z: z * 1, "relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, slope)}[activation]
    for name, one, other in zip(NAMES, ours, with_gradients(act, [x], grad), strict=False):
        assert_exact(name, one, other.double())


def test_the_slope_at_zero(backend, device):
    zeros = torch.tensor([[0.0], [-0.0]], device=device)
    assert at_unit_statistics(zeros, "relu", 0.2, None)[1].tolist() == [[0.0], [0.0]]
    assert at_unit_statistics(zeros, "leaky_relu", 0.25, None)[1].tolist() == [[0.25], [0.25]]


@interpreter_overflows
@pytest.mark.parametrize("value", [NAN, float("inf")], ids=["nan", "inf"])
@activations
def test_a_bad_value_poisons_one_channel_only(value, activation, backend, device):
    x, weight, bias, grad = (tensor.to(device) for tensor in batch_norm_tensors((3, 4, 5, 5)))
    buffers = torch.zeros(4, device=device).double(), torch.ones(4, device=device).double()
    function = lambda *args: batch_norm_act(*args, activation)  # noqa: E731
    clean = run(function, x, weight, bias, grad, *buffers)
    x[1, 2, 3, 3] = value
    ours = run(function, x, weight, bias, grad, *buffers)
    assert ours[0][:, 2].isnan().all() or activation == "relu" or value == value
    healthy = [0, 1, 3]
    for name, one, other in zip(NAMES, ours, clean, strict=True):
        one, other = (tensor[:, healthy] if tensor.dim() == 4 else tensor[healthy] for tensor in (one, other))
        assert torch.equal(one, other), name
    assert ours[4][2].isnan() or ours[4][2].isinf()
    assert ours[0][1, 2, 3, 3].isnan()


@pytest.mark.parametrize("of_grad", LAYOUTS)
@pytest.mark.parametrize("of_input", LAYOUTS)
def test_layouts(of_input, of_grad, backend, device):
    check_layouts(of_input, of_grad, True, backend, device)


@pytest.mark.parametrize("of_input", LAYOUTS)
def test_layouts_in_evaluation(of_input, backend, device):
    check_layouts(of_input, "nhwc", False, backend, device)


def check_layouts(of_input, of_grad, training, backend, device):
    x, weight, bias, grad = (tensor.to(device) for tensor in batch_norm_tensors((4, 3, 6, 5)))
    x, grad = LAYOUTS[of_input](x), LAYOUTS[of_grad](grad)
    needs_support(backend, x)
    buffers = torch.zeros(3, device=device).double(), torch.ones(3, device=device).double()
    ours = run(lambda *args: batch_norm_act(*args, "leaky_relu", 0.2), x, weight, bias, grad, *buffers, training)
    plain = [tensor.contiguous() for tensor in (x, weight, bias, grad)]
    judged = run(batch_norm_then("leaky_relu"), *plain, *buffers, training)
    for name, one, judge in zip(NAMES, ours, judged, strict=True):
        assert_tight(name, one, judge)
    assert ours[0].stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("rank", [2, 3, 5])
def test_sliced_inputs_of_other_ranks(rank, backend, device):
    shape = (6, 3, 4, 3, 2)[:rank]
    needs_support(backend, LAYOUTS["sliced"](torch.zeros(shape, device=device)))
    compare(shape, "relu", torch.float64, device, prepare=LAYOUTS["sliced"])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("shape", [(4, 3, 6, 5), (2, 3, 1, 1), (1, 1, 3, 4), (2, 1, 3, 3)], ids=str)
def test_the_output_has_torchs_layout(shape, memory_format, backend, device):
    x = integers(shape).to(device).contiguous(memory_format=memory_format)
    assert batch_norm_act(x, None, None, training=True).stride() == F.batch_norm(x, None, None, training=True).stride()


def test_strided_vectors(backend, device):
    x, weight, bias, grad = (tensor.to(device) for tensor in batch_norm_tensors((4, 3, 6, 5)))
    table = torch.full((3, 8), NAN, device=device, dtype=torch.float64)
    table[:, ::2] = torch.stack([weight, bias, torch.zeros_like(bias), torch.ones_like(bias)], 1)
    w, b, mean, var = table[:, ::2].unbind(1)
    assert w.stride() == (8,)
    for training in (True, False):
        judged = run(batch_norm_then("relu"), x, weight, bias, grad, mean.contiguous(), var.contiguous(), training)
        leaves = [tensor.detach().requires_grad_() for tensor in (x, w, b)]
        output = batch_norm_act(leaves[0], mean, var, leaves[1], leaves[2], training, 0.3)
        ours = [output.detach(), *torch.autograd.grad(output, leaves, grad), mean, var]
        for name, one, judge in zip(NAMES, ours, judged, strict=True):
            assert_tight(name, one.contiguous(), judge)
    assert table[:, 1::2].isnan().all(), "wrote beside the buffers"
