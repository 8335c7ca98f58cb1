"""The Fréchet distance against values known from analysis and against scipy's matrix square root."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from fastgan.evaluation import Moments, frechet_distance


def moments(features: Tensor, batch: int = 1000) -> Moments:
    result = Moments()
    for part in features.split(batch):
        result.update(part)
    return result


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(mean: Tensor, covariance: Tensor) -> Moments:
    """Rows that have exactly these moments: white rows, coloured."""
    white = normal(4 * len(mean), len(mean), seed=9)
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T @ white / (len(white) - 1))).T
    return moments(white @ torch.linalg.cholesky(covariance).T + mean)


@pytest.mark.parametrize("batch", [1, 7, 100])
@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_moments_do_not_depend_on_the_batches(batch: int, mean: float) -> None:
    features = normal(100, 5) + mean
    found = moments(features, batch)
    assert found.count == 100
    torch.testing.assert_close(found.mean, features.mean(0), rtol=1e-14, atol=1e-14)
    # rows near 1e6 are themselves rounded to 1e-10
    torch.testing.assert_close(found.covariance, torch.cov(features.T), rtol=1e-8, atol=1e-9)


def test_one_dimension() -> None:
    """(mu1 - mu2)² + (s1 - s2)²."""
    first = with_moments(torch.tensor([1.0]).double(), torch.tensor([[9.0]]).double())
    second = with_moments(torch.tensor([3.0]).double(), torch.tensor([[4.0]]).double())
    assert frechet_distance(first, second) == pytest.approx(2.0**2 + (3 - 2) ** 2, rel=1e-12)


def test_covariances_that_commute() -> None:
    """With the same eigenvectors: the sum of squared differences of the roots of the eigenvalues."""
    axes = torch.linalg.qr(normal(6, 6)).Q
    values1, values2 = torch.arange(1.0, 7.0).double(), torch.tensor([4.0, 0.25, 1, 9, 2, 0.01]).double()
    first, second = (with_moments(torch.zeros(6).double(), axes * v @ axes.T) for v in (values1, values2))
    expected = (values1.sqrt() - values2.sqrt()).square().sum().item()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)


def test_against_scipy() -> None:
    first = normal(500, 20, seed=1) @ normal(20, 20, seed=2)
    second = normal(400, 20, seed=3) @ normal(20, 20, seed=4) + normal(20, seed=5)
    a, b = (np.cov(x.numpy(), rowvar=False) for x in (first, second))
    gap = first.mean(0).numpy() - second.mean(0).numpy()
    expected = gap @ gap + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(expected, rel=1e-10)


def test_translation_symmetry_and_identity() -> None:
    first, second = moments(normal(300, 16, seed=1) * 3), moments(normal(200, 16, seed=2))
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-12)
    step = normal(16, seed=3)
    moved = moments(normal(300, 16, seed=1) * 3 + step)
    assert frechet_distance(first, moved) == pytest.approx(step.square().sum().item(), rel=1e-12)
    assert frechet_distance(first, first) < 1e-11


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_missing_ranks(scale: float) -> None:
    """Fewer rows than columns, dead columns, and no variance at all."""
    few = normal(10, 64) * scale
    assert 0 <= frechet_distance(moments(few), moments(few)) < 1e-11 * scale**2
    dead = normal(200, 64, seed=1) * scale
    dead[:, 20:] = 0
    assert 0 <= frechet_distance(moments(dead), moments(dead)) < 1e-11 * scale**2
    still = torch.full((5, 64), 2.0 * scale, dtype=torch.float64)
    expected = moments(dead).mean.sub(2 * scale).square().sum() + moments(dead).covariance.trace()
    assert frechet_distance(moments(dead), moments(still)) == pytest.approx(expected.item(), rel=1e-12)
    # spans that share no direction: the cross term is none
    other = normal(200, 64, seed=2) * scale
    other[:, :20] = 0
    a, b = moments(dead), moments(other)
    expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-12)


def test_refusals() -> None:
    found = moments(normal(5, 3))
    for features in (normal(3), normal(0, 3)):
        with pytest.raises(ValueError, match=r"features must have shape \[N, D\]"):
            found.update(features)
    with pytest.raises(ValueError, match="4 columns, the batches before had 3"):
        found.update(normal(2, 4))
    with pytest.raises(ValueError, match="not finite"):
        found.update(torch.full((2, 3), torch.inf))
    with pytest.raises(ValueError, match="at least 2 rows"):
        frechet_distance(found, moments(normal(1, 3)))
    with pytest.raises(ValueError, match="length 4, first of length 3"):
        frechet_distance(found, moments(normal(5, 4)))
