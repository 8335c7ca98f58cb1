"""FID through torch-fidelity, with Inception weights drawn at random: all but the weights is what a user runs."""

import importlib.util
import sys
import warnings
from pathlib import Path
from unittest import mock

import pytest
import torch

from fastgan.evaluation import FidError
from fastgan.evaluation import fid as fid_module
from fastgan.evaluation.fid import find_weights, inception, inception_distance, to_bytes

from .stand_ins import rows

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_fidelity import feature_extractor_inceptionv3 as extractor
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    made: list[dict] = []

    def keep(network: torch.nn.Module, state: object, **_: object) -> None:
        made.append(network.state_dict())

    # The class loads weights as it is made; here what it has drawn is caught instead.
    with (
        torch.random.fork_rng(),
        mock.patch.object(extractor, "load_state_dict_from_url", lambda *_, **__: {}),
        mock.patch.object(torch.nn.Module, "load_state_dict", keep),
    ):
        torch.manual_seed(0)
        extractor.FeatureExtractorInceptionV3("random", ["2048"])
    torch.save(made[0], path)
    return path


def test_the_pixels_are_those_of_the_data() -> None:
    data = rows(10)
    (images, _) = next(data.in_order(10))
    pixels = to_bytes(images)
    assert pixels.shape == (10, 3, 28, 28) and pixels.dtype == torch.uint8
    assert torch.equal(pixels, data.images.expand(-1, 3, -1, -1))
    assert to_bytes(torch.tensor([-1.2, 1.2]).reshape(1, 1, 1, 2))[0, 0].tolist() == [[0, 255]]


@pytest.mark.slow
def test_against_torch_fidelity_itself(weights: Path) -> None:
    """Its calculate_metrics, with the same weights; and images against themselves give nothing."""
    first, second = rows(12, size=16), rows(9, classes=3, size=16, channels=3, seed=1)
    before, done = torch.get_rng_state(), []
    found = inception_distance((images for images, _ in first.in_order(5)), second, weights, progress=done.append)
    assert torch.equal(before, torch.get_rng_state())
    assert (found.samples, found.real_samples) == (12, 9) and done == [5, 10, 12, 21]
    assert "torch-fidelity" in found.extractor and len(found.weights_sha256) == 64
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_fidelity

        theirs = torch_fidelity.calculate_metrics(
            input1=Pixels(first.images.expand(-1, 3, -1, -1)),
            input2=Pixels(second.images),
            fid=True,
            cuda=False,
            cache=False,
            verbose=False,
            save_cpu_ram=True,
            batch_size=5,
            feature_extractor_weights_path=str(weights),
        )
    assert found.distance == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    same = inception_distance((images for images, _ in second.in_order(9)), second, weights)
    assert same.distance < 1e-6 * found.distance


class Pixels(torch.utils.data.Dataset):
    """uint8 images as torch-fidelity wants them."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


def test_missing_weights_are_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / fid_module.WEIGHTS_NAME
    with pytest.raises(FidError) as caught:
        inception()
    message = str(caught.value)
    assert str(place) in message and fid_module.WEIGHTS_URL in message and "\n" not in message
    with pytest.raises(FidError, match=r"mine.pth does not exist"):
        find_weights(tmp_path / "mine.pth")
    place.parent.mkdir(parents=True)
    place.write_bytes(b"half a download")
    assert find_weights() == place
    with pytest.raises(FidError, match="damaged: its SHA-256"):
        inception()


def test_the_address_is_that_of_torch_fidelity() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    assert fid_module.WEIGHTS_URL == URL_INCEPTION_V3


@pytest.mark.parametrize("content", ["nothing", "other tensors", "an object"])
def test_files_that_are_not_the_weights(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.pth"
    if content == "nothing":
        path.write_bytes(b"")
    else:
        torch.save({"a": torch.zeros(1)} if content == "other tensors" else Path(), path)
    with pytest.raises(FidError, match=r"mine.pth: not the Inception weights"):
        inception(path)


def test_without_torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(FidError, match=r"pip install 'fastgan\[fid\]'"):
        find_weights()
