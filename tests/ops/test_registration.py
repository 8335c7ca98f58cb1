"""torch.library.opcheck for every op: schema, fake kernels, autograd registration, per layout, dtype and shape."""

from __future__ import annotations

import pytest
import torch

from fastgan import dispatch
from fastgan.functional import batch_norm_act, binary_cross_entropy_with_logits, conv2d, conv_transpose2d
from tests.ops.cases import LAYOUTS, dtypes, integers

CHECKS = ("test_schema", "test_faketensor", "test_autograd_registration")
GEOMETRY = ((2, 1), (1, 0), (1, 2), 2)
layouts = pytest.mark.parametrize("layout", LAYOUTS)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def image(shape, layout, dtype, device):
    return LAYOUTS[layout](integers(shape).to(device, dtype))


def check(name, *args):
    torch.library.opcheck(getattr(torch.ops.fastgan, name).default, args, test_utils=CHECKS)


@dtypes
@layouts
def test_conv_transpose2d(layout, dtype, device):
    x, w = image((2, 4, 3, 3), layout, dtype, device), image((4, 3, 3, 2), layout, dtype, device)
    check("conv_transpose2d", x, w, integers((6,)).to(device, dtype), (6, 5), *GEOMETRY)


@dtypes
@layouts
def test_conv2d(layout, dtype, device):
    x, w = image((2, 6, 6, 5), layout, dtype, device), image((4, 3, 3, 2), layout, dtype, device)
    check("conv2d", x, w, None, (3, 3), *GEOMETRY)


@dtypes
@layouts
@pytest.mark.parametrize("activation", [1, 2, 3], ids=["relu", "leaky_relu", "tanh"])
def test_conv_transpose2d_act(activation, layout, dtype, device):
    x, w = image((2, 4, 3, 3), layout, dtype, device), image((4, 3, 3, 2), layout, dtype, device)
    check("conv_transpose2d_act", x, w, integers((6,)).to(device, dtype), (6, 5), *GEOMETRY, activation, 0.2)


@dtypes
@layouts
@pytest.mark.parametrize("activation", [1, 2, 3], ids=["relu", "leaky_relu", "tanh"])
def test_conv2d_act(activation, layout, dtype, device):
    x, w = image((2, 6, 6, 5), layout, dtype, device), image((4, 3, 3, 2), layout, dtype, device)
    check("conv2d_act", x, w, None, (3, 3), *GEOMETRY, activation, 0.2)


@dtypes
@layouts
@pytest.mark.parametrize("wanted", ["all", "input", "weight", "bias"])
def test_conv2d_act_backward(wanted, layout, dtype, device):
    x, w = image((2, 6, 6, 5), layout, dtype, device), image((4, 3, 3, 2), layout, dtype, device)
    output, grad = image((2, 4, 3, 3), layout, dtype, device), image((2, 4, 3, 3), "nchw", dtype, device)
    x = x if wanted in ("all", "weight") else None
    w = w if wanted in ("all", "input") else None
    bias = wanted in ("all", "bias")
    check("conv2d_act_backward", grad, output, x, w, bias, (6, 5), (3, 2), *GEOMETRY, 2, 0.2)


@dtypes
@layouts
def test_conv2d_weight(layout, dtype, device):
    small, big = image((2, 4, 3, 3), layout, dtype, device), image((2, 6, 6, 5), layout, dtype, device)
    check("conv2d_weight", small, big, (3, 2), *GEOMETRY)


@dtypes
@layouts
@pytest.mark.parametrize("buffers", [True, False], ids=["buffers", "no-buffers"])
def test_batch_norm_act_train(buffers, layout, dtype, device):
    x = image((4, 3, 4, 4), layout, dtype, device)
    vectors = [torch.rand(3, device=device, dtype=dtype) for _ in range(4)]
    mean, var = vectors[2:] if buffers else (None, None)
    check("batch_norm_act_train", x, *vectors[:2], mean, var, 0.1, 1e-5, 1, 0.0)


@dtypes
@layouts
def test_batch_norm_act_eval(layout, dtype, device):
    x = image((4, 3, 4, 4), layout, dtype, device)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    check("batch_norm_act_eval", x, None, None, *(torch.rand(3, device=device, dtype=wide) for _ in range(2)), 2, 0.2)


