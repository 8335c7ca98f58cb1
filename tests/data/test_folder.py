"""Folders of images: classes, splits, forms, refusals; streamed from the files or held in memory, the same batches."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import DataError, ImageFiles, Images, ImageSet, folder, image_files, load


def save(path: Path, value: int | tuple[int, int, int] = 0, size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB" if isinstance(value, tuple) else "L", size, value).save(path)
    return path


def noise(path: Path, seed: int, height: int = 24, width: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """23 images of two classes in several formats and sizes."""
    for i in range(23):
        kind = ("png", "jpg", "bmp", "webp")[i % 4]
        noise(tmp_path / ("cat" if i < 9 else "dog") / f"{i:02}.{kind}", i, height=16 + i, width=30 - i)
    return tmp_path


def load_both(path: Path, monkeypatch: pytest.MonkeyPatch, size: int = 16) -> tuple[ImageSet, ImageFiles]:
    held = load(f"folder:{path}", "train", size, 3)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "LARGEST_IN_MEMORY", 0)
        streamed = load(f"folder:{path}", "train", size, 3)
    assert isinstance(held, ImageSet)
    assert isinstance(streamed, ImageFiles)
    return held, streamed


def test_subfolders_are_classes(photos: Path) -> None:
    (photos / "cat" / "deeper").mkdir()
    save(photos / "cat" / "deeper" / "one.png")
    (photos / "cat" / "notes.txt").write_text("not an image")
    save(photos / ".hidden" / "one.png")
    data = load(f"folder:{photos}", "train", 16, 3)
    assert isinstance(data, ImageSet)
    assert (data.classes, data.class_names) == (2, ("cat", "dog"))
    assert data.labels.bincount().tolist() == [10, 14]
    assert data.images.shape == (24, 3, 16, 16)
    assert (data.name, data.origin) == (f"folder:{photos}", str(photos))


def test_images_without_subfolders_are_unlabelled(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG"):
        save(tmp_path / name)
    data = load(f"folder:{tmp_path}", "train", 16, 1)
    assert (data.classes, data.class_names, len(data)) == (None, (), 2)
    ((images, labels),) = data.in_order(5)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 0]
    assert images.shape == (2, 1, 16, 16)


def batches_of(data: Images, skip: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(data.batches(4, torch.Generator().manual_seed(3), skip))


def assert_same(some: list, others: list) -> None:
    for (images, labels), (images_too, labels_too) in zip(some, others, strict=True):
        assert torch.equal(images, images_too)
        assert torch.equal(labels, labels_too)


def test_streamed_and_held_give_the_same_batches(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, streamed = load_both(photos, monkeypatch)
    assert len(held) == len(streamed) == 23
    assert (streamed.classes, streamed.class_names) == (held.classes, held.class_names)
    whole = batches_of(held)
    assert len(whole) == 5
    assert_same(whole, batches_of(streamed))
    assert_same(whole, batches_of(streamed))
    assert_same(list(held.in_order(4)), list(streamed.in_order(4)))
    for skip in (1, 3, 5, 6):
        assert_same(whole[skip:], batches_of(held, skip))
        assert_same(whole[skip:], batches_of(streamed, skip))


def test_batches_come_to_the_device(photos: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    expected = batches_of(load(f"folder:{photos}", "train", 16, 3))
    for limit in (folder.LARGEST_IN_MEMORY, 0):
        monkeypatch.setattr(folder, "LARGEST_IN_MEMORY", limit)
        batches = batches_of(load(f"folder:{photos}", "train", 16, 3, device=device))
        assert {tensor.device.type for batch in batches for tensor in batch} == {device.type}
        assert_same(expected, [(images.cpu(), labels.cpu()) for images, labels in batches])


def test_skipped_images_are_not_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, streamed = load_both(photos, monkeypatch)
    read: list[Path] = []
    original = image_files.read_image
    monkeypatch.setattr(image_files, "read_image", lambda path, *rest: read.append(path) or original(path, *rest))
    batches_of(streamed, skip=3)
    assert len(read) == 2 * 4


def test_a_closed_stream_leaves_no_thread(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, streamed = load_both(photos, monkeypatch)
    batches = streamed.batches(2, torch.Generator())
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastgan-images")]


def test_digests(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, streamed = load_both(photos, monkeypatch)
    held_again, streamed_again = load_both(photos, monkeypatch)
    assert held.digest == held_again.digest
    assert streamed.digest == streamed_again.digest
    other_form = load_both(photos, monkeypatch, size=8)
    assert held.digest != other_form[0].digest
    assert streamed.digest != other_form[1].digest
    os.utime(photos / "cat" / "00.png", ns=(1, 1))  # as after a copy
    assert load_both(photos, monkeypatch)[1].digest == streamed.digest
    with (photos / "cat" / "00.png").open("ab") as file:
        file.write(b"0")
    assert load_both(photos, monkeypatch)[1].digest != streamed.digest
    (photos / "cat" / "00.png").unlink()
    gone = ImageFiles(**{name: getattr(streamed, name) for name in streamed.__dataclass_fields__})
    with pytest.raises(DataError, match=r"00\.png"):
        _ = gone.digest


def test_large_folders_are_streamed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "LARGEST_IN_MEMORY", 23 * 3 * 16 * 16)
    assert isinstance(load(f"folder:{photos}", "train", 16, 3), ImageSet)
    assert isinstance(load(f"folder:{photos}", "train", 17, 3), ImageFiles)
    assert isinstance(load(f"folder:{photos}", "train", 17, 1), ImageSet)


def test_splits(tmp_path: Path) -> None:
    for split, classes in {"train": ("ant", "bee", "cow"), "test": ("bee", "cow")}.items():
        for name in classes:
            save(tmp_path / split / name / "1.png", value=ord(name[0]))
    train, test = (load(f"folder:{tmp_path}", split, 8, 1) for split in ("train", "test"))  # type: ignore[arg-type]
    assert (len(train), len(test)) == (3, 2)
    assert test.class_names == train.class_names == ("ant", "bee", "cow")
    ((_, labels),) = test.in_order(9)
    assert labels.tolist() == [1, 2]  # the numbers that the classes have in the train split
    save(tmp_path / "test" / "dog" / "1.png")
    with pytest.raises(DataError, match="dog: not one of the classes of"):
        load(f"folder:{tmp_path}", "test", 8, 1)


def refusal(path: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        load(f"folder:{path}", split, 16, 3)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_refuses_folders_that_make_no_dataset(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "missing")
    assert "no images in it" in refusal(tmp_path)
    save(tmp_path / "1.png")
    assert "no such folder" in refusal(tmp_path / "1.png")
    assert f"no test split: move the training images to {tmp_path / 'train'}" in refusal(tmp_path, "test")
    save(tmp_path / "class" / "1.png")
    assert "'1.png' lies beside the subfolder 'class'" in refusal(tmp_path)
    (tmp_path / "1.png").unlink()
    (tmp_path / "empty").mkdir()
    assert "the class 'empty' is empty" in refusal(tmp_path)
    save(tmp_path / "train" / "class" / "1.png")
    assert f"no test split: add the folder {tmp_path / 'test'}" in refusal(tmp_path, "test")
    save(tmp_path / "test" / "1.png")
    assert "its images are unlabelled" in refusal(tmp_path, "test")


def damaged(path: Path, how: str) -> None:
    noise(path, 0, 64, 64)
    data = path.read_bytes()
    path.write_bytes(
        {
            "text": b"<html>not found</html>",
            "empty": b"",
            "cut": data[: len(data) // 2],
            "header": b"\0\0\0\0" + data[4:],
            "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n",
        }[how]
    )


@pytest.mark.parametrize("how", ["text", "empty", "cut", "header", "postscript"])
@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "ppm", "tif", "webp"])
def test_refuses_damaged_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, how: str) -> None:
    save(tmp_path / "1.png")
    damaged(tmp_path / f"2.{kind}", how)
    message = refusal(tmp_path)
    assert f"2.{kind}: not a readable image" in message
    monkeypatch.setattr(folder, "LARGEST_IN_MEMORY", 0)
    streamed = load(f"folder:{tmp_path}", "train", 16, 3)
    with pytest.raises(DataError) as caught:
        list(streamed.in_order(1))
    assert str(caught.value) == message


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("most", [300, 100])  # Pillow warns up to twice the limit, and raises above
def test_refuses_decompression_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    path = save(tmp_path / "bomb.png", size=(20, 16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 320)
    load(f"folder:{tmp_path}", "train", 16, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    assert f"{path}: not a readable image" in refusal(tmp_path)


def test_links(tmp_path: Path) -> None:
    save(tmp_path / "real" / "1.png", 10)
    data = tmp_path / "data"
    (data / "a" / "deeper").mkdir(parents=True)
    (data / "a" / "1.png").symlink_to(tmp_path / "real" / "1.png")
    (data / "b").symlink_to(tmp_path / "real")
    for i in range(3):  # without a memory, the ways through three loops number 3 to the power of the depth
        (data / "a" / f"up{i}").symlink_to(data)
        (data / "a" / "deeper" / f"up{i}").symlink_to(data / "a")
    loaded = load(f"folder:{data}", "train", 16, 1)
    assert (len(loaded), loaded.class_names) == (2, ("a", "b"))
    (data / "a" / "self.png").symlink_to(data / "a" / "self.png")
    assert "self.png" in refusal(data)
    (data / "a" / "self.png").unlink()
    (data / "a" / "gone.png").symlink_to(data / "nothing")
    assert f"{data / 'a' / 'gone.png'}: neither a file nor a link to one" in refusal(data)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "pipe.png: neither a file" in refusal(tmp_path)


@pytest.mark.parametrize(("height", "width"), [(60, 20), (20, 60)])
def test_the_centre_is_kept(tmp_path: Path, height: int, width: int) -> None:
    pixels = np.zeros((height, width), dtype=np.uint8)
    (pixels[20:40] if height > width else pixels[:, 20:40])[:] = 255
    Image.fromarray(pixels).save(tmp_path / "1.png")
    data = load(f"folder:{tmp_path}", "train", 20, 1)
    assert isinstance(data, ImageSet)
    assert data.images.eq(255).all()


def test_it_resizes_as_torchvision_does(tmp_path: Path) -> None:
    """The short side first, antialiased, then the crop; rounding between the two is all that may differ."""
    v2 = pytest.importorskip("torchvision.transforms.v2")

    image = Image.effect_noise((75, 50), 60).convert("RGB")
    image.save(tmp_path / "1.png")
    data = load(f"folder:{tmp_path}", "train", 20, 3)
    assert isinstance(data, ImageSet)
    theirs = v2.functional.pil_to_tensor(v2.Compose([v2.Resize(20), v2.CenterCrop(20)])(image))
    assert (data.images[0].int() - theirs.int()).abs().max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_kind_of_pixel(tmp_path: Path, mode: str, channels: int) -> None:
    white = Image.new("L", (20, 16), 255)
    if mode == "I;16":
        image = Image.fromarray(np.full((16, 20), 0x80FF, dtype=np.uint16))
    elif mode == "P":
        image = white.convert("P")
        image.info["transparency"] = bytes(256)
    else:
        image = white.convert("RGB").convert(mode)
    image.save(tmp_path / ("1.tif" if mode == "CMYK" else "1.png"))
    data = load(f"folder:{tmp_path}", "train", 16, channels)
    assert isinstance(data, ImageSet)
    assert data.images.shape == (1, channels, 16, 16)
    assert data.images.eq(0x80 if mode == "I;16" else 255).all()


def test_a_pixel_without_a_range_is_refused(tmp_path: Path) -> None:
    Image.new("F", (20, 16), 0.5).save(tmp_path / "1.tif")
    assert "pixels of type F" in refusal(tmp_path)


def test_red_comes_first(tmp_path: Path) -> None:
    save(tmp_path / "1.png", (200, 100, 50))
    data = load(f"folder:{tmp_path}", "train", 16, 3)
    assert isinstance(data, ImageSet)
    assert data.images[0, :, 3, 4].tolist() == [200, 100, 50]


def test_extensions_are_those_of_torchvision() -> None:
    IMG_EXTENSIONS = pytest.importorskip("torchvision.datasets.folder").IMG_EXTENSIONS

    assert image_files.EXTENSIONS == IMG_EXTENSIONS
