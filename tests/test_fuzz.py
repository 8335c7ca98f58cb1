"""Random cases of every slice: values and first gradients, seeded, so that a run repeats the last one.

Convolutions by whole numbers, bit for bit; batch norm and the loss by the rule. A failing case is printed as the call
that reproduces it. Under the interpreter a Triton program costs milliseconds: fewer cases there, all of the same kinds.
"""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import fastgan
from fastgan import functional
from tests.checks import DTYPES, assert_exact, assert_rule, assert_tight
from tests.ops.cases import (
    ACTIVATIONS,
    LAYOUTS,
    batch_norm_tensors,
    batch_norm_then,
    integers,
    wide,
    with_gradients,
)

GPU = torch.cuda.is_available()
NAMES = ("output", "grad_input", "grad_weight", "grad_bias")


def runs(count):
    """``count`` cases, the same ones on every run."""
    return settings(
        max_examples=count, derandomize=True, deadline=None, database=None, print_blob=True,
        phases=(Phase.explicit, Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    """The tensors are small: threads that wait for each other cost ten times the arithmetic."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_cases_do_not_depend_on_the_modules_that_are_loaded(tmp_path, monkeypatch):
    def drawn():
        numbers = []

        @runs(400)
        @given(st.integers(0, 2**16))
        def draw(number):
            numbers.append(number)

        draw()
        return numbers

    before = drawn()
    (tmp_path / "more_numbers.py").write_text(f"NUMBERS = {list(range(20000, 20400))}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "more_numbers", importlib.import_module("more_numbers"))
    assert drawn() == before


EDGES = st.sampled_from((1, 2, 3, 15, 16, 17, 33, 63, 64, 65, 127, 128, 129))
FEW = st.integers(1, 4)


def pairs(values):
    return st.tuples(values, values)


@st.composite
def convolutions(draw, channels=FEW):
    """Arguments of :func:`check_convolution`; a padding and an output_padding that are legal for the rest."""
    transposed, groups = draw(st.booleans()), draw(st.sampled_from((1, 1, 1, 2, 3)))
    case = {
        "transposed": transposed,
        "batch": draw(st.integers(0, 3)),
        "channels": (groups * draw(channels), groups * draw(channels)),
        "size": draw(pairs(st.integers(1, 6))),
        "kernel": draw(pairs(st.integers(1, 5))),
        "stride": draw(pairs(st.integers(1, 4))),
        "dilation": draw(pairs(st.integers(1, 3))),
        "groups": groups,
        "layouts": draw(st.tuples(*(st.sampled_from(tuple(LAYOUTS)) for _ in range(3)))),
        "bias": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**16)),
    }
    # a dilated kernel of one tap is the kernel itself; torch's own channels_last convolution on a CPU crashes on some
    case["dilation"] = tuple(d if k > 1 else 1 for d, k in zip(case["dilation"], case["kernel"], strict=True))
    spans = [d * (k - 1) + 1 for d, k in zip(case["dilation"], case["kernel"], strict=True)]
    if draw(st.integers(0, 4)) == 0:
        return {**case, "padding": "same", "output_padding": (0, 0)}
    if transposed:
        room = [(i - 1) * s + e for i, s, e in zip(case["size"], case["stride"], spans, strict=True)]
        padding = tuple(draw(st.integers(0, min(5, (r - 1) // 2))) for r in room)
        limits = (max(s, d) - 1 for s, d in zip(case["stride"], case["dilation"], strict=True))
        return {**case, "padding": padding, "output_padding": tuple(draw(st.integers(0, limit)) for limit in limits)}
    least = [max(0, -(-(e - i) // 2)) for e, i in zip(spans, case["size"], strict=True)]
    return {**case, "padding": tuple(draw(st.integers(p, p + 3)) for p in least), "output_padding": (0, 0)}


def same_by_torch(transposed, x, w, b, stride, dilation, groups):
    """TensorFlow's SAME by padding or cropping around torch's convolution without padding."""
    margins = []
    for i, s, d, k in zip(x.shape[2:], stride, dilation, w.shape[2:], strict=True):
        span = d * (k - 1) + 1
        total = max(span - s, 0) if transposed else max((-(-i // s) - 1) * s + span - i, 0)
        before = total // 2
        after = i * s - ((i - 1) * s + span - before) if transposed else total - before
        margins = [-before if transposed else before, after, *margins]
    if transposed:
        full = F.pad(F.conv_transpose2d(x, w, None, stride, 0, 0, groups, dilation), margins)
        return full if b is None else full + b.view(-1, 1, 1)
    return F.conv2d(F.pad(x, margins), w, b, stride, 0, dilation, groups)


def check_convolution(
    device,
    transposed,
    batch,
    channels,
    size,
    kernel,
    stride,
    dilation,
    groups,
    layouts,
    bias,
    seed,
    padding,
    output_padding,
):
    torch.random.default_generator.manual_seed(seed)  # torch.manual_seed costs more than a small case
    of_input, of_weight, of_grad = (LAYOUTS[name] for name in layouts)
    small, big = channels
    x = of_input(integers((batch, small if transposed else big, *size), limit=3).to(device))
    w = of_weight(integers((small, big // groups, *kernel), limit=3).to(device))
    b = integers((big if transposed else small,)).to(device) if bias else None

    def ours(x, w, b=None):
        if transposed:
            return functional.conv_transpose2d(x, w, b, stride, padding, output_padding, groups, dilation)
        return functional.conv2d(x, w, b, stride, padding, dilation, groups)

    def judge(x, w, b=None):
        if padding == "same":
            return same_by_torch(transposed, x, w, b, stride, dilation, groups)
        if transposed:
            return F.conv_transpose2d(x, w, b, stride, padding, output_padding, groups, dilation)
        return F.conv2d(x, w, b, stride, padding, dilation, groups)

    tensors = [x, w] if b is None else [x, w, b]
    grad = of_grad(integers(judge(*wide(tensors)).shape, limit=3).to(device))
    judged = with_gradients(judge, [tensor.contiguous() for tensor in wide(tensors)], grad.contiguous())
    for name, one, other in zip(NAMES, with_gradients(ours, tensors, grad), judged, strict=False):
        assert_exact(name, one, other)


@runs(2000)
@given(convolutions())
def test_convolutions_on_the_reference(device, case):
    with fastgan.use_backend("reference"):
        check_convolution(device, **case)


@runs(200)
@given(convolutions(EDGES))
def test_convolutions_with_many_channels_on_the_reference(device, case):
    with fastgan.use_backend("reference"):
        check_convolution(device, **case)


@runs(2000 if GPU else 90)
@given(convolutions(st.one_of(FEW, EDGES) if GPU else FEW))
def test_convolutions_on_triton(device, case):
    with fastgan.use_backend("triton"):
        check_convolution(device, **case)


@runs(500 if GPU else 12)
@given(convolutions(EDGES))
def test_convolutions_with_many_channels_on_triton(device, case):
    with fastgan.use_backend("triton"):
        check_convolution(device, **case)


@st.composite
def batch_norms(draw):
    """Arguments of :func:`check_batch_norm`."""
    rank = draw(st.sampled_from((2, 3, 4, 4, 4, 5)))
    space = [draw(st.integers(1, 6 if rank < 5 else 3)) for _ in range(rank - 2)]
    dtype = draw(st.sampled_from(DTYPES))
    # sums of a handful of rounded numbers are a lottery that the rule is no judge of
    values = draw(st.sampled_from((2, 3, 4, 9) if dtype is torch.float64 else (32, 48)))
    least = max(1, -(-values // torch.Size(space).numel()))
    layouts = st.sampled_from([name for name in LAYOUTS if name != "expanded" and (rank == 4 or name != "nhwc")])
    return {
        "shape": (draw(st.integers(least, least + 2)), draw(st.one_of(FEW, EDGES)), *space),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "slope": draw(st.sampled_from((0.01, 0.2, 0.0, 1.5))),
        "dtype": dtype,
        "wide_vectors": draw(st.booleans()),
        "training": draw(st.booleans()),
        "momentum": draw(st.sampled_from((0.0, 0.1, 0.5, 1.0))),
        "eps": draw(st.sampled_from((1e-5, 1e-3, 0.1))),
        "mean": draw(st.sampled_from((0.0, 1.0, -3.0))),
        "given": draw(st.tuples(*(st.booleans() for _ in range(3)))),
        "layouts": (draw(layouts), draw(layouts)),
        "seed": draw(st.integers(0, 2**16)),
    }


def check_batch_norm(
    device, shape, activation, slope, dtype, wide_vectors, training, momentum, eps, mean, given, layouts, seed
):
    torch.random.default_generator.manual_seed(seed)  # torch.manual_seed costs more than a small case
    of_input, of_grad = (LAYOUTS[name] for name in layouts)
    x, weight, bias, grad = batch_norm_tensors(shape, mean)
    half = dtype in (torch.float16, torch.bfloat16)
    of_vectors = torch.float32 if half and wide_vectors else dtype
    axes = [d for d in range(x.dim()) if d != 1]
    mean, var = x.mean(axes), x.var(axes, unbiased=False) * (0.9 + 0.2 * torch.rand(shape[1]).double())
    x, grad = of_input(x.to(device, dtype)), of_grad(grad.to(device, dtype))
    weight, bias, mean, var = (vector.to(device, of_vectors) for vector in (weight, bias, mean, var))
    weight, bias = weight if given[0] else None, bias if given[1] else None
    if training and not given[2]:
        mean = var = None

    def run(function, x, weight, bias, mean, var, *rest):
        own = [None if buffer is None else buffer.clone() for buffer in (mean, var)]
        results = with_gradients(
            lambda x, *vectors: function(x, *own, *spread(vectors, weight, bias), training, momentum, eps, *rest),
            [x, *(vector for vector in (weight, bias) if vector is not None)],
            grad,
        )
        return results + [buffer for buffer in own if buffer is not None]

    torchs = batch_norm_then(activation, slope)
    ours = run(functional.batch_norm_act, x, weight, bias, mean, var, activation, slope)
    theirs = run(torchs, x, weight, bias, mean, var)
    for i, (one, other, judge) in enumerate(
        zip(ours, theirs, run(torchs, *wide((x, weight, bias, mean, var))), strict=True)
    ):
        if dtype is torch.float64:
            assert_tight(f"result {i}", one, judge)
        else:
            assert_rule(f"result {i}", one, other, judge)


def spread(vectors, weight, bias):
    """(weight, bias) from the ones that were given."""
    vectors = iter(vectors)
    return [None if original is None else next(vectors) for original in (weight, bias)]


# The gradient of the weight in eval mode, a sum of 48 values, as float32 added it.
CANCELLING_SUM = {
    "shape": (48, 1, 1, 1),
    "activation": "leaky_relu",
    "slope": 1.5,
    "dtype": torch.float32,
    "wide_vectors": False,
    "training": False,
    "momentum": 0.0,
    "eps": 1e-5,
    "mean": 0.0,
    "given": (True, False, False),
    "layouts": ("sliced", "nchw"),
    "seed": 1,
}


@runs(2000)
@given(batch_norms())
@example(CANCELLING_SUM)
def test_batch_norms_on_the_reference(device, case):
    with fastgan.use_backend("reference"):
        check_batch_norm(device, **case)


@runs(2000 if GPU else 150)
@given(batch_norms())
def test_batch_norms_on_triton(device, case):
    with fastgan.use_backend("triton"):
        check_batch_norm(device, **case)


@st.composite
def losses(draw):
    """Arguments of :func:`check_loss`."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=0, max_size=4)))
    if draw(st.integers(0, 4)) == 0:
        shape = (draw(st.sampled_from((1023, 1024, 1025, 2049, 4096, 4097, 5000))),)
    # one rounded number is a lottery that the rule is no judge of
    dtypes = DTYPES if torch.Size(shape).numel() >= 16 else (torch.float64,)
    broadcast = st.none() | st.integers(0, 2**4 - 1)  # bit i: dimension i has size 1
    return {
        "shape": shape,
        "dtype": draw(st.sampled_from(dtypes)),
        "scale": draw(st.sampled_from((0.1, 1.0, 5.0))),
        "target": draw(st.sampled_from(("tensor", "tensor", 0.0, 1.0, 0.9, 0.25))),
        "reduction": draw(st.sampled_from(("none", "mean", "sum"))),
        "weights": (draw(broadcast), draw(broadcast)),
        "layouts": draw(st.tuples(*(st.sampled_from(("nchw", "sliced", "swapped")) for _ in range(3)))),
        "target_gradient": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**16)),
    }


