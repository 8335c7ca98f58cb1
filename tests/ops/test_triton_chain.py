"""A chain's links in Triton in every configuration that is shipped, in hostile surroundings (hostile.py). What they
compute, against torch's unfused layers: test_chain.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

import fastgan
from fastgan.ops.common.activation import Activation
from fastgan.ops.conv_transpose2d import triton_tiles as tiles
from tests.checks import assert_exact, assert_rule
from tests.ops.cases import Conv, directions, integers
from tests.ops.hostile import arguments, force, links, shuffle_programs
from tests.ops.test_triton_conv import TILES

pytestmark = pytest.mark.usefixtures("hostile")
LAYER = Conv("layer", (2, 4), (4, 4), (2, 2), (1, 1), channels=(70, 66), batch=2)
ACTIVATIONS = {"none": (0, 0.0), "relu": (1, 0.0), "leaky_relu": (2, 0.5)}
Tensors = dict[str, torch.Tensor]


def powers(count: int) -> torch.Tensor:
    return torch.randint(0, 2, (count,)).float() + 1


def link(case: Conv, transposed: bool, dtype: torch.dtype, along_statistics: bool = True) -> Tensors:
    """Whole numbers from which everything about a link is a whole number: by the statistics nothing is divided that
    their count does not divide, where it is a power of two."""
    source, to = (case.small_shape, case.big_shape) if transposed else (case.big_shape, case.small_shape)
    count = to[0] * to[2] * to[3]
    assert not along_statistics or count & (count - 1) == 0
    share = count if along_statistics else 0

    def image(shape: Sequence[int], limit: int) -> torch.Tensor:
        return integers(shape, dtype, limit).contiguous(memory_format=torch.channels_last)

    def vector(channels: int, limit: int = 1) -> torch.Tensor:
        return integers((channels,), torch.float32, limit)

    return {
        "grad_output": image(to, 2),
        "grad_mean": share * vector(to[1]),
        "grad_rstd": share * vector(to[1]),
        "output": image(to, 2),
        "output_mean": vector(to[1]),
        "output_rstd": powers(to[1]) / 2,
        "input": image(source, 2),
        "mean": vector(source[1]),
        "rstd": powers(source[1]),
        "gamma": vector(source[1]),
        "beta": vector(source[1]),
        "weight": image(case.weight_shape, 1),
    }


NORM = ("mean", "rstd", "gamma", "beta")


def forward(case: Conv, transposed: bool, t: Tensors, bias: torch.Tensor | None, activation: str) -> Any:
    size = case.big_size if transposed else case.size
    op = torch.ops.fastgan.conv_transpose2d_stats if transposed else torch.ops.fastgan.conv2d_stats
    geometry = (case.stride, case.padding, case.dilation, case.groups)
    norm = [t.get(name) for name in (*NORM, "beside")]
    return op(t["input"], *norm, t["weight"], bias, None, None, size, *geometry, 0.0, 1.0, *ACTIVATIONS[activation])


def backward(
    case: Conv, transposed: bool, t: Tensors, activation: str, wanted: tuple[bool, ...] = (True, True, True)
) -> Any:
    name = "conv_transpose2d_stats_backward" if transposed else "conv2d_stats_backward"
    geometry = (case.stride, case.padding, case.dilation, case.groups)
    first = ("grad_output", "grad_mean", "grad_rstd", "output", "output_mean", "output_rstd", "input")
    operands = [t.get(key) for key in (*first, *NORM, "beside", "weight")]
    return getattr(torch.ops.fastgan, name)(*operands, *wanted, *geometry, *ACTIVATIONS[activation])


def judged(t: Tensors) -> Tensors:
    return {name: tensor.double().cpu() for name, tensor in t.items()}


def on(device: torch.device, t: Tensors) -> Tensors:
    return {name: tensor.to(device) for name, tensor in t.items()}


GRADIENTS = ("grad_input", "grad_beside", "grad_weight", "grad_mean", "grad_rstd", "grad_gamma", "grad_beta")


def check(
    case: Conv,
    transposed: bool,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    activation: str = "leaky_relu",
    along_statistics: bool = True,
    edit: Any = lambda t: t,
) -> None:
    """The link and all its gradients, bit-equal to the float64 result, rounded once; the statistics by the rule."""
    t = edit(link(case, transposed, dtype, along_statistics))
    bias = integers((case.channels[1 if transposed else 0],))
    output, mean, rstd = forward(case, transposed, on(device, t), bias.to(device, dtype), activation)
    ours = backward(case, transposed, on(device, t), activation)
    with fastgan.use_backend("reference"):
        judge = forward(case, transposed, judged(t), bias.double(), activation)[0]
        judges = backward(case, transposed, judged(t), activation)
    assert_exact("output", output, judge.to(dtype).double())
    wide = output.cpu().double()
    var, centre = torch.var_mean(wide, (0, 2, 3), correction=0)
    theirs = torch.var_mean(wide.float(), (0, 2, 3), correction=0)
    assert_rule("mean", mean.cpu(), theirs[1].to(mean.dtype), centre)
    assert_rule("rstd", rstd.cpu(), torch.rsqrt(theirs[0] + 1).to(rstd.dtype), torch.rsqrt(var + 1))
    for name, mine, right in zip(GRADIENTS, ours, judges, strict=True):
        assert mine.shape == right.shape
        assert_exact(name, mine, right.to(mine.dtype).double())


@pytest.mark.parametrize(
    ("tile", "channels", "dtype"),
    [entry for entry in TILES if max(entry[0].block_m, entry[0].block_n) <= 128],  # others spill, and are not chosen
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else "",
)
@directions
def test_every_tile(transposed, tile, channels, dtype, device, launched, monkeypatch):
    """Tails of all three extents, and three splits of as many steps as there are."""
    force(monkeypatch, tile)
    check(replace(LAYER, channels=channels), transposed, device, dtype)
    assert ("finish_closed_kernel" in launched) == (tile.splits > 1)
    assert {"conv_transpose2d_kernel", "conv2d_kernel", "statistics_merge_kernel", "gradients_merge_kernel"} <= set(
        launched
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@directions
def test_activations(transposed, activation, device):
    check(replace(LAYER, channels=(20, 17)), transposed, device, activation=activation)


CASES = [
    Conv("several-tiles-with-tails", (5, 6), (4, 4), (2, 2), (1, 1), channels=(18, 17), batch=5),
    Conv("odd-phases", (3, 4), (3, 3), (2, 2), (1, 1), (0, 1), channels=(5, 9), batch=3),
    Conv("groups", (3, 3), (4, 4), (2, 2), (1, 1), groups=2, channels=(6, 10)),
    Conv("dilation", (4, 3), (3, 2), (1, 2), (1, 0), dilation=(2, 3), channels=(5, 4)),
    Conv("padding-beyond-kernel", (5, 4), (2, 2), (2, 1), (3, 1), channels=(4, 5)),
    Conv("gaps", (3, 2), (2, 1), (3, 4), channels=(4, 9)),
    Conv("few-channels", (6, 5), (4, 4), (2, 2), (1, 1), channels=(20, 3)),
    Conv("one-image", (4, 5), (4, 4), (2, 2), (1, 1), channels=(9, 7), batch=1),
    Conv("many-images", (1, 2), (4, 4), (2, 2), (1, 1), channels=(3, 2), batch=1030),
    Conv("one-channel", (6, 5), (4, 4), (2, 2), (1, 1), channels=(1, 20)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@directions
def test_geometries(transposed, case, device):
    """The padding is zero after the batch norm and the activation; every pixel counts once."""
    check(case, transposed, device, along_statistics=False)


@directions
def test_all_taps_of_many_channels_at_once(transposed, device, launched):
    """The weight gradient where few taps lie outside the image, in 16 bits."""
    case = Conv("wide", (8, 8), (4, 4), (2, 2), (1, 1), channels=(20, 16))
    check(case, transposed, device, torch.float16)
    assert "conv2d_weight_columns_kernel" in launched


def without_norm(t: Tensors) -> Tensors:
    return {name: tensor for name, tensor in t.items() if name not in NORM}


def without_affine(t: Tensors) -> Tensors:
    return {name: tensor for name, tensor in t.items() if name not in ("gamma", "beta")}


def mixed_layouts(t: Tensors) -> Tensors:
    """Every image in a layout of its own; vectors that are not dense."""
    strided = {name: torch.stack([t[name], t[name]], 1)[:, 0] for name in (*NORM, "grad_mean", "grad_rstd")}
    sliced = torch.stack([t["input"], t["input"]], 4)[..., 0]
    return {**t, **strided, "grad_output": t["grad_output"].contiguous(), "input": sliced}


@pytest.mark.parametrize("edit", [without_norm, without_affine, mixed_layouts])
@directions
def test_operands(transposed, edit, device):
    check(replace(LAYER, channels=(20, 17)), transposed, device, edit=edit)


@directions
def test_few_channels_at_the_start_of_a_chain(transposed, device, launched):
    """The kernels that take them as columns tell nothing of their output."""
    (case,) = (case for case in CASES if case.name == "few-channels")
    check(case, transposed, device, along_statistics=False, edit=without_norm)
    assert "statistics_merge_kernel" in launched


def beside(transposed: bool, count: int, layout: Any = lambda t: t) -> Any:
    """An edit: the link takes ``count`` channels more, which have no batch norm."""

    def edit(t: Tensors) -> Tensors:
        image, shape = t["input"], list(t["weight"].shape)
        shape[0 if transposed else 1] += count
        more = integers((image.shape[0], count, *image.shape[2:]), image.dtype, 2)
        weight = integers(shape, image.dtype, 1).contiguous(memory_format=torch.channels_last)
        return {**t, "beside": layout(more), "weight": weight}

    return edit


BESIDE = [case for case in (LAYER, *CASES) if case.groups == 1 and case.batch < 100]


@pytest.mark.parametrize("case", BESIDE, ids=lambda case: case.name)
@directions
def test_channels_beside_those_of_the_input(transposed, case, device):
    count, case = (3, replace(case, channels=(20, 17))) if case is LAYER else (1, case)
    check(case, transposed, device, along_statistics=False, edit=beside(transposed, count))


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@directions
def test_channels_beside_in_splits_and_layouts(transposed, dtype, splits, device, monkeypatch):
    """They are added once, and may have strides of their own; in float32 by several tiles."""
    force(monkeypatch, tiles.Tile(32, 16 if dtype is torch.float32 else 32, 16, 4, 3, splits=splits))
    edit = beside(transposed, 2, lambda t: torch.stack([t, t], 4)[..., 1])
    check(replace(LAYER, channels=(20, 17)), transposed, device, dtype, edit=edit)


ONE_LAUNCH = {
    "two tiles of channels": (Conv("wide", (2, 3), (2, 2), (2, 2), channels=(66, 65)), 1),
    "many tiles of pixels": (replace(LAYER, channels=(9, 10), size=(8, 6), batch=6), 1),
    "four beside": (replace(LAYER, channels=(5, 4)), 4),
}
TWO_LAUNCHES = {
    "five beside": (replace(LAYER, channels=(5, 4)), 5),
    "nine taps in a row": (Conv("wide", (2, 9), (1, 9), (1, 1), (0, 4), channels=(5, 4), batch=2), 1),
}


@pytest.mark.parametrize("name", [*ONE_LAUNCH, *TWO_LAUNCHES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@directions
def test_both_gradients_of_what_is_beside(transposed, dtype, name, device, launched):
    """In one launch where that is a few channels and taps."""
    case, count = (ONE_LAUNCH | TWO_LAUNCHES)[name]
    check(case, transposed, device, dtype, along_statistics=case.size == LAYER.size, edit=beside(transposed, count))
    assert ("beside_gradients_kernel" in launched) == (name in ONE_LAUNCH)
    assert sum("weight" in kernel for kernel in launched) == (1 if name in ONE_LAUNCH else 2)


@directions
def test_offsets_of_64_bits(transposed, device, monkeypatch):
    monkeypatch.setattr(arguments(), "_FAR", 0)
    check(replace(LAYER, channels=(17, 15)), transposed, device, edit=beside(transposed, 1))
    force(monkeypatch, tiles.Tile(64, 32, 16, 4, 3, splits=2))
    check(replace(LAYER, channels=(17, 15)), transposed, device, edit=beside(transposed, 1))


@pytest.mark.parametrize("wanted", [tuple(bool(mask >> i & 1) for i in range(3)) for mask in range(7)], ids=str)
@pytest.mark.parametrize("count", [0, 2])
@directions
def test_only_what_is_wanted(transposed, count, wanted, device, launched):
    case = replace(LAYER, channels=(5, 4))
    t = link(case, transposed, torch.float32)
    t = beside(transposed, count)(t) if count else t
    gradients = backward(case, transposed, on(device, t), "relu", wanted)
    of_input, of_beside, of_weight = wanted
    there = (of_input, of_beside and count > 0, of_weight, *(of_input,) * 4)
    assert [bool(gradient.numel()) for gradient in gradients] == list(there)
    assert ("gradients_merge_kernel" in launched) == of_input
    assert any("weight" in name for name in launched) == of_weight


@pytest.mark.parametrize("tiles_a_step", [1, 2, 64])
def test_the_merge_takes_tiles_in_steps(tiles_a_step, device, monkeypatch):
    monkeypatch.setattr(links(), "_MERGED", 8 * tiles_a_step)
    force(monkeypatch, tiles.Tile(16, 16, 16, 4, 3))
    check(Conv("merge", (4, 4), (4, 4), (2, 2), (1, 1), channels=(9, 12), batch=8), True, device)


@directions
def test_statistics_of_values_far_from_zero(transposed, device):
    """Mean 1e4, standard deviation 0.1, in several tiles, some of them half empty."""
    case = Conv("far", (5, 7), (1, 1), channels=(3, 3), batch=5)
    x = 1e4 + 0.1 * torch.randn(case.small_shape)
    weight = torch.eye(3).view(3, 3, 1, 1)
    t = {"input": x.to(device), "weight": weight.to(device)}
    _, mean, rstd = forward(case, transposed, t, None, "none")
    var, centre = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    theirs = torch.ops.aten.batch_norm_update_stats(x, None, None, 0.0)
    assert_rule("mean", mean.cpu(), theirs[0], centre)
    assert_rule("rstd", rstd.cpu(), torch.rsqrt(theirs[1] + 1), torch.rsqrt(var + 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_are_of_the_rounded_values(dtype, device):
    """Of what is stored, as an unfused batch norm's would be."""
    case = Conv("rounded", (4, 5), (1, 1), channels=(3, 3), batch=4)
    x = 100 + torch.randn(case.small_shape)
    t = {"input": x.to(device, dtype), "weight": 1.01 * torch.eye(3).view(3, 3, 1, 1).to(device, dtype)}
    output, mean, rstd = forward(case, True, t, None, "none")
    wide = output.cpu().double()
    var, centre = torch.var_mean(wide, (0, 2, 3), correction=0)
    theirs = torch.ops.aten.batch_norm_update_stats(wide.float(), None, None, 0.0)
    assert_rule("mean", mean.cpu(), theirs[0], centre)
    assert_rule("rstd", rstd.cpu(), torch.rsqrt(theirs[1] + 1), torch.rsqrt(var + 1))


