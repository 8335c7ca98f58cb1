"""accelerate on torchvision's models: same results in training and eval mode, honest reports, and back to the bit."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

import fastgan.nn
from fastgan.nn.surgery import accelerate, restore
from tests.checks import assert_rule
from tests.nn.foreign import torchvision_models

models = torchvision_models()
segmentation = models.segmentation


class Foreign(NamedTuple):
    """How to build a model, the size of its images, how many layers of which type are replaced, and reasons for the
    norms that are not (each with its count)."""

    build: Callable[[], nn.Module]
    size: int
    replaced: dict[str, int]
    kept: dict[str, int]


def plain(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(models, name)(weights=None, num_classes=7, **arguments)


def segments(name: str) -> Callable[[], nn.Module]:
    return lambda: getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=3)


END = "no activation directly after it in a Sequential"
SHARED = "the ReLU after it has other inputs too, in {}.forward"
SUM = "no activation directly after it in {}.forward"
CALL = "the relu after it is a function call in {}.forward"
OTHER = "{} after it is neither ReLU nor LeakyReLU"
UNSEEN = "{} does not run it and the ReLU after it in one straight line, in one place of its code"

MODELS = {
    "resnet18": Foreign(
        plain("resnet18"),
        48,
        {"Conv2d": 20, "BatchNorm2d": 1},
        {SHARED.format("BasicBlock"): 8, SUM.format("BasicBlock"): 8, END: 3},
    ),
    "resnet50": Foreign(
        plain("resnet50"),
        32,
        {"Conv2d": 53, "BatchNorm2d": 1},
        {SHARED.format("Bottleneck"): 32, SUM.format("Bottleneck"): 16, END: 4},
    ),
    "densenet121": Foreign(plain("densenet121"), 64, {"Conv2d": 120, "BatchNorm2d": 120}, {END: 1}),
    "vgg11_bn": Foreign(  # without its classifier, 120 million weights of dense layers
        lambda: models.vgg.make_layers(models.vgg.cfgs["A"], batch_norm=True), 32, {"Conv2d": 8, "BatchNorm2d": 8}, {}
    ),
    "squeezenet1_1": Foreign(plain("squeezenet1_1"), 48, {"Conv2d": 26}, {}),
    "mobilenet_v2": Foreign(plain("mobilenet_v2"), 48, {"Conv2d": 52}, {OTHER.format("ReLU6"): 35, END: 17}),
    "mobilenet_v3_small": Foreign(
        plain("mobilenet_v3_small"),
        48,
        {"Conv2d": 52, "BatchNorm2d": 5},
        {OTHER.format("Hardswish"): 18, END: 11},
    ),
    "shufflenet_v2_x0_5": Foreign(
        plain("shufflenet_v2_x0_5"), 48, {"Conv2d": 56, "BatchNorm2d": 37}, {OTHER.format("Conv2d"): 19}
    ),
    "mnasnet0_5": Foreign(
        plain("mnasnet0_5"),
        48,
        {"Conv2d": 52},
        # its _load_from_state_dict replaces single layers
        {"the code of MNASNet does not only call layers": 35, END: 16, OTHER.format("Sequential"): 1},
    ),
    "efficientnet_b0": Foreign(plain("efficientnet_b0"), 48, {"Conv2d": 81}, {OTHER.format("SiLU"): 33, END: 16}),
    "regnet_x_400mf": Foreign(plain("regnet_x_400mf"), 48, {"Conv2d": 71, "BatchNorm2d": 45}, {END: 26}),
    "googlenet": Foreign(
        plain("googlenet", init_weights=False, aux_logits=False),
        64,
        {"Conv2d": 57},
        {CALL.format("BasicConv2d"): 57},
    ),
    "inception_v3": Foreign(
        plain("inception_v3", init_weights=False, aux_logits=False),
        80,
        {"Conv2d": 94},
        {CALL.format("BasicConv2d"): 94},
    ),
    "lraspp": Foreign(
        segments("lraspp_mobilenet_v3_large"),
        48,
        {"Conv2d": 66, "BatchNorm2d": 12},
        {OTHER.format("Hardswish"): 20, END: 15},
    ),
    "fcn_resnet50": Foreign(
        segments("fcn_resnet50"),
        32,
        {"Conv2d": 55, "BatchNorm2d": 1},
        {
            UNSEEN.format("IntermediateLayerGetter"): 1,
            SHARED.format("Bottleneck"): 32,
            SUM.format("Bottleneck"): 16,
            END: 4,
        },
    ),
    "deeplabv3_resnet50": Foreign(
        segments("deeplabv3_resnet50"),
        32,
        {"Conv2d": 61, "BatchNorm2d": 6},
        {
            UNSEEN.format("IntermediateLayerGetter"): 1,
            UNSEEN.format("ASPPPooling"): 1,
            SHARED.format("Bottleneck"): 32,
            SUM.format("Bottleneck"): 16,
            END: 4,
        },
    ),
}
SLOW = {
    "resnet18",
    "resnet50",
    "densenet121",
    "vgg11_bn",
    "regnet_x_400mf",
    "googlenet",
    "lraspp",
    "efficientnet_b0",
    "inception_v3",
    "fcn_resnet50",
    "deeplabv3_resnet50",
}
every_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODELS]
)


def build(name: str, device: torch.device) -> tuple[nn.Module, Tensor]:
    """The model without chance, with running statistics of its own, and images."""
    model = MODELS[name].build().to(device)
    for module in model.modules():
        if type(module).__name__ in ("Dropout", "StochasticDepth"):
            module.p = 0.0
    images = torch.randn(3, 3, MODELS[name].size, MODELS[name].size, device=device)
    with torch.no_grad():
        model.train()(images)
    return model, images


def tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif output is not None:
        for value in output.values() if isinstance(output, dict) else output:
            yield from tensors(value)


def run(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Output, gradient of the input, gradients of the parameters and buffers, each in one vector: what a rounding error
    does in a deep network is chance, which the rule cannot judge by a single bias."""
    dtype = next(model.parameters()).dtype
    x = images.to(dtype, copy=True).requires_grad_()
    output = torch.cat([value.flatten() for value in tensors(model(x))])
    seed = torch.arange(output.numel(), device=x.device).remainder(7).sub(2).to(dtype)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    of_input, *gradients = torch.autograd.grad(output, [x, *parameters], seed, allow_unused=True)
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    result = {"output": output.detach(), "input.grad": of_input}
    result["gradients"] = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
    result["buffers"] = torch.cat([buffer.flatten() for buffer in [*buffers, torch.zeros_like(of_input)]])
    return result


