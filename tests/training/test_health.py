"""Numbers that are numbers no more, and images that are all the same."""

from pathlib import Path

import pytest
import torch

from fastgan.training import NonFiniteError, load_checkpoint
from fastgan.training import loop as loop_module
from fastgan.training.health import collapsed, spread
from fastgan.training.loop import build_players
from fastgan.training.trace import TraceLayout
from tests.training.runs import config_of, rows_of, run


def poison(monkeypatch: pytest.MonkeyPatch, step: int, what) -> None:  # type: ignore[no-untyped-def]
    """``what(players)`` happens before ``step``."""
    healthy, steps = loop_module.train_step, iter(range(1, 10_000))

    def poisoned(players, *arguments):  # type: ignore[no-untyped-def]
        if next(steps) == step:
            with torch.no_grad():
                what(players)
        return healthy(players, *arguments)

    monkeypatch.setattr(loop_module, "train_step", poisoned)


def spoil_d(players) -> None:  # type: ignore[no-untyped-def]
    players.discriminator.layers[2].weight[0, 0] = float("nan")


def spoil_g(players) -> None:  # type: ignore[no-untyped-def]
    players.generator.layers[0].bias[3] = float("inf")


@pytest.mark.parametrize(("spoil", "first"), [(spoil_d, "is D(x)"), (spoil_g, "is D(G(z))")])
def test_the_first_bad_number_is_named_and_the_healthy_checkpoint_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil, first: str
) -> None:
    """It happens in step 6; the log is read at step 8 only, when everything has long been bad."""
    poison(monkeypatch, 6, spoil)
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path / "run", steps=20, log_every=4)
    for part in ("step 6: ", first, "kept: the checkpoint of step 4", "now generator.layers.0.weight is bad too"):
        assert part in str(caught.value)
    content = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert content["step"] == 4
    assert all(tensor.isfinite().all() for tensor in content["discriminator"].values())


def test_the_trace_is_in_order_of_computation() -> None:
    layout = TraceLayout.of(build_players(config_of(model="cgan"), 10))
    trace = torch.zeros(5, len(layout.names))
    assert layout.first_bad(trace) is None
    gradient = layout.names.index("the gradient of generator.project.weight")
    trace[3, gradient] = float("inf")
    assert layout.first_bad(trace) == (3, "the gradient of generator.project.weight")
    trace[3, 2] = float("nan")
    assert layout.first_bad(trace) == (3, "the loss of D")
    trace[2, gradient] = float("nan")
    assert layout.first_bad(trace) == (2, "the gradient of generator.project.weight")
    assert layout.names[3].startswith("the gradient of discriminator.to_logit")  # backward begins at the end


def test_bad_weights_are_not_saved_though_the_losses_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = loop_module.train_step

    def poisoned(players, *arguments):  # type: ignore[no-untyped-def]
        trace = healthy(players, *arguments)
        with torch.no_grad():
            spoil_g(players)
        return trace

    monkeypatch.setattr(loop_module, "train_step", poisoned)
    with pytest.raises(NonFiniteError, match=r"generator\.layers\.0\.bias is not finite any more; there is no"):
        run(tmp_path / "run", steps=1)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_the_rows_before_the_bad_one_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, 6, spoil_d)
    with pytest.raises(NonFiniteError):
        run(tmp_path / "run", steps=20)
    assert [row["step"] for row in rows_of(tmp_path / "run")] == ["2", "4"]
    assert (tmp_path / "run" / "curves.png").exists()


def test_spread() -> None:
    images = torch.randn(1000, 1, 4, 4)
    assert spread(images) == pytest.approx(1.0, abs=0.05)
    assert spread(images[:1].expand(10, -1, -1, -1)) == 0.0
    labels = torch.arange(1000) % 2
    images = labels.reshape(-1, 1, 1, 1).float().expand(-1, 1, 4, 4)
    assert spread(images) == pytest.approx(0.5, abs=0.01)
    assert spread(images, labels) == 0.0  # each class has collapsed to one image, though the classes differ
    assert spread(images[:2], labels[:2]) == 0.0  # one image of each class: nothing to compare


def test_a_collapsed_batch_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flatten(players) -> None:  # type: ignore[no-untyped-def]
        for parameter in players.generator.parameters():
            parameter.zero_()

    poison(monkeypatch, 101, flatten)
    run(tmp_path / "run", steps=104, save_every=100)
    assert "warning: step 104: collapsed" in capsys.readouterr().out


def test_a_generator_that_has_learned_nothing_yet_has_not_collapsed() -> None:
    assert collapsed(step=100, relative_spread=0.09)
    assert not collapsed(step=100, relative_spread=0.11)
    assert not collapsed(step=99, relative_spread=0.0)
