"""Drop-in loss; see :func:`fastgan.functional.binary_cross_entropy_with_logits` for the arithmetic."""

from __future__ import annotations

import torch
from torch import nn

from fastgan import functional
from fastgan.nn.tracing import leaf

__all__ = ["BCEWithLogitsLoss"]


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """:class:`torch.nn.BCEWithLogitsLoss`; the target may also be a plain number, and then no tensor is made.

    Example:
        >>> import torch
        >>> loss = BCEWithLogitsLoss()
        >>> torch.equal(loss(torch.ones(3), 1.0), loss(torch.ones(3), torch.ones(3)))
        True
    """

    @leaf
    def forward(self, input: torch.Tensor, target: torch.Tensor | float) -> torch.Tensor:
        """Args: input, any shape; target of the same shape, or a number."""
        return functional.binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )
