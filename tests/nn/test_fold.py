"""fold_batch_norm: the same outputs without the norms, what stays or is refused; torch's folding on our layers."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fusion, prune

import fastgan.nn
from fastgan.models import CGANDiscriminator, CGANGenerator, DCGANDiscriminator, DCGANGenerator
from fastgan.nn.fold import fold_batch_norm
from fastgan.nn.surgery import accelerate, restore
from tests.checks import assert_rule, assert_tight
from tests.nn.foreign import ExampleGenerator, UNet, torchvision_models


def settle(model: nn.Module) -> nn.Module:
    """Norms as after a training: statistics and parameters of their own, one weight negative; eval mode."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            if module.running_mean is not None:
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.weight is not None:
                nn.init.uniform_(module.weight, -0.5, 1.5)
            if module.bias is not None:
                nn.init.normal_(module.bias)
    return model.eval()


def norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]


def check(name: str, model: nn.Module, *inputs: Tensor) -> nn.Module:
    """Folded, the outputs obey the rule in float32 and are the same in float64; ``model`` is as it was."""
    state, repr_before = copy.deepcopy(model.state_dict()), repr(model)
    folded, judge = fold_batch_norm(model), copy.deepcopy(model).double()
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    with torch.no_grad():
        expected = judge(*wide)
        assert_rule(name, folded(*inputs), model(*inputs), expected)
        assert_tight(name, fold_batch_norm(judge)(*wide), expected)
    assert repr(model) == repr_before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    mine = {value.data_ptr() for value in model.state_dict().values()}
    assert not mine & {value.data_ptr() for value in folded.state_dict().values()}
    return folded


CONVOLUTIONS = {
    "conv": lambda library, bias: library.Conv2d(4, 6, 3, stride=2, padding=1, bias=bias),
    "conv, groups": lambda library, bias: library.Conv2d(4, 6, 3, groups=2, bias=bias),
    "depthwise": lambda library, bias: library.Conv2d(4, 8, 3, groups=4, bias=bias),
    "reflect": lambda library, bias: library.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=bias),
    "transposed": lambda library, bias: library.ConvTranspose2d(4, 6, 4, stride=2, padding=1, bias=bias),
    "transposed, groups": lambda library, bias: library.ConvTranspose2d(4, 6, 3, groups=2, bias=bias),
    "transposed, depthwise": lambda library, bias: library.ConvTranspose2d(4, 8, 3, groups=4, bias=bias),
    "square": lambda library, bias: library.ConvTranspose2d(4, 4, 3, bias=bias),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("library", [nn, fastgan.nn], ids=["torch", "fastgan"])
def test_every_convolution(name: str, bias: bool, library: Any, device: torch.device) -> None:
    layer = CONVOLUTIONS[name](library, bias)
    kind = type(layer)
    model = settle(nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.Tanh())).to(device)
    folded = check(name, model, torch.randn(5, 4, 9, 9, device=device))
    assert [type(module) for module in folded] == [kind, nn.Identity, nn.Tanh]
    assert list(folded.state_dict()) == ["0.weight", "0.bias"]
    assert not any(module.training for module in folded.modules())


@pytest.mark.parametrize(
    "norm, left",
    [
        (lambda: nn.BatchNorm2d(6, affine=False), "Identity()"),
        (lambda: nn.BatchNorm2d(6, eps=0.1), "Identity()"),
        (lambda: fastgan.nn.BatchNormAct2d(6), "ReLU()"),
        (lambda: fastgan.nn.SyncBatchNormAct2d(6), "ReLU()"),
        (lambda: nn.SyncBatchNorm(6), "Identity()"),
        (
            lambda: fastgan.nn.BatchNormAct2d(6, activation="leaky_relu", negative_slope=0.2),
            "LeakyReLU(negative_slope=0.2)",
        ),
        (lambda: fastgan.nn.BatchNormAct2d(6, activation="none"), "Identity()"),
    ],
)
def test_every_norm_leaves_its_activation(norm: Callable[[], nn.Module], left: str) -> None:
    model = settle(nn.Sequential(nn.Conv2d(4, 6, 3), norm()))
    assert repr(check(left, model, torch.randn(5, 4, 9, 9))[1]) == left


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("norm", "taken", "left"),
    [
        (fastgan.nn.BatchNormAct2d(6), "activation=relu", "Identity()"),
        (fastgan.nn.SyncBatchNormAct2d(6), "activation=relu", "Identity()"),
        (
            fastgan.nn.BatchNormAct2d(6, activation="leaky_relu", negative_slope=0.2),
            "activation=leaky_relu, negative_slope=0.2",
            "Identity()",
        ),
        (
            fastgan.nn.BatchNormAct2d(6, activation="leaky_relu", negative_slope=-0.5),
            "",
            "LeakyReLU(negative_slope=-0.5)",
        ),
        (fastgan.nn.BatchNormAct2d(6, activation="none"), "", "Identity()"),
        (nn.BatchNorm2d(6), "", "Identity()"),
    ],
)
def test_our_convolutions_take_the_activation(norm: nn.Module, taken: str, left: str, transposed: bool) -> None:
    kind = fastgan.nn.ConvTranspose2d if transposed else fastgan.nn.Conv2d
    folded = check(left, settle(nn.Sequential(kind(4, 6, 3), norm)), torch.randn(5, 4, 9, 9))
    assert repr(folded[0]).partition("stride=(1, 1)")[2] == (f", {taken})" if taken else ")")
    assert repr(folded[1]) == left


