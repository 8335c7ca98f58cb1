"""``fastgan train``: train one of the models into a run folder, or go on with a run."""

import dataclasses
import errno
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastgan.data import DATASETS, Images, load
from fastgan.data.folder import PREFIX
from fastgan.training import (
    GENERATOR_LOSSES,
    MODELS,
    ConfigError,
    TrainConfig,
    check_data,
    environment,
    load_state,
    open_run,
    read_run_json,
    write_run_json,
)

from . import CommandError, DataDirOption, DeviceOption, ExitCode, check_data_dir, check_device, say

if TYPE_CHECKING:
    from fastgan.training.loop import Ended

EXAMPLES = """\
Examples:
  fastgan train cgan --data fashion-mnist --minutes 15 --out runs/cgan
  fastgan train dcgan --data folder:photos --image-size 64
  fastgan train --resume runs/cgan --minutes 40
  fastgan train --config runs/cgan --seed 1 --out runs/again
"""

DEFAULT_EPOCHS = 25
SETTINGS = [field.name for field in dataclasses.fields(TrainConfig)]
LENGTHS = ("steps", "epochs", "minutes")
# What may be changed when a run goes on; everything else would make it another run.
CHANGEABLE = (*LENGTHS, "log_every", "save_every", "data_dir", "device")


def _number(metavar: str, help: str) -> Any:
    return typer.Option(metavar=metavar, help=help, show_default=False)


def train(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="gan, dcgan or cgan.", autocompletion=lambda: list(MODELS))
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"{', '.join(DATASETS)}, or folder:PATH with images.",
            autocompletion=lambda: [*DATASETS, "folder:"],
        ),
    ] = None,
    data_dir: DataDirOption = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder. [default: runs/MODEL-DATA]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the run folder.")] = False,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with this run.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Take the settings of this run, then the flags.")
    ] = None,
    steps: Annotated[int | None, _number("N", "Stop after N steps.")] = None,
    epochs: Annotated[int | None, _number("N", f"Stop after N epochs. [default: {DEFAULT_EPOCHS}]")] = None,
    minutes: Annotated[float | None, _number("T", "Stop after T minutes.")] = None,
    batch_size: Annotated[int | None, _number("N", "Images per batch. [default: 128]")] = None,
    seed: Annotated[int | None, _number("N", "Of weights, order and noise. [default: 0]")] = None,
    lr: Annotated[float | None, _number("RATE", "Adam's learning rate. [default: 2e-4]")] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of G: non_saturating (default) or minimax.",
            autocompletion=lambda: list(GENERATOR_LOSSES),
        ),
    ] = None,
    label_smoothing: Annotated[float | None, _number("S", "Real images count as 1 - S. [default: 0]")] = None,
    d_steps: Annotated[int | None, _number("N", "Steps of D per step of G. [default: 1]")] = None,
    image_size: Annotated[int | None, _number("N", "Height and width. [default: the model's]")] = None,
    channels: Annotated[int | None, _number("N", "1 or 3. [default: the model's]")] = None,
    amp: Annotated[
        bool | None, typer.Option("--amp/--no-amp", help="bfloat16 autocast. [default: off]", show_default=False)
    ] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option("--channels-last/--no-channels-last", help="NHWC layout. [default: on]", show_default=False),
    ] = None,
    device: DeviceOption = None,
    log_every: Annotated[int | None, _number("N", "Steps between log lines. [default: 50]")] = None,
    save_every: Annotated[int | None, _number("N", "Steps between checkpoints. [default: 500]")] = None,
) -> None:
    """Train a model: checkpoints, curves and sample grids in a run folder."""
    given = {name: value for name, value in locals().items() if name in SETTINGS and value is not None}
    check_data_dir(data_dir)
    # Absolute, so that the run can be done again from anywhere.
    if data_dir is not None:
        given["data_dir"] = str(data_dir.absolute())
    if data is not None and data.startswith(PREFIX):
        given["data"] = PREFIX + str(Path(data.removeprefix(PREFIX)).expanduser().absolute())
    if resume is not None:
        if out is not None or overwrite or config is not None:
            raise CommandError("--resume goes on in the run's own folder: leave out --out, --overwrite and --config")
        _resume(resume, given)
        return
    if device is not None or config is None:
        given["device"] = check_device(device)
    settings = _new(config, given)
    _start(settings, out or _default_out(settings), overwrite)


def _default_out(config: TrainConfig) -> Path:
    data = Path(config.data).name if config.data.startswith(PREFIX) else config.data
    return Path("runs") / f"{config.model}-{data}"


def _flag(setting: str) -> str:
    return "MODEL" if setting == "model" else f"--{setting.replace('_', '-')}"


