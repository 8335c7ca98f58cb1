"""What is shown: a bar on a terminal, lines elsewhere, and a time left that is right."""

import io
import math

import pytest
from rich.console import Console

from fastgan.training import progress as progress_module
from fastgan.training.progress import Display
from tests.training.runs import config_of

MEANS = [0.5, 1.5, 0.75, 0.25, 1.0, 1.0]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_time_left_by_steps(clock: list[float]) -> None:
    """A resumed run: 40 steps are done, of 100; the speed is that of this process."""
    display = Display(config_of(), last_step=100, done_steps=40, done_seconds=1000.0)
    assert display.time_left(40) == "?"
    clock[0] += 30
    assert display.time_left(50) == "0:02:30"  # 50 steps at 3 s


def test_time_left_by_minutes(clock: list[float]) -> None:
    display = Display(config_of(steps=None, minutes=10), last_step=math.inf, done_steps=40, done_seconds=240.0)
    assert display.time_left(40) == "0:06:00"
    clock[0] += 60
    assert display.time_left(41) == "0:05:00"
    clock[0] += 600
    assert display.time_left(42) == "0:00:00"


def test_the_earlier_end_counts(clock: list[float]) -> None:
    display = Display(config_of(minutes=10), last_step=10, done_steps=0, done_seconds=0.0)
    clock[0] += 30
    assert display.time_left(5) == "0:00:30"
    assert display.time_left(1) == "0:04:30"


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(config_of(), 2, 0, 0.0) as display:
        display.step(1)
        display.metrics(2, 1, MEANS, 320.0)
        display.say("warning: [brackets] stay")
    assert capsys.readouterr().out.splitlines() == [
        "step 2  epoch 1  D loss 0.500  G loss 1.500  D(x) 0.750  D(G(z)) 0.250  320 images/s  left 0:00:00",
        "warning: [brackets] stay",
    ]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=150, highlight=False)
    monkeypatch.setattr(progress_module, "Console", lambda **_: terminal)
    with Display(config_of(), 10, 0, 0.0) as display:
        display.step(5)
        display.metrics(5, 1, MEANS, 320.0)
        display.say("above the bar")
    shown = screen.getvalue()
    for part in ("step 5", "50%", "D(x) 0.750", "320 img/s", "left 0:00:0", "above the bar"):
        assert part in shown
