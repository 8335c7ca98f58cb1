"""The sigmoid and binary cross entropy, and the discriminator's loss, which is made of two of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fastgan.functional.onnx import for_onnx
from fastgan.ops.bce_with_logits import autograd as _bce
from fastgan.ops.bce_with_logits import checks as _bce_checks
from fastgan.ops.bce_with_logits import discriminator_autograd as _discriminator
from fastgan.ops.bce_with_logits import small as _bce_small
from fastgan.ops.common.dtypes import autocast_wide, round_to
from fastgan.ops.common.overrides import overridable


@overridable
def binary_cross_entropy_with_logits(
    input: torch.Tensor,
    target: torch.Tensor | float,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sigmoid and binary cross entropy in one op, as :func:`torch.nn.functional.binary_cross_entropy_with_logits`.

    ``(1 - t) * x + max(-x, 0) + log1p(exp(-|x|))`` per element; value and gradient in one pass over the data. At
    infinite logits the result is torch's: NaN where ``0 * inf`` occurs.

    Args:
        input: logits, any shape.
        target: probabilities of the input's shape, or a plain number that stands for a tensor full of it (none is
        made):
            1.0 for real, 0.0 for fake, 0.9 for smoothed labels.
        weight: rescales the loss of each element; broadcasts to the input's shape.
        size_average, reduce: deprecated in torch; they override ``reduction`` as there.
        reduction: "none", "mean" or "sum".
        pos_weight: weight of the positive part, broadcasts to the input's shape.

    Returns:
        A 0-d tensor, or one of the input's shape for ``"none"``; its dtype is the target's (the input's for a number).

    Raises:
        ValueError: target and input differ in shape (nothing is broadcast silently); unknown reduction.
        RuntimeError: weight or pos_weight do not broadcast, sit on another device, or require a gradient.
        TypeError: a dtype that is not floating, or a target that is neither tensor nor number.

    Gradient order: any, with respect to input and target; second and higher orders run through torch's ops (eager
    only).

    Example:
        >>> import torch
        >>> round(binary_cross_entropy_with_logits(torch.zeros(4), 1.0).item(), 4)
        0.6931
    """
    kind = _bce_checks.parse_reduction(size_average, reduce, reduction)
    by_torch = _bce_small.by_torch(input, target, weight, pos_weight, kind)
    if by_torch is not None:
        return by_torch
    if isinstance(target, float):
        target = float.fromhex(target.hex())  # the same number, but never a compiler's symbol of one
    _bce_checks.check(input, target, weight, pos_weight)
    input, target, weight, pos_weight = autocast_wide(input, target, weight, pos_weight)
    if for_onnx():
        labels = target if isinstance(target, torch.Tensor) else torch.full_like(input, float(target))
        name = ("none", "mean", "sum")[kind]
        return F.binary_cross_entropy_with_logits(input, labels, weight, reduction=name, pos_weight=pos_weight)
    if isinstance(target, torch.Tensor):
        return _bce.bce_with_logits(input, target, 0.0, weight, pos_weight, kind)
    return _bce.bce_with_logits(input, None, round_to(input.dtype, float(target)), weight, pos_weight, kind)


@overridable
def discriminator_loss(
    real_logits: torch.Tensor, fake_logits: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """What a GAN's discriminator D minimises, ``-(E[log D(x)] + E[log(1 - D(G(z)))])``, from the logits of D.

    Goodfellow et al., "Generative Adversarial Nets" (arXiv:1406.2661), equation 1. It is
    ``binary_cross_entropy_with_logits(real_logits, 1 - label_smoothing) + binary_cross_entropy_with_logits(fake_logits,
    0.0)``, forward and backward in one pass each: one launch of the native CUDA kernels. At the equilibrium D = 1/2
    everywhere it is 2 log 2 = 1.386.

    Args:
        real_logits, fake_logits: logits of real images and of G's, any shapes, which may differ; each is averaged.
        label_smoothing: the target of real images is 1 - label_smoothing; that of fake ones stays 0 (Salimans et al.
            2016, arXiv:1606.03498, section 3.4: a fake target above 0 would reward G for staying where it is).

    Returns:
        A 0-d tensor of the logits' dtype. The average of no logits is NaN, as torch's is.

    Raises:
        ValueError: label_smoothing is not between 0 and 1.
        RuntimeError: the two are on different devices.
        TypeError: a dtype that is not floating, or an argument of another type.

    Gradient order: any, with respect to both; second and higher orders run through torch's ops (eager only).

    Example:
        >>> import torch
        >>> round(discriminator_loss(torch.zeros(4), torch.zeros(4)).item(), 4)
        1.3863
    """
    by_torch = _bce_small.discriminator_by_torch(real_logits, fake_logits, label_smoothing)
    if by_torch is not None:
        return by_torch
    _bce_checks.check_discriminator(real_logits, fake_logits, label_smoothing)
    real_target = 1.0 - float(label_smoothing)
    real_target = float.fromhex(real_target.hex())  # the same number, but never a compiler's symbol of one
    if for_onnx():
        real = binary_cross_entropy_with_logits(real_logits, real_target)
        return real + binary_cross_entropy_with_logits(fake_logits, 0.0)
    real_logits, fake_logits = autocast_wide(real_logits, fake_logits)
    return _discriminator.discriminator_loss(real_logits, fake_logits, real_target)