def _configured(make: Callable[[], TrainConfig]) -> TrainConfig:
    try:
        return make()
    except ConfigError as error:
        raise CommandError(f"{_flag(error.setting)}: {error.problem}") from error


def _new(base: Path | None, given: dict[str, Any]) -> TrainConfig:
    """The settings of a new run: those of the run ``base``, if given, and over them the flags."""
    if base is not None:
        old, _ = read_run_json(base)
        if any(name in given for name in LENGTHS):
            old = dataclasses.replace(old, steps=None, epochs=None, minutes=None)
        if "data" in given:
            old = dataclasses.replace(old, data_dir=None)
        config = _configured(lambda: dataclasses.replace(old, **given))
    else:
        for name, shown in (("model", f"MODEL: one of {', '.join(MODELS)}"), ("data", "--data")):
            if name not in given:
                raise CommandError(f"missing {shown}")
        config = _configured(lambda: TrainConfig(**given))
    if config.steps is None and config.epochs is None and config.minutes is None:
        config = dataclasses.replace(config, epochs=DEFAULT_EPOCHS)
    return config


def _load(config: TrainConfig) -> Images:
    check_device(config.device)
    folder = Path(config.data_dir) if config.data_dir is not None else None
    data = load(config.data, "train", *config.form, folder, config.device)
    if config.batch_size > len(data):
        raise CommandError(f"--batch-size {config.batch_size} is larger than the {len(data)} images of {config.data}")
    if config.model == "cgan" and data.classes is None:
        raise CommandError(f"--data {config.data} has no classes: put each in a subfolder, or train a gan or dcgan")
    return data


def _start(config: TrainConfig, out: Path, overwrite: bool) -> None:
    # Here, not above: it needs the packages of the train extra, and `fastgan --help` should not.
    from fastgan.training.loop import train

    data = _load(config)
    with open_run(out, "overwrite" if overwrite else "new"):
        write_run_json(out, config, data)
        say(f"{config.model} on {len(data)} images of {data.name} from {data.origin}, {config.device}")
        say(f"into {out}")
        with _room_on_disk(out):
            ended = train(config, data, out)
        _conclude(out, ended)


def _resume(run: Path, given: dict[str, Any]) -> None:
    from fastgan.training.loop import last_step_of, train

    with open_run(run, "resume"):
        old, record = read_run_json(run)
        for name in sorted(set(given) - set(CHANGEABLE)):
            if given[name] != getattr(old, name):
                raise CommandError(f"--resume goes on with the settings of the run: {_flag(name)} cannot be changed")
        lengths = dict.fromkeys(LENGTHS) if any(name in given for name in LENGTHS) else {}
        config = _configured(lambda: dataclasses.replace(old, **{**lengths, **given}))
        if config.device.partition(":")[0] != old.device.partition(":")[0]:
            raise CommandError(f"--device {config.device}: the run has trained on {old.device}, whose dice it needs")
        data = _load(config)
        state = load_state(run)
        if state is not None:
            check_data(state, data)
        step, seconds = (state["step"], state["seconds"]) if state is not None else (0, 0.0)
        if step >= last_step_of(config, len(data)) or seconds >= (config.minutes or math.inf) * 60:
            say(f"{run} is done: {step} steps in {seconds / 60:.1f} minutes; to go on, give more --steps or --minutes")
            return
        _warn_of_changes(record, config)
        write_run_json(run, config, data, record, step)
        say(f"{config.model} on {len(data)} images of {data.name}, {config.device}, goes on after step {step}")
        say(f"in {run}")
        with _room_on_disk(run):
            ended = train(config, data, run, state)
        _conclude(run, ended)


def _warn_of_changes(record: dict[str, Any], config: TrainConfig) -> None:
    """Say what keeps a resumed run from being bit-equal to one that never stopped."""
    before, now = (record.get("processes") or [{}])[-1], environment(config)
    for name, value in now.items():
        if name in before and before[name] != value:
            say(f"warning: {name} was {before[name]}, now it is {value}: not every bit will be the same")


@contextmanager
def _room_on_disk(run: Path) -> Iterator[None]:
    """Say how to go on when the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CommandError(f"{error.strerror}: make room, then: fastgan train --resume {run}") from error


def _conclude(run: Path, ended: "Ended") -> None:
    say(f"step {ended.step}: the samples in {run / 'samples'} differ {ended.spread:.0%} as much as real images do")
    if ended.signal is not None:
        say(f"stopped by {ended.signal.name}; to go on: fastgan train --resume {run}")
        raise ExitCode(128 + ended.signal)
    say(f"done; look at {run / 'samples'} and {run / 'curves.png'}")
