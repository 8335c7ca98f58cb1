"""What people do to layers: parametrisations, pruning, copies and files, meta construction. The same as on torch's."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import fastgan.nn
from fastgan.models import CGANDiscriminator, CGANGenerator, DCGANDiscriminator, DCGANGenerator, GANGenerator
from tests.checks import assert_rule

Builds = dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]]


class NormThenReLU(nn.BatchNorm2d):
    """What BatchNormAct2d stands for."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


LAYERS: Builds = {
    "conv": (lambda: fastgan.nn.Conv2d(4, 6, 3, padding=1), lambda: nn.Conv2d(4, 6, 3, padding=1)),
    "transposed": (
        lambda: fastgan.nn.ConvTranspose2d(4, 6, 4, 2, 1, bias=False),
        lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1, bias=False),
    ),
    "norm": (lambda: fastgan.nn.BatchNormAct2d(4), lambda: NormThenReLU(4)),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def pair(name: str, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Our layer and torch's with the same numbers."""
    ours, theirs = (build().to(device) for build in LAYERS[name])
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def run(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, gradients and buffers after two steps: spectral_norm moves its vectors in each."""
    for _ in range(2):
        layer.zero_grad()
        leaf = x.detach().clone().requires_grad_()
        output = layer(leaf)
        (output * output.detach().cos()).sum().backward()
    assert leaf.grad is not None
    result = {"output": output.detach(), "input.grad": leaf.grad}
    result.update((f"{name}.grad", value.grad) for name, value in layer.named_parameters() if value.grad is not None)
    result.update((name, value) for name, value in layer.named_buffers() if value.is_floating_point())
    return result


def randomly_weighted(function: Callable[..., nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """Starts from the same random numbers: spectral_norm draws its first vectors."""

    def apply(layer: nn.Module) -> nn.Module:
        torch.manual_seed(3)
        return function(layer)

    return apply


PARAMETRISATIONS = {
    "spectral_norm": randomly_weighted(parametrizations.spectral_norm),
    "weight_norm": randomly_weighted(parametrizations.weight_norm),
    "old spectral_norm": randomly_weighted(nn.utils.spectral_norm),
    "old weight_norm": randomly_weighted(nn.utils.weight_norm),
    "l1 pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@every_layer
@pytest.mark.parametrize("kind", PARAMETRISATIONS)
@pytest.mark.filterwarnings("ignore:.*(spectral|weight)_norm.*:FutureWarning")
def test_parametrisations(name: str, kind: str, device: torch.device) -> None:
    ours, theirs = pair(name, device)
    judge = copy.deepcopy(theirs).double()
    for layer in (ours, theirs, judge):
        PARAMETRISATIONS[kind](layer)
    # the double one draws other numbers
    judge.load_state_dict({key: value.double() for key, value in theirs.state_dict().items()})
    assert isinstance(ours, LAYERS[name][0]().__class__)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(5, 4, 6, 6, device=device)
    mine, torchs, exact = run(ours, x), run(theirs, x), run(judge, x.double())
    assert mine.keys() == torchs.keys() == exact.keys()
    assert len(mine) >= 3
    for key, value in mine.items():
        assert_rule(f"{name} {kind} {key}", value, torchs[key], exact[key])


@every_layer
def test_a_parametrisation_comes_off_again(name: str, device: torch.device) -> None:
    layer, _ = pair(name, device)
    kind = type(layer)
    parametrizations.weight_norm(layer)
    assert type(layer).__name__ == f"Parametrized{kind.__name__}"
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is kind


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    **{name: (ours, lambda: (torch.randn(5, 4, 6, 6),)) for name, (ours, _) in LAYERS.items()},
    "gan": (lambda: GANGenerator(z_dim=5, image_size=8), lambda: (torch.randn(3, 5),)),
    "dcgan-g": (lambda: DCGANGenerator(z_dim=5), lambda: (torch.randn(3, 5),)),
    "dcgan-d": (DCGANDiscriminator, lambda: (torch.randn(3, 3, 32, 32),)),
    "cgan-g": (CGANGenerator, lambda: (torch.randn(3, 100), torch.tensor([1, 0, 9]))),
    "cgan-d": (CGANDiscriminator, lambda: (torch.randn(3, 1, 28, 28), torch.tensor([1, 0, 9]))),
}
every_model = pytest.mark.parametrize("name", MODELS)


def built(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A model whose running statistics have moved, and its inputs."""
    build, draw = MODELS[name]
    model, inputs = build(), draw()
    model(*inputs)
    return model.eval(), inputs


def saved(model: nn.Module, weights_only: bool) -> object:
    file = io.BytesIO()
    torch.save(model.state_dict() if weights_only else model, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


@every_model
@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: saved(model, weights_only=False),
    ],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies(name: str, duplicate: Callable[[nn.Module], nn.Module]) -> None:
    model, inputs = built(name)
    twin = duplicate(model)
    assert repr(twin) == repr(model)
    assert torch.equal(twin(*inputs), model(*inputs))
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in model.parameters()}


@every_model
def test_files_of_weights(name: str, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    model, inputs = built(name)
    safetensors.save_model(model, str(tmp_path / "model.safetensors"))
    by_torch, by_safetensors = MODELS[name][0]().eval(), MODELS[name][0]().eval()
    by_torch.load_state_dict(saved(model, weights_only=True))
    assert safetensors.load_model(by_safetensors, str(tmp_path / "model.safetensors")) == (set(), [])
    for twin in (by_torch, by_safetensors):
        assert torch.equal(twin(*inputs), model(*inputs))


@every_model
@pytest.mark.parametrize("assign", [False, True])
def test_construction_on_the_meta_device(name: str, assign: bool) -> None:
    model, inputs = built(name)
    with torch.device("meta"):
        twin = MODELS[name][0]().eval()
    assert {p.device.type for p in twin.parameters()} == {"meta"}
    if not assign:
        twin.to_empty(device="cpu")
    twin.load_state_dict(model.state_dict(), assign=assign)
    assert torch.equal(twin(*inputs), model(*inputs))
    assert (next(twin.parameters()).data_ptr() == next(model.parameters()).data_ptr()) is assign


@pytest.mark.parametrize(
    "kind, arguments",
    [
        (fastgan.nn.Conv2d, (3, 4, 3)),
        (fastgan.nn.ConvTranspose2d, (3, 4, 3)),
        (fastgan.nn.BatchNormAct2d, (4,)),
    ],
)
def test_skip_init(kind: type[nn.Module], arguments: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {key: value.shape for key, value in kind(*arguments).state_dict().items()}
    devices: list[str] = []
    reset = kind.reset_parameters

    def record(self: nn.Module) -> None:
        devices.append(next(self.parameters()).device.type)
        reset(self)

    monkeypatch.setattr(kind, "reset_parameters", record)
    layer = nn.utils.skip_init(kind, *arguments)
    assert set(devices) == {"meta"}, "real memory was initialised"
    assert {key: value.shape for key, value in layer.state_dict().items()} == expected
    assert {value.device.type for value in layer.state_dict().values()} == {"cpu"}


@pytest.mark.parametrize("name", ["dcgan-g", "dcgan-d", "cgan-g", "cgan-d"])
def test_channels_last(name: str) -> None:
    model, inputs = built(name)
    judge = copy.deepcopy(model).double()
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    expected, exact = model(*inputs), judge(*wide)
    model.to(memory_format=torch.channels_last)
    weights = [p for p in model.parameters() if p.dim() == 4 and min(p.shape[:2]) > 1 and p[0, 0].numel() > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert_rule(name, model(*inputs), expected, exact)
