"""Values of the transposed convolution and of its adjoint: textbook definitions, exact integers, TensorFlow's "same",
special numbers, dtypes. Layouts and gradients of other kinds have files of their own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastgan import functional
from fastgan.ops.conv_transpose2d import reference
from fastgan.ops.conv_transpose2d.geometry import Geometry
from tests.checks import assert_exact, assert_rule, assert_tight
from tests.ops.cases import (
    CONV_CASES,
    Conv,
    conv_cases,
    conv_functions,
    directions,
    dtypes,
    integers,
    interpreter_overflows,
    wide,
    with_gradients,
)

PIXELS = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
BY_NAME = {case.name: case for case in CONV_CASES}


def scatter(case: Conv):
    """Definition 1 with this case's geometry."""
    geometry = Geometry(case.stride, case.padding, case.dilation, case.groups)
    return lambda x, w, b=None: reference.conv_transpose2d_scatter(x, w, b, case.big_size, geometry)


def stamp_and_crop(x, w, b, stride, dilation=(1, 1), groups=1):
    """TensorFlow's SAME: the full stamp, floor(t / 2) cropped before, the rest after, to exactly input * stride."""
    full = F.conv_transpose2d(x, w, None, stride, 0, 0, groups, dilation)
    for axis, (s, d, k) in enumerate(zip(stride, dilation, w.shape[2:], strict=True), start=2):
        size, before = x.shape[axis] * s, max(d * (k - 1) + 1 - s, 0) // 2
        full = full.narrow(axis, before, min(size, full.shape[axis] - before))
        gap = list(full.shape)
        gap[axis] = size - full.shape[axis]
        full = torch.cat([full, full.new_zeros(gap)], axis)
    return full if b is None else full + b.view(-1, 1, 1)


