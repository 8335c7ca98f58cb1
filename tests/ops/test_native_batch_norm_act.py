"""The compiled batch norm + activation: vector tails, instruction sets, threads, special numbers, random cases."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import fastgan
from fastgan.dispatch import why_not
from fastgan.functional import batch_norm_act
from fastgan.native import native_reason
from fastgan.ops.batch_norm_act import reference
from fastgan.ops.common.activation import Activation
from tests.checks import DTYPES, assert_rule, assert_tight, set_seed
from tests.ops.cases import ACTIVATIONS, activations, batch_norm_tensors, batch_norm_then, dtypes, with_gradients

NAMES = ("output", "grad_input", "grad_weight", "grad_bias", "running_mean", "running_var")
OPS = ("train", "eval", "backward", "stats", "backward_reduce", "backward_apply")
CHANNELS = (1, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 129)
INNER = (1, 4, 31, 32, 49, 196, 257)
NAN = float("nan")

pytestmark = pytest.mark.skipif(native_reason("cpu") is not None, reason=str(native_reason("cpu")))
layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])


@pytest.fixture(params=["portable", "avx2", "avx512"])
def isa(request):
    """Each instruction set that this machine has."""
    native = torch.ops.fastgan_native
    best, wanted = native.cpu_isa(), ("portable", "avx2", "avx512").index(request.param)
    if wanted > best:
        pytest.skip(f"this machine has no {request.param}")
    native.set_cpu_isa(wanted)
    yield request.param
    native.set_cpu_isa(best)


@pytest.fixture(autouse=True)
def _only_native():
    """Chosen without being asked for, and nothing else runs."""
    threads = torch.get_num_threads()
    with fastgan.dispatch.trace() as calls:
        yield
    torch.set_num_threads(threads)
    assert all(backend == "native" for _, backend in calls), calls


def placed(tensor, channels_last):
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else tensor.contiguous()


def tensors(shape, dtype, channels_last=False, mean=1.0, std=1.0):
    """[input, weight, bias, grad_output, running_mean, running_var]."""
    x, weight, bias, grad = batch_norm_tensors(shape, mean, std)
    axes = [d for d in range(x.dim()) if d != 1]
    buffers = x.mean(axes), x.var(axes, unbiased=False) * (0.9 + 0.2 * torch.rand(shape[1]).double())
    x, grad = (placed(tensor.to(dtype), channels_last) for tensor in (x, grad))
    return [x, *(tensor.to(dtype) for tensor in (weight, bias)), grad, *(tensor.to(dtype) for tensor in buffers)]


def run(function, x, weight, bias, grad, mean, var, training=True):
    mean, var = mean.clone(), var.clone()
    results = with_gradients(lambda x, w, b: function(x, mean, var, w, b, training, 0.3, 1e-5), [x, weight, bias], grad)
    return [*results, mean, var]


def ours(activation, slope=0.2):
    return lambda *args: batch_norm_act(*args, activation, slope)


def compare(names, mine, theirs, judged, dtype=None):
    """By the rule, in ``dtype`` if one is given."""
    for name, one, other, judge in zip(names, mine, theirs, judged, strict=True):
        if one.dtype is torch.float64 and dtype in (None, torch.float64):
            assert_tight(name, one, judge)
        else:
            assert_rule(name, one.to(dtype or one.dtype), other.to(dtype or other.dtype), judge)


def check(data, activation, training=True):
    """By the rule; torch in float64 of the same rounded values is the judge."""
    torchs = batch_norm_then(activation)
    mine = run(ours(activation), *data, training)
    theirs = run(torchs, *data, training)
    judged = run(torchs, *(tensor.double() for tensor in data), training)
    compare(NAMES, mine, theirs, judged)
    assert mine[0].stride() == torch.empty_like(data[0]).stride()


@dtypes
@activations
@pytest.mark.parametrize("shape", [(2, 3), (3, 7), (4, 3), (7, 1), (15, 1), (2, 17, 2), (3, 1, 2, 2)], ids=str)
def test_few_values_per_channel(shape, activation, dtype, isa):
    """There the input's gradient is a difference that cancels, of two values all of it."""
    torch.set_num_threads(1)
    for seed, mean in itertools.product(range(40), (0.0, 1.0, 30.0)):
        set_seed(seed)
        check(tensors(shape, dtype, seed % 2 == 1, mean), activation)


