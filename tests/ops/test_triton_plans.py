"""Plans of launches are remembered, by everything that they depend on."""

from __future__ import annotations

import pytest
import torch

import fastgan
from fastgan import functional
from fastgan.ops.conv_transpose2d.geometry import Geometry
from tests.checks import backend_reason

GEOMETRY = Geometry((2, 2), (1, 1), (1, 1), 1)


@pytest.fixture
def plans(device):
    reason = backend_reason("triton", device)
    if reason is not None:
        pytest.skip(reason)
    from fastgan.ops.conv_transpose2d import triton_plans

    triton_plans.forget()
    yield triton_plans
    triton_plans.forget()


def described(shape, dtype=torch.bfloat16, nhwc=True):
    from fastgan.ops.conv_transpose2d.triton_arguments import layout

    form = torch.channels_last if nhwc else torch.contiguous_format
    return layout(torch.empty(shape, dtype=dtype).contiguous(memory_format=form))


def image_calls(size):
    """Arguments of an image map, and others of which each differs in one thing."""
    x, weight = described((4, 32, 8, 8)), described((32, 32, 4, 4))
    call = (x, weight, None, size, GEOMETRY, 0, False)
    changes = [
        {0: described((5, 32, 8, 8))},
        {0: described((4, 32, 8, 8), nhwc=False)},
        {0: described((4, 32, 8, 8), torch.float16), 1: described((32, 32, 4, 4), torch.float16)},
        {0: described((4, 32, 8, 8), torch.float32), 1: described((32, 32, 4, 4), torch.float32)},
        {1: described((32, 32, 4, 4), nhwc=False)},
        {1: described((32, 32, 3, 4))},
        {2: described((4, 1, 8, 8)), 6: True},
        {3: tuple(2 * n + 1 for n in size)},
        {4: Geometry((2, 2), (1, 1), (1, 1), 2), 1: described((32, 16, 4, 4))},
        {4: Geometry((2, 2), (2, 1), (1, 1), 1)},
        {5: 4},
        {6: True},
    ]
    return [call, *(tuple(change.get(i, value) for i, value in enumerate(call)) for change in changes)]


def weight_calls():
    small, big = described((4, 32, 8, 8)), described((4, 16, 16, 16))
    call = (small, big, (4, 4), GEOMETRY, 0)
    changes = [
        {0: described((4, 24, 8, 8))},
        {0: described((4, 32, 8, 8), nhwc=False)},
        {0: described((4, 32, 8, 8), torch.float32), 1: described((4, 16, 16, 16), torch.float32)},
        {1: described((4, 3, 16, 16))},
        {1: described((4, 16, 16, 16), nhwc=False)},
        {2: (3, 4)},
        {3: Geometry((2, 2), (2, 1), (1, 1), 1)},
        {4: 2},
    ]
    return [call, *(tuple(change.get(i, value) for i, value in enumerate(call)) for change in changes)]


def calls_of(name):
    return weight_calls() if name == "weight" else image_calls((16, 16) if name == "up" else (4, 4))


@pytest.mark.parametrize("name", ["up", "down", "weight"])
def test_each_call_has_its_own_plan(name, plans, device):
    plan, calls = getattr(plans, name), calls_of(name)
    together = [plan(*call) for call in calls]
    assert all(plan(*call) is made for call, made in zip(calls, together, strict=True))
    for i, call in enumerate(calls):
        plans.forget()
        alone = plan(*call)
        assert alone is not together[i] and alone == together[i]


def test_torchs_setting_for_float32_products_counts(plans, device):
    call = (described((4, 32, 8, 8), torch.float32), described((32, 32, 4, 4), torch.float32), None, (16, 16), GEOMETRY)
    setting, found = torch.backends.cudnn.conv, []
    before = setting.fp32_precision
    try:
        for precision in ("ieee", "tf32", "ieee"):
            setting.fp32_precision = precision
            found.append(plans.up(*call, 0, False).options["PRECISION"])
    finally:
        setting.fp32_precision = before
    assert found == ["ieee", "tf32", "ieee"]


def through_the_dispatcher(name, device):
    """A call past Python's own road to a backend: its sizes are lists."""
    small, big, weight = (torch.ones(shape, device=device) for shape in ((2, 4, 3, 3), (2, 3, 6, 6), (4, 3, 4, 4)))
    geometry = ([2, 2], [1, 1], [1, 1], 1)
    ops = torch.ops.fastgan
    return {
        "conv_transpose2d": lambda: ops.conv_transpose2d(small, weight, None, [6, 6], *geometry),
        "conv2d": lambda: ops.conv2d(big, weight, None, [3, 3], *geometry),
        "conv2d_weight": lambda: ops.conv2d_weight(small, big, [4, 4], *geometry),
        "conv_transpose2d_act": lambda: ops.conv_transpose2d_act(small, weight, None, [6, 6], *geometry, 1, 0.0),
        "conv2d_act": lambda: ops.conv2d_act(big, weight, None, [3, 3], *geometry, 1, 0.0),
        "conv2d_act_backward": lambda: ops.conv2d_act_backward(
            small, small, big, weight, True, [6, 6], [4, 4], *geometry, 1, 0.0
        ),
    }[name]


@pytest.mark.parametrize(
    "name",
    ["conv_transpose2d", "conv2d", "conv2d_weight", "conv_transpose2d_act", "conv2d_act", "conv2d_act_backward"],
)
def test_sizes_may_be_lists(name, plans, device):
    call = through_the_dispatcher(name, device)
    with fastgan.use_backend("reference"):
        expected = call()
    with fastgan.use_backend("triton"):
        found = call()
    for mine, theirs in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, expected)), strict=True):
        assert torch.equal(mine, theirs)


def test_sizes_of_compiled_code(plans, device):
    small, weight = torch.ones(2, 4, 3, 3, device=device), torch.ones(4, 3, 4, 4, device=device)
    compiled = torch.compile(functional.conv_transpose2d, backend="aot_eager", fullgraph=True)
    with fastgan.use_backend("triton"):
        found = compiled(small, weight, stride=2, padding=1)
    assert torch.equal(found, functional.conv_transpose2d(small, weight, stride=2, padding=1))


@pytest.mark.parametrize("name", ["up", "down"])
def test_far_channels_beside_have_offsets_of_64_bits(name, plans, device):
    call, _, _, _, _, _, _, near, *_ = calls_of(name)
    assert near[2] is not None
    far = near[2]._replace(strides=(1 << 29, *near[2].strides[1:]))
    plan = getattr(plans, name)
    widths = [plan(*call[:2], beside, *call[3:6], True).options["OFFSET"] for beside in (None, near[2], far)]
    assert [str(width) for width in widths] == ["int32", "int32", "int64"]
