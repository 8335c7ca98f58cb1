"""Datasets, whole, on the training device."""

from .datasets import DATASETS, ImageSet, load, normalise
from .idx import DataError, read_idx

__all__ = ["DATASETS", "DataError", "ImageSet", "load", "normalise", "read_idx"]
