"""accelerate on layers that are called in the code of a forward: what is fused, kept and why; side effects."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fastgan.nn
from fastgan.nn.surgery import accelerate, restore


class Block(nn.Module):
    """Two layers that its subclasses call in their own ways."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(2), nn.LeakyReLU(0.3, inplace=True)
        for name, value in attributes.items():
            setattr(self, name, value)


class Nested(Block):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        nn.init.normal_(self.norm.weight)  # a constructor may touch the layers

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) + x


class Lines(Block):
    def forward(self, x: Tensor, skip: Tensor | None = None, scale: float = 1.0) -> Tensor:
        if self.training:
            x = x * 2
        y = self.norm(x)
        y = self.act(y)
        if scale > 0:
            y = y * scale
        return y if skip is None else y + skip


class InAMethod(Block):
    def step(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.step(x))


class Decorated(Block):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))


class Scale(nn.Module):
    """A layer without children is one node, whatever its code does."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.max() < 1 else x


class BesideALayerWithABranch(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.scale(self.act(self.norm(self.scale(x))))


FUSED = {
    "branch": lambda: BesideALayerWithABranch(scale=Scale()),
    "nested": Nested,
    "lines": Lines,
    "in a method": InAMethod,
    "decorated": Decorated,
}


@pytest.mark.parametrize("name", FUSED)
def test_a_pair_in_the_code_of_a_forward(name: str) -> None:
    model = nn.Sequential(FUSED[name]()).train()
    twin, x = copy.deepcopy(model), torch.randn(3, 2, 4, 4)
    act = model[0].act
    (row,) = accelerate(model).replaced
    assert row == ("0.norm", "BatchNorm2d", "fastgan.nn.BatchNormAct2d with the LeakyReLU in slot act")
    assert (model[0].norm.activation, model[0].norm.negative_slope) == ("leaky_relu", 0.3)
    assert isinstance(model[0].act, fastgan.nn.FusedIdentity)
    torch.testing.assert_close(model(x.clone()), twin(x.clone()))
    torch.testing.assert_close(model.state_dict(), twin.state_dict())
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model):
        restore(copied)
        assert [type(m) for m in copied.modules()] == [type(m) for m in twin.modules()]
        assert [set(vars(m)) for m in copied.modules()] == [set(vars(m)) for m in twin.modules()]
    assert model[0].act is act


class Flag(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if self.raw:
            return y
        return self.act(y)


class Training(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.act(y) if self.training else y


class Features(Block):
    def features(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))


class LaterMethod(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))

    def features(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Method(Block):
    def features(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.features(x))


class NoneTaken(Block):
    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        y = self.norm(x)
        if skip is not None:
            y = y + skip
        return self.act(y)


class Shared(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.act(self.norm(x)) + x)


class Twice(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.act(y) + y


class Function(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(x), inplace=True)


class TensorMethod(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).relu_()


class Sum(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) + x


class Output(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Values(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(x))
        return y if y.sum() > 0 else -y


class Items(Block):
    def forward(self, x: Tensor) -> Tensor:
        if float(self.norm.running_var.sum()) > 0:
            return x
        return self.act(self.norm(x))


class Raises(Block):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError


class ByName(Block):
    def forward(self, x: Tensor) -> Tensor:
        for name in ("norm", "act"):
            x = getattr(self, name)(x)
        return x


class Unused(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


class Deeper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.act = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x))


class ElsewhereToo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Nested()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) + self.block.norm(x)


class Collects(nn.Module):
    """As perceptual losses do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU())

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        return outputs


class ActivationElsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.layers[1](x))


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[2](self.layers[0](x))


class OwnCall(Nested):
    def __call__(self, x: Tensor) -> Tensor:
        return self.norm(x)


def borrowed() -> nn.Module:
    model = nn.Sequential(Nested(), nn.ReLU())
    model[0].act = model[1]
    return model


def own_forward() -> nn.Module:
    model = Nested()
    model.forward = lambda x: model.norm(x)  # type: ignore[method-assign]
    return model


