"""accelerate and restore on models that this project did not write: results, keys and identities, and every refusal."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

import fastgan.nn
from fastgan.nn.norm import FusedReLU
from fastgan.nn.surgery import Report, accelerate, restore
from tests.checks import assert_rule
from tests.nn.foreign import MODELS, ExampleDiscriminator, ExampleGenerator


def draw_inputs(judge: nn.Module, shape: tuple[int, ...], count: int = 2) -> list[torch.Tensor]:
    """Inputs for which no activation sits on its corner: there a rounding error decides which slope the gradient takes,
    torch's as much as ours, and a comparison of gradients says nothing."""
    probe, corner = copy.deepcopy(judge), []
    device = next(judge.parameters()).device
    for module in probe.modules():
        if isinstance(module, (nn.ReLU, nn.LeakyReLU)):
            # relative: without normalisation the numbers shrink from layer to layer
            module.register_forward_pre_hook(lambda _, args: corner.append(args[0].abs().min() / args[0].abs().mean()))
    inputs: list[torch.Tensor] = []
    generator = torch.Generator().manual_seed(1)
    while len(inputs) < count:
        x = torch.randn(shape, generator=generator).double().to(device)
        corner.clear()
        with torch.no_grad():
            probe(x.clone())
        if min(corner, default=1.0) > 4e-6:
            inputs.append(x)
    return inputs


