"""DCGAN: the two networks made of strided convolutions, without pooling.

Source: Radford, Metz, Chintala (arXiv:1511.06434), section 3 for the rules: strided convolutions in D and transposed
convolutions in G, batch norm in both, no hidden dense layer beyond the projection, ReLU in G with tanh at its output,
LeakyReLU in all of D. The sizes are those of the CIFAR-10 form, 32x32x3.

A convolution that feeds a batch norm has no bias: the norm would subtract it again. `stages` is a Sequential that may
run them as a chain, in which the activations between are never stored, where kernels for it are chosen.
"""

from typing import Literal

from torch import Tensor, nn

from fastgan.nn import BatchNormAct2d, Conv2d, ConvTranspose2d, FusedSequential

from . import checks
from .init import LEAKY_SLOPE, init_weights

WIDEST = 512
# Each doubling of the image adds one stage at the narrow end, 512 -> 512, so that the dense layers keep their 2048.
EXTRA_STAGES = {32: 0, 64: 1, 128: 2}

Padding = int | Literal["same"]


def _check(image_size: int, channels: int, kernel_size: int, padding: Padding) -> None:
    checks.check_positive(channels=channels, kernel_size=kernel_size)
    if image_size not in EXTRA_STAGES:
        raise ValueError(f"image_size must be one of {sorted(EXTRA_STAGES)}, got {image_size!r}")
    if padding == "same":
        if kernel_size < 2:
            raise ValueError(f"kernel_size must be at least 2, the stride, got {kernel_size}")
    elif isinstance(padding, (str, bool)) or not isinstance(padding, int) or padding < 0:
        raise ValueError(f'padding must be a non-negative int or "same", got {padding!r}')
    elif kernel_size != 2 * padding + 2:
        # Only then is (n - 1) * 2 - 2 * padding + kernel_size == 2 * n, for every n.
        raise ValueError(
            f"padding={padding} does not halve and double sizes exactly with kernel_size={kernel_size}: "
            f'use kernel_size={2 * padding + 2}, or padding="same" (TensorFlow\'s)'
        )


class DCGANGenerator(nn.Module):
    """Noise to images.

    ``forward(z)``: z [N, z_dim] floating point, drawn from N(0, I) -> images [N, channels, image_size, image_size]
    in [-1, 1], dtype of the weights.

    ``image_size`` is 32, 64 or 128. ``kernel_size=4, padding=1`` is the default; ``kernel_size=5, padding="same"`` is
    the paper's kernel with TensorFlow's cropping.

    Raises ValueError or TypeError, naming the argument, for sizes that do not fit together and for a wrong z.
    """

    def __init__(
        self,
        z_dim: int = 128,
        image_size: int = 32,
        channels: int = 3,
        kernel_size: int = 4,
        padding: Padding = 1,
    ) -> None:
        super().__init__()
        checks.check_positive(z_dim=z_dim)
        _check(image_size, channels, kernel_size, padding)
        self.z_dim, self.image_size, self.channels = z_dim, image_size, channels

        def double(depth_in: int, depth_out: int) -> nn.Sequential:
            return nn.Sequential(
                ConvTranspose2d(depth_in, depth_out, kernel_size, stride=2, padding=padding, bias=False),
                BatchNormAct2d(depth_out, activation="relu"),
            )

        # This dense layer keeps its bias: it has one per pixel, and the batch norm after it removes one per channel.
        self.project = nn.Linear(z_dim, WIDEST * 2 * 2)  # [N, 128] -> [N, 2048]
        self.project_norm = BatchNormAct2d(WIDEST, activation="relu")  # [N, 512, 2, 2]
        self.stages = FusedSequential(
            *(double(512, 512) for _ in range(EXTRA_STAGES[image_size])),  # 64: one more, 128: two more
            double(512, 256),  # [N, 512, 2, 2] -> [N, 256, 4, 4]
            double(256, 128),  # -> [N, 128, 8, 8]
            double(128, 64),  # -> [N, 64, 16, 16]
        )
        self.to_image = ConvTranspose2d(  # -> [N, 3, 32, 32]
            64, channels, kernel_size, stride=2, padding=padding, activation="tanh"
        )
        init_weights(self)

    def forward(self, z: Tensor) -> Tensor:
        checks.check_z(z, self.z_dim)
        x = self.project(z).reshape(-1, WIDEST, 2, 2)  # [N, 128] -> [N, 2048] -> [N, 512, 2, 2]
        x = self.stages(x, first=self.project_norm)  # -> [N, 64, 16, 16]
        return self.to_image(x)  # -> [N, 3, 32, 32]


class DCGANDiscriminator(nn.Module):
    """Images to one logit each: positive means "real". The sigmoid lives in the loss.

    ``forward(images)``: images [N, channels, image_size, image_size] floating point in [-1, 1] -> logits [N].

    ``image_size``, ``kernel_size`` and ``padding`` as in DCGANGenerator.

    Raises ValueError or TypeError, naming the argument, for sizes that do not fit together and for wrong images.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        kernel_size: int = 4,
        padding: Padding = 1,
    ) -> None:
        super().__init__()
        _check(image_size, channels, kernel_size, padding)
        self.image_size, self.channels = image_size, channels

        def halve(depth_in: int, depth_out: int) -> nn.Sequential:
            return nn.Sequential(
                Conv2d(depth_in, depth_out, kernel_size, stride=2, padding=padding, bias=False),
                BatchNormAct2d(depth_out, activation="leaky_relu", negative_slope=LEAKY_SLOPE),
            )

        # No batch norm on the image itself (section 3 of the paper: it makes training oscillate).
        self.from_image = Conv2d(  # [N, 3, 32, 32] -> [N, 64, 16, 16]
            channels, 64, kernel_size, 2, padding, activation="leaky_relu", negative_slope=LEAKY_SLOPE
        )
        self.stages = FusedSequential(
            halve(64, 128),  # [N, 64, 16, 16] -> [N, 128, 8, 8]
            halve(128, 256),  # -> [N, 256, 4, 4]
            halve(256, 512),  # -> [N, 512, 2, 2]
            *(halve(512, 512) for _ in range(EXTRA_STAGES[image_size])),  # 64: one more, 128: two more
        )
        self.to_logit = nn.Linear(WIDEST * 2 * 2, 1)  # [N, 2048] -> [N, 1]
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        checks.check_images(images, self.channels, self.image_size)
        x = self.from_image(images)  # [N, 3, 32, 32] -> [N, 64, 16, 16]
        x = self.stages(x)  # -> [N, 512, 2, 2]
        return self.to_logit(x.flatten(1)).squeeze(1)  # -> [N, 2048] -> [N, 1] -> [N]
