"""The picture of the confusion matrix: that it is there, says what it is, and survives odd names."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgan.evaluation import save_confusion

from .stand_ins import NAMES


def test_a_picture_with_its_text(tmp_path: Path) -> None:
    path = tmp_path / "confusion.png"
    confusion = torch.eye(10, dtype=torch.int64) * 96 + torch.ones(10, 10, dtype=torch.int64)
    save_confusion(path, confusion, NAMES, 0.925)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and min(picture.size) > 600
        assert picture.info["Software"].startswith("fastgan ")
        assert "91.5% of 1,060 samples" in picture.info["Description"]
        assert "92.5% of the real test images" in picture.info["Description"]
        picture = picture.convert("RGB")
        colours = {colour for _, colour in picture.getcolors(1 << 20)}
    assert len(colours) > 20


@pytest.mark.parametrize("classes", [1, 2, 25])
def test_other_numbers_of_classes(tmp_path: Path, classes: int) -> None:
    names = [f"a rather long name, number {number}" for number in range(classes)]
    save_confusion(tmp_path / "confusion.png", torch.eye(classes, dtype=torch.int64), names, 1.0)
    assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_names_that_matplotlib_would_read_otherwise(tmp_path: Path) -> None:
    """A formula, a script its font lacks, line breaks, none at all."""
    save_confusion(tmp_path / "odd.png", torch.eye(5, dtype=torch.int64), ["$x", "$a^$", "猫", "a\nb", ""], 1.0)
    assert (tmp_path / "odd.png").is_file()


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="class_names has 10 names for 3 classes"):
        save_confusion(tmp_path / "confusion.png", torch.eye(3, dtype=torch.int64), NAMES, 1.0)
    with pytest.raises(OSError, match="none"):
        save_confusion(tmp_path / "none" / "confusion.png", torch.eye(10, dtype=torch.int64), NAMES, 1.0)
