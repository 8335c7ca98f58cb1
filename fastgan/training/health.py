"""Whether the numbers of a training are still numbers."""

from .step import Players


class NonFiniteError(ArithmeticError):
    """Training has produced a NaN or an infinity. The message is one line and names what is not finite."""


def bad_weight(players: Players) -> str | None:
    """The name of the first weight or running statistic that is not finite, or None. Waits for the device."""
    for prefix, network in (("generator", players.generator), ("discriminator", players.discriminator)):
        for name, tensor in network.state_dict().items():
            if not tensor.isfinite().all():
                return f"{prefix}.{name}"
    return None
