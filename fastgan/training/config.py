"""What a training run is told: one frozen dataclass, checked when it is made, kept in the run folder as JSON."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from .losses import GENERATOR_LOSSES, GeneratorLoss

# The form of the images that each model makes unless told otherwise: height = width, and channels.
DEFAULT_FORMS = {"gan": (28, 1), "dcgan": (32, 3), "cgan": (28, 1)}
MODELS = tuple(DEFAULT_FORMS)
MOST_STEPS_IN_A_LINE = 10_000  # their numbers are kept until the line is written, and in each checkpoint


class ConfigError(ValueError):
    """A setting that is wrong. ``setting`` is its name in TrainConfig; the message says what it must be."""

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting} {problem}")
        self.setting, self.problem = setting, problem


@dataclass(frozen=True)
class TrainConfig:
    """What to train and for how long: until the first of ``steps``, ``epochs`` and ``minutes`` that is given.

    A step is one update of the generator, after ``d_steps`` updates of the discriminator. ``label_smoothing`` is
    one-sided: real images count as 1 - label_smoothing (Salimans et al. 2016, arXiv:1606.03498, section 3.4). ``amp``
    runs the networks under bfloat16 autocast. ``image_size`` and ``channels`` are the model's own where None.

    Raises ConfigError, naming the setting, for a value that is wrong.
    """

    model: str
    data: str
    data_dir: str | None = None
    image_size: int | None = None
    channels: int | None = None
    steps: int | None = None
    epochs: int | None = None
    minutes: float | None = None
    batch_size: int = 128
    seed: int = 0
    lr: float = 2e-4
    loss: GeneratorLoss = "non_saturating"
    label_smoothing: float = 0.0
    d_steps: int = 1
    amp: bool = False
    channels_last: bool = True
    device: str = "cpu"
    log_every: int = 50
    save_every: int = 500

    def __post_init__(self) -> None:
        for name, choices in (("model", MODELS), ("loss", GENERATOR_LOSSES)):
            if getattr(self, name) not in choices:
                raise ConfigError(name, f"must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("data", "device"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(name, f"must be a name, got {getattr(self, name)!r}")
        if not isinstance(self.data_dir, str | None):
            raise ConfigError("data_dir", f"must be the path of a folder, got {self.data_dir!r}")
        for name in ("batch_size", "d_steps", "save_every"):
            self._whole(name)
        self._whole("log_every", high=MOST_STEPS_IN_A_LINE)
        for name in ("steps", "epochs", "image_size", "channels"):
            if getattr(self, name) is not None:
                self._whole(name)
        self._whole("seed", low=0, high=2**63 - 1)
        self._number("lr")
        if self.minutes is not None:
            self._number("minutes")
        self._number("label_smoothing", low=0.0, high=0.5)
        for name in ("amp", "channels_last"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(name, f"must be true or false, got {getattr(self, name)!r}")
        self._form()

    @property
    def form(self) -> tuple[int, int]:
        """Height (= width) and channels of the images."""
        size, channels = DEFAULT_FORMS[self.model]
        return self.image_size or size, self.channels or channels

    def _whole(self, name: str, low: int = 1, high: int | None = None) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
            limits = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise ConfigError(name, f"must be a whole number {limits}, got {value!r}")

    def _number(self, name: str, low: float | None = None, high: float | None = None) -> None:
        value = getattr(self, name)
        right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if low is None or high is None:
            if not right or value <= 0:
                raise ConfigError(name, f"must be a number above 0, got {value!r}")
        elif not right or not low <= value < high:
            raise ConfigError(name, f"must be a number from {low:g} to below {high:g}, got {value!r}")

    def _form(self) -> None:
        size, channels = self.form
        if not 4 <= size <= 256:
            raise ConfigError("image_size", f"must be from 4 to 256, got {size}")
        if channels not in (1, 3):
            raise ConfigError("channels", f"must be 1 (grey) or 3 (colour), got {channels}")
        if self.model == "dcgan" and size not in (32, 64, 128):
            raise ConfigError("image_size", f"of a dcgan must be 32, 64 or 128, got {size}")
        if self.model == "cgan" and size != 28:
            raise ConfigError("image_size", f"of a cgan must be 28, got {size}")

    def to_json(self) -> dict[str, Any]:
        """The settings as plain values, of which ``from_json`` makes an equal TrainConfig."""
        return asdict(self)

    @classmethod
    def from_json(cls, settings: object) -> "TrainConfig":
        """The TrainConfig that ``settings`` describe.

        Raises ConfigError if a setting is unknown, missing or wrong.
        """
        if not isinstance(settings, dict):
            raise ConfigError("config", f"must be a table of settings, got {settings!r}")
        unknown = sorted(set(settings) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(str(unknown[0]), "is not a setting that this fastgan knows")
        for name in ("model", "data"):
            if name not in settings:
                raise ConfigError(name, "is missing")
        return cls(**settings)
