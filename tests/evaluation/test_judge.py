"""The judge: what it learns, that it is trained once, and what happens to a damaged one."""

from pathlib import Path

import pytest
import torch

from fastgan.data import ImageSet, load
from fastgan.evaluation import Judge, trained_judge
from fastgan.evaluation import keep as keep_module
from fastgan.evaluation.judge import epochs_for, real_accuracy, train_judge
from fastgan.evaluation.keep import judge_path
from fastgan.training import load_checkpoint, save_checkpoint

from .stand_ins import rows, same


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fastgan"


@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 28, 10), (3, 4, 2), (3, 64, 7), (1, 45, 3)])
def test_shapes(channels: int, size: int, classes: int) -> None:
    judge = Judge(channels, size, classes).eval()
    images = torch.rand(5, channels, size, size)
    features = judge.features(images)
    assert features.shape == (5, 128) and features.min() >= 0
    assert torch.equal(judge.head(features), judge(images)) and judge(images).shape == (5, classes)


def test_it_is_made_of_torchs_own_layers() -> None:
    assert {type(layer).__module__.partition(".")[0] for layer in Judge(1, 28, 10).body} == {"torch"}


def test_images_that_are_too_small() -> None:
    with pytest.raises(ValueError, match="size=3 is too small"):
        Judge(1, 3, 10)


def test_small_sets_are_gone_through_more_often() -> None:
    assert [epochs_for(n) for n in (100, 1500, 50_000, 60_000, 10_000_000)] == [15, 15, 7, 6, 1]


def test_training_is_seeded_and_leaves_the_global_generator_alone() -> None:
    data, fractions = rows(256, size=10), []
    before = torch.get_rng_state()
    first, again = train_judge(data, seed=1, progress=fractions.append), train_judge(data, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert same(first, again) and not same(first, train_judge(data, seed=2))
    assert not first.training
    assert real_accuracy(first, rows(45, size=10, seed=1)) == 1.0
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_the_accuracy_counts_every_image() -> None:
    class First(torch.nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.zeros(len(images), dtype=torch.int64), 10)

    assert real_accuracy(First(1, 1), rows(1015, size=10)) == 102 / 1015


def test_unlabelled_data() -> None:
    data = ImageSet("heap", "memory", torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.zeros(20).long(), None)
    for call in (lambda: train_judge(data), lambda: trained_judge(data, data)):
        with pytest.raises(ValueError, match="heap is unlabelled"):
            call()


def test_it_is_trained_once(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = rows(200, size=10), rows(50, size=10, seed=1)
    first = trained_judge(train, test)
    assert judge_path(train).is_relative_to(cache) and judge_path(train).is_file()
    assert first.test_accuracy == 1.0 and first.protocol["test_accuracy"] == 1.0
    assert first.protocol["train_digest"] == train.digest and first.protocol["epochs"] == 15
    monkeypatch.setattr(keep_module, "train_judge", lambda *_: pytest.fail("trained again"))
    fractions: list[float] = []
    again = trained_judge(train, test, progress=fractions.append)
    assert same(first.judge, again.judge) and not again.judge.training and fractions == [1.0]
    assert again.protocol == first.protocol
    for other, seed in ((train, 1), (rows(200, size=10, seed=2), 0), (rows(200, size=11), 0)):
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            trained_judge(other, test, seed)
    monkeypatch.setattr(keep_module, "PEAK_LR", 0.5)  # another recipe under the same number
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        trained_judge(train, test)
    assert not capsys.readouterr().err


def test_a_damaged_one_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    train, test = rows(200, size=10), rows(50, size=10, seed=1)
    first = trained_judge(train, test)
    path = judge_path(train)
    whole = path.read_bytes()
    for damaged in (whole[:1000], whole[:5000] + b"x" + whole[5001:], b""):
        path.write_bytes(damaged)
        again = trained_judge(train, test)
        error = capsys.readouterr().err
        assert error.startswith(f"warning: {path}") and error.endswith("trained again\n") and error.count("\n") == 1
        assert same(first.judge, again.judge)
        assert len(path.read_bytes()) == len(whole)


def test_one_with_the_weights_of_another_network(capsys: pytest.CaptureFixture[str]) -> None:
    data = rows(200, size=10)
    first, path = trained_judge(data, data), judge_path(data)
    save_checkpoint(path, load_checkpoint(path) | {"judge": Judge(1, 28, 10).state_dict()})
    before = torch.get_rng_state()
    assert same(first.judge, trained_judge(data, data).judge)
    assert torch.equal(before, torch.get_rng_state())
    assert "weights of another network; the judge is trained again" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache.write_text("a file where a folder should be")
    data = rows(200, size=10)
    assert trained_judge(data, data).test_accuracy == 1.0
    assert capsys.readouterr().err.startswith("warning: the judge is not kept")


def test_the_judge_of_the_real_digits() -> None:
    trained = trained_judge(load("digits", "train", 8, 1), load("digits", "test", 8, 1))
    assert trained.test_accuracy > 0.9


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_judge_of_the_real_fashion_mnist() -> None:
    """The bar the project sets itself: 92 % of the real test images. Some minutes."""
    if not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    trained = trained_judge(load("fashion-mnist", "train", 28, 1), load("fashion-mnist", "test", 28, 1))
    assert trained.test_accuracy >= 0.92