def check_loss(device, shape, dtype, scale, target, reduction, weights, layouts, target_gradient, seed):
    torch.random.default_generator.manual_seed(seed)  # torch.manual_seed costs more than a small case

    def laid_out(tensor, layout):
        return LAYOUTS[layout](tensor) if tensor.dim() >= 2 else tensor

    def weight_of(mask):
        if mask is None:
            return None
        sizes = [1 if mask >> i & 1 else size for i, size in enumerate(shape)]
        return (torch.rand(sizes) * 2 + 0.1).to(device, dtype)

    x = laid_out((torch.randn(shape) * scale).to(device, dtype), layouts[0])
    t = laid_out(torch.rand(shape).to(device, dtype), layouts[1]) if target == "tensor" else torch.full_like(x, target)
    weight, pos_weight = (weight_of(mask) for mask in weights)
    loss = F.binary_cross_entropy_with_logits
    grad = laid_out((torch.rand(shape) + 0.5).to(device, dtype), layouts[2]) if reduction == "none" else None
    tensors = [x, t] if target == "tensor" and target_gradient else [x]

    def call(function, t, weight, pos_weight):
        return lambda x, t=t: function(x, t, weight, reduction=reduction, pos_weight=pos_weight)

    number = t if target == "tensor" else target
    ours = with_gradients(call(functional.binary_cross_entropy_with_logits, number, weight, pos_weight), tensors, grad)
    theirs = with_gradients(call(loss, t, weight, pos_weight), tensors, grad)
    judged = with_gradients(call(loss, *wide((t, weight, pos_weight))), wide(tensors), grad)
    for name, one, other, judge in zip(("loss", "grad_input", "grad_target"), ours, theirs, judged, strict=False):
        if dtype is torch.float64:
            assert_tight(name, one, judge)
        else:
            assert_rule(name, one, other, judge)


@runs(2000)
@given(losses())
def test_losses_on_the_reference(device, case):
    with fastgan.use_backend("reference"):
        check_loss(device, **case)


@runs(2000 if GPU else 400)
@given(losses())
def test_losses_on_triton(device, case):
    with fastgan.use_backend("triton"):
        check_loss(device, **case)
