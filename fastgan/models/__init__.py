"""The six networks: GAN, DCGAN and conditional GAN, a generator and a discriminator each."""

from .cgan import CGANDiscriminator, CGANGenerator
from .dcgan import DCGANDiscriminator, DCGANGenerator
from .gan import GANDiscriminator, GANGenerator

__all__ = [
    "CGANDiscriminator",
    "CGANGenerator",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "GANDiscriminator",
    "GANGenerator",
]