@dtypes
@layouts
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_batch_norm_act_backward(training, layout, dtype, device):
    x, grad = image((4, 3, 4, 4), layout, dtype, device), image((4, 3, 4, 4), "nchw", dtype, device)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    statistics = [torch.rand(3, device=device, dtype=wide) for _ in range(2)]
    check(
        "batch_norm_act_backward",
        grad,
        x,
        torch.ones(3, device=device, dtype=dtype),
        None,
        *statistics,
        training,
        1,
        0.0,
    )


@dtypes
@layouts
def test_batch_norm_act_stats(layout, dtype, device):
    check("batch_norm_act_stats", image((4, 3, 4, 4), layout, dtype, device))


def synchronised(layout, dtype, device):
    """Arguments of the two ops below up to rstd."""
    x, grad = image((4, 3, 4, 4), layout, dtype, device), image((4, 3, 4, 4), "nchw", dtype, device)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    vectors = [torch.rand(3, device=device, dtype=wide) for _ in range(2)]
    return [grad, x, torch.ones(3, device=device, dtype=dtype), None, *vectors]


@dtypes
@layouts
def test_batch_norm_act_backward_reduce(layout, dtype, device):
    check("batch_norm_act_backward_reduce", *synchronised(layout, dtype, device), 2, 0.2)


@dtypes
@layouts
def test_batch_norm_act_backward_apply(layout, dtype, device):
    *arguments, mean, rstd = synchronised(layout, dtype, device)
    check("batch_norm_act_backward_apply", *arguments, mean, rstd, mean.clone(), rstd.clone(), 2, 0.2)


@dtypes
@layouts
@pytest.mark.parametrize("buffers", [True, False], ids=["buffers", "no-buffers"])
def test_batch_norm_stats(buffers, layout, dtype, device):
    running = [torch.rand(3, device=device, dtype=dtype) if buffers else None for _ in range(2)]
    check("batch_norm_stats", image((4, 3, 4, 4), layout, dtype, device), *running, 0.1, 1e-5)


def link(transposed, norm, layout, dtype, device):
    """(input, four vectors of the batch norm before, weight, the output's shape) of a link."""
    shapes = [(2, 4, 3, 3), (2, 6, 6, 5)]
    shape, output = shapes if transposed else shapes[::-1]
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    kinds = (wide, wide, dtype, dtype) if norm else ()
    vectors = [torch.rand(shape[1], device=device, dtype=kind) for kind in kinds] or [None] * 4
    return image(shape, layout, dtype, device), vectors, image((4, 3, 3, 2), layout, dtype, device), output


def beside(name, count, x, w, layout):
    """(channels beside the input's or None, the weight with theirs, the geometry, which has no groups then)"""
    if not count:
        return None, w, GEOMETRY
    sizes = [4 + count, 6, 3, 2] if name == "conv_transpose2d" else [4, 6 + count, 3, 2]
    more = image((x.shape[0], count, *x.shape[2:]), layout, x.dtype, x.device)
    return more, image(sizes, layout, x.dtype, x.device), (*GEOMETRY[:3], 1)


def check_link(name, norm, layout, dtype, device, count=0):
    x, vectors, w, shape = link(name == "conv_transpose2d", norm, layout, dtype, device)
    more, w, geometry = beside(name, count, x, w, layout)
    running = [torch.rand(shape[1], device=device, dtype=dtype) if norm else None for _ in range(2)]
    bias = integers((shape[1],)).to(device, dtype) if norm else None
    check(f"{name}_stats", x, *vectors, more, w, bias, *running, shape[2:], *geometry, 0.1, 1e-5, 2, 0.2)


def check_link_backward(name, norm, wanted, layout, dtype, device, count=0):
    x, vectors, w, shape = link(name == "conv_transpose2d", norm, layout, dtype, device)
    more, w, geometry = beside(name, count, x, w, layout)
    output, grad = image(shape, layout, dtype, device), image(shape, "nchw", dtype, device)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    grads, results = ([torch.rand(shape[1], device=device, dtype=wide) for _ in range(2)] for _ in range(2))
    wanted = [name in wanted for name in ("input", "beside", "weight")]
    check(
        f"{name}_stats_backward", grad, *grads, output, *results, x, *vectors, more, w, *wanted, *geometry, 2, 0.2
    )  # fmt: skip


@dtypes
@layouts
def test_conv_transpose2d_stats(layout, dtype, device):
    check_link("conv_transpose2d", True, layout, dtype, device)


@dtypes
@layouts
def test_conv2d_stats(layout, dtype, device):
    check_link("conv2d", True, layout, dtype, device)


