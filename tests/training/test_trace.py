"""The window of traces: what goes in comes out, whole and in order."""

import torch

from fastgan.training.loop import build_players
from fastgan.training.trace import TraceLayout, Window
from tests.training.runs import config_of


def test_windows_come_out_in_order() -> None:
    window = Window()
    for step in range(1, 6):
        window.add(torch.full((3,), float(step)))
        if step in (2, 5):
            assert len(window) == (2 if step == 2 else 3)
            window.close(step)
    assert len(window) == 0
    arrived = window.ready(wait=True)
    assert [(step, rows[:, 0].tolist()) for step, rows in arrived] == [(2, [1.0, 2.0]), (5, [3.0, 4.0, 5.0])]
    assert window.ready(wait=True) == []


def test_an_empty_window_is_none() -> None:
    window = Window()
    window.close(3)
    assert window.ready(wait=True) == []
    assert window.open_rows() is None


def test_an_open_window_is_taken_up_again() -> None:
    window, again = Window(), Window()
    window.add(torch.tensor([1.0]))
    again.reopen(window.open_rows(), "cpu")
    again.add(torch.tensor([2.0]))
    again.close(2)
    assert torch.equal(again.ready(wait=True)[0][1], torch.tensor([[1.0], [2.0]]))


def test_what_is_on_its_way_does_not_hold_anything_up() -> None:
    """A copy from a GPU that is not done is left for later, and what comes after it too: lines stay in order."""

    class Copying:
        done = False

        def query(self) -> bool:
            return self.done

        def synchronize(self) -> None:
            self.done = True

    window, event = Window(), Copying()
    window._closed = [(1, torch.zeros(1, 1), event), (2, torch.ones(1, 1), None)]  # type: ignore[list-item]
    assert window.ready() == []
    assert [step for step, _ in window.ready(wait=True)] == [1, 2]
    assert event.done


def test_every_step_of_d_is_in_the_trace() -> None:
    """METRICS are those of the last; a bad number in an earlier one has its own name."""
    layout = TraceLayout.of(build_players(config_of(), None), d_steps=3)
    trace = torch.zeros(1, len(layout.names))
    earlier = layout.names.index("the loss of D in step 2 of D")
    trace[0, earlier] = float("inf")
    assert layout.first_bad(trace) == (0, "the loss of D in step 2 of D")
    assert layout.metrics(trace)[0].isfinite().all()
    trace[0, layout.names.index("the loss of D")] = 7.0
    assert layout.metrics(trace)[0, 0] == 7.0