@layouts
@pytest.mark.parametrize(
    "shape", [(8, 1), (16, 1), (3, 1, 6, 6), (3, 1, 8, 8), (20, 1, 64), (20, 3), (3, 5, 6, 6)], ids=str
)
def test_a_mean_that_cancels(shape, channels_last, isa):
    """In all channels: nothing but its own size is there to measure the error of the mean by."""
    for seed in range(100):
        set_seed(seed)
        x, *rest = tensors(shape, torch.float32, channels_last, 0.0)
        check([x - x.mean([d for d in range(x.dim()) if d != 1], keepdim=True), *rest], "none")


@layouts
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("channels", CHANNELS)
def test_around_the_tails_of_vectors(channels, inner, channels_last, isa):
    for activation, training in itertools.product(("relu", "leaky_relu"), (True, False)):
        check(tensors((5, channels, inner), torch.float32, channels_last), activation, training)


@dtypes
@layouts
@activations
@pytest.mark.parametrize("shape", [(5, 17, 7, 7), (9, 3, 2, 2), (33, 129), (2, 8, 3, 5, 4), (1, 5, 40)], ids=str)
def test_dtypes_and_ranks(shape, activation, channels_last, dtype, isa):
    for training in (True, False):
        check(tensors(shape, dtype, channels_last), activation, training)


@layouts
@pytest.mark.parametrize(
    "shape",
    [
        (40, 64, 8, 8), (300, 33, 4, 4), (1, 3, 300, 301), (20000, 2),
        (3, 5000, 2, 2), (2, 3000, 6, 6), (100001, 1), (2, 1, 70001),
    ],
    ids=str,
)  # fmt: skip
def test_several_tasks(shape, channels_last):
    check(tensors(shape, torch.float32, channels_last), "leaky_relu")


@layouts
@dtypes
@pytest.mark.parametrize("mean", [1e2, 1e3, 1e4, 1e5], ids="mean{:.0e}".format)
@pytest.mark.parametrize("shape", [(16, 7, 5, 5), (2, 2, 40, 33), (64, 65, 2, 2)], ids=str)
def test_a_large_mean(shape, mean, dtype, channels_last, isa):
    if torch.finfo(dtype).max < mean or dtype is torch.bfloat16:
        pytest.skip("beyond what the dtype tells apart")
    check(tensors(shape, dtype, channels_last, mean, 0.1), "none")


@layouts
def test_outliers_among_the_elements_that_are_looked_at_first(channels_last):
    """What is subtracted before summing is then far from the mean, and the pass is repeated with the mean."""
    data = tensors((64, 5, 6, 6), torch.float32, channels_last)
    for image in (0, 21, 42, 63):
        data[0][image, :, 0, 0] = 1e5
        data[0][image, :, 5, 5] = 1e5
    check(data, "none")


@layouts
def test_images_of_different_levels(channels_last):
    data = tensors((64, 5, 6, 6), torch.float32, channels_last)
    data[0] += torch.arange(64.0).mul(1e3).view(-1, 1, 1, 1)
    check(data, "none")


@layouts
@dtypes
@pytest.mark.parametrize("shape", [(6, 5, 7, 7), (6, 5, 1, 1), (6, 5, 2, 2)], ids=str)
def test_nan_stays_in_its_channel(shape, dtype, channels_last, isa):
    data = tensors(shape, dtype, channels_last)
    clean = run(ours("relu"), *data)
    data[0][2, 3, 0, 0] = NAN
    poisoned = run(ours("relu"), *data)
    healthy = [0, 1, 2, 4]
    for name, one, other in zip(NAMES, poisoned, clean, strict=True):
        axis = 1 if one.dim() > 1 else 0
        assert one.select(axis, 3).isnan().all() or name == "grad_bias", name
        assert torch.equal(one[:, healthy] if axis else one[healthy], other[:, healthy] if axis else other[healthy])


@pytest.mark.parametrize("slope", [0.2, 0.0, 1.0, -0.5])
@activations
@pytest.mark.parametrize("images", [1, 5, 40])
def test_special_numbers_in_every_lane(images, activation, slope, isa):
    """Statistics (0, 1): z is x itself."""
    numbers = [0.0, -0.0, 1e-45, 1.0, -1.0, NAN, float("inf"), -float("inf"), 3e38]
    x = torch.tensor(numbers * images).view(1, 1, -1)
    zeros, ones, grad = torch.zeros(1), torch.ones(1), torch.full_like(x, 3.0)
    mine = with_gradients(
        lambda x: batch_norm_act(x, zeros, ones, None, None, False, 0.1, 0.0, activation, slope), [x], grad
    )
    with fastgan.use_backend("reference"):
        z = reference.eval(x, None, None, zeros, ones, Activation[activation.upper()], slope)
    gradient = reference.backward(grad, x, None, None, zeros, ones, False, Activation[activation.upper()], slope)[0]
    for name, one, other in zip(NAMES, mine, (z, gradient), strict=False):
        assert torch.equal(one.isnan(), other.isnan()), name
        assert torch.equal(one.nan_to_num(7), other.nan_to_num(7)), name


