"""The Fréchet distance between two sets of features, each taken for a Gaussian.

    d² = ||mu1 - mu2||² + Tr(S1 + S2 - 2 (S1 S2)^(1/2))

Dowson and Landau, "The Fréchet distance between multivariate normal distributions" (1982); used to judge generators by
Heusel et al., "GANs Trained by a Two Time-Scale Update Rule ..." (arXiv:1706.08500), equation 6. What is called the
distance there, and here, is this square.
"""

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of features that come in batches, in float64 on the CPU.

    ``mean``: [D]; ``covariance``: [D, D], over N - 1.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)  # sum of outer products of what is left of the mean

    def update(self, features: Tensor) -> None:
        """Add ``features``, floating point [N, D].

        Raises ValueError for another shape, or another D than before, and for numbers that are not finite.
        """
        if features.dim() != 2 or features.shape[0] == 0:
            raise ValueError(f"features must have shape [N, D] with N > 0, got {list(features.shape)}")
        x = features.detach().to("cpu", torch.float64)
        if not bool(x.isfinite().all()):
            raise ValueError("features holds numbers that are not finite (NaN or infinity)")
        if self.count == 0:
            self.mean = torch.zeros(x.shape[1], dtype=torch.float64)
            self._scatter = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        if x.shape[1] != self.mean.shape[0]:
            raise ValueError(f"features has {x.shape[1]} columns, the batches before had {self.mean.shape[0]}")
        # Sums of squares lose their digits when the mean is large, so batches are merged around their own means:
        # Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
        added = x.shape[0]
        mean = x.mean(0)
        shift = mean - self.mean
        total = self.count + added
        x = x - mean
        self._scatter += x.T @ x + torch.outer(shift, shift) * (self.count * added / total)
        self.mean = self.mean + shift * (added / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """[D, D] float64. Raises ValueError if there are fewer than two rows."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows of features, got {self.count}")
        return self._scatter / (self.count - 1)


def frechet_distance(first: Moments, second: Moments) -> float:
    """The squared distance of the formula above: 0 for equal moments, never negative.

    Raises ValueError if either has fewer than two rows, or if their features are not of one length.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"second has features of length {len(second.mean)}, first of length {len(first.mean)}")
    covariance1, covariance2 = first.covariance, second.covariance
    # Tr (S1 S2)^(1/2) is the sum of the square roots of the eigenvalues of S1^(1/2) S2 S1^(1/2). Those roots are the
    # singular values of S1^(1/2) S2^(1/2), where a rounding error stays one; the root of an eigenvalue that ought
    # to be 0 and is 1e-16 is 1e-8, once for every missing rank.
    cross = torch.linalg.svdvals(_root(covariance1) @ _root(covariance2)).sum()
    mean_term = (first.mean - second.mean).square().sum()
    value = mean_term + covariance1.trace() + covariance2.trace() - 2 * cross
    return max(0.0, float(value))


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance [D, D], float64."""
    values, vectors = torch.linalg.eigh(covariance)
    noise = values.abs().max() * len(values) * torch.finfo(values.dtype).eps  # what is below has no digit that is right
    values = torch.where(values > noise, values, 0.0)
    return (vectors * values.sqrt()) @ vectors.T
