"""Both losses, and both forms of the generator's, against the formulas of the paper in float64."""

import math

import pytest
import torch

from fastgan.training import discriminator_loss, generator_loss
from tests.checks import assert_rule


def logits(dtype: torch.dtype = torch.float64, count: int = 64) -> torch.Tensor:
    return (3 * torch.randn(count, dtype=torch.float64)).to(dtype)


def test_formulas_in_float64() -> None:
    real, fake = logits(), logits()
    d_real, d_fake = real.sigmoid(), fake.sigmoid()
    expected = -(d_real.log().mean() + (1 - d_fake).log().mean())
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(generator_loss(fake), -d_fake.log().mean())
    torch.testing.assert_close(generator_loss(fake, "minimax"), (1 - d_fake).log().mean())


@pytest.mark.parametrize("form", ["non_saturating", "minimax"])
def test_gradients(form: str) -> None:
    """d/dx of -log s(x) is s(x) - 1; of log(1 - s(x)) it is -s(x): it vanishes where D wins."""
    fake = logits().requires_grad_()
    generator_loss(fake, form).backward()
    probability = fake.detach().sigmoid()
    expected = (probability - 1 if form == "non_saturating" else -probability) / fake.numel()
    torch.testing.assert_close(fake.grad, expected)


@pytest.mark.parametrize("form", ["non_saturating", "minimax"])
def test_float32_follows_the_rule(form: str) -> None:
    fake = logits(torch.float32)
    target, sign = (1.0, 1.0) if form == "non_saturating" else (0.0, -1.0)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    torch_result = sign * bce(fake, torch.full_like(fake, target))
    judge = sign * bce(fake.double(), torch.full_like(fake.double(), target))
    assert_rule(form, generator_loss(fake, form), torch_result, judge)


def test_equilibrium() -> None:
    """Where D says 1/2 everywhere, D's loss is 2 log 2 and G's log 2 in either form, up to its sign."""
    half = torch.zeros(8, dtype=torch.float64)
    assert float(discriminator_loss(half, half)) == pytest.approx(2 * math.log(2))
    assert float(generator_loss(half)) == pytest.approx(math.log(2))
    assert float(generator_loss(half, "minimax")) == pytest.approx(-math.log(2))


def test_large_logits_stay_finite() -> None:
    huge = torch.tensor([1e4, -1e4])
    assert discriminator_loss(huge, huge).isfinite()
    assert generator_loss(huge).isfinite()
    assert generator_loss(huge, "minimax").isfinite()


def test_unknown_form() -> None:
    with pytest.raises(ValueError, match="form must be one of non_saturating, minimax, got 'wgan'"):
        generator_loss(torch.zeros(1), "wgan")  # type: ignore[arg-type]


def test_label_smoothing_is_one_sided() -> None:
    """-(0.9 log D(x) + 0.1 log(1 - D(x)) + log(1 - D(G(z)))), Salimans et al. 2016, section 3.4."""
    real, fake = logits(), logits()
    d_real, d_fake = real.sigmoid(), fake.sigmoid()
    expected = -(0.9 * d_real.log() + 0.1 * (1 - d_real).log()).mean() - (1 - d_fake).log().mean()
    torch.testing.assert_close(discriminator_loss(real, fake, label_smoothing=0.1), expected)
