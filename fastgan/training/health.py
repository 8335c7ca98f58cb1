"""Whether the numbers of a training are still numbers, and whether its images still differ."""

import torch
from torch import Tensor

from .step import Players

COLLAPSED_BELOW = (
    0.1  # of the spread of the real images; the images are then alike to the eye, healthy runs lie above half
)
UNTRAINED_STEPS = 100  # before, the images of any run are alike


class NonFiniteError(ArithmeticError):
    """Training has produced a NaN or an infinity. The message is one line and names what is not finite."""


def bad_weight(players: Players) -> str | None:
    """The name of the first weight or running statistic that is not finite, or None. Waits for the device."""
    for prefix, network in (("generator", players.generator), ("discriminator", players.discriminator)):
        for name, tensor in network.state_dict().items():
            if not tensor.isfinite().all():
                return f"{prefix}.{name}"
    return None


def collapsed(step: int, relative_spread: float) -> bool:
    """Whether the images of the fixed noise at ``step`` differ so little that the generator has lost its variety.

    ``relative_spread``: their ``spread`` as a share of that of real images.
    """
    return step >= UNTRAINED_STEPS and relative_spread < COLLAPSED_BELOW


def spread(images: Tensor, labels: Tensor | None = None) -> float:
    """How much images of the same class differ: the standard deviation of a pixel over them, averaged.

    ``images``: [N, C, H, W] in [-1, 1]; ``labels``: int64 [N], None if all are of one kind. 0 for images that are all
    alike. Classes of which there is one image do not count; 0 if there are no others. Waits for the device.
    """
    if labels is None:
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    flat = images.flatten(1).double()
    groups = [flat[labels == label] for label in labels.unique()]
    deviations = [group.std(0).mean() for group in groups if len(group) > 1]
    return float(torch.stack(deviations).mean()) if deviations else 0.0