@layouts
@dtypes
@pytest.mark.parametrize("value", [0.1, -3e4, 1e10])
def test_a_constant_channel(value, dtype, channels_last):
    x = placed(torch.full((9, 3, 5, 5), value).to(dtype), channels_last)
    if not x.isfinite().all():
        pytest.skip("beyond the range of the dtype")
    mean, var = torch.zeros(3), torch.ones(3)
    if dtype is torch.float64:
        mean, var = mean.double(), var.double()
    output = batch_norm_act(x, mean, var, training=True, momentum=1.0, activation="none")
    assert not output.any() and not var.any()
    assert torch.equal(mean, x[0, :, 0, 0].to(mean.dtype))


@dtypes
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 3, 3), (2, 3, 0, 4), (0, 3)], ids=str)
def test_nothing_to_compute(shape, dtype):
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    x, channels = torch.empty(shape, dtype=dtype), shape[1]
    vectors = [torch.full((channels,), 2.0, dtype=wide) for _ in range(2)]
    output, mean, rstd = torch.ops.fastgan.batch_norm_act_train(x, None, None, *vectors, 0.1, 0.25, 1, 0.0)
    assert output.shape == shape and output.dtype == dtype
    assert (vectors[0] == 2).all() and (vectors[1] == 2).all()
    if x.shape[1]:
        assert not mean.any() and (rstd == 2).all()
    for training in (True, False):
        gradients = torch.ops.fastgan.batch_norm_act_backward(x, x, None, None, mean, rstd, training, 1, 0.0)
        assert gradients[0].shape == shape and not gradients[1].any() and not gradients[2].any()
    mean, var = torch.ops.fastgan.batch_norm_act_stats(x)
    assert mean.dtype == var.dtype == torch.float64 and not mean.any() and not var.any()


@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "shape", [(40, 64, 8, 8), (64, 32, 28, 28), (300, 33, 4, 4), (100001, 3), (1, 3, 300, 301)], ids=str
)
def test_threads_do_not_change_a_bit(shape, dtype, channels_last):
    data = tensors(shape, dtype, channels_last)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append([run(ours("leaky_relu"), *data, training) for training in (True, False)])
    for other in results[1:]:
        for one, two in itertools.chain(*(zip(a, b, strict=True) for a, b in zip(results[0], other, strict=True))):
            assert torch.equal(one, two)


@layouts
def test_a_thousand_repeats_are_bit_equal(channels_last):
    data = tensors((6, 9, 5, 5), torch.float32, channels_last)
    first = run(ours("relu"), *data)
    for _ in range(1000):
        assert all(torch.equal(one, two) for one, two in zip(first, run(ours("relu"), *data), strict=True))


@dtypes
@layouts
@activations
def test_the_steps_of_the_synchronised_form(activation, channels_last, dtype):
    """Each against the reference in float64."""
    x, weight, bias, grad, *_ = tensors((7, 9, 5, 5), dtype, channels_last)
    code, accumulate = Activation[activation.upper()], torch.float64 if dtype is torch.float64 else torch.float32
    ops, rest = torch.ops.fastgan, (code, 0.2)
    judged = reference.local_stats(x.double())
    compare(("mean", "var"), ops.batch_norm_act_stats(x), reference.local_stats(x), judged, accumulate)
    vectors = [tensor.to(accumulate) for tensor in judged]
    args, wide = (grad, x, weight, bias, *vectors), [t.double() for t in (grad, x, weight, bias, *vectors)]
    mine, theirs = ops.batch_norm_act_backward_reduce(*args, *rest), reference.backward_reduce(*args, *rest)
    compare(NAMES[2:4], mine, theirs, reference.backward_reduce(*wide, *rest), accumulate)
    mine = ops.batch_norm_act_backward_apply(*args, *vectors, *rest)
    theirs = reference.backward_apply(*args, *vectors, *rest)
    compare(["grad_input"], [mine], [theirs], [reference.backward_apply(*wide, *wide[-2:], *rest)], dtype)


