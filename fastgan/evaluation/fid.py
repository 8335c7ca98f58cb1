"""FID: the Fréchet distance in the feature space of the Inception network, through torch-fidelity.

Nothing is downloaded here: the weights, 96 MB, must be on the disk. Source: Heusel et al. (arXiv:1706.08500); the
network, its weights and the way images are enlarged for it are torch-fidelity's, which follow the original code.
"""

import hashlib
import importlib
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fastgan.data import Images

from .frechet import Moments, frechet_distance

WEIGHTS_NAME = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_NAME}"
WEIGHTS_SHA256 = "6726825d"  # how it begins; it is the last part of the name, as in every file of torch.hub
FID_BATCH = 50


class FidError(RuntimeError):
    """FID cannot be computed here. The message is one line that says what is missing and how to get it."""


@dataclass(frozen=True)
class Fid:
    """FID of ``samples`` generated images against ``real_samples`` real ones, and what computed it."""

    distance: float
    samples: int
    real_samples: int
    extractor: str
    weights_sha256: str


def find_weights(weights: Path | None = None) -> Path:
    """The file of Inception weights: ``weights`` if given, else the one torch-fidelity keeps in torch.hub's folder.

    Raises FidError if it, or torch-fidelity, is missing.
    """
    try:
        importlib.import_module("torch_fidelity")
    except ImportError as error:
        raise FidError("FID needs torch-fidelity, which is not installed: pip install 'fastgan[fid]'") from error
    path = weights or Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME
    if not path.is_file():
        raise FidError(
            f"FID needs Inception weights, and {path} does not exist: download {WEIGHTS_URL} and put it there"
        )
    return path


def inception(weights: Path | None = None, device: torch.device | str = "cpu") -> tuple[nn.Module, str]:
    """torch-fidelity's Inception network, uint8 [N, 3, H, W] -> a tuple of float [N, 2048]; and its weights' SHA-256.

    torch's global generator is left as it was.

    Raises FidError if the weights or torch-fidelity are missing, or if the file is damaged or of another network.
    """
    path = find_weights(weights)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if path.name == WEIGHTS_NAME and not digest.startswith(WEIGHTS_SHA256):
        raise FidError(f"{path}: damaged: its SHA-256 digest does not begin with {WEIGHTS_SHA256}: download it again")
    try:
        # torch-fidelity unpickles whatever the file holds; this refuses a file that holds more than tensors.
        torch.load(path, map_location="cpu", weights_only=True)
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # of torch-fidelity's own imports
            from torch_fidelity import FeatureExtractorInceptionV3

            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError) as error:
        raise FidError(f"{path}: not the Inception weights of torch-fidelity: download {WEIGHTS_URL}") from error
    return network.to(device), digest


def to_bytes(images: Tensor) -> Tensor:
    """float [N, 1 or 3, H, W] in [-1, 1] -> uint8 [N, 3, H, W]; grey is repeated."""
    pixels = images.add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1)


def inception_distance(
    samples: Iterable[Tensor],
    real: Images,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Fid:
    """FID of ``samples``, batches of images float [n, 1 or 3, H, W] in [-1, 1], against all images of ``real``.

    An Inception network takes minutes per 1,000 images on a CPU. ``progress`` is called with the number of images,
    samples and then real ones, that are done.

    Raises FidError as inception does, ValueError for fewer than two images.
    """
    network, digest = inception(weights, device)
    done = 0

    def moments(images: Iterator[Tensor]) -> Moments:
        nonlocal done
        result = Moments()
        for batch in images:
            for part in batch.split(FID_BATCH):
                result.update(_features(network, to_bytes(part.to(device))))
                done += len(part)
                if progress is not None:
                    progress(done)
        return result

    made = moments(iter(samples))
    true = moments(images for images, _ in real.in_order(FID_BATCH))
    version = importlib.import_module("torch_fidelity").__version__
    extractor = f"InceptionV3 of torch-fidelity {version}, 2048 features"
    return Fid(frechet_distance(made, true), made.count, true.count, extractor, digest)


@torch.no_grad()
def _features(network: nn.Module, pixels: Tensor) -> Tensor:
    return network(pixels)[0]
