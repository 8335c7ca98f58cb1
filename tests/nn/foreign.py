"""Models that this project did not write, for accelerate: PyTorch's DCGAN example, a U-Net, torchvision's heads."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn


class ExampleGenerator(nn.Module):
    """The generator of PyTorch's DCGAN example (pytorch/examples, dcgan/main.py), 64x64."""

    def __init__(self, nz: int = 12, ngf: int = 8, nc: int = 3) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 8, 4, 1, 0, bias=False),
            nn.BatchNorm2d(ngf * 8),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 8, ngf * 4, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf * 4),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 4, ngf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf * 2),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.main(input)


class ExampleDiscriminator(nn.Module):
    """The discriminator of PyTorch's DCGAN example, without its sigmoid."""

    def __init__(self, ndf: int = 8, nc: int = 3) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(nc, ndf, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, ndf * 4, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 4),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 4, ndf * 8, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 8),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 8, 1, 4, 1, 0, bias=False),
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.main(input).view(-1)


class UNet(nn.Module):
    """One level of a U-Net (Ronneberger et al. 2015): down by pooling, up by ConvTranspose2d k2 s2, concatenated."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()

        def twice(a: int, b: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for c in (a, b):
                layers += [nn.Conv2d(c, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
            return nn.Sequential(*layers)

        self.down, self.bottom = twice(3, width), twice(width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.merge = twice(2 * width, width)
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.down(x)
        deep = self.up(self.bottom(nn.functional.max_pool2d(skip, 2)))
        return self.out(self.merge(torch.cat((skip, deep), 1)))


def torchvision_models() -> Any:
    """``torchvision.models``; skips where torchvision is missing or was built for another torch (a RuntimeError)."""
    try:
        return importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}", allow_module_level=True)


def fcn_head() -> nn.Module:
    head = torchvision_models().segmentation.fcn.FCNHead(16, 5)
    head[3].p = 0.0  # dropout would draw other numbers in every call
    return head


def deeplab_head() -> nn.Module:
    segmentation = torchvision_models().segmentation
    head = segmentation.deeplabv3.DeepLabHead(16, 5, atrous_rates=(1, 2, 3))
    for module in head.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return head


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]] = {
    "dcgan-g": (ExampleGenerator, (4, 12, 1, 1), {"ConvTranspose2d", "BatchNorm2d"}),
    "dcgan-d": (ExampleDiscriminator, (4, 3, 64, 64), {"Conv2d", "BatchNorm2d"}),
    "unet": (UNet, (2, 3, 16, 16), {"ConvTranspose2d", "Conv2d", "BatchNorm2d"}),
    "fcn-head": (fcn_head, (2, 16, 9, 9), {"Conv2d", "BatchNorm2d"}),
    "deeplab-head": (deeplab_head, (2, 16, 5, 5), {"Conv2d", "BatchNorm2d"}),
    "norm+relu": (lambda: nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(inplace=True)), (4, 6, 5, 5), {"BatchNorm2d"}),
    "convt": (lambda: nn.ConvTranspose2d(6, 4, 3, 2), (2, 6, 5, 5), {"ConvTranspose2d"}),
}