@pytest.mark.parametrize("vector_dtype", DTYPES, ids=str)
def test_vectors_of_any_dtype_and_stride(vector_dtype):
    x, *_ = tensors((7, 9, 5, 5), torch.float32)
    table = torch.full((9, 8), NAN).to(vector_dtype)
    table[:, ::2] = torch.rand(9, 4).to(vector_dtype)
    args = table[:, ::2].unbind(1)
    plain = [tensor.double() for tensor in args]
    ops = torch.ops.fastgan
    one = ops.batch_norm_act_train(x, *args, 0.5, 1e-5, 1, 0.0)
    judge = reference.train(x.double(), *plain, 0.5, 1e-5, 1, 0.0)
    for name, mine, expected in zip(("output", "mean", "rstd"), one, judge, strict=True):
        assert_rule(name, mine, expected.float(), expected)
    for name, mine, expected in zip(NAMES[-2:], args[2:], plain[2:], strict=True):
        assert_rule(name, mine, expected.to(vector_dtype), expected)
    assert table[:, 1::2].isnan().all(), "wrote beside the buffers"


def test_a_gradient_in_another_layout_is_copied():
    data = tensors((7, 9, 5, 5), torch.float32)
    plain = run(ours("relu"), *data)
    expanded = [*data[:3], torch.ones(()).expand(7, 9, 5, 5), *data[4:]]
    for grad in (placed(data[3], True), data[3].transpose(2, 3).contiguous().transpose(2, 3)):
        assert all(map(torch.equal, plain, run(ours("relu"), *data[:3], grad, *data[4:])))
    ones = run(ours("relu"), *data[:3], torch.ones(7, 9, 5, 5), *data[4:])
    assert all(map(torch.equal, ones, run(ours("relu"), *expanded)))


@pytest.mark.parametrize("op", OPS)
def test_an_input_with_gaps_goes_to_the_reference(op):
    x = torch.randn(4, 6, 5, 5)[:, ::2]
    args = (x, x) if op.startswith("backward") else (x,)
    assert why_not(f"batch_norm_act_{op}", *args)["native"] == (
        "the native batch norm needs an input without gaps, channels first or last"
    )
    on_meta = why_not(f"batch_norm_act_{op}", *(arg.to("meta") for arg in args))["native"]
    assert on_meta == "there are no native kernels for meta tensors"
    assert fastgan.dispatch.select(f"batch_norm_act_{op}", *args).name == "reference"


VECTOR = torch.ones(3)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("stats", (torch.ones(2, 3, dtype=torch.int64),), "input must be float64"),
        ("stats", (torch.ones(3),), "input must have at least 2 dimensions"),
        ("stats", (torch.ones(2, 6)[:, ::2],), "input must be dense"),
        ("eval", (torch.ones(2, 3), None, None, VECTOR, torch.ones(4), 1, 0.0), "rstd must be a vector of 3"),
        ("eval", (torch.ones(2, 3), VECTOR[:1], None, VECTOR, VECTOR, 1, 0.0), "weight must be a vector of 3"),
        ("eval", (torch.ones(2, 3), None, None, VECTOR, VECTOR, 3, 0.0), "activation must be 0"),
        ("train", (torch.ones(2, 3), None, None, VECTOR, None, 0.1, 1e-5, 1, 0.0), "must be given together"),
        (
            "backward",
            (torch.ones(2, 4), torch.ones(2, 3), None, None, VECTOR, VECTOR, True, 1, 0.0),
            "grad_output must have the shape of input",
        ),
        (
            "backward",
            (torch.ones(2, 2, 3).movedim(2, 1), torch.ones(2, 3, 2), None, None, VECTOR, VECTOR, True, 1, 0.0),
            "grad_output must lie in memory",
        ),
    ],
)
def test_errors_name_the_argument(name, args, message):
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.fastgan_native, f"batch_norm_act_{name}")(*args)


@st.composite
def cases(draw):
    rank = draw(st.integers(2, 5))
    rest = draw(st.lists(st.integers(1, 9), min_size=rank - 2, max_size=rank - 2))
    batch = draw(st.integers(1, 9))
    if batch * math.prod(rest) < 2:
        batch = 2
    channels = draw(st.sampled_from(CHANNELS))
    return {
        "shape": (batch, channels, *rest),
        "dtype": draw(st.sampled_from(DTYPES)),
        "channels_last": draw(st.booleans()),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "training": draw(st.booleans()),
        "mean": draw(st.sampled_from((0.0, 1.0, 30.0))),
        "seed": draw(st.integers(0, 2**16)),
        "isa": draw(st.integers(0, 2)),
    }


@settings(
    max_examples=2000, derandomize=True, deadline=None, database=None, print_blob=True,
    phases=(Phase.explicit, Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(cases())
def test_random_cases(case):
    native = torch.ops.fastgan_native
    best = native.cpu_isa()
    native.set_cpu_isa(min(case["isa"], best))
    set_seed(case["seed"])
    torch.set_num_threads(1)
    try:
        data = tensors(case["shape"], case["dtype"], case["channels_last"], case["mean"])
        check(data, case["activation"], case["training"])
    finally:
        native.set_cpu_isa(best)
