"""The command line as a whole: help, completion, exit codes; what is wrong is said in one line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastgan.cli import app, main
from tests.commands.calls import call, refused


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="no such file"):
        main(["sample", "nowhere", "--out", "a.png", "--debug"])


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = call("--help", capsys)
    assert code == 0
    assert all(command in output for command in ("train", "sample", "evaluate", "verify", "info"))
    assert call("--version", capsys)[1].startswith("fastgan ")


COMMANDS = sorted(command.callback.__name__ for command in app.registered_commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_its_examples_are_right(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, output, _ = call(f"{command} --help", capsys)
    assert code == 0
    assert len(output.splitlines()) <= 45
    options = set(re.findall(r"--[a-z-]+", call(f"{command} --help", capsys)[1].partition("Examples:")[0]))
    examples = [line.split() for line in output.partition("Examples:")[2].splitlines() if line.strip()]
    assert examples or command == "info"
    for words in examples:
        assert words[0] == "fastgan" and words[1] in COMMANDS
        if words[1] == command:
            assert {word for word in words if word.startswith("--")} <= options


COMPLETE = """
import os, sys
from fastgan.cli import main
for words in sys.stdin.read().splitlines():
    os.environ.update(COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1))
    try:
        code = main()
    except SystemExit as done:
        code = done.code
    assert not code, (words, code)
    print("END")
"""


def test_completion() -> None:
    """What bash asks for when the user presses the tab key, each time; here one process answers all."""
    asked = ("fastgan ", "fastgan train --la", "fastgan train gan --data fa")
    environment = {**os.environ, "_FASTGAN_COMPLETE": "complete_bash", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", COMPLETE]
    done = subprocess.run(command, input="\n".join(asked), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *others = (answer.split() for answer in done.stdout.split("END")[: len(asked)])
    assert {"train", "sample", "evaluate", "export"} <= set(first)
    assert others == [["--label-smoothing"], ["fashion-mnist"]]


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastgan.cli", "sample", "nowhere", "--out", "a.png"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_ctrl_c_outside_the_loop(
    cgan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastgan.commands.sample.load_generator", interrupt)
    assert refused("sample cgan --out a.png", capsys, code=130) == "fastgan sample: interrupted\n"


def test_out_of_memory(cgan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A petabyte, in torch's own words."""
    monkeypatch.setattr("fastgan.commands.sample.load_generator", lambda _: torch.empty(2**50, dtype=torch.uint8))
    assert "out of memory: try smaller batches or images" in refused("sample cgan --out a.png", capsys, code=1)