@dtypes
@layouts
def test_conv_transpose2d_stats_backward(layout, dtype, device):
    check_link_backward("conv_transpose2d", True, "input weight", layout, dtype, device)


@dtypes
@layouts
def test_conv2d_stats_backward(layout, dtype, device):
    check_link_backward("conv2d", True, "input weight", layout, dtype, device)


@layouts
@pytest.mark.parametrize("name", ["conv_transpose2d", "conv2d"])
def test_links_without_a_norm_and_gradients_that_nobody_wants(name, layout, device):
    check_link(name, False, layout, torch.float32, device)
    for norm, wanted in ((True, "input"), (True, "weight"), (False, "input weight"), (False, "weight")):
        check_link_backward(name, norm, wanted, layout, torch.float32, device)


@dtypes
@layouts
@pytest.mark.parametrize("reduction", [0, 1, 2], ids=["none", "mean", "sum"])
def test_bce_with_logits(reduction, layout, dtype, device):
    x = image((2, 3, 4, 4), layout, dtype, device)
    check(
        "bce_with_logits", x, torch.rand_like(x), 0.0, None, torch.ones(4, device=device, dtype=dtype), reduction, True
    )
    check("bce_with_logits", x, None, 0.9, None, None, reduction, False)


@dtypes
@layouts
def test_bce_with_logits_backward(layout, dtype, device):
    gradient = image((2, 3, 4, 4), layout, dtype, device)
    check("bce_with_logits_backward", gradient, torch.ones((), device=device, dtype=dtype), 1)


@dtypes
@layouts
def test_bce_with_logits_backward_(layout, dtype, device):
    # an expanded tensor cannot be written over
    gradient = image((2, 3, 4, 4), "nchw" if layout == "expanded" else layout, dtype, device)
    check("bce_with_logits_backward_", gradient, torch.ones((), device=device, dtype=dtype), 1)


def discriminator(layout, dtype, device):
    """Tensors of two shapes; not expanded ones, which cannot be written over."""
    layout = "nchw" if layout == "expanded" else layout
    return image((2, 3, 4, 4), layout, dtype, device), image((3, 3, 2, 2), layout, dtype, device)


@dtypes
@layouts
@pytest.mark.parametrize("need_grad", [True, False])
def test_discriminator_loss(need_grad, layout, dtype, device):
    check("discriminator_loss", *discriminator(layout, dtype, device), 0.9, need_grad)


@dtypes
@layouts
def test_discriminator_loss_backward(layout, dtype, device):
    one = torch.ones((), device=device, dtype=dtype)
    check("discriminator_loss_backward", *discriminator(layout, dtype, device), one)


@dtypes
@layouts
def test_discriminator_loss_backward_(layout, dtype, device):
    one = torch.ones((), device=device, dtype=dtype)
    check("discriminator_loss_backward_", *discriminator(layout, dtype, device), one)


def test_every_op_is_checked_here():
    checked = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert set(dispatch.op_names()) <= checked


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("conv_transpose2d", lambda x: conv_transpose2d(x, torch.ones(3, 2, 4, 4), None, 2, 1)),
        ("conv2d", lambda x: conv2d(x, torch.ones(2, 3, 3, 3), None, 2, 1)),
        ("tanh", lambda x: conv_transpose2d(x, torch.ones(3, 2, 4, 4), None, 2, 1, activation="tanh")),
        ("relu", lambda x: conv2d(x, torch.ones(2, 3, 3, 3), None, 2, 1, activation="relu")),
        ("batch_norm_act", lambda x: batch_norm_act(x, None, None, training=True)),
        ("loss", lambda x: binary_cross_entropy_with_logits(x, 1.0, reduction="none")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_shapes_on_the_meta_device(name, call):
    """Shape inference without data: the same sizes and strides as on a device."""
    x = torch.randn(2, 3, 5, 5)
    with torch.device("meta"):
        meta = call(x.to("meta"))
    real = call(x)
    assert meta.is_meta and meta.shape == real.shape and meta.stride() == real.stride() and meta.dtype == real.dtype


@layouts
@pytest.mark.parametrize("name", ["conv_transpose2d", "conv2d"])
def test_links_with_channels_beside_those_of_the_input(name, layout, device):
    check_link(name, True, layout, torch.float32, device, count=1)
    for wanted in ("input beside weight", "beside", "input weight"):
        check_link_backward(name, True, wanted, layout, torch.float32, device, count=1)
