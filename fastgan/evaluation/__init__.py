"""Measures of what a trained generator makes."""

from .judge import ClassAccuracy, Judge, class_accuracy, real_accuracy, train_judge, trained_judge

__all__ = ["ClassAccuracy", "Judge", "class_accuracy", "real_accuracy", "train_judge", "trained_judge"]