def pad_and_convolve(x, w, b, stride, dilation=(1, 1), groups=1):
    """TensorFlow's SAME of the strided convolution: t zeros in all, floor(t / 2) of them before."""
    margins = []
    for i, s, d, k in zip(x.shape[2:], stride, dilation, w.shape[2:], strict=True):
        total = max((-(-i // s) - 1) * s + d * (k - 1) + 1 - i, 0)
        margins = [total // 2, total - total // 2, *margins]
    return F.conv2d(F.pad(x, margins), w, b, stride, 0, dilation, groups)


@conv_cases
def test_scatter_gather_and_torch_agree(case):
    geometry = Geometry(case.stride, case.padding, case.dilation, case.groups)
    tensors = case.tensors(True, lambda shape: integers(shape, torch.float64))
    by_torch = F.conv_transpose2d(*tensors, **case.options(True))
    assert_exact("scatter", scatter(case)(*tensors), by_torch)
    assert_exact("gather", reference.conv_transpose2d_gather(*tensors, case.big_size, geometry), by_torch)


@pytest.mark.parametrize(
    ("stride", "padding", "expected"),
    [
        (1, 0, [[0, 0, 1], [0, 4, 6], [4, 12, 9]]),
        (1, 1, [[4]]),
        (2, 0, [[0, 0, 0, 1], [0, 0, 2, 3], [0, 2, 0, 3], [4, 6, 6, 9]]),
        (2, 1, [[0, 2], [2, 0]]),
    ],
    ids=["s1p0", "s1p1-cropped-to-1x1", "s2p0", "s2p1"],
)
def test_worked_example(backend, device, stride, padding, expected):
    pixels = PIXELS.view(1, 1, 2, 2).to(device)
    output = functional.conv_transpose2d(pixels, pixels, None, stride, padding)
    assert_exact("2x2 image, 2x2 kernel", output[0, 0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("stride", "padding", "small", "big"), [(1, 0, 3, 5), (2, 1, 3, 5)], ids=["s1p0", "s2p1"])
def test_the_transposed_convolution_goes_back(backend, device, stride, padding, small, big):
    image, kernel = torch.ones(1, 1, big, big, device=device), torch.ones(1, 1, 3, 3, device=device)
    down = functional.conv2d(image, kernel, None, stride, padding)
    assert down.shape[2:] == (small, small)
    assert functional.conv_transpose2d(down, kernel, None, stride, padding).shape == image.shape


@conv_cases
def test_integers_equal_the_scatter_definition_exactly(case, backend, device):
    tensors = case.tensors(True, integers)
    grad = integers(case.big_shape)
    judged = with_gradients(scatter(case), wide(tensors), grad)
    ours = with_gradients(
        lambda *args: functional.conv_transpose2d(*args, **case.options(True)),
        [tensor.to(device) for tensor in tensors],
        grad.to(device),
    )
    for name, mine, judge in zip(("output", "grad_input", "grad_weight", "grad_bias"), ours, judged, strict=True):
        assert_exact(name, mine, judge)


@conv_cases
def test_conv2d_is_the_adjoint_of_the_scatter_definition_exactly(case, backend, device):
    big, weight, small = integers(case.big_shape), integers(case.weight_shape), integers(case.small_shape)
    adjoint = torch.autograd.functional.vjp(
        lambda x: scatter(case)(x, weight.double()), torch.zeros(case.small_shape).double(), big.double()
    )[1]
    output = functional.conv2d(big.to(device), weight.to(device), **case.options(False))
    # output_padding >= stride lets the strided convolution see more windows than the small image has pixels
    output = output[:, :, : small.shape[2], : small.shape[3]]
    assert_exact("output", output, adjoint)


@conv_cases
def test_conv2d_integers_are_exact(case, backend, device):
    tensors = case.tensors(False, integers)
    judged = with_gradients(lambda *args: F.conv2d(*args, **case.options(False)), wide(tensors))
    ours = with_gradients(
        lambda *args: functional.conv2d(*args, **case.options(False)), [tensor.to(device) for tensor in tensors]
    )
    for name, mine, judge in zip(("output", "grad_input", "grad_weight", "grad_bias"), ours, judged, strict=True):
        assert_exact(name, mine, judge)


SAME = [
    ((4, 4), (2, 2), (1, 1)),
    ((5, 5), (2, 2), (1, 1)),
    ((3, 5), (1, 2), (1, 1)),
    ((1, 2), (2, 3), (1, 1)),
    ((3, 2), (4, 3), (1, 1)),
    ((3, 4), (2, 1), (2, 3)),
    ((2, 2), (3, 2), (2, 2)),
]
same_cases = pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), SAME, ids=[f"k{k[0]}{k[1]}s{s[0]}{s[1]}d{d[0]}{d[1]}" for k, s, d in SAME]
)


@same_cases
@directions
@pytest.mark.parametrize("groups", [1, 2])
def test_same_is_tensorflows(kernel, stride, dilation, groups, transposed, backend, device):
    ours, _ = conv_functions(transposed)
    judge = stamp_and_crop if transposed else pad_and_convolve
    case = Conv("same", (5, 4), kernel, channels=(4, 6), groups=groups)
    tensors = [integers((2, case.channels[0 if transposed else 1], 5, 4)), *case.tensors(transposed, integers)[1:]]
    judged = with_gradients(lambda *args: judge(*args, stride, dilation, groups), wide(tensors))
    mine = with_gradients(
        lambda *args: ours(*args, stride=stride, padding="same", dilation=dilation, groups=groups),
        [tensor.to(device) for tensor in tensors],
    )
    expected = (5 * stride[0], 4 * stride[1]) if transposed else (-(-5 // stride[0]), -(-4 // stride[1]))
    assert mine[0].shape[2:] == expected
    for name, one, other in zip(("output", "grad_input", "grad_weight", "grad_bias"), mine, judged, strict=True):
        assert_exact(name, one, other)


def test_same_with_kernel_5_is_one_pixel_off_torchs_padding_2(backend, device):
    x, w = integers((1, 1, 3, 3)).to(device), integers((1, 1, 5, 5)).to(device)
    same = functional.conv_transpose2d(x, w, stride=2, padding="same")
    padded = F.conv_transpose2d(x, w, stride=2, padding=2, output_padding=1)
    assert same.shape == padded.shape
    assert not torch.equal(same, padded)
    assert torch.equal(same[..., 1:, 1:], padded[..., :-1, :-1])


def test_same_with_kernel_4_is_torchs_padding_1(backend, device):
    x, w = integers((1, 2, 3, 3)).to(device), integers((2, 1, 4, 4)).to(device)
    same = functional.conv_transpose2d(x, w, stride=2, padding="same")
    assert torch.equal(same, F.conv_transpose2d(x, w, stride=2, padding=1))


def test_conv2d_same_7_to_4_pads_1_before_and_2_after(backend, device):
    x, w = integers((1, 1, 7, 7)).to(device), integers((1, 1, 4, 4)).to(device)
    same = functional.conv2d(x, w, stride=2, padding="same")
    assert torch.equal(same, F.conv2d(F.pad(x, (1, 2, 1, 2)), w, stride=2))
    assert same.shape[2:] == (4, 4)


def test_conv2d_valid_is_padding_0(backend, device):
    x, w = integers((1, 1, 7, 7)).to(device), integers((1, 1, 4, 4)).to(device)
    assert torch.equal(functional.conv2d(x, w, padding="valid"), functional.conv2d(x, w))


def test_gaps_between_stamps_are_exactly_the_bias(backend, device):
    x, w, b = torch.randn(1, 2, 2, 2), torch.randn(2, 3, 2, 2), torch.randn(3)
    output = functional.conv_transpose2d(x.to(device), w.to(device), b.to(device), stride=4, output_padding=3).cpu()
    stamped = torch.zeros(9, 9, dtype=torch.bool)
    for i in (0, 4):
        for j in (0, 4):
            stamped[i : i + 2, j : j + 2] = True
    assert torch.equal(output[0][:, ~stamped], b[:, None].expand(3, int((~stamped).sum())))
    assert (output[0][:, stamped] != b[:, None]).all()


@interpreter_overflows
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=["nan", "inf", "-inf"])
@pytest.mark.parametrize("name", ["dcgan-k4s2p1", "dilation-stride", "stride-beyond-kernel"])
@directions
def test_a_special_pixel_touches_only_its_window(name, value, transposed, backend, device):
    case = BY_NAME[name]
    ours, torchs = conv_functions(transposed)
    x, w, b = (tensor.to(device) for tensor in case.tensors(transposed, lambda shape: integers(shape).abs() + 1))
    clean = ours(x, w, b, **case.options(transposed))
    row, column = (1, 1) if transposed else (s - p for s, p in zip(case.stride, case.padding, strict=True))
    marked = x.clone()
    marked[0, 1, row, column] = value
    touched = ours(marked, w, b, **case.options(transposed))
    spot = torch.zeros_like(x)
    spot[0, 1, row, column] = 1
    window = torchs(spot, torch.ones_like(w), **case.options(transposed)) != 0
    assert window.any() and not window.all()
    assert torch.equal(touched[~window], clean[~window])
    assert torch.equal(touched[window].isnan() if value != value else touched[window] == value, window[window])


@directions
def test_a_nan_in_the_gradient_touches_only_its_window(transposed, backend, device):
    case = BY_NAME["dcgan-k4s2p1"]
    ours, torchs = conv_functions(transposed)
    tensors = [tensor.to(device) for tensor in case.tensors(transposed, lambda shape: integers(shape).abs() + 1)]
    grad = torch.ones(case.big_shape if transposed else case.small_shape, device=device)
    grad[1, 0, 0, 2] = float("nan")
    mine = with_gradients(lambda *args: ours(*args, **case.options(transposed)), tensors, grad)
    theirs = with_gradients(lambda *args: torchs(*args, **case.options(transposed)), wide(tensors), grad)
    # not the weight's: torch's own kernels disagree on whether NaN times a pixel of the padding counts
    for name, i in (("output", 0), ("grad_input", 1), ("grad_bias", 3)):
        assert_exact(name, mine[i], theirs[i])
    assert 0 < mine[1].isnan().sum() < mine[1].numel()


@interpreter_overflows
@directions
def test_fp16_overflow_is_inf(transposed, backend, device):
    ours, torchs = conv_functions(transposed)
    x = torch.full((1, 4, 5, 5), 300.0, dtype=torch.float16, device=device)
    w = torch.full((4, 4, 3, 3), 300.0, dtype=torch.float16, device=device)
    w[:, 1] = -w[:, 1]
    w[:, 2:] = 0.125
    w = w if transposed else w.transpose(0, 1)
    output = ours(x, w)
    assert torch.equal(output, torchs(x.double(), w.double()).to(torch.float16))
    assert output.isinf().any()


@dtypes
@directions
@pytest.mark.parametrize("name", ["dcgan-k4s2p1", "k5s2p2op1", "dilation-stride", "groups", "wide-to-narrow"])
def test_dtypes_by_the_rule(name, transposed, dtype, backend, device):
    case = BY_NAME[name]
    ours, torchs = conv_functions(transposed)
    tensors = [tensor.to(device, dtype) for tensor in case.tensors(transposed, torch.randn)]
    grad = torch.randn(torchs(*tensors, **case.options(transposed)).shape).to(device, dtype)
    mine = with_gradients(lambda *args: ours(*args, **case.options(transposed)), tensors, grad)
    theirs = with_gradients(lambda *args: torchs(*args, **case.options(transposed)), tensors, grad)
    judged = with_gradients(lambda *args: torchs(*args, **case.options(transposed)), wide(tensors), grad)
    for label, one, other, judge in zip(
        ("output", "grad_input", "grad_weight", "grad_bias"), mine, theirs, judged, strict=True
    ):
        if dtype is torch.float64:
            assert_tight(label, one, judge)
        else:
            assert_rule(label, one, other, judge)


@directions
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_autocast_computes_in_low_precision_and_gives_gradients_in_the_parameters_dtype(
    low, transposed, backend, device
):
    case = BY_NAME["dcgan-k4s2p1"]
    ours, torchs = conv_functions(transposed)
    tensors = [tensor.to(device) for tensor in case.tensors(transposed, torch.randn)]
    narrow = [tensor.to(low) for tensor in tensors]

    def cast(function):
        def call(*args):
            with torch.autocast(device.type, low):
                return function(*args, **case.options(transposed))

        return call

    mine, theirs = with_gradients(cast(ours), tensors), with_gradients(cast(torchs), tensors)
    judged = with_gradients(lambda *args: torchs(*args, **case.options(transposed)), wide(narrow))
    assert mine[0].dtype == low
    assert [tensor.dtype for tensor in mine[1:]] == [torch.float32] * 3
    assert_rule("output", mine[0], theirs[0], judged[0])
    for name, one, other, judge in zip(
        ("grad_input", "grad_weight", "grad_bias"), mine[1:], theirs[1:], judged[1:], strict=True
    ):
        assert_rule(name, one.to(low), other.to(low), judge)


def test_padding_beyond_all_that_the_stamps_reach(backend, device):
    """The one stamp is cropped away; the row that output_padding adds lies behind it."""
    x, w, b = (integers(shape).to(device) for shape in ((2, 1, 1, 1), (1, 3, 1, 1), (3,)))
    output = functional.conv_transpose2d(x, w, b, stride=5, padding=2, output_padding=4)
    assert output.shape == F.conv_transpose2d(x, w, b, stride=5, padding=2, output_padding=4).shape == (2, 3, 1, 1)
    assert torch.equal(output, b.view(3, 1, 1).expand_as(output))
