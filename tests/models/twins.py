"""The six networks written with torch.nn alone, attribute names alike, so that weights can be exchanged.

Written apart from fastgan.models, straight from the tables of the sources: "same" padding is spelled out as the pad or
the crop it means, and each batch norm is torch's, with its activation after it.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


class ConvSame(nn.Conv2d):
    """TensorFlow's SAME: the output is ceil(n / stride), the odd pixel of padding goes after."""

    def forward(self, input: Tensor) -> Tensor:
        k, s = self.kernel_size[0], self.stride[0]
        pads = []
        for n in (input.shape[3], input.shape[2]):  # F.pad takes the last dimension first
            total = max((-(-n // s) - 1) * s + k - n, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(input, pads))


class ConvTransposeSame(nn.ConvTranspose2d):
    """TensorFlow's SAME: the full result cropped to n * stride, the odd pixel after."""

    def forward(self, input: Tensor) -> Tensor:
        k, s = self.kernel_size[0], self.stride[0]
        full = super().forward(input)
        before = (k - s) // 2
        return full[:, :, before : before + input.shape[2] * s, before : before + input.shape[3] * s]


class NormThen(nn.BatchNorm2d):
    """torch's batch norm, then an activation."""

    def __init__(self, features: int, activation: str) -> None:
        super().__init__(features)
        self.then = {"relu": F.relu, "leaky": leaky}[activation]

    def forward(self, input: Tensor) -> Tensor:
        return self.then(super().forward(input))


class GANGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = [100, 256, 512, 1024, 784]
        blocks: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            blocks += [nn.Linear(a, b), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*blocks[:-1], nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).view(-1, 1, 28, 28)


class GANDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(784, 512), nn.LeakyReLU(0.2), nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.view(-1, 784))[:, 0]


class DCGANGenerator(nn.Module):
    def __init__(self, same_kernel: int | None = None) -> None:
        super().__init__()

        def conv(a: int, b: int, bias: bool) -> nn.Module:
            if same_kernel:
                return ConvTransposeSame(a, b, same_kernel, 2, bias=bias)
            return nn.ConvTranspose2d(a, b, 4, 2, 1, bias=bias)

        self.project = nn.Linear(128, 2048)
        self.project_norm = NormThen(512, "relu")
        self.stages = nn.Sequential(
            *(nn.Sequential(conv(a, b, False), NormThen(b, "relu")) for a, b in ((512, 256), (256, 128), (128, 64)))
        )
        self.to_image = conv(64, 3, True)

    def forward(self, z: Tensor) -> Tensor:
        x = self.project_norm(self.project(z).view(-1, 512, 2, 2))
        return torch.tanh(self.to_image(self.stages(x)))


class DCGANDiscriminator(nn.Module):
    def __init__(self, same_kernel: int | None = None) -> None:
        super().__init__()

        def conv(a: int, b: int, bias: bool) -> nn.Module:
            return ConvSame(a, b, same_kernel, 2, bias=bias) if same_kernel else nn.Conv2d(a, b, 4, 2, 1, bias=bias)

        self.from_image = conv(3, 64, True)
        self.stages = nn.Sequential(
            *(nn.Sequential(conv(a, b, False), NormThen(b, "leaky")) for a, b in ((64, 128), (128, 256), (256, 512)))
        )
        self.to_logit = nn.Linear(2048, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.to_logit(self.stages(leaky(self.from_image(images))).view(-1, 2048))[:, 0]


class CGANGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(100, 7 * 7 * 128)
        self.embed = nn.Embedding(10, 50)
        self.label_plane = nn.Linear(50, 49)
        self.stages = nn.Sequential(
            nn.Sequential(nn.ConvTranspose2d(129, 128, 4, 2, 1, bias=False), NormThen(128, "relu")),
            nn.Sequential(nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False), NormThen(64, "relu")),
        )
        self.to_image = nn.Conv2d(64, 1, 7, padding=3)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        y1 = self.project(z).view(-1, 128, 7, 7)
        y2 = self.label_plane(self.embed(labels)).view(-1, 1, 7, 7)
        return torch.tanh(self.to_image(self.stages(torch.cat((y1, y2), 1))))


class CGANDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 50)
        self.label_plane = nn.Linear(50, 784)
        self.from_image = ConvSame(2, 64, 4, 2)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(ConvSame(a, b, 4, 2, bias=False), NormThen(b, "leaky"))
                for a, b in ((64, 128), (128, 256), (256, 512))
            )
        )
        self.to_logit = nn.Linear(2048, 1)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        plane = self.label_plane(self.embed(labels)).view(-1, 1, 28, 28)
        x = leaky(self.from_image(torch.cat((images, plane), 1)))
        return self.to_logit(self.stages(x).view(-1, 2048))[:, 0]
