"""What our ops promise on a GPU, checked without one: fake tensors on "cuda" give the sizes, strides, dtypes and device
that the same call gives for real on the CPU."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fastgan
from fastgan import functional
from tests.ops.cases import LAYOUTS, dtypes

ops = torch.ops.fastgan
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def tensors(layout, dtype):
    x, w = LAYOUTS[layout](torch.randn(4, 6, 5, 4)), LAYOUTS[layout](torch.randn(6, 4, 3, 3))
    small, vector = LAYOUTS[layout](torch.randn(4, 6, 3, 3)), torch.rand(6)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    return {
        "x": x.to(dtype),
        "w": w.to(dtype),
        "small": small.to(dtype),
        "v": vector.to(dtype),
        "wide": vector.to(wide),
        "one": torch.ones((), dtype=dtype),
    }


GEOMETRY = ((2, 1), (1, 0), (1, 1), 2)
CALLS = {
    "conv_transpose2d": lambda t: functional.conv_transpose2d(t["x"], t["w"], None, 2, 1, 1, 2),
    "conv2d": lambda t: functional.conv2d(t["x"], t["w"][:, :3], t["v"], 2, "same", 1, 2),
    "conv_transpose2d_tanh": lambda t: functional.conv_transpose2d(t["x"], t["w"], None, 2, 1, activation="tanh"),
    "conv2d_leaky_relu": lambda t: functional.conv2d(
        t["x"], t["w"][:, :3], t["v"], 2, "same", 1, 2, activation="leaky_relu"
    ),
    "conv2d_weight": lambda t: ops.conv2d_weight(t["small"], t["x"], (2, 2), *GEOMETRY),
    "batch_norm_train": lambda t: functional.batch_norm_act(t["x"], t["v"], t["v"] + 1, t["v"], t["v"], True),
    "batch_norm_eval": lambda t: functional.batch_norm_act(t["x"], t["v"], t["v"], activation="leaky_relu"),
    "batch_norm_backward": lambda t: ops.batch_norm_act_backward(
        t["x"], t["x"], t["v"], None, t["wide"], t["wide"], True, 1, 0.0
    ),
    "loss_mean": lambda t: functional.binary_cross_entropy_with_logits(t["x"], 0.9),
    "loss_none": lambda t: functional.binary_cross_entropy_with_logits(t["x"], t["x"], reduction="none"),
    "loss_forward": lambda t: ops.bce_with_logits(t["x"], None, 1.0, t["v"][:4], None, 2, True),
    "loss_backward": lambda t: ops.bce_with_logits_backward(t["x"], t["one"], 1),
    "discriminator_loss": lambda t: functional.discriminator_loss(t["x"], t["small"], 0.1),
    "discriminator_forward": lambda t: ops.discriminator_loss(t["x"], t["small"], 0.9, True),
    "discriminator_backward": lambda t: ops.discriminator_loss_backward(t["x"], t["small"], t["one"]),
}


def traits(result):
    """Sizes, strides and dtypes of one output or several."""
    outputs = result if isinstance(result, tuple) else (result,)
    return [(tuple(out.shape), out.stride(), out.dtype) for out in outputs]


@dtypes
@layouts
@pytest.mark.parametrize("name", CALLS)
def test_as_on_the_cpu(name, layout, dtype):
    given = tensors(layout, dtype)
    real = traits(CALLS[name](given))
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        fakes = {key: mode.from_tensor(tensor) for key, tensor in given.items()}
        # empty_strided keeps the strides, .to("cuda") would make expanded ones dense
        fakes = {
            key: torch.empty_strided(fake.shape, fake.stride(), dtype=fake.dtype, device="cuda")
            for key, fake in fakes.items()
        }
        result = CALLS[name](fakes)
    outputs = result if isinstance(result, tuple) else (result,)
    assert all(out.device == torch.device("cuda:0") for out in outputs)
    assert traits(result) == real


@contextlib.contextmanager
def autocast_without_a_gpu(dtype):
    """torch.autocast("cuda") switches itself off where there is no GPU; this is what it does where there is one."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)
        torch.clear_autocast_cache()


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_on_cuda(low):
    """torch's policy: convolutions low, the loss wide, batch norm as its input."""
    with FakeTensorMode(), torch.device("cuda"), autocast_without_a_gpu(low):
        x, w = torch.empty(2, 4, 8, 8), torch.empty(4, 3, 4, 4)
        y = functional.conv_transpose2d(x, w, None, 2, 1)
        z = functional.conv2d(y, w, None, 2, 1)
        assert y.dtype == z.dtype == low
        assert functional.conv2d(y, w, None, 2, 1, activation="tanh").dtype == low
        norm = fastgan.nn.BatchNormAct2d(4)
        assert norm(z).dtype == low and norm(x).dtype == torch.float32
        assert norm.running_mean.dtype == torch.float32
        assert functional.binary_cross_entropy_with_logits(z, 1.0).dtype == torch.float32


def test_models_on_cuda():
    from fastgan import models

    with FakeTensorMode(), torch.device("cuda"):
        z, labels = torch.randn(4, 100), torch.randint(10, (4,))
        fake = models.CGANGenerator()(z, labels)
        assert fake.shape == (4, 1, 28, 28) and fake.device.type == "cuda"
        assert models.CGANDiscriminator()(fake, labels).shape == (4,)
        fake = models.DCGANGenerator()(torch.randn(4, 128)).to(memory_format=torch.channels_last)
        assert models.DCGANDiscriminator()(fake).shape == (4,)
