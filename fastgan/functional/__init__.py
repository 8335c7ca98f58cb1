"""The public contract: one function per op, with ``torch.nn.functional``'s signatures and semantics.

Every function checks its arguments before anything is launched, in torch's own words where torch has them, and calls an
explicit ``torch.autograd.Function``; small float32 calls on a CPU, in eager mode, go to torch's own ops instead. Dtypes
float64, float32, float16 and bfloat16; any strides. Accumulation is in float32 (float64 for float64). Under
``torch.autocast`` convolutions run in the autocast dtype, the loss in float32, and batch norm leaves its input as it
is, which is torch's policy. ``torch.onnx.export`` sees torch's own ops, as ONNX knows no others; the functions of a
chain (chains.py) are not for it.
"""

from fastgan.functional.chains import batch_norm_stats, conv2d_stats, conv_transpose2d_stats, normalize_act
from fastgan.functional.convolutions import conv2d, conv_transpose2d
from fastgan.functional.loss import binary_cross_entropy_with_logits, discriminator_loss
from fastgan.functional.norms import batch_norm_act, sync_batch_norm_act

__all__ = [
    "batch_norm_act",
    "batch_norm_stats",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "conv2d_stats",
    "conv_transpose2d",
    "conv_transpose2d_stats",
    "discriminator_loss",
    "normalize_act",
    "sync_batch_norm_act",
]
