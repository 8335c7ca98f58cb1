"""Initial weights of every model: the rule of the DCGAN paper.

Source: Radford, Metz, Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks", section 4 (arXiv:1511.06434): weights from N(0, 0.02). The batch-norm rule, N(1, 0.02), is that of the
authors' code.
"""

from torch import nn

LEAKY_SLOPE = 0.2  # the slope of every LeakyReLU in these models (same section of the paper)
WEIGHT_STD = 0.02


def init_weights(model: nn.Module) -> None:
    """Draw the initial weights of ``model`` in place, from torch's global random generator.

    Convolution, transposed convolution and dense weights: N(0, 0.02). Batch-norm weights: N(1, 0.02). All biases: 0.
    Embeddings keep torch's N(0, 1): the source gives no rule for them. The label plane made from one then starts with a
    standard deviation of 0.14; at 0.02 it would be 0.003, hardly visible beside an image in [-1, 1].
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(module.weight, 0.0, WEIGHT_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, WEIGHT_STD)
            nn.init.zeros_(module.bias)
