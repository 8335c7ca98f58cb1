"""The op slices. Importing this package registers ``torch.ops.fastgan.*``; it pulls in neither Triton nor compiled
code."""

from fastgan.ops import batch_norm_act, bce_with_logits, conv_transpose2d
from fastgan.ops.bce_with_logits import discriminator
from fastgan.ops.conv_transpose2d import chain

__all__ = ["batch_norm_act", "bce_with_logits", "chain", "conv_transpose2d", "discriminator"]
