"""The window of traces: what goes in comes out, whole and in order."""

import torch

from fastgan.training.trace import Window


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