def test_the_running_statistics(device):
    """(1 - momentum) * running + momentum * batch, the variance unbiased, in buffers of any stride and type."""
    case = replace(LAYER, channels=(5, 4))
    t = on(device, link(case, True, torch.float32))
    for dtype in (torch.float32, torch.bfloat16):
        room = torch.ones(2, 4, 3, dtype=dtype, device=device)
        arguments = (case.big_size, case.stride, case.padding, case.dilation, case.groups, 0.25, 1.0, 1, 0.0)
        norm = [*(t[name] for name in NORM), None]
        output, _, _ = torch.ops.fastgan.conv_transpose2d_stats(
            t["input"], *norm, t["weight"], None, room[0, :, 1], room[1, :, 1], *arguments
        )
        var, centre = torch.var_mean(output.double(), (0, 2, 3))
        for mine, new in zip(room, (centre, var), strict=True):
            assert_rule("running", mine[:, 1], (0.75 + 0.25 * new).to(dtype), (0.75 + 0.25 * new).cpu())
            assert torch.equal(mine[:, ::2], torch.ones_like(mine[:, ::2]))


def test_repeats_are_bit_equal(device, monkeypatch):
    """Whatever the order of the programs."""
    case = Conv("repeat", (4, 4), (4, 4), (2, 2), (1, 1), channels=(18, 17), batch=5)
    t = link(case, True, torch.float32, along_statistics=False)
    t = on(device, {name: tensor + torch.randn_like(tensor) for name, tensor in t.items()})
    runs = []
    for seed in range(3):
        if device.type == "cpu":
            shuffle_programs(monkeypatch, seed)
        runs.append((*forward(case, True, t, None, "relu"), *backward(case, True, t, "relu")))
    for other in runs[1:]:
        assert all(torch.equal(mine, first) for mine, first in zip(other, runs[0], strict=True))


def test_nan_stays_in_its_channel(device):
    """One NaN of a channel is in that channel's statistics alone."""
    case = Conv("nan", (5, 7), (1, 1), channels=(3, 3), batch=5)
    x = torch.randn(case.small_shape)
    x[2, 1, 3, 3] = float("nan")
    t = {"input": x.to(device), "weight": torch.eye(3).view(3, 3, 1, 1).to(device), "mean": torch.zeros(3)}
    t |= {"rstd": torch.ones(3), "gamma": torch.ones(3), "beta": torch.zeros(3)}
    # a product with zero spreads it over the channels of its own pixel
    weight = torch.zeros(3, 1, 1, 1) + 1
    depthwise = replace(case, groups=3, channels=(3, 3))
    _, mean, rstd = forward(depthwise, False, on(device, {**t, "weight": weight}), None, "leaky_relu")
    assert mean.isnan().tolist() == rstd.isnan().tolist() == [False, True, False]


def test_activation_numbers():
    assert {name: number for name, (number, _) in ACTIVATIONS.items()} == {
        "none": Activation.NONE,
        "relu": Activation.RELU,
        "leaky_relu": Activation.LEAKY_RELU,
    }