def run(model: nn.Module, inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Output, every gradient and every buffer of a forward and backward on each of the inputs, stacked."""
    generator = torch.Generator().manual_seed(2)
    dtype = next(model.parameters()).dtype
    draws = []
    for values in inputs:
        model.zero_grad()
        x = values.to(dtype, copy=True).requires_grad_()
        output = model(x)
        output.backward(torch.randn(output.shape, generator=generator).to(x.device, dtype))
        assert x.grad is not None
        draw = {"output": output.detach(), "input.grad": x.grad}
        draw.update((f"{name}.grad", p.grad) for name, p in model.named_parameters() if p.grad is not None)
        draw.update((name, b.clone()) for name, b in model.named_buffers() if b.is_floating_point())
        draws.append(draw)
    return {key: torch.stack([draw[key] for draw in draws]) for key in draws[0]}


def types(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_same_results_and_back(name: str, training: bool, device: torch.device) -> None:
    build, shape, expected = MODELS[name]
    model = build().to(device).train(training)
    judge, accelerated, before = copy.deepcopy(model).double(), copy.deepcopy(model), copy.deepcopy(model)
    report = accelerate(accelerated)
    assert {row.torch_type for row in report.replaced} == expected
    inputs = draw_inputs(judge, shape)
    theirs, ours, exact = run(model, inputs), run(accelerated, inputs), run(judge, inputs)
    assert ours.keys() == theirs.keys() == exact.keys()
    for key, value in ours.items():
        assert_rule(f"{name} {key}", value, theirs[key], exact[key])
    restore(accelerated)
    assert types(accelerated) == types(before)
    accelerated.load_state_dict(before.state_dict())
    for key, value in run(accelerated, inputs).items():
        assert torch.equal(value, theirs[key]), key


def test_everything_stays_the_same_object() -> None:
    model = ExampleGenerator()
    state, parameters = list(model.state_dict()), [id(p) for p in model.parameters()]
    modules, optimizer = list(model.main), torch.optim.SGD(model.parameters(), lr=0.1)
    attributes = [set(vars(module)) for module in modules]
    seen: list[torch.Tensor] = []
    model.main[0].register_forward_hook(lambda _module, _args, output: seen.append(output))
    accelerate(model)
    assert list(model.state_dict()) == state
    assert [id(p) for p in model.parameters()] == parameters == [id(p) for p in optimizer.param_groups[0]["params"]]
    assert [type(m) for m in model.main[:3]] == [
        fastgan.nn.ConvTranspose2d,
        fastgan.nn.BatchNormAct2d,
        FusedReLU,
    ]
    assert model.main[0] is modules[0] and model.main[1] is modules[1]
    model(torch.randn(2, 12, 1, 1)).sum().backward()
    assert len(seen) == 1
    optimizer.step()
    restore(model)
    assert all(now is then for now, then in zip(model.main, modules, strict=True))
    assert [set(vars(module)) for module in model.main] == attributes


def test_twice_is_once_and_restoring_leaves_what_the_user_built() -> None:
    mine = nn.Sequential(
        fastgan.nn.ConvTranspose2d(2, 2, 2), fastgan.nn.BatchNormAct2d(2), nn.BatchNorm2d(2), nn.ReLU()
    )
    before = types(mine)
    restore(mine)
    assert types(mine) == before
    first, second = accelerate(mine), accelerate(mine)
    assert [row.name for row in first.replaced] == ["2"]
    assert second.replaced == []
    assert {row.reason for row in second.kept} == {"is fastgan's already"}
    restore(mine)
    assert types(mine) == before


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: torch.load(_saved(model), weights_only=False),
    ],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_can_be_restored(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    model = ExampleDiscriminator()
    before, x = types(model), torch.randn(2, 3, 64, 64)
    accelerate(model)
    model.eval()
    twin = duplicate(model)
    assert torch.equal(twin(x), model(x))
    restore(twin)
    assert types(twin) == before
    assert not any(module.training for module in twin.modules())
    assert type(model.main[3]) is fastgan.nn.BatchNormAct2d, "the copy only"
    restore(model)
    assert torch.equal(twin(x), model(x))


def _saved(model: nn.Module) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


def test_one_activation_in_several_slots() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.BatchNorm2d(2), relu, nn.Conv2d(2, 2, 1), relu, nn.BatchNorm2d(2), relu)
    accelerate(model)
    assert model[3] is relu and isinstance(model[1], fastgan.nn.FusedIdentity)
    copied = copy.deepcopy(model)
    for one in (model, copied):
        restore(one)
        assert one[1] is one[3] is one[5]
    assert model[1] is relu and copied[1] is not relu


def test_a_block_that_is_used_twice_is_fused_once() -> None:
    block = nn.Sequential(nn.BatchNorm2d(2), nn.LeakyReLU(0.3))
    model = nn.Sequential(block, nn.Conv2d(2, 2, 1), block)
    report = accelerate(model)
    assert [row.name for row in report.replaced] == ["0.0", "1"]
    assert (block[0].activation, block[0].negative_slope) == ("leaky_relu", 0.3)


def test_the_loss_and_single_layers() -> None:
    logits, target = torch.randn(9), torch.rand(9)
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0), reduction="sum")
    expected = loss(logits, target)
    assert [row.name for row in accelerate(loss).replaced] == [""]
    assert type(loss) is fastgan.nn.BCEWithLogitsLoss
    torch.testing.assert_close(loss(logits, target), expected)
    restore(loss)
    assert type(loss) is nn.BCEWithLogitsLoss


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
def test_old_style_spectral_norm_keeps_working() -> None:
    # a forward pre-hook that sets weight; the class is still torch's
    layer = nn.utils.spectral_norm(nn.Conv2d(3, 4, 3))
    twin, x = copy.deepcopy(layer), torch.randn(1, 3, 5, 5)
    assert accelerate(twin).kept == []
    torch.testing.assert_close(twin(x), layer(x))


def hooked(module: nn.Module, register: str = "register_forward_hook") -> nn.Module:
    getattr(module, register)(lambda *_: None)
    return module


class OwnConv(nn.Conv2d):
    pass


class Residual(nn.Sequential):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input + super().forward(input)


def with_attributes(module: nn.Module, **attributes: object) -> nn.Module:
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def twice() -> nn.Module:
    norm = nn.BatchNorm2d(2)
    return nn.Sequential(norm, nn.ReLU(), norm, nn.ReLU())


def integer_loss() -> nn.Module:
    return nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2, 3]))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "subclass": (lambda: OwnConv(1, 1, 1), "OwnConv is a subclass"),
    "parametrised": (
        lambda: nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(2, 2, 2)),
        "is parametrised",
    ),
    "lazy convolution": (lambda: nn.LazyConvTranspose2d(2, 2), "not initialised yet"),
    "lazy norm": (lambda: nn.Sequential(nn.LazyBatchNorm2d(), nn.ReLU()), "not initialised yet"),
    "complex": (lambda: nn.Conv2d(1, 1, 1, dtype=torch.complex64), "weight has dtype complex64"),
    "integer": (integer_loss, "pos_weight has dtype int64"),
    "float8": (
        lambda: nn.Sequential(nn.BatchNorm2d(2).to(torch.float8_e4m3fn), nn.ReLU()),
        "weight has dtype float8_e4m3fn",
    ),
    "loss weight with gradient": (
        lambda: nn.BCEWithLogitsLoss(weight=torch.ones(2, requires_grad=True)),
        "weight requires a gradient",
    ),
    "padding_mode": (
        lambda: with_attributes(nn.ConvTranspose2d(1, 1, 1), padding_mode="reflect"),
        "padding_mode is 'reflect'",
    ),
    "own forward": (
        lambda: with_attributes(nn.Conv2d(1, 1, 1), forward=abs),
        "its forward is replaced on the instance",
    ),
    "norm twice": (twice, "occurs 2 times in the model"),
    "norm with forward hook": (
        lambda: nn.Sequential(hooked(nn.BatchNorm2d(2)), nn.ReLU()),
        "has hooks, which would see the activated output",
    ),
    "norm with backward hook": (
        lambda: nn.Sequential(hooked(nn.BatchNorm2d(2), "register_full_backward_hook"), nn.ReLU()),
        "has hooks, which would see the activated output",
    ),
    "norm with backward pre-hook": (
        lambda: nn.Sequential(hooked(nn.BatchNorm2d(2), "register_full_backward_pre_hook"), nn.ReLU()),
        "has hooks, which would see the activated output",
    ),
    "activation with hook": (
        lambda: nn.Sequential(nn.BatchNorm2d(2), hooked(nn.ReLU())),
        "the ReLU after it has hooks",
    ),
    "activation with pre-hook": (
        lambda: nn.Sequential(nn.BatchNorm2d(2), hooked(nn.LeakyReLU(), "register_forward_pre_hook")),
        "the LeakyReLU after it has hooks",
    ),
    "activation with own forward": (
        lambda: nn.Sequential(nn.BatchNorm2d(2), with_attributes(nn.ReLU(), forward=abs)),
        "its forward, or that of the ReLU after it, is replaced",
    ),
    "no activation": (lambda: nn.Sequential(nn.BatchNorm2d(2)), "no activation directly after it"),
    "norm alone": (lambda: nn.BatchNorm2d(2), "no activation directly after it"),
    "not a Sequential": (lambda: nn.ModuleList([nn.BatchNorm2d(2), nn.ReLU()]), "no activation directly after it"),
    "own Sequential": (
        lambda: Residual(nn.BatchNorm2d(2), nn.ReLU()),
        "Residual does not run it and the ReLU after it in one straight line",
    ),
    "other activation": (
        lambda: nn.Sequential(nn.BatchNorm2d(2), nn.ReLU6()),
        "ReLU6 after it is neither ReLU nor LeakyReLU",
    ),
    "1-D norm": (lambda: nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()), "fastgan has no BatchNorm1d"),
    "3-D norm": (lambda: nn.Sequential(nn.BatchNorm3d(2), nn.ReLU()), "fastgan has no BatchNorm3d"),
    "3-D convolution": (lambda: nn.ConvTranspose3d(1, 1, 1), "fastgan has no ConvTranspose3d"),
    "synchronised": (lambda: nn.Sequential(nn.SyncBatchNorm(2), nn.ReLU()), "synchronises its statistics"),
    "activation as the model": (lambda: nn.ReLU(), "fastgan has no ReLU"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_refused_with_a_reason_and_untouched(name: str) -> None:
    build, reason = REFUSED[name]
    model = build()
    before = types(model)
    report = accelerate(model)
    assert report.replaced == []
    assert reason in report.kept[0].reason
    assert types(model) == before


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated", "ignore:.*torch.jit.*not supported")
def test_torchscript_is_refused() -> None:
    scripted = torch.jit.trace(nn.Conv2d(1, 1, 1), torch.ones(1, 1, 2, 2))
    with pytest.raises(TypeError, match="model must not be a TorchScript module"):
        accelerate(scripted)
    report = accelerate(nn.Sequential(scripted, nn.Conv2d(1, 1, 1)))
    assert [row.name for row in report.replaced] == ["1"]
    assert [(row.name, "TorchScript" in row.reason) for row in report.kept] == [("0", True)]


@pytest.mark.parametrize("function", [accelerate, restore])
def test_other_things_than_modules_are_refused(function: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        function([nn.ReLU()])


@pytest.mark.parametrize("slot", [0, 1])
def test_half_of_a_pair_cannot_be_restored(slot: int) -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())
    accelerate(model)
    with pytest.raises(ValueError, match=r"model .* is without the other half"):
        restore(model[slot])
    restore(model)
    assert [type(m) for m in model] == [nn.BatchNorm2d, nn.ReLU]


def test_the_report_can_be_read() -> None:
    report = accelerate(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.LeakyReLU(), nn.BatchNorm2d(2)))
    assert str(report).splitlines() == [
        "replaced: 2",
        "  0  Conv2d       fastgan.nn.Conv2d",
        "  1  BatchNorm2d  fastgan.nn.BatchNormAct2d with the LeakyReLU in slot 2",
        "kept: 1",
        "  3  BatchNorm2d  no activation directly after it in a Sequential",
    ]
    assert str(accelerate(nn.Tanh())).splitlines()[-1] == "  (the model)  Tanh  fastgan has no Tanh"
    assert str(Report()) == "replaced: 0\nkept: 0"


def test_norms_made_to_synchronise_keep_doing_so_without_the_activation() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.LeakyReLU())
    before, x = copy.deepcopy(model), torch.randn(3, 2, 4, 4)
    accelerate(model)
    fastgan.nn.convert_sync_batchnorm(model)
    assert [row.reason for row in accelerate(model).kept] == ["is fastgan's already"] * 2
    for _ in range(2):
        restore(model)
        assert [type(module) for module in model] == [nn.Conv2d, fastgan.nn.SyncBatchNormAct2d, nn.LeakyReLU]
        torch.testing.assert_close(model(x), before(x))
