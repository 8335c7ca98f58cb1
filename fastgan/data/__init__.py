"""Datasets in the form a model wants: small ones whole on the training device, large folders streamed."""

from .datasets import DATASETS, load
from .errors import DataError
from .idx import read_idx
from .image_files import ImageFiles
from .images import Images, ImageSet, normalise

__all__ = ["DATASETS", "DataError", "ImageFiles", "ImageSet", "Images", "load", "normalise", "read_idx"]
