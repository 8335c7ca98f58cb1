"""Everything together: generators that are right, wrong or unconditional, and the record that is written."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from fastgan.data import ImageSet
from fastgan.evaluation import Fid, FidError, evaluate_generator
from fastgan.evaluation import evaluate as evaluate_module
from fastgan.models import CGANGenerator, DCGANGenerator, GANGenerator

from .stand_ins import NAMES, Broken, Painter, rows

TRAIN, TEST = rows(300), rows(100, seed=1)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    """One for the whole module: the judge is trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def unlabelled(images: ImageSet) -> ImageSet:
    return ImageSet("heap", "memory", images.images, torch.zeros(len(images)).long(), None)


def test_all_right_and_two_classes_wrong() -> None:
    fractions: list[float] = []
    right = evaluate_generator(Painter(), TRAIN, TEST, samples=200, progress=fractions.append)
    assert right.class_accuracy is not None and right.confusion is not None and right.frechet is not None
    assert right.class_accuracy.total == 1.0 and right.class_accuracy.samples == 200
    assert torch.equal(right.confusion, torch.eye(10, dtype=torch.int64) * 20)
    assert right.class_shares == [0.1] * 10 and right.judge_accuracy == 1.0 and right.fid is None
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert (right.frechet.samples, right.frechet.floor_samples) == (200, 200)
    wrong = evaluate_generator(Painter(wrong_classes=(3, 7)), TRAIN, TEST, samples=200)
    assert wrong.class_accuracy is not None and wrong.confusion is not None and wrong.frechet is not None
    assert wrong.class_accuracy.total == pytest.approx(0.8)
    assert wrong.class_accuracy.per_class == [0.0 if number in (3, 7) else 1.0 for number in range(10)]
    assert wrong.confusion[3, 4] == wrong.confusion[7, 8] == 20 and wrong.confusion.sum() == 200
    assert wrong.class_shares == pytest.approx([0.1, 0.1, 0.1, 0.0, 0.2, 0.1, 0.1, 0.0, 0.2, 0.1])
    assert wrong.frechet.floor == right.frechet.floor and right.frechet.distance < wrong.frechet.distance


def test_an_untrained_generator_is_far_from_the_floor() -> None:
    result = evaluate_generator(CGANGenerator().eval(), TRAIN, TEST, samples=100, seed=3)
    assert result.frechet is not None and result.frechet.distance > 5 * result.frechet.floor


def test_an_unconditional_generator() -> None:
    result = evaluate_generator(GANGenerator(), TRAIN, TEST, samples=101)
    assert result.class_accuracy is None and result.confusion is None
    assert result.class_shares is not None and sum(result.class_shares) == pytest.approx(1.0)
    assert result.protocol["asked"] == "no class"


def test_the_record_holds_the_protocol() -> None:
    result = evaluate_generator(Painter(), TRAIN, TEST, samples=50, seed=5)
    record = json.loads(json.dumps(result.record(), allow_nan=False))
    assert set(record) == {field.name for field in dataclasses.fields(result)}
    assert record["class_accuracy"]["samples"] == 50 and len(record["confusion"]) == 10
    protocol = record["protocol"]
    assert (protocol["samples"], protocol["seed"], protocol["device"]) == (50, 5, "cpu")
    assert protocol["torch"] == torch.__version__ and protocol["generator"] == "Painter"
    data = protocol["data"]
    assert data["name"] == "rows" and data["class_names"] == list(NAMES) and data["image_size"] == 28
    assert data["train"] == {"origin": "memory", "digest": TRAIN.digest, "images": 300}
    assert data["test"]["digest"] == TEST.digest
    assert protocol["judge"]["test_accuracy"] == record["judge_accuracy"] == 1.0
    assert protocol["judge"]["epochs"] == 15 and "test split" in protocol["frechet"]


def test_a_training_set_smaller_than_the_test_set() -> None:
    result = evaluate_generator(Painter(), TEST, TRAIN, samples=50)
    assert result.frechet is not None and result.frechet.floor_samples == 50


def quick_fid(images, real, weights, device, progress):
    """Inception takes its time; test_fid.py runs it."""
    count = sum(len(batch) for batch in images)
    progress(count + len(real))
    return Fid(12.5, count, len(real), "quick", "0" * 64)


def test_fid_is_asked_for_first_and_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evaluate_module, "trained_judge", lambda *_, **__: pytest.fail("a judge was trained"))
    with pytest.raises(FidError, match="does not exist"):
        evaluate_generator(Painter(), TRAIN, TEST, samples=50, fid=True, fid_weights=tmp_path / "none.pth")

    monkeypatch.setattr(evaluate_module, "find_weights", lambda path: path)
    monkeypatch.setattr(evaluate_module, "inception_distance", quick_fid)
    fractions: list[float] = []
    result = evaluate_generator(
        GANGenerator(), unlabelled(TRAIN), unlabelled(TEST), samples=60, fid=True, progress=fractions.append
    )
    assert result.fid == Fid(12.5, 60, 300, "quick", "0" * 64) and fractions == [1.0, 1.0]
    assert result.judge_accuracy is result.class_shares is result.frechet is result.confusion is None
    record = json.loads(json.dumps(result.record(), allow_nan=False))
    assert record["fid"]["distance"] == 12.5 and "judge" not in record["protocol"]


def test_judge_and_fid_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_module, "find_weights", lambda path: path)
    monkeypatch.setattr(evaluate_module, "inception_distance", quick_fid)
    fractions: list[float] = []
    result = evaluate_generator(Painter(), TRAIN, TEST, samples=50, fid=True, progress=fractions.append)
    assert result.fid is not None and result.class_accuracy is not None and result.class_accuracy.total == 1.0
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_refusals() -> None:
    for samples in (0, 105):
        with pytest.raises(ValueError, match=f"samples={samples}"):
            evaluate_generator(Painter(), TRAIN, TEST, samples=samples)
    with pytest.raises(ValueError, match=r"train=heap is unlabelled.*only fid works"):
        evaluate_generator(GANGenerator(), unlabelled(TRAIN), unlabelled(TEST))
    with pytest.raises(ValueError, match="generator is asked for 7 classes, train=rows has 10"):
        evaluate_generator(CGANGenerator(classes=7), TRAIN, TEST, samples=70)
    with pytest.raises(ValueError, match="test=rows has 3 classes, train=rows has 10"):
        evaluate_generator(Painter(), TRAIN, rows(30, classes=3), samples=50)
    with pytest.raises(ValueError, match=r"train=rows has images of 1 channels and size 28.*makes 3 channels"):
        evaluate_generator(DCGANGenerator(channels=3), TRAIN, TEST)
    with pytest.raises(ValueError, match="not finite"):
        evaluate_generator(Broken(), TRAIN, TEST, samples=50)
