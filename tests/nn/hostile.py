"""Models that use a convolution, its batch norm or its activation apart on some path."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Base(nn.Module):
    tap = False

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.LeakyReLU(0.2)


class Plain(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class ArgumentAfter(Base):
    def forward(self, x: Tensor, pre: bool = False) -> Any:
        y = self.bn(self.conv(x))
        z = self.act(y)
        if pre:
            return z, y
        return z


class FlagAfter(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.bn(self.conv(x))
        z = self.act(y)
        return (z, y) if self.tap else z


class Saves(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        self.saved = y
        return self.act(y)


class Finally(Base):
    def forward(self, x: Tensor) -> Tensor:
        try:
            y = self.bn(self.conv(x))
            return self.act(y)
        finally:
            self.saved = y if self.tap else x


class Aliases(Base):
    def forward(self, x: Tensor, pre: bool = False) -> Tensor:
        bn, act = self.bn, self.act
        x = self.conv(x)
        if pre:
            return bn(x)
        return act(bn(x))


class Helper(Base):
    def block(self, x: Tensor, bn: nn.Module, act: nn.Module, pre: bool) -> Tensor:
        y = bn(x)
        return y if pre else act(y)

    def forward(self, x: Tensor, pre: bool = False) -> Tensor:
        return self.block(self.conv(x), self.bn, self.act, pre)


class Loop(Base):
    def forward(self, x: Tensor) -> Any:
        x, out = self.conv(x), []
        for layer in (self.bn, self.act):
            x = layer(x)
            out.append(x)
        return out if self.tap else x


class Replaces(Plain):
    def without(self, x: Tensor) -> Tensor:
        self.act = nn.Identity()
        return self(x)


class Mixin:
    def pre(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))  # type: ignore[attr-defined]


class Mixed(Plain, Mixin):
    pass


class ByName(Plain):
    def pre(self, x: Tensor) -> Tensor:
        return getattr(self, "bn")(self.conv(x))  # noqa: B009


class Children(Plain):
    def pre(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for layer in self.children():
            x = layer(x)
            outputs.append(x)
        return outputs


class Lambda(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.taps = {"pre": lambda module, x: self.bn(x) if module is self else module.bn(x)}


class InClass(Plain):
    pre = lambda self, x: self.bn(x)  # noqa: E731


def put_in(self: Any, x: Tensor) -> Tensor:
    return self.bn(x)


class PutIn(Plain):
    pass


PutIn.pre = put_in  # type: ignore[attr-defined]


class Holder(nn.Module):
    """A Sequential that its subclasses use in their own ways."""

    tap = False

    def __init__(self) -> None:
        super().__init__()
        self.seq = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Any:
        return self.seq(x)


class SliceByArgument(Holder):
    def forward(self, x: Tensor, pre: bool = False) -> Tensor:
        if pre:
            return self.seq[:2](x)
        return self.seq(x)


class SliceInMethod(Holder):
    def pre(self, x: Tensor) -> Tensor:
        return self.seq[:2](x)


class SequentialByName(Holder):
    def pre(self, x: Tensor) -> Tensor:
        return getattr(self, "seq")[:2](x)  # noqa: B009


class ActivationAgain(Holder):
    def forward(self, x: Tensor) -> Tensor:
        y = self.seq(x)
        return self.seq[1](y) if self.tap else y


class Untraceable(Holder):
    def forward(self, x: Tensor) -> list[Tensor]:
        if x.shape[1] == 1:
            x = x.repeat(1, 3, 1, 1)
        outputs = []
        for layer in self.seq:
            x = layer(x)
            outputs.append(x)
        return outputs


class AsksForTheClass(Holder):
    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for layer in self.seq:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                outputs.append(x)
        return [x, *outputs]


class ReadsAttributes(Holder):
    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x) * self.seq[2].negative_slope + self.seq[2].inplace


class Lists(Holder):
    def __init__(self) -> None:
        super().__init__()
        self.layers = list(self.seq)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        return outputs[-2] if self.tap else outputs[-1]


class NestedLists(Holder):
    def __init__(self) -> None:
        super().__init__()
        self.groups = {"all": [tuple(self.seq)]}

    def pre(self, x: Tensor) -> Tensor:
        return self.groups["all"][0][1](x)


class Outer(nn.Module):
    tap = False

    def __init__(self) -> None:
        super().__init__()
        self.b = Plain()

    def forward(self, x: Tensor) -> Tensor:
        if self.tap:
            return self.b.bn(self.b.conv(x))
        return self.b(x)


class OuterList(nn.Module):
    tap = False

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Plain()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block.bn(block.conv(x)) if self.tap else block(x)
        return x


class SequentialsInAList(nn.Module):
    tap = False

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Holder().seq])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block[:2](x) if self.tap else block(x)
        return x


def patched() -> nn.Module:
    def forward(self: Holder, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.seq[1](self.seq[0](x))
        return self.seq[2](h), h

    model = Holder()
    model.forward = types.MethodType(forward, model)  # type: ignore[method-assign]
    return model


def plain(model: Any, x: Tensor) -> Any:
    return model(x)


def with_pre(model: Any, x: Tensor) -> Any:
    return model(x, pre=True)


def tapped(model: Any, x: Tensor) -> Any:
    model.tap = True
    return model(x)


def pre(model: Any, x: Tensor) -> Any:
    return model.pre(x)


def saved(model: Any, x: Tensor) -> Any:
    model.tap = True
    return model(x), model.saved


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Tensor], Any]]] = {
    "an argument after the activation": (ArgumentAfter, with_pre),
    "a flag after the activation": (FlagAfter, tapped),
    "saved on self": (Saves, saved),
    "saved in a finally": (Finally, saved),
    "local aliases": (Aliases, with_pre),
    "a helper": (Helper, with_pre),
    "a loop over the two": (Loop, tapped),
    "a method that replaces the activation": (Replaces, lambda model, x: model.without(x)),
    "a mixin": (Mixed, pre),
    "getattr": (ByName, pre),
    "children": (Children, pre),
    "a lambda from the constructor": (Lambda, lambda model, x: model.taps["pre"](model, x)),
    "a lambda in the class": (InClass, pre),
    "a method put in": (PutIn, pre),
    "a slice by argument": (SliceByArgument, with_pre),
    "a slice in a method": (SliceInMethod, pre),
    "getattr of a Sequential": (SequentialByName, pre),
    "the activation again": (ActivationAgain, tapped),
    "untraceable": (Untraceable, plain),
    "isinstance": (AsksForTheClass, plain),
    "attributes": (ReadsAttributes, plain),
    "a list": (Lists, tapped),
    "nested lists": (NestedLists, pre),
    "further out": (Outer, tapped),
    "further out, in a ModuleList": (OuterList, tapped),
    "Sequentials in a ModuleList": (SequentialsInAList, tapped),
    "forward replaced on an instance": (patched, plain),
}


class ReadsTheWeight(Holder):
    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x) + self.seq[0].weight.sum()


class ReadsWeightsInAList(SequentialsInAList):
    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) + block[0].weight.sum()
        return x


class ReadsABlocksWeight(OuterList):
    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) + (block.conv.weight.sum() if self.tap else 0)
        return x


class Raw(Base):
    def forward(self, x: Tensor, pre: bool = False) -> Tensor:
        y = self.conv(x)
        z = self.bn(y)
        return y if pre else z


FOLDS = {
    "the weight in a Sequential": (ReadsTheWeight, plain),
    "weights in a ModuleList": (ReadsWeightsInAList, plain),
    "a block's weight": (ReadsABlocksWeight, tapped),
    "a list": (Lists, tapped),
    "raw": (Raw, with_pre),
}


class TurnsGradientsOff(Base):
    def forward(self, x: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        return self.act(self.bn(self.conv(x)))


class Large(Plain):
    """Tensors out of reach of parameters() and buffers()."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.bank = (nn.Linear(2, 2),), {"a": [torch.zeros(2)]}
