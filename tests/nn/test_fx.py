"""torch.fx.symbolic_trace takes our layers whole, as it takes torch's, and traces our models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fastgan
import fastgan.nn
from fastgan.models import (
    CGANDiscriminator,
    CGANGenerator,
    DCGANDiscriminator,
    DCGANGenerator,
    GANDiscriminator,
    GANGenerator,
)


def nodes(graph: fx.GraphModule, op: str) -> list[Any]:
    return [node.target for node in graph.graph.nodes if node.op == op]


def test_a_layer_is_one_node() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = fastgan.nn.ConvTranspose2d(3, 4, 4, 2, 1)
            self.norm = fastgan.nn.BatchNormAct2d(4, momentum=None)
            self.down = nn.utils.parametrizations.weight_norm(fastgan.nn.Conv2d(4, 1, 3, padding="same"))
            self.loss = fastgan.nn.BCEWithLogitsLoss()

        def forward(self, x: Tensor) -> Tensor:
            y = self.down(self.norm(self.up(x, output_size=[8, 8])))
            return self.loss(y, 1.0)

    model = Model()
    before = copy.deepcopy(model.state_dict())
    graph = fx.symbolic_trace(model)
    assert nodes(graph, "call_module") == ["up", "norm", "down", "loss"]
    assert not nodes(graph, "call_function") + nodes(graph, "get_attr")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "tracing ran the layers"
    twin, x = copy.deepcopy(model), torch.randn(2, 3, 4, 4)
    for _ in range(2):
        assert torch.equal(graph(x), twin(x))
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in graph.state_dict().items())
    assert int(graph.norm.num_batches_tracked) == 2


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "conv2d": (lambda x, w: fastgan.functional.conv2d(x, w, padding=1), ((2, 3, 4, 4), (5, 3, 3, 3))),
    "conv_transpose2d": (lambda x, w: fastgan.functional.conv_transpose2d(x, w), ((2, 3, 4, 4), (3, 5, 3, 3))),
    "batch_norm_act": (
        lambda x: fastgan.functional.batch_norm_act(x, None, None, training=True),
        ((2, 3, 4, 4),),
    ),
    "binary_cross_entropy_with_logits": (
        lambda x: fastgan.functional.binary_cross_entropy_with_logits(x, 0.9),
        ((2, 3),),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_one_node(name: str) -> None:
    function, shapes = FUNCTIONS[name]
    graph = fx.symbolic_trace(function)
    assert nodes(graph, "call_function") == [getattr(fastgan.functional, name)]
    inputs = [torch.randn(shape) for shape in shapes]
    assert torch.equal(graph(*inputs), function(*inputs))


@pytest.mark.parametrize(
    "layer, function, arguments",
    [
        (fastgan.nn.Conv2d(3, 4, 3), "conv2d", None),
        (fastgan.nn.ConvTranspose2d(3, 4, 3), "conv_transpose2d", {"output_size": None}),
    ],
)
def test_a_layer_by_itself_is_traced_into(layer: nn.Module, function: str, arguments: dict[str, None] | None) -> None:
    """As torch's are: the root of a trace is no leaf."""
    graph, x = fx.symbolic_trace(layer, arguments), torch.randn(2, 3, 5, 5)
    assert getattr(fastgan.functional, function) in nodes(graph, "call_function")
    assert not nodes(graph, "call_module")
    assert torch.equal(graph(x), layer(x))


@pytest.mark.parametrize("library", [nn, fastgan.nn], ids=["torch", "fastgan"])
@pytest.mark.parametrize("name", ["ConvTranspose2d", "BatchNorm2d"])
def test_what_torch_cannot_trace_by_itself(library: Any, name: str) -> None:
    name = "BatchNormAct2d" if (library, name) == (fastgan.nn, "BatchNorm2d") else name
    layer = getattr(library, name)(*(3, 3, 3)[: 1 if "Norm" in name else 3])
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(fx.proxy.TraceError, match="symbolically traced variables cannot be used"):
        fx.symbolic_trace(layer)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


IMAGES, LABELS = torch.randn(3, 1, 28, 28), torch.tensor([2, 0, 9])
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "gan-g": (GANGenerator, (torch.randn(3, 100),)),
    "gan-d": (GANDiscriminator, (IMAGES,)),
    "dcgan-g": (lambda: DCGANGenerator(z_dim=5), (torch.randn(3, 5),)),
    "dcgan-d": (DCGANDiscriminator, (torch.randn(3, 3, 32, 32),)),
    "cgan-g": (CGANGenerator, (torch.randn(3, 100), LABELS)),
    "cgan-d": (CGANDiscriminator, (IMAGES, LABELS)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_models(name: str, training: bool) -> None:
    build, inputs = MODELS[name]
    model = build().train(training)
    twin = copy.deepcopy(model)
    graph = fx.symbolic_trace(model)
    layers = [path for path, module in model.named_modules() if not list(module.children())]
    assert sorted(nodes(graph, "call_module")) == sorted(layers)
    results = []
    for one in (graph, twin):
        x = inputs[0].clone().requires_grad_()
        output = one(x, *inputs[1:])
        output.square().sum().backward()
        gradients = {f"{key}.grad": parameter.grad for key, parameter in one.named_parameters()}
        results.append({"output": output, "input.grad": x.grad, **gradients, **one.state_dict()})
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(value, results[0][key]) for key, value in results[1].items())


def test_a_graph_still_checks_its_inputs() -> None:
    graph = fx.symbolic_trace(DCGANGenerator(z_dim=5))
    with pytest.raises(ValueError, match="z must"):
        graph(torch.randn(2, 6))


def test_a_graph_of_an_accelerated_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    fastgan.accelerate(model)
    graph, x = fx.symbolic_trace(copy.deepcopy(model)), torch.randn(2, 3, 5, 5)
    assert torch.equal(graph(x), model(x))
    assert nodes(graph, "call_module")[:2] == ["0", "1"]


class Doubled(fastgan.nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


@pytest.mark.parametrize("what", ["forward hook", "pre-hook", "subclass"])
def test_hooks_and_subclasses_act_once(what: str) -> None:
    layer = Doubled(3, 4, 3) if what == "subclass" else fastgan.nn.Conv2d(3, 4, 3)
    if what == "forward hook":
        layer.register_forward_hook(lambda _m, _i, output: output * 2)
    if what == "pre-hook":
        layer.register_forward_pre_hook(lambda _m, inputs: (inputs[0] * 3,))
    model, x = nn.Sequential(layer), torch.randn(2, 3, 5, 5)
    assert torch.equal(fx.symbolic_trace(model)(x), model(x))


def test_a_proxy_in_any_place_makes_a_node() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = fastgan.nn.BCEWithLogitsLoss()

        def forward(self, target: Tensor) -> Tensor:
            return self.loss(torch.zeros(3), target)

    assert nodes(fx.symbolic_trace(Model()), "call_module") == ["loss"]