def test_dtype_layout_and_requires_grad_stay() -> None:
    model = settle(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))).to(memory_format=torch.channels_last)
    model[0].weight.requires_grad_(False)
    convolution = fold_batch_norm(model)[0]
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert (convolution.weight.requires_grad, convolution.bias.requires_grad) == (False, True)
    low = settle(nn.Sequential(nn.Conv2d(4, 6, 3, bias=False, dtype=torch.bfloat16), nn.BatchNorm2d(6)))
    convolution = fold_batch_norm(low)[0]
    assert convolution.weight.dtype is convolution.bias.dtype is torch.bfloat16


class Shared(nn.Module):
    """A convolution whose output goes to two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.first(y) + self.second(y)


class InCode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = fastgan.nn.BatchNormAct2d(4), nn.ConvTranspose2d(3, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = self.norm(y)
        return y * 2


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[0].register_forward_hook(lambda *_: None)
    return model


def tied() -> nn.Module:
    convolution = nn.Conv2d(3, 3, 1)
    return nn.Sequential(convolution, nn.BatchNorm2d(3), convolution)


def pruned() -> nn.Module:
    model = nn.Sequential(prune.l1_unstructured(nn.Conv2d(3, 3, 1), "weight", 2), nn.BatchNorm2d(3))
    with torch.no_grad():  # torch copies the module only while the pruned weight has no history
        model(torch.zeros(2, 3, 1, 1))
    return model


def normalised() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3))


@pytest.mark.parametrize(
    "build, shape, left",
    [
        (ExampleGenerator, (4, 12, 1, 1), []),
        (UNet, (2, 3, 16, 16), []),
        (InCode, (2, 3, 5, 5), []),
        (Shared, (2, 3, 5, 5), ["first", "second"]),
        (hooked, (2, 3, 5, 5), ["1"]),
        (tied, (2, 3, 5, 5), ["1"]),
        (pruned, (2, 3, 5, 5), ["1"]),
        (normalised, (2, 3, 5, 5), ["1"]),
        (lambda: DCGANGenerator(z_dim=8), (2, 8), ["project_norm"]),
        (DCGANDiscriminator, (32, 3, 32, 32), []),
    ],
)
def test_models(build: Callable[[], nn.Module], shape: tuple[int, ...], left: list[str]) -> None:
    folded = check(str(build), settle(build()), torch.randn(shape))
    assert norms(folded) == left


@pytest.mark.parametrize("build, shape", [(CGANGenerator, (2, 100)), (CGANDiscriminator, (32, 1, 28, 28))])
def test_conditional_models(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    assert norms(check(str(build), settle(build()), torch.randn(shape), torch.arange(shape[0]) % 10)) == []


@pytest.mark.parametrize("name, left", [("resnet18", 0), ("mobilenet_v2", 0), ("googlenet", 0), ("regnet_x_400mf", 0)])
def test_torchvision(name: str, left: int) -> None:
    arguments = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model = settle(getattr(torchvision_models(), name)(weights=None, **arguments))
    assert len(norms(check(name, model, torch.randn(2, 3, 48, 48)))) == left


def test_an_accelerated_model_comes_back_accelerated() -> None:
    model = settle(ExampleGenerator())
    original = copy.deepcopy(model)
    accelerate(model)
    folded = check("accelerated", model, torch.randn(4, 12, 1, 1))
    kinds = [type(module) for module in folded.main[:3]]
    assert kinds == [fastgan.nn.ConvTranspose2d, nn.Identity, nn.ReLU]
    restore(folded)
    assert type(folded.main[0]) is nn.ConvTranspose2d
    restore(model)
    assert [type(module) for module in model.main] == [type(module) for module in original.main]


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"model is in training mode: .* model\.eval\(\)"):
        fold_batch_norm(nn.Sequential(nn.Conv2d(2, 2, 1)))
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)).eval()
    model[1].train()
    with pytest.raises(ValueError, match="1 is in training mode"):
        fold_batch_norm(model)
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match="the BatchNorm2d after 0 has no running statistics"):
        fold_batch_norm(model)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        fold_batch_norm([model])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_what_torchs_folding_makes_of_ours(activation: str, transposed: bool) -> None:
    """It cannot know of an activation: what it returns is right for "none" and lacks the activation otherwise."""
    kind = fastgan.nn.ConvTranspose2d if transposed else fastgan.nn.Conv2d
    model = settle(nn.Sequential(kind(3, 5, 3), fastgan.nn.BatchNormAct2d(5, activation=activation))).double()
    folded, x = fusion.fuse_conv_bn_eval(*model, transpose=transposed), torch.randn(2, 3, 6, 6).double()
    assert type(folded) is kind
    if activation == "relu":
        assert folded(x).min() < 0
        folded = nn.Sequential(folded, nn.ReLU())
    assert_tight("torch's folding", folded(x), model(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")  # torch 2.11's import of it
def test_torchs_graph_folding_leaves_the_activation_alone() -> None:
    """torch.fx.experimental.optimization.fuse goes by exact type: it folds torch's layers only."""
    model = settle(nn.Sequential(fastgan.nn.Conv2d(3, 5, 3), fastgan.nn.BatchNormAct2d(5), InCode())).double()
    model[2] = settle(nn.Sequential(nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4))).double()
    optimization = importlib.import_module("torch.fx.experimental.optimization")
    fused, x = optimization.fuse(model), torch.randn(2, 3, 6, 6).double()
    assert norms(fused) == ["1"]
    assert_tight("torch's graph folding", fused(x), model(x))
