"""The Triton convolutions in every configuration that is shipped, in hostile surroundings (hostile.py). Values,
gradients and layouts of the ops: test_conv_transpose2d.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan import functional
from fastgan.ops.common.activation import Activation
from fastgan.ops.conv_transpose2d import autograd
from fastgan.ops.conv_transpose2d import triton_tiles as tiles
from fastgan.ops.conv_transpose2d.geometry import Geometry
from tests.checks import assert_exact
from tests.ops.cases import Conv, conv_functions, directions, integers, interpreter_overflows, with_gradients
from tests.ops.hostile import arguments, force, launch, plans

LAYER = Conv("layer", (3, 3), (4, 4), (2, 2), (1, 1), channels=(70, 66), batch=9)
OPS = ("conv_transpose2d", "conv2d", "conv2d_weight")
pytestmark = pytest.mark.usefixtures("hostile")
ops = pytest.mark.parametrize("op", OPS)


def check(op: str, case: Conv, device: torch.device, make: Callable[..., torch.Tensor] = integers) -> None:
    """One map of the case, channels_last, bit-equal to the float64 result."""
    small, weight, big = make(case.small_shape), make(case.weight_shape), make(case.big_shape)
    on = [t.to(device).contiguous(memory_format=torch.channels_last) for t in (small, weight, big)]
    geometry = {"stride": case.stride, "padding": case.padding, "dilation": case.dilation, "groups": case.groups}
    up = {**geometry, "output_padding": case.output_padding}
    if op == "conv_transpose2d":
        ours = functional.conv_transpose2d(on[0], on[1], **up)
        judge = F.conv_transpose2d(small.double(), weight.double(), **up)
    elif op == "conv2d":
        ours = functional.conv2d(on[2], on[1], **geometry)
        judge = F.conv2d(big.double(), weight.double(), **geometry)
    else:
        relation = Geometry(case.stride, case.padding, case.dilation, case.groups)
        ours = autograd.conv2d_weight(on[0], on[2], case.kernel, relation)
        judge = with_gradients(lambda w: F.conv_transpose2d(small.double(), w, **up), [weight.double()], big.double())[
            1
        ]
    assert_exact(op, ours, judge)


TILES = [
    *((tiles.Tile(m, n, 64, warps, stages), (70, 66), torch.float16) for m, n, warps, stages in tiles._HALF),
    (tiles.Tile(64, 64, 64, 4, 4, splits=3), (70, 66), torch.float16),
    (tiles.Tile(64, 32, 16, 4, 3), (20, 34), torch.float32),
    (tiles.Tile(64, 32, 16, 4, 3, splits=3), (20, 34), torch.float32),
]


@pytest.mark.parametrize(
    ("tile", "channels", "dtype"),
    TILES,
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else "",
)
@ops
def test_every_tile(op, tile, channels, dtype, device, launched, monkeypatch):
    """Tails of all three extents, and three splits of as many steps as there are."""
    force(monkeypatch, tile)
    check(op, replace(LAYER, channels=channels), device, lambda shape: integers(shape, dtype, 2))
    assert launched == [f"{op}_kernel", *(["finish_kernel"] if tile.splits > 1 else [])]


@ops
def test_a_large_batch(op, device):
    check(op, Conv("many-images", (1, 1), (2, 2), (2, 2), channels=(9, 10), batch=4096), device)


@pytest.mark.parametrize("batch", [1, 15, 17, 32])
@ops
def test_batches_around_the_depth(op, batch, device, monkeypatch):
    """Where the batch is a multiple of the tile's extent all its pixels are at one place of the image."""
    force(monkeypatch, tiles.Tile(16, 16, 16, 4, 3, splits=2))
    check(op, replace(LAYER, size=(2, 3), channels=(17, 15), batch=batch), device)


@ops
def test_more_splits_than_steps(op, device, monkeypatch):
    force(monkeypatch, tiles.Tile(64, 64, 64, 4, 4, splits=20))
    check(op, replace(LAYER, size=(2, 2), kernel=(2, 2), channels=(9, 10), batch=2), device)


@ops
def test_offsets_of_64_bits(op, device, launched, monkeypatch):
    monkeypatch.setattr(arguments(), "_FAR", 0)
    check(op, replace(LAYER, channels=(17, 15), batch=3), device)
    check(op, replace(LAYER, size=(4, 4), channels=(17, 3), batch=3), device)
    assert {f"{op}_kernel", f"{op}_columns_kernel"} <= set(launched)


