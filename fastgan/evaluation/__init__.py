"""Measures of what a trained generator makes."""

from .accuracy import ClassAccuracy
from .evaluate import Evaluation, evaluate_generator
from .fid import Fid, FidError
from .frechet import Moments, frechet_distance
from .judge import Judge
from .judged import Frechet
from .keep import TrainedJudge, trained_judge
from .picture import save_confusion

__all__ = [
    "ClassAccuracy",
    "Evaluation",
    "Fid",
    "FidError",
    "Frechet",
    "Judge",
    "Moments",
    "TrainedJudge",
    "evaluate_generator",
    "frechet_distance",
    "save_confusion",
    "trained_judge",
]
