"""All that a training must remember to go on as if it had never stopped, as one checkpoint; and the generator in it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan.data import Images

from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .config import ConfigError, TrainConfig
from .draws import Draws
from .export import read_safetensors
from .networks import Trained, build_networks
from .run_folder import CHECKPOINT, PREVIOUS
from .step import Players

_PARTS = ("generator", "discriminator", "g_optimizer", "d_optimizer")
KEYS = ("config", "class_names", "step", "seconds", *_PARTS, "draws", "rng", "data_sha256", "open_window")


def save_state(
    run: Path, config: TrainConfig, players: Players, draws: Draws, step: int, seconds: float, window: Tensor | None
) -> None:
    """Write the checkpoint of ``step`` into the folder ``run``; the one before it is kept beside it.

    ``seconds``: how long the run has trained; ``window``: the traces [S, T] since the last line of the log.

    Raises OSError if it cannot be written; the older checkpoint is then still whole.
    """
    parts = {part: getattr(players, part).state_dict() for part in _PARTS}
    position = {"draws": draws.state_dict(), "rng": _global_rng(config), "open_window": window}
    data = {"class_names": list(draws.data.class_names), "data_sha256": draws.data.digest}
    content = {"config": config.to_json(), "step": step, "seconds": seconds, **data, **parts, **position}
    save_checkpoint(run / CHECKPOINT, content, run / PREVIOUS)


def load_state(run: Path) -> dict[str, Any] | None:
    """What ``save_state`` wrote into the folder ``run``, or None if it has not yet.

    Raises CheckpointError, which says whether the checkpoint before it is whole, if the checkpoint is damaged or gone.
    """
    path, previous = run / CHECKPOINT, run / PREVIOUS
    if not path.exists() and not previous.exists():
        return None
    try:
        return load_checkpoint(path, *KEYS)
    except CheckpointError as error:
        try:
            step = load_checkpoint(previous, *KEYS)["step"]
        except CheckpointError:
            raise error from None
        raise CheckpointError(f"{error}; that of step {step} is whole: mv {previous} {path}, and resume") from error


def check_data(state: dict[str, Any], data: Images) -> None:
    """Raise CheckpointError unless ``data`` is what the training of ``state`` has seen."""
    if state["data_sha256"] != data.digest:
        raise CheckpointError(
            f"the run was trained on other data than {data.name} from {data.origin}: "
            "put the old data back, or start a new run"
        )


def restore_state(state: dict[str, Any], config: TrainConfig, players: Players, draws: Draws) -> None:
    """Set the networks, optimizers, data position and dice to those of ``state``.

    Raises CheckpointError if the state is that of other networks or other data.
    """
    check_data(state, draws.data)
    try:
        for part in _PARTS:
            getattr(players, part).load_state_dict(state[part])
        draws.load_state_dict(state["draws"])
        torch.set_rng_state(state["rng"]["cpu"])
        if "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"], config.device)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint is not one of this fastgan's {config.model}") from error


def _global_rng(config: TrainConfig) -> dict[str, Tensor]:
    """torch's own generators: nothing here draws from them in a step, a network with dropout would."""
    state = {"cpu": torch.get_rng_state()}
    if torch.device(config.device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(config.device)
    return state


def load_generator(path: Path) -> Trained:
    """The generator in ``path``: the folder of a run, a checkpoint, or a .safetensors file that ``export`` wrote.

    Raises CheckpointError if there is none, or if it is damaged or of another fastgan.
    """
    if path.suffix == ".safetensors":
        settings, class_names, step, weights = read_safetensors(path)
    else:
        path = path / CHECKPOINT if path.is_dir() or not path.suffix else path
        content = load_checkpoint(path, "config", "class_names", "step", "generator")
        settings, class_names = content["config"], content["class_names"]
        step, weights = content["step"], content["generator"]
    try:
        config = TrainConfig.from_json(settings)
        names = tuple(str(name) for name in class_names)
        generator, _ = build_networks(config, len(names) or None)
        generator.load_state_dict(weights)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: of a run that this fastgan cannot do: {error}") from error
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: its weights are not those of this fastgan's {config.model}") from error
    return Trained(generator.eval(), config, names if config.model == "cgan" else (), int(step))