def kinds(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


def within_the_rule(name: str, model: nn.Module, accelerated: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The results of ``model``, with which those of ``accelerated`` agree by the rule.

    In a deep network in training one value that rounds to the other side of a kink can cost more than all other
    rounding, in torch's run or in ours. So where these images break the rule, neither of two other draws may.
    """
    fresh = [copy.deepcopy(one) for one in (model, accelerated)]
    exact, theirs, ours = (run(one, images) for one in (copy.deepcopy(model).double(), model, accelerated))
    try:
        for key, value in ours.items():
            assert_rule(f"{name} {key}", value, theirs[key], exact[key])
    except AssertionError:
        for _ in range(2):
            others = torch.randn_like(images)
            network, fast = (copy.deepcopy(one) for one in fresh)
            judge, base, mine = (run(one, others) for one in (copy.deepcopy(network).double(), network, fast))
            for key, value in mine.items():
                assert_rule(f"{name} {key}", value, base[key], judge[key])
    return theirs


@every_model
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_same_results_and_back(name: str, training: bool, device: torch.device) -> None:
    model, images = build(name, device)
    model.train(training)
    before, accelerated = copy.deepcopy(model), copy.deepcopy(model)
    accelerate(accelerated)
    assert list(accelerated.state_dict()) == list(model.state_dict())
    theirs = within_the_rule(name, model, accelerated, images)
    counted = {key: value for key, value in accelerated.state_dict().items() if key.endswith("num_batches_tracked")}
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in counted.items())
    restore(accelerated)
    assert kinds(accelerated) == kinds(before)
    accelerated.load_state_dict(before.state_dict())
    for key, value in run(accelerated, images).items():
        assert torch.equal(value, theirs[key]), key


@every_model
def test_the_report_names_every_layer(name: str) -> None:
    model = MODELS[name].build()
    layers = {
        path: type(module)
        for path, module in model.named_modules()
        if isinstance(module, (_ConvNd, _BatchNorm, nn.BCEWithLogitsLoss))
    }
    report = accelerate(model)
    assert sorted(row.name for row in [*report.replaced, *report.kept]) == sorted(layers)
    assert {row.name: row.torch_type for row in [*report.replaced, *report.kept]} == {
        path: kind.__name__ for path, kind in layers.items()
    }
    assert Counter(row.torch_type for row in report.replaced) == MODELS[name].replaced
    assert Counter(row.reason for row in report.kept) == MODELS[name].kept
    for path, module in model.named_modules():
        assert type(module).__module__.startswith("fastgan.") == (
            path in {row.name for row in report.replaced} or isinstance(module, fastgan.nn.FusedIdentity)
        )
