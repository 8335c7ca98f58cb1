"""Illegal arguments of the functions: torch's type and words where torch has them, ours listed where they differ, and
nothing is launched."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastgan import dispatch, functional
from tests.ops.cases import outcome

Z = torch.zeros
IMAGE, KERNEL = Z(2, 4, 5, 5), Z(4, 4, 3, 3)


def case(name, *args, **kwargs):
    return pytest.param(args, kwargs, id=name)


CONV_LIKE_TORCH = [
    case("rank-2", Z(4, 5), KERNEL),
    case("rank-5", Z(1, 2, 4, 5, 5), KERNEL),
    case("channels", Z(2, 3, 5, 5), KERNEL),
    case("no-pixels", Z(2, 4, 0, 5), KERNEL, padding=2),
    case("bias-elements", IMAGE, KERNEL, Z(3)),
    case("bias-rank", IMAGE, KERNEL, Z(1, 4)),
    case("groups-0", IMAGE, KERNEL, groups=0),
    case("groups-negative", IMAGE, KERNEL, groups=-1),
    case("groups-do-not-divide", IMAGE, KERNEL, groups=3),
    case("groups-beyond-channels", IMAGE, KERNEL, groups=5),
    case("groups-float", IMAGE, KERNEL, groups=1.0),
    case("stride-0", IMAGE, KERNEL, stride=0),
    case("stride-negative", IMAGE, KERNEL, stride=(1, -1)),
    case("stride-three", IMAGE, KERNEL, stride=(1, 1, 1)),
    case("stride-none", IMAGE, KERNEL, stride=[]),
    case("stride-float", IMAGE, KERNEL, stride=1.0),
    case("stride-string", IMAGE, KERNEL, stride="a"),
    case("padding-negative", IMAGE, KERNEL, padding=-1),
    case("padding-three", IMAGE, KERNEL, padding=(0, 0, 0)),
    case("dilation-three", IMAGE, KERNEL, dilation=(1, 1, 1)),
    case("input-none", None, KERNEL),
]


@pytest.mark.parametrize(("args", "kwargs"), CONV_LIKE_TORCH)
@pytest.mark.parametrize("name", ["conv_transpose2d", "conv2d"])
def test_the_convolutions_raise_what_torch_raises(name, args, kwargs):
    with dispatch.trace() as calls:
        mine = outcome(lambda: getattr(functional, name)(*args, **kwargs))
    theirs = outcome(lambda: getattr(F, name)(*args, **kwargs))
    assert mine[0] is theirs[0]
    if "invalid combination of arguments" not in theirs[1]:  # what torch says of a function with two signatures
        assert mine[1] == theirs[1]
    assert not calls


TRANSPOSED_LIKE_TORCH = [
    case("output_padding-negative", IMAGE, KERNEL, output_padding=-1),
    case("output_padding-stride", IMAGE, KERNEL, stride=2, output_padding=2),
    case("output_padding-one-axis", IMAGE, KERNEL, stride=(3, 1), output_padding=(2, 1)),
    case("output_padding-stride-and-dilation", IMAGE, KERNEL, stride=2, dilation=3, output_padding=3),
    case("output_padding-three", IMAGE, KERNEL, output_padding=(0, 0, 0)),
]


@pytest.mark.parametrize(("args", "kwargs"), TRANSPOSED_LIKE_TORCH)
def test_the_transposed_convolution_raises_what_torch_raises(args, kwargs):
    with dispatch.trace() as calls:  # else torch's own op might run, and raise
        mine = outcome(lambda: functional.conv_transpose2d(*args, **kwargs))
    assert mine == outcome(lambda: F.conv_transpose2d(*args, **kwargs))
    assert not calls


def test_conv2d_raises_what_torch_raises_for_a_kernel_larger_than_the_image():
    mine = outcome(lambda: functional.conv2d(Z(1, 1, 2, 2), Z(1, 1, 2, 2), dilation=3))
    assert mine == outcome(lambda: F.conv2d(Z(1, 1, 2, 2), Z(1, 1, 2, 2), dilation=3))


#: (function, arguments, exception, message): torch accepts these, says something less clear, or speaks of another op.
CLEARER = [
    ("conv_transpose2d", (Z(1, 1, 1, 1), Z(1, 1, 1, 1)), {"padding": 1}, RuntimeError, "Output size is too small"),
    ("conv_transpose2d", (IMAGE, Z(4, 4, 3)), {}, RuntimeError, "expected weight to have 4 dimensions"),
    ("conv_transpose2d", (IMAGE, Z(4, 4, 0, 3)), {}, RuntimeError, "must not have a dimension of size 0"),
    ("conv_transpose2d", (IMAGE, KERNEL), {"dilation": 0}, RuntimeError, "non-positive dilation is not supported"),
    ("conv_transpose2d", (IMAGE, KERNEL.double()), {}, RuntimeError, "should be the same"),
    ("conv_transpose2d", (IMAGE, KERNEL, Z(4).double()), {}, RuntimeError, "should be the same"),
    ("conv_transpose2d", (IMAGE.long(), KERNEL.long()), {}, TypeError, "float64, float32, float16 or bfloat16"),
    ("conv_transpose2d", (IMAGE, None), {}, TypeError, "'weight' must be Tensor"),
    ("conv_transpose2d", (IMAGE, KERNEL), {"padding": "valid"}, ValueError, "Invalid padding string: 'valid'"),
    (
        "conv_transpose2d",
        (IMAGE, KERNEL),
        {"padding": "same", "output_padding": 1, "stride": 2},
        ValueError,
        "output_padding",
    ),
    ("conv_transpose2d", (IMAGE, KERNEL.to("meta")), {}, RuntimeError, "Expected all tensors to be on the same device"),
    ("conv2d", (IMAGE, KERNEL.half()), {}, RuntimeError, "should be the same"),
    ("conv2d", (IMAGE, KERNEL), {"padding": "full"}, ValueError, "Invalid padding string: 'full'"),
    ("conv2d", (IMAGE, KERNEL), {"dilation": 0}, RuntimeError, "non-positive dilation is not supported"),
    ("conv2d", (Z(1, 1, 2, 2), Z(0, 1, 1, 1)), {}, RuntimeError, "at least 1 at dimension 0"),
    ("conv2d", (IMAGE + 0j, KERNEL + 0j), {}, TypeError, "float64, float32, float16 or bfloat16"),
    ("batch_norm_act", (Z(2, 4, 3, 3), None, None), {}, ValueError, "Expected running_mean to be defined"),
    ("batch_norm_act", (Z(2, 4, 3, 3), Z(4), None), {}, ValueError, "Expected running_var to be defined"),
    ("batch_norm_act", (Z(2, 4, 3, 3), Z(4), None), {"training": True}, ValueError, "given together or both be None"),
    ("batch_norm_act", (Z(4), None, None), {"training": True}, ValueError, "at least 2 dimensions"),
    ("batch_norm_act", (Z(2, 4).long(), None, None), {"training": True}, TypeError, "float64, float32, float16"),
    ("batch_norm_act", (Z(2, 4), Z(4).double(), Z(4)), {}, TypeError, "must have the dtype of input"),
    ("batch_norm_act", (Z(2, 4), Z(1, 4), Z(4)), {}, RuntimeError, "running_mean should contain 4 elements"),
    ("batch_norm_act", (Z(2, 4), Z(4), Z(4), Z(3)), {}, RuntimeError, "weight should contain 4 elements not 3"),
    ("batch_norm_act", (Z(2, 4), Z(4), Z(4), None, Z(5)), {}, RuntimeError, "bias should contain 4 elements not 5"),
    ("batch_norm_act", (Z(2, 4), Z(4), Z(4)), {"eps": -1.0}, ValueError, "eps must be a number >= 0"),
    ("batch_norm_act", (Z(2, 4), Z(4), Z(4)), {"activation": "gelu"}, ValueError, "activation must be"),
    ("batch_norm_act", (Z(2, 4), Z(4), Z(4)), {"activation": "tanh"}, ValueError, "activation must be"),
    *(
        (function, (IMAGE, KERNEL), kwargs, ValueError, message)
        for function in ("conv2d", "conv_transpose2d")
        for kwargs, message in (
            ({"activation": "gelu"}, 'activation must be "relu", "leaky_relu", "tanh" or "none"'),
            ({"activation": None}, "activation must be"),
            ({"activation": "leaky_relu", "negative_slope": -0.5}, "negative_slope must be >= 0"),
        )
    ),
    ("batch_norm_act", (Z(2, 4), Z(4), Z(4)), {"momentum": None}, TypeError, "'momentum' must be float"),
    ("batch_norm_act", (None, Z(4), Z(4)), {}, TypeError, "'input' \\(position 1\\) must be Tensor"),
    (
        "batch_norm_act",
        (Z(2, 4), Z(4), Z(4).to("meta")),
        {},
        RuntimeError,
        "Expected all tensors to be on the same device",
    ),
    ("binary_cross_entropy_with_logits", (Z(2), Z(2).long()), {}, TypeError, "target must have dtype"),
    ("binary_cross_entropy_with_logits", (Z(2), Z(2).bool()), {}, TypeError, "target must have dtype"),
    ("binary_cross_entropy_with_logits", (Z(2).long(), Z(2)), {}, TypeError, "input must have dtype"),
    ("binary_cross_entropy_with_logits", (Z(2), None), {}, TypeError, "must be Tensor or a number"),
    ("binary_cross_entropy_with_logits", (Z(2), True), {}, TypeError, "must be Tensor or a number"),
    ("binary_cross_entropy_with_logits", (Z(2), "1"), {}, TypeError, "must be Tensor or a number"),
    ("binary_cross_entropy_with_logits", (Z(2), float("nan")), {}, ValueError, "target must be finite"),
    (
        "binary_cross_entropy_with_logits",
        (Z(2), Z(2), Z(3)),
        {},
        RuntimeError,
        "weight of size \\[3\\] does not broadcast",
    ),
    (
        "binary_cross_entropy_with_logits",
        (Z(2), Z(2), Z(3, 2)),
        {},
        RuntimeError,
        "weight of size .* does not broadcast",
    ),
    (
        "binary_cross_entropy_with_logits",
        (Z(2), 1.0),
        {"pos_weight": Z(3)},
        RuntimeError,
        "pos_weight of size .* does not",
    ),
    ("binary_cross_entropy_with_logits", (Z(2), Z(2), 2.0), {}, TypeError, "'weight' must be Tensor"),
    (
        "binary_cross_entropy_with_logits",
        (Z(2), Z(2).to("meta")),
        {},
        RuntimeError,
        "Expected all tensors to be on the same",
    ),
    *(
        (name, args, kwargs, error, message)
        for name in ("conv2d_stats", "conv_transpose2d_stats")
        for args, kwargs, error, message in (
            ((Z(1, 4, 1, 1), Z(4, 4, 1, 1)), {}, ValueError, "Expected more than 1 value per channel when training"),
            ((IMAGE[0], KERNEL), {}, ValueError, r"expected 4D input \(got 3D input\)"),
            ((IMAGE[0, 0], KERNEL), {}, RuntimeError, "3D .unbatched. or 4D"),
            ((IMAGE, KERNEL), {"stride": 0}, RuntimeError, "non-positive stride is not supported"),
            ((IMAGE, KERNEL.half()), {}, RuntimeError, "should be the same"),
            ((IMAGE.long(), KERNEL.long()), {}, TypeError, "float64, float32, float16 or bfloat16"),
            ((IMAGE, KERNEL), {"running_mean": Z(4)}, ValueError, "given together or both be None"),
            (
                (IMAGE, KERNEL),
                {"running_mean": Z(3), "running_var": Z(3)},
                RuntimeError,
                "running_mean should contain 4",
            ),
            ((IMAGE, KERNEL), {"eps": -1.0}, ValueError, "eps must be a number >= 0"),
            ((IMAGE, KERNEL), {"norm": (Z(4), Z(3), None, None, "relu", 0.0)}, RuntimeError, "rstd should contain 4"),
            ((IMAGE, KERNEL), {"norm": (Z(4), None, None, None, "relu", 0.0)}, TypeError, "'rstd' must be Tensor"),
            (
                (IMAGE, KERNEL),
                {"norm": (Z(4).double(), Z(4), None, None, "relu", 0.0)},
                TypeError,
                "mean must have dtype",
            ),
            ((IMAGE, KERNEL), {"norm": (Z(4), Z(4), Z(5), None, "relu", 0.0)}, RuntimeError, "weight should contain 4"),
            ((IMAGE, KERNEL), {"norm": (Z(4), Z(4), None, None, "tanh", 0.0)}, ValueError, "activation must be"),
            ((IMAGE, KERNEL), {"beside": 1.0}, TypeError, "argument 'beside' must be Tensor, not float"),
            ((IMAGE, KERNEL), {"beside": IMAGE[:, :1]}, RuntimeError, "to have 4 channels, but got 5 channels"),
            ((IMAGE[:, :3], KERNEL), {"beside": IMAGE[:, :1], "groups": 2}, ValueError, "where there are groups"),
            ((IMAGE[:, :3], KERNEL), {"beside": IMAGE[:, :1, 1:]}, RuntimeError, "must match except in dimension 1"),
            ((IMAGE[:, :3], KERNEL), {"beside": IMAGE[0, :1]}, RuntimeError, "must match except in dimension 1"),
            (
                (IMAGE[:, :3], KERNEL),
                {"beside": IMAGE[:, :1].half()},
                RuntimeError,
                "expected beside to be torch.float32",
            ),
            ((IMAGE[:, :3], KERNEL), {"beside": IMAGE[:, :1].to("meta")}, RuntimeError, "on cpu as input is"),
        )
    ),
    ("batch_norm_stats", (Z(1, 4, 1, 1),), {}, ValueError, "Expected more than 1 value per channel when training"),
    ("batch_norm_stats", (Z(4),), {}, ValueError, "at least 2 dimensions"),
    ("batch_norm_stats", (Z(2, 4), Z(4)), {}, ValueError, "given together or both be None"),
    ("batch_norm_stats", (None,), {}, TypeError, "'input' .position 1. must be Tensor"),
    ("normalize_act", (Z(2, 4), Z(4), Z(3)), {}, RuntimeError, "rstd should contain 4 elements"),
    ("normalize_act", (Z(2, 4), Z(4), Z(4), Z(4).double()), {}, TypeError, "weight must have the dtype of input"),
    ("normalize_act", (Z(2, 4), Z(4), Z(4)), {"activation": "gelu"}, ValueError, "activation must be"),
]


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "error", "message"), CLEARER, ids=[f"{c[0]}-{i}" for i, c in enumerate(CLEARER)]
)
def test_what_ours_says_more_clearly(name, args, kwargs, error, message):
    with dispatch.trace() as calls, pytest.raises(error, match=message):
        getattr(functional, name)(*args, **kwargs)
    assert not calls


BATCH_NORM_LIKE_TORCH = [
    case("one-value", Z(1, 4, 1, 1), None, None, training=True),
    case("one-value-2d", Z(1, 4), None, None, training=True),
]


@pytest.mark.parametrize(("args", "kwargs"), BATCH_NORM_LIKE_TORCH)
def test_batch_norm_raises_what_torch_raises(args, kwargs):
    mine = outcome(lambda: functional.batch_norm_act(*args, **kwargs))
    assert mine == outcome(lambda: F.batch_norm(*args, **kwargs))


LOSS_LIKE_TORCH = [
    case("shapes", Z(2), Z(3)),
    case("no-broadcast", Z(2, 2), Z(2)),
    case("0-d-target", Z(2), Z(())),
    case("reduction", Z(2), Z(2), reduction="average"),
    case("reduction-none", Z(2), Z(2), reduction=None),
    case("weight-with-gradient", Z(2), Z(2), Z(2).requires_grad_()),
    case("pos_weight-with-gradient", Z(2), Z(2), pos_weight=Z(2).requires_grad_()),
]


@pytest.mark.parametrize(("args", "kwargs"), LOSS_LIKE_TORCH)
def test_the_loss_raises_what_torch_raises(args, kwargs):
    mine = outcome(lambda: functional.binary_cross_entropy_with_logits(*args, **kwargs))
    assert mine == outcome(lambda: F.binary_cross_entropy_with_logits(*args, **kwargs))


def test_one_value_per_channel_leaves_the_statistics_alone():
    mean, var = torch.randn(4), torch.rand(4)
    before = mean.clone(), var.clone()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        functional.batch_norm_act(Z(1, 4, 1, 1), mean, var, training=True)
    assert torch.equal(mean, before[0]) and torch.equal(var, before[1])


def test_a_number_as_weight_names_the_weight():
    with pytest.raises(TypeError, match="'pos_weight' must be Tensor"):
        functional.binary_cross_entropy_with_logits(Z(2), Z(2), pos_weight=2.0)
