"""Memory layouts and degenerate shapes of the convolutions: any strides in, torch's strides out; empty, unbatched,
without pixels."""

from __future__ import annotations

import pytest
import torch

from fastgan import functional
from tests.checks import assert_exact, assert_torch_layout
from tests.ops.cases import LAYOUTS, Conv, conv_functions, directions, integers, wide, with_gradients

NAMES = ("output", "grad_input", "grad_weight", "grad_bias")
CASE = Conv("layout", (3, 4), (2, 3), (2, 1), (0, 1), (1, 0), channels=(3, 4))


def run(transposed, tensors, grad):
    """(ours, judged in float64 on contiguous copies)."""
    ours, torchs = conv_functions(transposed)
    options = CASE.options(transposed)
    mine = with_gradients(lambda *args: ours(*args, **options), tensors, grad)
    plain = [tensor.double().contiguous() for tensor in tensors]
    return mine, with_gradients(lambda *args: torchs(*args, **options), plain, grad.contiguous())


def assert_all_exact(mine, judged):
    for name, one, judge in zip(NAMES, mine, judged, strict=True):
        assert_exact(name, one, judge)


@pytest.mark.parametrize("of_weight", LAYOUTS)
@pytest.mark.parametrize("of_input", LAYOUTS)
@directions
def test_layouts_of_input_and_weight(transposed, of_input, of_weight, backend, device):
    x, w, b = (tensor.to(device) for tensor in CASE.tensors(transposed, integers))
    x, w = LAYOUTS[of_input](x), LAYOUTS[of_weight](w)
    torchs = conv_functions(transposed)[1](x, w, b, **CASE.options(transposed))
    mine, judged = run(transposed, [x, w, b], integers(torchs.shape).to(device))
    assert_all_exact(mine, judged)
    assert_torch_layout("output", mine[0], torchs)


@pytest.mark.parametrize("of_grad", LAYOUTS)
@pytest.mark.parametrize(
    ("of_input", "of_weight"),
    [("nchw", "nchw"), ("nhwc", "nhwc"), ("nhwc", "nchw"), ("nchw", "nhwc"), ("sliced", "swapped")],
)
@directions
def test_layouts_of_the_gradient(transposed, of_grad, of_input, of_weight, backend, device):
    x, w, b = (tensor.to(device) for tensor in CASE.tensors(transposed, integers))
    shape = CASE.big_shape if transposed else CASE.small_shape
    grad = LAYOUTS[of_grad](integers(shape).to(device))
    assert_all_exact(*run(transposed, [LAYOUTS[of_input](x), LAYOUTS[of_weight](w), b], grad))


@directions
def test_a_gradient_expanded_from_one_number(transposed, backend, device):
    tensors = [tensor.to(device) for tensor in CASE.tensors(transposed, integers)]
    shape = CASE.big_shape if transposed else CASE.small_shape
    assert_all_exact(*run(transposed, tensors, torch.full((), 3.0, device=device).expand(shape)))


@directions
def test_a_strided_bias(transposed, backend, device):
    x, w, b = (tensor.to(device) for tensor in CASE.tensors(transposed, integers))
    apart = torch.stack([b, torch.full_like(b, float("nan"))], 1)[:, 0]
    assert apart.stride() == (2,)
    grad = integers(CASE.big_shape if transposed else CASE.small_shape).to(device)
    assert_all_exact(*run(transposed, [x, w, apart], grad))


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((1, 1, 3, 4), (1, 1, 4, 1)),
        ((1, 1, 3, 4), (77, 5, 4, 1)),
        ((2, 1, 3, 4), (12, 1, 4, 1)),
        ((1, 3, 1, 1), (3, 1, 9, 2)),
        ((1, 3, 1, 1), (1, 1, 1, 1)),
        ((2, 3, 1, 1), (3, 1, 1, 1)),
        ((1, 3, 1, 4), (50, 1, 77, 3)),
        ((3, 1, 1, 1), (1, 0, 0, 0)),
    ],
    ids=str,
)
@directions
def test_odd_strides_on_dimensions_of_size_1(transposed, shape, strides, backend, device):
    ours, torchs = conv_functions(transposed)
    room = integers((200,)).to(device)
    x = room.as_strided(shape, strides)
    w = integers((shape[1], 2, 2, 2) if transposed else (2, shape[1], 2, 2)).to(device)
    options = {"stride": 2, "padding": 0 if transposed else 1}
    output = ours(x, w, **options)
    assert_exact("output", output, torchs(x.double().contiguous(), w.double(), **options))
    assert_torch_layout("output", output, torchs(x, w, **options))


