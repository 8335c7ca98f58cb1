"""Epochs: random order by a seed, from the middle on, and in order; the digest tells one content from another."""

import itertools

import pytest
import torch

from fastgan.data import DataError, Images, ImageSet, normalise


def small_set(count: int = 10) -> ImageSet:
    images = torch.arange(count, dtype=torch.uint8).reshape(count, 1, 1, 1)
    return ImageSet("small", "memory", images, torch.arange(count))


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_batches_cover_an_epoch_once_and_follow_the_seed() -> None:
    data = small_set()
    first, again = list(data.batches(3, seeded())), list(data.batches(3, seeded()))
    assert len(first) == 3  # the tenth image is left out
    labels = torch.cat([labels for _, labels in first])
    assert len(labels.unique()) == 9
    for (images, labels), (images_again, labels_again) in zip(first, again, strict=True):
        assert torch.equal(images, images_again)
        assert torch.equal(labels, labels_again)
        assert torch.equal(images.flatten(), normalise(labels.to(torch.uint8)))
    generator = seeded()
    orders = [torch.cat([labels for _, labels in data.batches(5, generator)]) for _ in range(2)]
    assert not torch.equal(*orders)  # the next epoch has another order


def test_the_order_is_one_permutation_drawn_by_the_call() -> None:
    generator, expected = seeded(), seeded()
    batches = small_set().batches(3, generator)
    order = torch.randperm(10, generator=expected)
    assert torch.equal(generator.get_state(), expected.get_state())
    assert torch.equal(torch.cat([labels for _, labels in batches]), order[:9])
    assert torch.equal(generator.get_state(), expected.get_state())


@pytest.mark.parametrize("skip", range(5))
def test_skip_gives_the_tail_of_the_same_epoch(skip: int) -> None:
    generator = seeded()
    tail = list(small_set().batches(3, generator, skip=skip))
    whole = list(small_set().batches(3, seeded()))
    assert len(tail) == max(3 - skip, 0)
    for (images, labels), (images_whole, labels_whole) in zip(tail, whole[skip:], strict=True):
        assert torch.equal(images, images_whole)
        assert torch.equal(labels, labels_whole)


def test_in_order_has_every_image() -> None:
    batches = list(small_set().in_order(4))
    assert [len(images) for images, _ in batches] == [4, 4, 2]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(10))
    assert batches[0][0].dtype == torch.float32
    assert batches[2][0].flatten().tolist() == normalise(torch.tensor([8, 9])).tolist()


def test_refusals() -> None:
    with pytest.raises(DataError, match="batch size 11 is larger than the 10 training images of small"):
        small_set().batches(11, torch.Generator())
    with pytest.raises(ValueError, match="skip=-1"):
        small_set().batches(1, torch.Generator(), skip=-1)


def test_what_a_set_says_of_itself() -> None:
    data = small_set()
    assert isinstance(data, Images)
    assert (data.channels, data.image_size, data.classes) == (1, 1, 10)
    assert data.class_names == tuple("0123456789")
    plain = ImageSet("x", "memory", data.images, torch.zeros(10, dtype=torch.int64), classes=None)
    assert plain.class_names == ()


def test_the_digest_is_of_shape_pixels_and_labels() -> None:
    images, labels = torch.arange(16, dtype=torch.uint8).reshape(4, 1, 2, 2), torch.arange(4)
    data = ImageSet("a", "here", images, labels)
    assert data.digest == ImageSet("b", "there", images.clone(), labels.clone()).digest
    assert len(data.digest) == 64
    digests = [
        data.digest,
        ImageSet("a", "here", images.reshape(4, 2, 2, 1), labels).digest,
        ImageSet("a", "here", images.flip(0), labels).digest,
        ImageSet("a", "here", images, labels.flip(0)).digest,
    ]
    assert all(one != other for one, other in itertools.combinations(digests, 2))


def test_normalise() -> None:
    values = normalise(torch.tensor([0, 255], dtype=torch.uint8))
    assert values.dtype == torch.float32
    assert values.tolist() == [-1.0, 1.0]
