"""Drop-in layers: subclasses of torch's with the same constructors, state_dict keys, initial values and errors."""

from fastgan.nn.conv import Conv2d, ConvTranspose2d
from fastgan.nn.loss import BCEWithLogitsLoss
from fastgan.nn.norm import BatchNormAct2d, FusedIdentity
from fastgan.nn.sequential import FusedSequential
from fastgan.nn.sync_norm import SyncBatchNormAct2d, convert_sync_batchnorm

__all__ = [
    "BCEWithLogitsLoss",
    "BatchNormAct2d",
    "Conv2d",
    "ConvTranspose2d",
    "FusedIdentity",
    "FusedSequential",
    "SyncBatchNormAct2d",
    "convert_sync_batchnorm",
]
