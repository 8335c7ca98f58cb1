"""The batch norm layer against torch's BatchNorm2d with its activation behind it."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

from fastgan.nn import BatchNormAct2d
from tests.checks import assert_rule, assert_tight
from tests.ops.cases import activations, batch_norm_tensors, batch_norm_then, outcome

HAS_BIAS = "bias" in inspect.signature(nn.BatchNorm2d.__init__).parameters
OPTIONS = [
    {},
    {"eps": 0.1},
    {"momentum": 0.5},
    {"momentum": None},
    {"momentum": 0.0},
    {"momentum": 1.0},
    {"affine": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
    pytest.param(
        {"bias": False}, marks=pytest.mark.skipif(not HAS_BIAS, reason="this torch's BatchNorm2d has no bias=")
    ),
]
options = pytest.mark.parametrize("kwargs", OPTIONS, ids=lambda kwargs: ",".join(f"{k}={v}" for k, v in kwargs.items()))
SLOPE = 0.2


def twin(activation, **kwargs):
    """torch's layers that ours stands for."""
    act = {"none": nn.Identity, "relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(SLOPE)}[activation]
    return nn.Sequential(nn.BatchNorm2d(3, **kwargs), act())


def pair(activation, device="cpu", dtype=None, **kwargs):
    """(ours, torch's) with the same parameters, which are not the initial ones."""
    mine, theirs = BatchNormAct2d(3, activation=activation, negative_slope=SLOPE, **kwargs), twin(activation, **kwargs)
    _, weight, bias, _ = batch_norm_tensors((4, 3, 5, 5))
    for name, values in (("weight", weight), ("bias", bias)):
        for layer in (mine, theirs[0]):
            if getattr(layer, name, None) is not None:
                getattr(layer, name).data.copy_(values)
    return mine.to(device, dtype), theirs.to(device, dtype)


def test_the_constructor_is_torchs_plus_the_activation():
    assert issubclass(BatchNormAct2d, nn.BatchNorm2d)
    names = list(inspect.signature(nn.BatchNorm2d.__init__).parameters)[1:]
    values = {"num_features": 3, "eps": 0.5, "momentum": 0.25, "affine": False, "track_running_stats": False}
    by_name = BatchNormAct2d(**values)
    by_position = BatchNormAct2d(*(values[name] for name in names if name in values))
    for layer in (by_name, by_position):
        assert {name: getattr(layer, name) for name in values} == values
    assert (by_name.activation, by_name.negative_slope) == ("relu", 0.01)


@options
def test_parameters_buffers_and_repr(kwargs):
    mine, theirs = BatchNormAct2d(3, activation="leaky_relu", negative_slope=0.2, **kwargs), nn.BatchNorm2d(3, **kwargs)
    for of_mine, of_theirs in (
        (mine.named_parameters(), theirs.named_parameters()),
        (mine.named_buffers(), theirs.named_buffers()),
    ):
        of_mine, of_theirs = dict(of_mine), dict(of_theirs)
        assert list(of_mine) == list(of_theirs)
        assert all(torch.equal(of_mine[name], of_theirs[name]) for name in of_mine)
    theirs_repr = repr(theirs).removeprefix("BatchNorm2d(").removesuffix(")")
    assert repr(mine) == f"BatchNormAct2d({theirs_repr}, activation=leaky_relu, negative_slope=0.2)"


def test_repr_without_a_slope():
    assert repr(BatchNormAct2d(3)).endswith(", activation=relu)")
    assert repr(BatchNormAct2d(3, activation="none")).endswith(", activation=none)")


@options
@activations
def test_three_training_steps_and_an_evaluation(kwargs, activation, device):
    layers = [*pair(activation, device, **kwargs)]
    layers.append(copy.deepcopy(layers[1]).double())
    for step in range(4):
        x, _, _, grad = batch_norm_tensors((4, 3, 5, 5), mean=0.1)
        x, grad = x.float().to(device), grad.float().to(device)
        batches = [(x, grad), (x, grad), (x.double(), grad.double())]
        results = [run(layer.train(step < 3), *batch) for layer, batch in zip(layers, batches, strict=True)]
        for mine, theirs, judge in zip(*results, strict=True):
            assert_rule(f"step {step}", mine, theirs, judge)
        states = [layer.state_dict() for layer in layers]
        for mine, theirs, judge in zip(*(state.values() for state in states), strict=True):
            if mine.dtype is torch.long:
                assert torch.equal(mine, theirs) and int(mine) == min(step + 1, 3)
            else:
                assert_rule(f"state after step {step}", mine, theirs, judge)


def run(layer, x, grad):
    parameters = list(layer.parameters())
    x = x.detach().requires_grad_()
    output = layer(x)
    return [output.detach(), *torch.autograd.grad(output, [x, *parameters], grad)]


def test_state_dict_both_ways():
    mine, theirs = pair("relu")
    x = batch_norm_tensors((4, 3, 5, 5))[0].float()
    theirs(x)
    assert list(mine.state_dict()) == list(theirs[0].state_dict())
    mine.load_state_dict(theirs[0].state_dict())
    mine(x)
    theirs[0].load_state_dict(mine.state_dict())
    assert all(
        torch.equal(one, other)
        for one, other in zip(mine.state_dict().values(), theirs[0].state_dict().values(), strict=True)
    )
    assert int(mine.num_batches_tracked) == 2


def test_a_state_dict_of_version_1_has_no_counter():
    old = nn.BatchNorm2d(3).state_dict()
    del old["num_batches_tracked"]
    old._metadata[""]["version"] = 1
    layer = BatchNormAct2d(3)
    layer(torch.randn(2, 3, 4, 4))
    layer.load_state_dict(old)
    assert int(layer.num_batches_tracked) in (0, 1)
    assert torch.equal(layer.running_mean, torch.zeros(3))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_deepcopy_and_pickle(activation):
    layer = BatchNormAct2d(3, activation=activation, negative_slope=SLOPE)
    x = torch.randn(2, 3, 4, 4)
    layer(x)
    layer.eval()
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(stream, weights_only=False)):
        assert repr(other) == repr(layer) and torch.equal(other(x), layer(x))


