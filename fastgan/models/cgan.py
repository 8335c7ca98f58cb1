"""cGAN: a GAN whose user chooses the class of the image, here 28x28x1 in 10 classes (Fashion-MNIST).

Source: Mirza, Osindero, "Conditional Generative Adversarial Nets" (arXiv:1411.1784), section 3.2: both networks are
given the label y. Here the label becomes one more channel: y -> embedding -> dense -> a plane as large as the feature
map (in G) or the image (in D) that it is stacked on.

A convolution that feeds a batch norm has no bias: the norm would subtract it again. `stages` is a Sequential that may
run them as a chain, in which the activations between are never stored, where kernels for it are chosen.
"""

import torch
from torch import Tensor, nn

from fastgan.nn import BatchNormAct2d, Conv2d, ConvTranspose2d, FusedSequential

from . import checks
from .init import LEAKY_SLOPE, init_weights

IMAGE_SIZE = 28
EMBEDDING_DIM = 50


class CGANGenerator(nn.Module):
    """Noise and a class to images.

    ``forward(z, labels)``: z [N, z_dim] floating point, drawn from N(0, I); labels [N] int64 in [0, classes)
    -> images [N, channels, 28, 28] in [-1, 1], dtype of the weights.

    Raises ValueError or TypeError, naming the argument, for a size that is not a positive int, and for a wrong z or
    labels.
    """

    def __init__(self, z_dim: int = 100, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        checks.check_positive(z_dim=z_dim, classes=classes, channels=channels)
        self.z_dim, self.classes, self.channels, self.image_size = z_dim, classes, channels, IMAGE_SIZE

        def double(depth_in: int, depth_out: int) -> nn.Sequential:
            return nn.Sequential(
                ConvTranspose2d(depth_in, depth_out, 4, stride=2, padding=1, bias=False),
                BatchNormAct2d(depth_out, activation="relu"),
            )

        self.project = nn.Linear(z_dim, 128 * 7 * 7)  # [N, 100] -> [N, 6272]
        self.embed = nn.Embedding(classes, EMBEDDING_DIM)  # [N] -> [N, 50]
        self.label_plane = nn.Linear(EMBEDDING_DIM, 7 * 7)  # -> [N, 49]
        self.stages = FusedSequential(
            double(128 + 1, 128),  # [N, 129, 7, 7] -> [N, 128, 14, 14]
            double(128, 64),  # -> [N, 64, 28, 28]
        )
        self.to_image = Conv2d(64, channels, 7, padding="same", activation="tanh")  # -> [N, 1, 28, 28]
        init_weights(self)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        checks.check_z(z, self.z_dim)
        checks.check_labels(labels, z.shape[0], self.classes)
        y1 = self.project(z).reshape(-1, 128, 7, 7)  # [N, 100] -> [N, 6272] -> [N, 128, 7, 7]
        y2 = self.label_plane(self.embed(labels)).reshape(-1, 1, 7, 7)  # [N] -> [N, 50] -> [N, 49] -> [N, 1, 7, 7]
        x = self.stages(y1, beside=y2)  # [N, 128 + 1, 7, 7] -> [N, 64, 28, 28]
        return self.to_image(x)  # -> [N, 1, 28, 28]


class CGANDiscriminator(nn.Module):
    """Images and the class each is said to be, to one logit each: positive means "real, and of that class".

    ``forward(images, labels)``: images [N, channels, 28, 28] floating point in [-1, 1]; labels [N] int64 in
    [0, classes) -> logits [N]. The sigmoid lives in the loss.

    Raises ValueError or TypeError, naming the argument, for a size that is not a positive int, and for wrong images or
    labels.
    """

    def __init__(self, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        checks.check_positive(classes=classes, channels=channels)
        self.classes, self.channels, self.image_size = classes, channels, IMAGE_SIZE

        def halve(depth_in: int, depth_out: int) -> nn.Sequential:
            return nn.Sequential(
                # TensorFlow's "same" makes 4 of 7 (one row before, two after); torch's padding=1 would make 3.
                Conv2d(depth_in, depth_out, 4, stride=2, padding="same", bias=False),
                BatchNormAct2d(depth_out, activation="leaky_relu", negative_slope=LEAKY_SLOPE),
            )

        self.embed = nn.Embedding(classes, EMBEDDING_DIM)  # [N] -> [N, 50]
        self.label_plane = nn.Linear(EMBEDDING_DIM, IMAGE_SIZE * IMAGE_SIZE)  # -> [N, 784]
        self.from_image = Conv2d(  # [N, 2, 28, 28] -> [N, 64, 14, 14]
            channels + 1, 64, 4, 2, "same", activation="leaky_relu", negative_slope=LEAKY_SLOPE
        )
        self.stages = FusedSequential(
            halve(64, 128),  # -> [N, 128, 7, 7]
            halve(128, 256),  # -> [N, 256, 4, 4]
            halve(256, 512),  # -> [N, 512, 2, 2]
        )
        self.to_logit = nn.Linear(512 * 2 * 2, 1)  # [N, 2048] -> [N, 1]
        init_weights(self)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        checks.check_images(images, self.channels, self.image_size)
        checks.check_labels(labels, images.shape[0], self.classes)
        plane = self.label_plane(self.embed(labels)).reshape(-1, 1, IMAGE_SIZE, IMAGE_SIZE)  # [N] -> [N, 1, 28, 28]
        x = torch.cat([images, plane], dim=1)  # -> [N, 2, 28, 28]
        x = self.from_image(x)  # -> [N, 64, 14, 14]
        x = self.stages(x)  # -> [N, 512, 2, 2]
        return self.to_logit(x.flatten(1)).squeeze(1)  # -> [N, 2048] -> [N, 1] -> [N]
