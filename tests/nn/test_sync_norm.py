"""The synchronised batch norm without a process group, and the conversion; tests/distributed has the rest."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import fastgan
from fastgan.nn import BatchNormAct2d, Conv2d, FusedIdentity, SyncBatchNormAct2d, convert_sync_batchnorm
from tests.checks import assert_tight
from tests.nn.test_norm import options, pair, run
from tests.ops.cases import activations

SLOPE = 0.2


def test_the_constructor_is_torchs_plus_the_activation():
    mine, theirs = (inspect.signature(cls.__init__).parameters for cls in (SyncBatchNormAct2d, nn.SyncBatchNorm))
    positional = [name for name, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(mine)[: len(positional)] == positional
    layer = SyncBatchNormAct2d(3, 0.5, 0.25, False, False, "group", "cpu", torch.float64, activation="none")
    assert (layer.eps, layer.momentum, layer.affine, layer.track_running_stats) == (0.5, 0.25, False, False)
    assert layer.process_group == "group"
    assert SyncBatchNormAct2d(3, dtype=torch.float64).weight.dtype is torch.float64
    assert (SyncBatchNormAct2d(3).activation, SyncBatchNormAct2d(3).negative_slope) == ("relu", 0.01)


@options
@activations
def test_without_a_process_group_it_is_the_plain_layer(kwargs, activation, device):
    plain, _ = pair(activation, device, **kwargs)
    layer = SyncBatchNormAct2d(3, activation=activation, negative_slope=SLOPE, **kwargs).to(device)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3, 5, 5, device=device)
    for training in (True, True, False):
        for mine, expected in zip(run(layer.train(training), x, x), run(plain.train(training), x, x), strict=True):
            assert torch.equal(mine, expected)
        for name, buffer in plain.named_buffers():
            assert torch.equal(getattr(layer, name), buffer), name


def test_it_is_no_subclass_of_torchs():
    """DistributedDataParallel refuses torch's on CPUs."""
    assert not issubclass(SyncBatchNormAct2d, nn.SyncBatchNorm) and issubclass(SyncBatchNormAct2d, BatchNormAct2d)


def test_one_value_per_channel_raises():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        SyncBatchNormAct2d(3)(torch.zeros(1, 3, 1, 1))


def test_state_dict_to_torch_and_back_deepcopy_and_pickle():
    layer = SyncBatchNormAct2d(3, activation="leaky_relu", negative_slope=SLOPE)
    x = torch.randn(4, 3, 2, 2)
    layer(x)
    theirs = nn.BatchNorm2d(3)
    theirs.load_state_dict(layer.state_dict())
    other = SyncBatchNormAct2d(3, activation="leaky_relu", negative_slope=SLOPE)
    other.load_state_dict(theirs.state_dict())
    layer.eval()
    for one in (other.eval(), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(one(x), layer(x))
        assert repr(one) == repr(layer)
    assert "activation=leaky_relu, negative_slope=0.2" in repr(layer)


def network():
    """Every kind that is converted, one of them shared."""
    shared = BatchNormAct2d(4, activation="leaky_relu", negative_slope=SLOPE)
    return nn.Sequential(
        Conv2d(3, 4, 3), shared, nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, eps=0.1, momentum=None), nn.ReLU(),
        nn.Sequential(BatchNormAct2d(4, activation="relu"), BatchNormAct2d(4, activation="none")), shared,
        nn.Flatten(1), nn.BatchNorm1d(4 * 3 * 3), nn.Unflatten(1, (1, 4, 3, 3)), nn.BatchNorm3d(1),
        nn.SyncBatchNorm(1, affine=False),
    ).double()  # fmt: skip