def test_meta_construction_and_skip_init():
    layer = BatchNormAct2d(3, device="meta")
    assert layer.running_mean.is_meta
    assert layer(torch.empty(2, 3, 4, 4, device="meta")).shape == (2, 3, 4, 4)
    assert not nn.utils.skip_init(BatchNormAct2d, 3, activation="none").weight.is_meta


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@activations
def test_half_and_double_layers(dtype, activation, device):
    layers = [*pair(activation, device, dtype)]
    layers.append(copy.deepcopy(layers[1]).double())
    x, _, _, grad = (tensor.to(device, dtype) for tensor in batch_norm_tensors((4, 3, 5, 5), mean=0.1))
    for training in (True, False):
        batches = [(x, grad), (x, grad), (x.double(), grad.double())]
        results = [
            run(layer.train(training), *batch) + buffers(layer) for layer, batch in zip(layers, batches, strict=True)
        ]
        for mine, theirs, judge in zip(*results, strict=True):
            if dtype is torch.float64:
                assert_tight("result", mine, judge)
            else:
                assert_rule("result", mine, theirs, judge)


def buffers(layer):
    return [buffer.clone() for buffer in layer.buffers() if buffer.is_floating_point()]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_memory_formats(memory_format, device):
    mine, theirs = pair("relu", device)
    x = torch.randn(2, 3, 4, 5, device=device).to(memory_format=memory_format).requires_grad_()
    output = mine(x)
    assert output.stride() == theirs(x).stride()
    assert torch.autograd.grad(output.sum(), x)[0].stride() == x.stride()


ILLEGAL_INPUTS = [(3,), (2, 3), (2, 3, 4), (1, 3, 1, 1), (2, 3, 4, 4, 4), (2, 4, 3, 3)]


@pytest.mark.parametrize("shape", ILLEGAL_INPUTS, ids=str)
def test_an_illegal_input_raises_as_in_torch(shape):
    mine, theirs = pair("none")
    (my_type, mine), (their_type, theirs) = (
        outcome(lambda layer=layer: layer(torch.zeros(shape))) for layer in (mine, theirs)
    )
    assert my_type is their_type
    assert mine.startswith(theirs)  # ours adds the size that it got instead


@pytest.mark.parametrize("name", ["gelu", "ReLU", "", None, 3, ["relu"]], ids=repr)
def test_an_unknown_activation_raises(name):
    with pytest.raises(ValueError, match=r'activation must be "relu", "leaky_relu" or "none", but got'):
        BatchNormAct2d(3, activation=name)


def test_evaluation_without_statistics_uses_the_batch(device):
    mine, theirs = pair("relu", device, torch.float64, track_running_stats=False)
    x = torch.randn(2, 3, 4, 4, device=device).double()
    assert_tight("output", mine.eval()(x), theirs.eval()(x))


def test_weights_init_recipes_find_the_class():
    assert "BatchNorm" in BatchNormAct2d.__name__


def test_cumulative_average(device):
    mine, theirs = pair("none", device, torch.float64, momentum=None)
    for _ in range(3):
        x = torch.randn(4, 3, 2, 2, device=device).double()
        mine(x), theirs(x)
    assert_tight("running_mean", mine.running_mean, theirs[0].running_mean)
    assert_tight("running_var", mine.running_var, theirs[0].running_var)


def test_checkpoint_counts_like_torch(device):
    """Recomputing the forward in backward counts the batch twice, in torch as here."""
    mine, theirs = pair("relu", device, torch.float64)
    x = torch.randn(4, 3, 2, 2, device=device).double().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for layer in (mine, theirs):
            torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert int(mine.num_batches_tracked) == int(theirs[0].num_batches_tracked)
    assert_tight("running_mean", mine.running_mean, theirs[0].running_mean)


def test_the_functional_form_is_the_layer(device):
    mine, _ = pair("leaky_relu", device, torch.float64)
    x = torch.randn(4, 3, 2, 2, device=device).double()
    expected = batch_norm_then("leaky_relu", SLOPE)(x, None, None, mine.weight, mine.bias, True)
    assert_tight("output", mine(x), expected)