BRANCH = "does not run it and the LeakyReLU after it in one straight line"
KEPT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "flag off": (lambda: Flag(raw=False), f"Flag {BRANCH}"),
    "flag on": (lambda: Flag(raw=True), "no activation directly after it in Flag.forward"),
    "training": (Training, "no activation directly after it in Training.forward"),
    "another method": (Features, f"Features {BRANCH}"),
    "a later method": (LaterMethod, f"LaterMethod {BRANCH}"),
    "two methods": (Method, f"Method {BRANCH}"),
    "argument None": (NoneTaken, "no activation directly after it in NoneTaken.forward"),
    "by name": (ByName, f"ByName {BRANCH}"),
    "shared": (Shared, "the LeakyReLU after it has other inputs too, in Shared.forward"),
    "two users": (Twice, "its output is used 2 times in Twice.forward"),
    "function": (Function, "the relu after it is a function call in Function.forward"),
    "tensor method": (TensorMethod, "the relu_ after it is a function call in TensorMethod.forward"),
    "sum": (Sum, "no activation directly after it in Sum.forward"),
    "output": (Output, "no activation directly after it in Output.forward"),
    "other activation": (lambda: Nested(act=nn.ELU()), "ELU after it is neither ReLU nor LeakyReLU"),
    "data in control flow": (Values, "Values.forward cannot be traced: TraceError: symbolically traced variables"),
    "a buffer's value": (Items, "Items.forward cannot be traced: RuntimeError: Tensor.item() cannot be called on meta"),
    "exception": (Raises, "Raises.forward cannot be traced: KeyError"),
    "no forward": (Block, "no activation directly after it in a Sequential, and the Block around it has no forward"),
    "not called": (Unused, "Unused.forward does not call it"),
    "another parent": (Deeper, "no activation directly after it in a Sequential"),
    "called from outside": (ElsewhereToo, "no activation directly after it in ElsewhereToo.forward"),
    "collected": (Collects, "its output is used 2 times in Collects.forward"),
    "activation called from outside": (
        ActivationElsewhere,
        "the ReLU after it has other inputs too, in ActivationElsewhere.forward",
    ),
    "skipped": (Skips, "code outside its Sequential takes its output"),
    "own call": (OwnCall, "the OwnCall around it has a __call__ of its own"),
    "own forward": (own_forward, "the forward of the Nested around it is replaced on the instance"),
    "graph module": (lambda: fx.symbolic_trace(Nested()), "the Nested around it has a __call__ of its own"),
    "activation in two places": (borrowed, "the ReLU after it is not Nested's alone"),
}


@pytest.mark.parametrize("name", KEPT)
def test_kept_with_a_reason(name: str) -> None:
    build, reason = KEPT[name]
    model = build()
    before = [type(module) for module in model.modules()]
    reasons = [row.reason for row in accelerate(model).kept]
    assert len(reasons) == 1
    assert reasons[0].startswith(reason), reasons
    assert [type(module) for module in model.modules() if not isinstance(module, nn.Conv2d)] == [
        kind for kind in before if kind is not nn.Conv2d
    ]


def test_a_part_that_cannot_be_traced_does_not_spoil_the_others() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Nested(), Values()

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    report = accelerate(Outer())
    assert [row.name for row in report.replaced] == ["first.norm"]
    assert [row.name for row in report.kept] == ["second.norm"]


class Busy(nn.Module):
    """Does everything to itself that a forward can do."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.seen, self.count = Nested(), [], 0
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        self.count += 1
        self.seen.append(x)
        self.last = x
        noise = torch.rand(1).item() + random.random()
        return self.block(x * noise)


def test_tracing_leaves_no_trace() -> None:
    model, hooked = Busy(), []
    for module in (model, model.block):
        module.register_forward_hook(lambda *_: hooked.append(1))
        module.register_forward_pre_hook(lambda *_: hooked.append(1))
    before, attributes = copy.deepcopy(model.state_dict()), set(vars(model))
    model.block.eval()
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    assert [row.name for row in accelerate(model).replaced] == ["block.norm"]
    assert (hooked, model.seen, model.count, set(vars(model))) == ([], [], 0, attributes)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert (model.training, model.block.training, model.block.norm.training) == (True, False, False)
    assert nn.Module.__call__.__module__ == "torch.nn.modules.module"  # nothing of torch.fx's is left


def test_restore_refuses_an_edited_pair() -> None:
    for slot in ("norm", "act"):
        model = Nested()
        accelerate(model)
        setattr(model, slot, nn.Identity())
        with pytest.raises(ValueError, match="is without the other half"):
            restore(model)
