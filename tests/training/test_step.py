"""One step: who moves, who does not, whose gradients are computed, and that the host never waits."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.training import Players, TrainConfig, train_step
from fastgan.training.loop import build_players
from fastgan.training.losses import discriminator_loss, generator_loss
from fastgan.training.step import discriminator_step, frozen, generator_step
from fastgan.training.trace import TraceLayout

BATCH = 4


def players(model: str) -> Players:
    return build_players(TrainConfig(model, "digits"), 10)


def batch(model: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Real images, noise, labels."""
    shape, z_dim = {"gan": ((1, 28, 28), 100), "dcgan": ((3, 32, 32), 128), "cgan": ((1, 28, 28), 100)}[model]
    labels = torch.arange(BATCH) if model == "cgan" else None
    return torch.rand(BATCH, *shape) * 2 - 1, torch.randn(BATCH, z_dim), labels


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("model", ["gan", "dcgan", "cgan"])
def test_generator_step_computes_no_discriminator_gradient(model: str) -> None:
    team, (_, z, labels) = players(model), batch(model)
    condition = () if labels is None else (labels,)
    before = weights(team.discriminator)
    g_before = weights(team.generator)
    generator_step(team, team.generator(z, *condition), condition, TrainConfig(model, "digits"))
    assert all(parameter.grad is None for parameter in team.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in team.discriminator.parameters())
    assert same(before, weights(team.discriminator))
    assert not any(torch.equal(a, b) for a, b in zip(g_before, weights(team.generator), strict=True) if a.any())


@pytest.mark.parametrize("model", ["gan", "dcgan", "cgan"])
def test_discriminator_step_leaves_the_generator_alone(model: str) -> None:
    team, (real, z, labels) = players(model), batch(model)
    condition = () if labels is None else (labels,)
    fake = team.generator(z, *condition)
    before = weights(team.generator)
    discriminator_step(team, real, fake, condition, TrainConfig(model, "digits"))
    assert same(before, weights(team.generator))
    assert all(parameter.grad is None for parameter in team.generator.parameters())


def test_the_step_is_the_algorithm_written_out() -> None:
    """The same two updates by hand, in float64, with nothing frozen."""
    team, (real, z, labels) = players("cgan"), batch("cgan")
    team.generator.double(), team.discriminator.double()
    real, z = real.double(), z.double()
    generator, discriminator = copy.deepcopy(team.generator), copy.deepcopy(team.discriminator)
    adam = {"lr": 2e-4, "betas": (0.5, 0.999)}
    g_adam = torch.optim.Adam(generator.parameters(), **adam)
    d_adam = torch.optim.Adam(discriminator.parameters(), **adam)

    trace = train_step(team, lambda: (real, z, (labels,)), TrainConfig("cgan", "digits"))

    fake = generator(z, labels)
    real_logits, fake_logits = discriminator(real, labels), discriminator(fake.detach(), labels)
    d_loss = discriminator_loss(real_logits, fake_logits)
    d_loss.backward()
    d_adam.step()
    g_loss = generator_loss(discriminator(fake, labels))
    kept = [parameter.grad for parameter in discriminator.parameters()]
    for parameter in discriminator.parameters():
        parameter.grad = None
    g_loss.backward()
    for parameter, gradient in zip(discriminator.parameters(), kept, strict=True):
        parameter.grad = gradient  # of D's own step, whose norm is compared below
    g_adam.step()

    norms = [
        torch.linalg.vector_norm(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
        for network in (discriminator, generator)
    ]
    expected = [d_loss, g_loss, real_logits.sigmoid().mean(), fake_logits.sigmoid().mean(), *norms]
    metrics = TraceLayout.of(team).metrics(trace.unsqueeze(0))[0]
    torch.testing.assert_close(metrics, torch.stack([value.detach() for value in expected]).float())
    for ours, by_hand in ((team.generator, generator), (team.discriminator, discriminator)):
        for name, value in by_hand.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-9, atol=1e-12)


class NoWaiting(TorchDispatchMode):
    """Raises where a GPU would make the host wait: a value read from a tensor, or a shape that depends on values.

    Integer values may be read: the range of the labels is checked on a CPU, and only there.
    """

    WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func in self.WAITS and args[0].is_floating_point():
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", ["non_saturating", "minimax"])
@pytest.mark.parametrize("model", ["gan", "dcgan", "cgan"])
def test_no_host_synchronisation(model: str, form: str) -> None:
    team, (real, z, labels) = players(model), batch(model)
    # Adam counts its steps in a CPU tensor and reads it there; SGD reads nothing.
    sgd = [torch.optim.SGD(network.parameters(), lr=0.1) for network in (team.generator, team.discriminator)]
    team = Players(team.generator, team.discriminator, *sgd)
    condition = () if labels is None else (labels,)
    config = TrainConfig(model, "digits", loss=form, d_steps=2)
    with NoWaiting():
        trace = train_step(team, lambda: (real, z, condition), config)
    assert trace.shape == (len(TraceLayout.of(team, config.d_steps).names),)
    assert not trace.requires_grad
    with pytest.raises(AssertionError, match="waits"), NoWaiting():  # the test itself is able to fail
        float(trace[0])


def test_frozen_restores_only_what_it_froze_also_after_an_error() -> None:
    module = torch.nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    with pytest.raises(RuntimeError), frozen(module):
        assert not module.weight.requires_grad
        raise RuntimeError
    assert module.weight.requires_grad
    assert not module.bias.requires_grad
