"""Where FusedSequential keeps out of the way, and is nn.Sequential."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import fastgan
from fastgan import dispatch
from fastgan.nn import BatchNormAct2d, Conv2d, FusedSequential
from tests.checks import assert_tight
from tests.nn.test_sequential import assert_same, compilers_warn, draw, layers, linked, pair, run


def hook(*_):
    return None


def replace_forward(layer):
    layer.forward = type(layer).forward.__get__(layer)


class Convolution(Conv2d):
    pass


#: What is done to layer 3 of the chain (a convolution) or 2 (a batch norm), and how many links are left.
DONE = {
    "forward hook": (lambda m: m[3].register_forward_hook(hook), 1),
    "forward pre-hook": (lambda m: m[3].register_forward_pre_hook(hook), 1),
    "backward hook": (lambda m: m[3].register_full_backward_hook(hook), 1),
    "backward pre-hook": (lambda m: m[3].register_full_backward_pre_hook(hook), 1),
    "hook on the norm": (lambda m: m[2].register_forward_hook(hook), 1),
    "hook on the first norm": (lambda m: m[0].register_forward_hook(hook), 2),
    "weight_norm": (lambda m: parametrizations.weight_norm(m[3]), 1),
    "forward": (lambda m: replace_forward(m[3]), 1),
    "forward of the norm": (lambda m: replace_forward(m[2]), 1),
    "compile": (lambda m: m[3].compile(backend="eager"), 1),
    "eval": (lambda m: m[2].eval(), 1),
    "subclass": (lambda m: setattr(m[3], "__class__", Convolution), 1),
    "synchronised": (lambda m: setattr(m[2], "__class__", fastgan.nn.SyncBatchNormAct2d), 1),
    "activation": (lambda m: setattr(m[3], "activation", "relu"), 1),
    "never": (lambda m: setattr(m, "fuse", False), 0),
    "left to the dispatch": (lambda m: setattr(m, "fuse", None), 0),
}


@pytest.mark.parametrize("what", DONE)
@pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning")
@compilers_warn
def test_what_keeps_a_layer_as_it_is(what):
    fused, plain = pair()
    done, links = DONE[what]
    done(fused), done(plain)
    x = draw()
    mine, ops = run(fused, x)
    assert linked(ops) == links, ops
    assert_same(mine, run(plain, x)[0], exactly=links == 0)


def test_a_hook_sees_what_it_saw():
    fused, plain = pair()
    seen = []
    for model in (fused, plain):
        model[2].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
        model(draw(dtype=torch.float64) * 0 + 1.5 * torch.linspace(0, 1, 320, dtype=torch.float64).view(4, 4, 4, 5))
    for mine, theirs in zip(*seen, strict=True):
        assert_tight("seen", mine.detach(), theirs.detach())


def test_hooks_on_all_modules_and_on_a_sequential_within():
    fused = FusedSequential(nn.Sequential(*layers()[:4]), *layers()[4:], fuse=True).double()
    assert linked(run(fused, draw())[1]) == 2
    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        assert not linked(run(fused, draw())[1])
    finally:
        handle.remove()
    fused[0].register_forward_hook(hook)
    assert not linked(run(fused, draw())[1])  # called by itself, it is torch's own Sequential


@pytest.mark.parametrize(("batch", "size", "links"), [(1, (3, 5), 0), (1, (4, 4), 1), (2, (4, 4), 2), (0, (4, 4), 0)])
def test_few_values_keep_their_layers(batch, size, links):
    """Fewer than 16 per channel, whose gradient the unfused layer takes in float64; of an empty batch none."""
    make = lambda: [BatchNormAct2d(4), Conv2d(4, 6, 1), BatchNormAct2d(6), Conv2d(6, 5, 2), BatchNormAct2d(5)]  # noqa: E731
    fused, plain = pair(make)
    x = draw(batch, size=size)
    mine, ops = run(fused, x)
    assert linked(ops) == links
    assert_same(mine, run(plain, x)[0], exactly=not links)


def test_errors_are_those_of_the_layers():
    for x, error in ((draw()[0], ValueError), (draw(channels=3), RuntimeError), (draw().long(), TypeError)):
        for model in pair():
            with pytest.raises(error):
                model(x)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        FusedSequential(Conv2d(4, 2, (4, 5)), BatchNormAct2d(2), fuse=True).double()(draw(1))


class Marked(torch.Tensor):
    pass


@pytest.mark.parametrize("what", ["subclass", "vmap", "grad", "jvp", "forward_ad", "fx"])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_transforms_and_tracers_see_the_layers(what):
    fused, plain = pair(track_running_stats=False)
    x = draw()
    call = {
        "subclass": lambda m: m(x.as_subclass(Marked)).as_subclass(torch.Tensor),
        "vmap": lambda m: torch.func.vmap(m)(torch.stack([x, x + 1])),
        "grad": lambda m: torch.func.grad(lambda x: m(x).square().sum())(x),
        "jvp": lambda m: torch.func.jvp(m, (x,), (torch.ones_like(x),))[1],
        "forward_ad": lambda m: forward_tangent(m, x),
        "fx": lambda m: torch.fx.symbolic_trace(m)(x),
    }[what]
    with dispatch.trace() as calls:
        mine = call(fused)
    assert not linked(op for op, _ in calls)
    assert_tight(what, mine.detach(), call(plain).detach())


def forward_tangent(model, x):
    with torch.autograd.forward_ad.dual_level():
        output = model(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        return torch.autograd.forward_ad.unpack_dual(output).tangent


def test_a_graph_of_fx_has_the_layers():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, *rest = layers()
            self.stages = FusedSequential(*rest, fuse=True)

        def forward(self, x, beside):
            return self.stages(x, first=self.norm, beside=beside)

    graph = torch.fx.symbolic_trace(Model())
    assert [n.target for n in graph.graph.nodes if n.op == "call_function"] == [torch.cat]
    assert [n.target for n in graph.graph.nodes if n.op == "call_module"] == [
        "norm",
        *(f"stages.{i}" for i in range(5)),
    ]
