"""Calls of the command line, and run folders to call it on."""

from pathlib import Path

import pytest

from fastgan.cli import main
from fastgan.training import TrainConfig
from fastgan.training.draws import Draws
from fastgan.training.loop import build_players
from fastgan.training.run_folder import write_run_json
from fastgan.training.state import save_state
from tests.training.runs import noise_set


def write_run(folder: Path, model: str) -> Path:
    """A run folder with an untrained generator, as `fastgan train` leaves it."""
    config = TrainConfig(model, "digits", steps=1)
    players = build_players(config, 10)
    folder.mkdir()
    write_run_json(folder, config, noise_set())
    save_state(folder, config, players, Draws(config, noise_set(200), 100, model == "cgan"), 1, 1.0, None)
    return folder


def call(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    capsys.readouterr()
    code = main(command.split())
    output = capsys.readouterr()
    return code, output.out, output.err


def refused(command: str, capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """The one line on stderr."""
    actual, _, errors = call(command, capsys)
    assert actual == code, errors
    assert errors.count("\n") == 1 and errors.endswith("\n"), errors
    assert errors.startswith("fastgan")
    assert "Traceback" not in errors
    return errors
