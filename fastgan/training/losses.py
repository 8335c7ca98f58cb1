"""The two losses of the game, from logits.

Source: Goodfellow et al., "Generative Adversarial Nets" (arXiv:1406.2661), equation 1 and the end of section 3.
With D(x) = sigmoid(logit): -log D(x) is the binary cross-entropy against 1, and -log(1 - D(x)) that against 0.
"""

from typing import Literal

from torch import Tensor

from fastgan.functional import binary_cross_entropy_with_logits, discriminator_loss

__all__ = ["GENERATOR_LOSSES", "GeneratorLoss", "discriminator_loss", "generator_loss"]

GeneratorLoss = Literal["non_saturating", "minimax"]
GENERATOR_LOSSES: tuple[GeneratorLoss, ...] = ("non_saturating", "minimax")


def generator_loss(fake_logits: Tensor, form: GeneratorLoss = "non_saturating") -> Tensor:
    """What G minimises. Logits [N] -> scalar.

    ``"non_saturating"``: -E[log D(G(z))], whose gradient is strong while D still wins.
    ``"minimax"``: E[log(1 - D(G(z)))], the value function itself, whose gradient then vanishes.

    Raises ValueError for another form.
    """
    if form == "non_saturating":
        return binary_cross_entropy_with_logits(fake_logits, 1.0)
    if form == "minimax":
        return -binary_cross_entropy_with_logits(fake_logits, 0.0)
    raise ValueError(f"form must be one of {', '.join(GENERATOR_LOSSES)}, got {form!r}")
