"""fastgan: fast transposed convolutions, fused batch norm + activation and sigmoid-BCE for PyTorch, and the GANs built
on them."""

from fastgan import dispatch, functional, models, nn, tuning
from fastgan.dispatch import BackendError, use_backend
from fastgan.native import build_info
from fastgan.nn.fold import fold_batch_norm
from fastgan.nn.surgery import accelerate, restore
from fastgan.tuning import autotune, forget_tuning, load_tuning
from fastgan.version import __version__

__all__ = [
    "BackendError",
    "__version__",
    "accelerate",
    "autotune",
    "build_info",
    "dispatch",
    "fold_batch_norm",
    "forget_tuning",
    "functional",
    "load_tuning",
    "models",
    "nn",
    "restore",
    "tuning",
    "use_backend",
]
