"""The two losses of the game, from logits.

Source: Goodfellow et al., "Generative Adversarial Nets" (arXiv:1406.2661), equation 1 and the end of section 3.
With D(x) = sigmoid(logit): -log D(x) is the binary cross-entropy against 1, and -log(1 - D(x)) that against 0.
"""

from typing import Literal

from torch import Tensor

from fastgan.functional import binary_cross_entropy_with_logits

GeneratorLoss = Literal["non_saturating", "minimax"]
GENERATOR_LOSSES: tuple[GeneratorLoss, ...] = ("non_saturating", "minimax")


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-(E[log D(x)] + E[log(1 - D(G(z)))]), which D minimises.

    Both logits [N] -> scalar. At the equilibrium D = 1/2 everywhere it is 2 log 2 = 1.386. With ``label_smoothing`` the
    target of real images is 1 - label_smoothing; that of fake ones stays 0 (Salimans et al. 2016, arXiv:1606.03498,
    section 3.4: a fake target above 0 would reward G for staying where it is).
    """
    real = binary_cross_entropy_with_logits(real_logits, 1.0 - label_smoothing)
    return real + binary_cross_entropy_with_logits(fake_logits, 0.0)


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
