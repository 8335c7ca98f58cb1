"""GAN: two fully connected networks that play against each other.

Source: Goodfellow et al., "Generative Adversarial Nets" (arXiv:1406.2661), section 3. The paper leaves the sizes open;
these are z 100, G 256-512-1024, D 512-256, with LeakyReLU(0.2) between the layers.
"""

from torch import Tensor, nn

from . import checks
from .init import LEAKY_SLOPE, init_weights


class GANGenerator(nn.Module):
    """Noise to images.

    ``forward(z)``: z [N, z_dim] floating point, drawn from N(0, I) -> images [N, channels, image_size, image_size]
    in [-1, 1], dtype of the weights.

    Raises ValueError or TypeError, naming the argument, for a size that is not a positive int and for a wrong z.
    """

    def __init__(self, z_dim: int = 100, image_size: int = 28, channels: int = 1) -> None:
        super().__init__()
        checks.check_positive(z_dim=z_dim, image_size=image_size, channels=channels)
        self.z_dim, self.image_size, self.channels = z_dim, image_size, channels
        self.layers = nn.Sequential(
            nn.Linear(z_dim, 256),  # [N, 100] -> [N, 256]
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Linear(256, 512),  # -> [N, 512]
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Linear(512, 1024),  # -> [N, 1024]
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Linear(1024, channels * image_size**2),  # -> [N, 784]
            nn.Tanh(),
        )
        init_weights(self)

    def forward(self, z: Tensor) -> Tensor:
        checks.check_z(z, self.z_dim)
        flat = self.layers(z)  # [N, 100] -> [N, 784]
        return flat.reshape(-1, self.channels, self.image_size, self.image_size)  # -> [N, 1, 28, 28]


class GANDiscriminator(nn.Module):
    """Images to one logit each: positive means "real". The sigmoid lives in the loss.

    ``forward(images)``: images [N, channels, image_size, image_size] floating point in [-1, 1] -> logits [N].

    Raises ValueError or TypeError, naming the argument, for a size that is not a positive int and for wrong images.
    """

    def __init__(self, image_size: int = 28, channels: int = 1) -> None:
        super().__init__()
        checks.check_positive(image_size=image_size, channels=channels)
        self.image_size, self.channels = image_size, channels
        self.layers = nn.Sequential(
            nn.Linear(channels * image_size**2, 512),  # [N, 784] -> [N, 512]
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Linear(512, 256),  # -> [N, 256]
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Linear(256, 1),  # -> [N, 1]
        )
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        checks.check_images(images, self.channels, self.image_size)
        return self.layers(images.flatten(1)).squeeze(1)  # [N, 1, 28, 28] -> [N, 784] -> [N, 1] -> [N]
