"""What a training run is told."""

from dataclasses import dataclass

from .losses import GeneratorLoss


@dataclass(frozen=True)
class TrainConfig:
    """What to train and for how long: until the first of ``steps``, ``epochs`` and ``minutes`` that is given."""

    model: str
    data: str
    steps: int | None = None
    epochs: int | None = None
    minutes: float | None = None
    batch_size: int = 128
    seed: int = 0
    lr: float = 2e-4
    loss: GeneratorLoss = "non_saturating"
    device: str = "cpu"
    channels_last: bool = False
    log_every: int = 50
    sample_every: int = 500
