"""The settings: what is refused, and that they survive the way through JSON."""

import json

import pytest

from fastgan.training import ConfigError, TrainConfig

WRONG = {
    "model": ["biggan", None],
    "loss": ["hinge"],
    "data": [3],
    "device": [None],
    "data_dir": [5],
    "image_size": [0, 3, 257, 28.0],
    "channels": [2, True],
    "steps": [0, -1, 1.0, True],
    "epochs": [0],
    "minutes": [0, float("nan"), float("inf"), "1", True],
    "batch_size": [0, None],
    "seed": [-1, 2**63, 0.5],
    "lr": [0, -1e-4, float("inf")],
    "label_smoothing": [-0.1, 0.5, float("nan")],
    "d_steps": [0],
    "amp": [1, None],
    "channels_last": ["yes"],
    "log_every": [0, 10_001],
    "save_every": [-5],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**{"model": "gan", "data": "digits", name: value})  # type: ignore[arg-type]
    assert caught.value.setting == name
    assert str(caught.value).startswith(name)
    assert repr(value) in str(caught.value) or name in ("channels", "image_size")


def test_sizes_that_a_model_does_not_have() -> None:
    for model, size in (("dcgan", 48), ("cgan", 32)):
        with pytest.raises(ConfigError, match=f"image_size of a {model} must be"):
            TrainConfig(model, "digits", image_size=size)


def test_the_form_is_the_models_own_unless_told_otherwise() -> None:
    assert TrainConfig("gan", "digits").form == (28, 1)
    assert TrainConfig("dcgan", "digits").form == (32, 3)
    assert TrainConfig("dcgan", "digits", image_size=64, channels=1).form == (64, 1)


def test_through_json() -> None:
    config = TrainConfig("dcgan", "folder:x", image_size=64, minutes=1.5, lr=1e-3, amp=True, seed=2**63 - 1)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_foreign_json_is_refused() -> None:
    for settings in (None, [], {"model": "gan"}, {"model": "gan", "data": "digits", "colour": "red"}):
        with pytest.raises(ConfigError):
            TrainConfig.from_json(settings)