@directions
def test_odd_strides_on_a_1x1_kernel(transposed, backend, device):
    ours, torchs = conv_functions(transposed)
    x = integers((2, 3, 4, 4)).to(device)
    w = integers((30,)).to(device).as_strided((3, 3, 1, 1), (3, 1, 7, 2))
    output = ours(x, w)
    assert_exact("output", output, torchs(x.double(), w.double().contiguous()))
    assert_torch_layout("output", output, torchs(x, w))


@directions
def test_empty_batch(transposed, backend, device):
    ours, torchs = conv_functions(transposed)
    tensors = [tensor.to(device) for tensor in CASE.tensors(transposed, integers)]
    tensors[0] = tensors[0][:0]
    mine = with_gradients(lambda *args: ours(*args, **CASE.options(transposed)), tensors)
    theirs = with_gradients(lambda *args: torchs(*args, **CASE.options(transposed)), wide(tensors))
    assert_all_exact(mine, theirs)
    assert not mine[2].any() and not mine[3].any()


@directions
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_empty_batch_layout(transposed, memory_format, backend, device):
    ours, torchs = conv_functions(transposed)
    x, w, b = (tensor.to(device) for tensor in CASE.tensors(transposed, integers))
    x = x[:0].contiguous(memory_format=memory_format)
    options = CASE.options(transposed)
    assert ours(x, w, b, **options).shape == torchs(x, w, b, **options).shape


@directions
def test_unbatched(transposed, backend, device):
    ours, torchs = conv_functions(transposed)
    x, w, b = (tensor.to(device) for tensor in CASE.tensors(transposed, integers))
    mine = with_gradients(lambda *args: ours(*args, **CASE.options(transposed)), [x[0], w, b])
    judged = with_gradients(lambda *args: torchs(*args, **CASE.options(transposed)), wide([x[0], w, b]))
    assert mine[0].dim() == 3
    assert_all_exact(mine, judged)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("size", "padding", "expected"),
    [((1, 1), (1, 1), (0, 0)), ((1, 3), (1, 0), (0, 4)), ((3, 1), (0, 1), (4, 0))],
    ids=str,
)
def test_outputs_without_pixels(size, padding, expected, channels_last, backend, device):
    """torch refuses these; here they are the empty image that the formula gives, and gradients are zero."""
    x, w, b = integers((2, 3, *size)).to(device), integers((3, 4, 2, 2)).to(device), integers((4,)).to(device)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    output, *gradients = with_gradients(lambda *args: functional.conv_transpose2d(*args, 1, padding), [x, w, b])
    assert output.shape == (2, 4, *expected)
    for leaf, gradient in zip((x, w, b), gradients, strict=True):
        assert_exact("gradient", gradient, torch.zeros_like(leaf).double())


@directions
def test_no_bias(transposed, backend, device):
    ours, torchs = conv_functions(transposed)
    x, w, _ = (tensor.to(device) for tensor in CASE.tensors(transposed, integers))
    mine = with_gradients(lambda *args: ours(*args, **CASE.options(transposed)), [x, w, None])
    judged = with_gradients(lambda *args: torchs(*args, **CASE.options(transposed)), wide([x, w, None]))
    for name, one, judge in zip(NAMES, mine, judged, strict=False):
        assert_exact(name, one, judge)


@directions
def test_padding_that_swallows_every_stamp_leaves_the_bias(transposed, backend, device):
    x, w, b = integers((1, 1, 4, 4)).to(device), integers((1, 1, 1, 1)).to(device), integers((1,)).to(device)
    if transposed:  # pixels land on 0, 3, 6, 9; rows 4 and 5 are left
        output = functional.conv_transpose2d(x, w, b, stride=3, padding=4)
        assert output.shape == (1, 1, 2, 2)
        assert torch.equal(output, b.view(1, 1, 1, 1).expand_as(output))
    else:  # the border of the output sees only zeros
        output = functional.conv2d(x, w, b, padding=2)
        assert torch.equal(output[0, 0, :2], b.expand(2, 8))


@pytest.mark.parametrize("value", [2, (2,), [2, 2], (2, 2), torch.Size([2, 2])], ids=repr)
@directions
def test_options_as_int_or_sequence(transposed, value, backend, device):
    ours, torchs = conv_functions(transposed)
    x, w, b = (tensor.to(device) for tensor in CASE.tensors(transposed, integers))
    judge = torchs(x.double(), w.double(), b.double(), stride=value, padding=value, dilation=value)
    assert_exact("output", ours(x, w, b, stride=value, padding=value, dilation=value), judge)