COLUMNS = [
    *(Conv(f"channels-{c}", (6, 5), (4, 4), (2, 2), (1, 1), channels=(70, c)) for c in (1, 3, 5, 8)),
    Conv("several-tiles", (17, 20), (4, 4), (2, 2), (1, 1), channels=(5, 3)),
    Conv("whole-tile", (8, 16), (4, 4), (2, 2), (1, 1), channels=(16, 3), batch=1),
    Conv("no-overlap", (5, 9), (2, 2), (2, 2), (0, 0), channels=(5, 2)),
    Conv("stride-beyond-kernel", (5, 9), (2, 2), (4, 2), (0, 1), (3, 0), channels=(5, 2)),
    Conv("stride-1", (9, 33), (2, 4), (1, 1), (1, 2), channels=(5, 2)),
    Conv("padding-beyond-kernel", (9, 9), (2, 2), (1, 1), (3, 3), channels=(5, 2)),
    Conv("padding-beyond-the-tile", (40, 24), (4, 4), (1, 1), (11, 5), channels=(5, 3), batch=1),
    Conv("odd-kernel", (9, 6), (3, 3), (2, 2), (1, 1), (1, 1), channels=(5, 1)),
    Conv("dilation", (9, 6), (3, 3), (2, 2), (1, 1), dilation=(2, 3), channels=(5, 1)),
]


@pytest.mark.parametrize("case", COLUMNS, ids=lambda case: case.name)
@ops
def test_few_channels(op, case, device, launched):
    check(op, case, device)
    # up, the dilated ones go by phases, and those of which a tile would store little
    folds = max(case.dilation) == 1 and case.name != "padding-beyond-the-tile"
    assert (f"{op}_columns_kernel" in launched) == (folds or op != "conv_transpose2d")


def test_images_in_turn(device, monkeypatch):
    """Fewer programs than tiles: each takes several."""
    monkeypatch.setattr(plans(), "rows_of_programs", lambda *_: 2)
    case = Conv("turns", (17, 20), (4, 4), (2, 2), (1, 1), channels=(5, 3), batch=3)
    check("conv_transpose2d", case, device)
    check("conv2d", case, device)


def test_all_taps_of_many_channels_at_once(device, launched):
    """The weight gradient where few taps lie outside the image."""
    case = Conv("wide", (9, 10), (4, 4), (2, 2), (1, 1), channels=(20, 16))
    check("conv2d_weight", case, device, lambda shape: integers(shape, torch.float16, 2))
    assert launched[0] == "conv2d_weight_columns_kernel"


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("channels", [(20, 3), (20, 17)], ids=["columns", "phases"])
@directions
def test_bias_and_activation_come_after_the_last_split(transposed, channels, activation, splits, device, monkeypatch):
    force(monkeypatch, tiles.Tile(64, 32, 16, 4, 3, splits=splits))
    case = replace(LAYER, channels=channels, batch=2)
    ours, torchs = conv_functions(transposed)
    tensors = case.tensors(transposed, integers)
    output = ours(*(t.to(device) for t in tensors), stride=2, padding=1, activation=activation, negative_slope=0.25)
    before = torchs(*(t.double() for t in tensors), stride=2, padding=1)
    assert_exact(activation, output, before.relu() if activation == "relu" else F.leaky_relu(before, 0.25))