def test_conversion_changes_no_result_and_no_object():
    model = network()
    model[3].eval()
    original, seen = copy.deepcopy(model), []
    model[1].register_forward_hook(lambda module, args, output: seen.append(output))
    tensors = list(model.state_dict(keep_vars=True).items())
    modes = [module.training for module in model.modules()]
    x = torch.randn(2, 3, 5, 5).double()
    assert convert_sync_batchnorm(model, "group") is model
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 7
    assert all(type(norm) is SyncBatchNormAct2d and norm.process_group == "group" for norm in norms)
    assert [norm.activation for norm in norms] == ["leaky_relu", "none", "relu", "none", "none", "none", "none"]
    assert model[1] is model[6] and model[1].negative_slope == SLOPE
    assert modes == [module.training for module in model.modules()]
    for (name, mine), (before_name, before) in zip(model.state_dict(keep_vars=True).items(), tensors, strict=True):
        assert name == before_name and mine is before
    for norm in norms:
        norm.process_group = None
    assert_tight("output", model(x), original(x))
    assert len(seen) == 2
    for (name, mine), (_, theirs) in zip(model.named_buffers(), original.named_buffers(), strict=True):
        assert_tight(name, mine.double(), theirs.double())


def test_a_batch_norm_alone_and_twice():
    norm = nn.BatchNorm2d(3)
    assert convert_sync_batchnorm(norm, "one") is norm and norm.process_group == "one"
    assert convert_sync_batchnorm(norm).process_group is None
    assert repr(norm).startswith("SyncBatchNormAct2d(3, ") and repr(norm).endswith("activation=none)")
    convert_sync_batchnorm(nn.ReLU())


class Subclass(nn.BatchNorm2d):
    def forward(self, input):
        return input


def _parametrised():
    norm = nn.BatchNorm2d(3)
    parametrize.register_parametrization(norm, "weight", nn.Identity())
    return norm


def _replaced():
    norm = BatchNormAct2d(3)
    norm.forward = lambda input: input
    return norm


@pytest.mark.parametrize("make", [lambda: Subclass(3), _parametrised, _replaced, nn.LazyBatchNorm2d])
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_a_batch_norm_that_may_compute_something_else_is_refused(make):
    model = nn.ModuleDict({"first": nn.BatchNorm2d(3), "other": make()})
    with pytest.raises(TypeError, match="other cannot be converted"):
        convert_sync_batchnorm(model)
    assert type(model["first"]) is nn.BatchNorm2d


@pytest.mark.parametrize("cls", [BatchNormAct2d, SyncBatchNormAct2d])
def test_torchs_converter_loses_no_activation(cls):
    for activation in ("relu", "leaky_relu"):
        with pytest.raises(TypeError, match=r"would lose the .*relu.*; use fastgan\.nn\.convert_sync_batchnorm"):
            nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 1), cls(4, activation=activation)))
        with pytest.raises(TypeError, match=f"of a {cls.__name__}"):
            nn.SyncBatchNorm.convert_sync_batchnorm(cls(4, activation=activation))
    without = cls(4, activation="none")
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(without))[0]
    assert type(converted) is nn.SyncBatchNorm and converted.weight is without.weight


def test_everything_else_may_ask_for_the_children():
    layer = BatchNormAct2d(3)
    assert list(layer.named_children()) == [] == list(layer.children())
    assert layer.apply(lambda module: None).train().eval() is layer


def plain_network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(SLOPE), nn.BatchNorm2d(4)).double()


def test_an_accelerated_model():
    """The activation stays with the batch norm that took it over; restore puts it back, the layer stays what it is."""
    model, original = plain_network(), plain_network()
    original.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 5, 5).double()
    expected = original(x)
    fastgan.accelerate(model)
    with pytest.raises(TypeError, match=r"use fastgan\.nn\.convert_sync_batchnorm"):
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    convert_sync_batchnorm(model)
    assert type(model[1]) is SyncBatchNormAct2d and model[1].activation == "leaky_relu"
    assert isinstance(model[2], FusedIdentity)
    assert_tight("output", model(x), expected)
    fastgan.restore(model)
    assert type(model[1]) is SyncBatchNormAct2d and model[1].activation == "none"
    assert type(model[2]) is nn.LeakyReLU and model[2].negative_slope == SLOPE
    assert_tight("output", model(x), expected)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got int"):
        convert_sync_batchnorm(3)
