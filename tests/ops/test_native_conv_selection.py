"""When the compiled convolutions are chosen unasked: the model of their time and torch's, and what it must say."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from fastgan import dispatch
from fastgan.native import native_reason
from fastgan.ops.conv_transpose2d import geometry, native, selection
from tests.ops.test_native_conv import COLUMNS, DCGAN, OPS, Map, changed, meetings, random_map

needs_native = pytest.mark.skipif(native_reason("cpu") is not None, reason=str(native_reason("cpu")))
FORMATS = (torch.contiguous_format, torch.channels_last)
LAYERS = ((512, 256, 2), (256, 128, 4), (128, 64, 8), (64, 3, 16))  # DCGAN's, and the cGAN's in the middle


def arguments(op, map, memory_format=torch.contiguous_format, dtype=torch.float32):
    shapes, _ = map.inputs(op)
    first, second = (torch.empty(shape, dtype=dtype).contiguous(memory_format=memory_format) for shape in shapes)
    return map.args(op, first, second)


@needs_native
@pytest.mark.parametrize("batch", [16, 32, 64, 128])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_the_layers_of_the_models_run_natively(layer, batch):
    *channels, size = layer
    map = changed(DCGAN, batch=batch, channels=tuple(channels), small=(size, size), big=(2 * size, 2 * size))
    for op, memory_format in itertools.product(OPS, FORMATS):
        if op != "conv_transpose2d" and channels[1] == 3:
            continue  # within a few per cent of torch's, one way or the other
        assert dispatch.select(op, *arguments(op, map, memory_format)).name == "native", (op, memory_format)


@needs_native
@pytest.mark.parametrize("batch", [1, 64, 128])
@pytest.mark.parametrize("op", OPS)
def test_the_last_layer_of_the_conditional_generator_runs_natively(op, batch):
    """64 channels to 1, kernel 7: measured at 3 to 5 times torch's speed."""
    map = Map(batch, 1, (1, 64), (28, 28), (28, 28), (7, 7), (1, 1), (3, 3), (1, 1))
    for memory_format in FORMATS:
        assert dispatch.select(op, *arguments(op, map, memory_format)).name == "native"


@pytest.mark.parametrize("op", OPS)
def test_what_torch_is_better_at_is_left_to_it(op):
    depthwise = Map(8, 16, (1, 1), (19, 38), (22, 41), (4, 4), (1, 1), (0, 0), (1, 1))
    wide_depthwise = changed(depthwise, groups=128, small=(16, 16), big=(19, 19))
    for map in (depthwise, wide_depthwise):
        for memory_format in FORMATS:
            assert dispatch.select(op, *arguments(op, map, memory_format)).name == "reference"


@needs_native
@pytest.mark.parametrize("op", OPS)
def test_a_forced_backend_is_not_asked_whether_it_pays(op):
    map = Map(8, 16, (1, 1), (19, 38), (22, 41), (4, 4), (1, 1), (0, 0), (1, 1))
    with dispatch.use_backend("native"):
        assert dispatch.select(op, *arguments(op, map)).name == "native"


@pytest.mark.parametrize("op", OPS)
def test_every_call_has_finite_terms_that_fit_the_tables(op):
    rng = random.Random(3)
    maps = [random_map(rng) for _ in range(60)] + [
        changed(DCGAN, **empty) for empty in ({"batch": 0}, {"big": (0, 4)}, {"small": (4, 0)})
    ]
    for map, memory_format, dtype in itertools.product(maps, FORMATS, (torch.float32, torch.bfloat16)):
        call = native.numbers(op, *arguments(op, map, memory_format, dtype))
        for table, (method, terms) in (
            (selection.NATIVE, selection.native_terms(call)),
            (selection.TORCH, selection.torch_terms(call)),
        ):
            assert len(table[method]) == len(terms)
            assert all(term >= 0 for term in terms) and terms[0] == 1
        assert isinstance(selection.pays(call), bool)


def test_the_numbers_of_a_call():
    map = Map(2, 3, (4, 5), (6, 7), (8, 9), (3, 2), (1, 2), (-1, 3), (2, 1))
    for op in OPS:
        call = native.numbers(op, *arguments(op, map))
        assert call == selection.Call(op, 2, 3, 4, 5, (6, 7), (8, 9), (3, 2), (1, 2), (-1, 3), (2, 1), (False,) * 3)
        assert native.numbers(op, *arguments(op, map, torch.channels_last)).in_place == (True,) * 3
        assert native.numbers(op, *arguments(op, map, torch.channels_last, torch.float16)).in_place == (False,) * 3


def test_meetings_are_counted_as_the_definition_has_them():
    rng = random.Random(5)
    for _ in range(200):
        map = random_map(rng)
        axis = (map.small[0], map.big[0], map.kernel[0], map.stride[0], map.padding[0], map.dilation[0])
        assert geometry.meetings(*axis) == sum(len(meetings(map, 0, k)[0]) for k in range(map.kernel[0]))


@pytest.mark.parametrize(("name", "expected"), [(name, name in {
    "rgb", "7 channels", "128 columns", "4 small channels", "the stamps cover the image", "cropped to one pixel",
    "stride beyond the kernel", "dilated", "one pixel", "several panels of small channels", "grouped",
}) for name in COLUMNS])  # fmt: skip
def test_by_columns_as_the_kernels_decide(name, expected):
    """few_columns() of csrc/conv_transpose2d/cpu.cpp once more."""
    assert selection._by_columns(native.numbers("conv2d", *arguments("conv2d", COLUMNS[name]))) is expected