@pytest.mark.parametrize("wanted", ["input weight bias", "input", "weight", "bias", "weight bias"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize(
    ("channels", "splits"),
    [((20, 3), 1), ((20, 3), 3), ((20, 17), 1), ((16, 4), 1)],
    ids=["columns", "columns-split", "taps", "no-column-free"],
)
def test_the_gradient_behind_an_activation(channels, splits, activation, wanted, device, monkeypatch):
    """One op makes all gradients that are asked for, from the gradient and the output."""
    force(monkeypatch, tiles.Tile(64, 64, 16, 4, 3, splits=splits))
    case = replace(LAYER, size=(4, 5), channels=channels, batch=2)
    tensors = dict(zip(("input", "weight", "bias"), case.tensors(False, integers), strict=True))
    grad = integers(case.small_shape)
    judged = {name: t.double().requires_grad_(name in wanted) for name, t in tensors.items()}
    ours = {name: t.to(device).requires_grad_(name in wanted) for name, t in tensors.items()}
    before = F.conv2d(*judged.values(), stride=2, padding=1)
    (before.relu() if activation == "relu" else F.leaky_relu(before, 0.25)).backward(grad.double())
    with fastgan.dispatch.trace() as calls:
        output = functional.conv2d(*ours.values(), stride=2, padding=1, activation=activation, negative_slope=0.25)
        output.backward(grad.to(device))
    assert calls == [("conv2d_act", "triton"), ("conv2d_act_backward", "triton")]
    for name in tensors:
        mine, judge = ours[name].grad, judged[name].grad
        assert (mine is None) == (judge is None) == (name not in wanted)
        if mine is not None:
            assert_exact(name, mine, judge)


def test_a_gradient_with_other_strides_than_the_output(device):
    case = replace(LAYER, channels=(5, 3), batch=2)
    tensors = [t.to(device).requires_grad_() for t in case.tensors(False, integers)]
    output = functional.conv2d(*tensors, stride=2, padding=1, activation="relu")
    grads = [integers(case.small_shape).to(device)] * 2
    grads[1] = grads[1].contiguous(memory_format=torch.channels_last)
    first, second = (torch.autograd.grad(output, tensors, grad, retain_graph=True) for grad in grads)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@interpreter_overflows
def test_an_infinite_weight_does_not_reach_over_the_border(device):
    """Zeros stand for pixels outside the image; zero times infinity is NaN."""
    x, weight = torch.ones(1, 2, 17, 20), torch.ones(2, 3, 4, 4)
    weight[0, 0, 0, 0] = weight[0, 1, 3, 3] = float("inf")
    output = functional.conv_transpose2d(x.to(device), weight.to(device), stride=2, padding=1).cpu()
    assert torch.equal(output, F.conv_transpose2d(x, weight, stride=2, padding=1))


@pytest.mark.parametrize(
    ("size", "strides", "kernel", "padding"),
    [((1, 1), (1 << 30, 16), (3, 1), (0, 0)), ((2, 1), (1 << 29, 16), (4, 1), (0, 0))],
    ids=["size-1", "rows-far-apart"],
)
def test_offsets_beside_the_image(size, strides, kernel, padding, device):
    """What lies beside the image is as far from it as its rows from each other, or from the last one as the kernel is
    long: the two parts of an offset must not wrap by themselves."""
    storage = torch.empty(strides[0] * (size[0] - 1) + 64, dtype=torch.float16, device=device)
    x = storage.as_strided((1, 16, *size), (16, 1, *strides)).copy_(integers((1, 16, *size), limit=2))
    up, down = integers((16, 17, *kernel), limit=1), integers((17, 16, *kernel), limit=1)
    output = functional.conv_transpose2d(x, up.to(device, torch.float16))
    assert_exact("up", output, F.conv_transpose2d(x.cpu().double(), up.double()))
    output = functional.conv2d(x, down.to(device, torch.float16), padding=(2, 0))
    assert_exact("down", output, F.conv2d(x.cpu().double(), down.double(), padding=(2, 0)))
    few = integers((17, 1, *kernel), limit=1)
    output = functional.conv2d(x[:, :1], few.to(device, torch.float16), padding=(2, 0))
    assert_exact("columns", output, F.conv2d(x[:, :1].cpu().double(), few.double(), padding=(2, 0)))


def test_places_of_more_pixels_than_32_bits_count(device):
    """65,536 x 65,536 places: their number is 0 in 32 bits."""
    from tests.ops.triton_places import places_kernel

    output = torch.zeros(4, dtype=torch.int64, device=device)
    places_kernel[(1,)](output, 97 * 65536 + 5, 64, 1, 65536, 65536)
    assert output.tolist() == [97, 97, 5, 68]


def test_an_output_that_is_not_dense(device):
    """The op by itself, called with any strides."""
    shapes = ((3, 16, 4, 4), (3, 16, 4, 8), (3, 3, 8, 8), (16, 3, 4, 4))
    grad, output, x, weight = (integers(shape).to(device) for shape in shapes)
    arguments = (grad, output[..., ::2], x, weight, True, (8, 8), (4, 4), (2, 2), (1, 1), (1, 1), 1, 1, 0.0)
    ours = torch.ops.fastgan.conv2d_act_backward(*arguments)
    with fastgan.use_backend("reference"):
        judges = torch.ops.fastgan.conv2d_act_backward(*arguments)
    for name, mine, judge in zip(("input", "weight", "bias"), ours, judges, strict=True):
        assert_exact(name, mine, judge.double())


def test_a_bias_gradient_is_no_tf32_product(device):
    """torch sums it with all its digits."""
    small, big = torch.ones(2, 64, 4, 4, device=device), torch.ones(2, 3, 8, 8, device=device)
    relation = Geometry((2, 2), (1, 1), (1, 1), 1)
    for tf32 in (False, True):
        torch.backends.cudnn.allow_tf32 = tf32
        sums = launch().conv2d_weight(small, big, (4, 4), relation, sums=True)[1]
        assert (sums is None) == tf32
    torch.backends.cudnn.allow_tf32 = False


def test_activation_numbers():
    from fastgan.ops.common import triton_epilogue

    for kind in (Activation.RELU, Activation.LEAKY_RELU, Activation.TANH):
        assert getattr(triton_epilogue, kind.name).value == kind


def test_tensors_beyond_2_to_the_31_elements(device):
    """Only what is touched of the storage is there."""
    far = (1 << 31) + 64
    storage = torch.empty(far + (1 << 10), dtype=torch.float16, device=device)
    x = storage.as_strided((2, 16, 4, 4), (far, 16, 4, 1))
    x.copy_(integers(x.shape, limit=2))
    weight = integers((16, 17, 4, 4), limit=1)
    output = functional.conv_transpose2d(x, weight.to(device, torch.float16), stride=2, padding=1)
    judge = F.conv_transpose2d(x.cpu().double(), weight.double(), stride=2, padding=1)
    assert_exact("output", output, judge)
