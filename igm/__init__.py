"""IGM: interactive multimodal learning via flat gradient modification, and the tools to look at it."""

from igm.datasets import load_dataset
from igm.flat import FeatureCovariance, modification_matrix, modify_gradients
from igm.models import (
    Concatenation,
    LateFusion,
    Unimodal,
    build_model,
    fuse,
    paper_head,
    small_encoder,
)
from igm.sam import SAM
from igm.settings import Settings
from igm.train import Run, evaluate, train

__version__ = "0.1.0"
__all__ = [
    "SAM",
    "Concatenation",
    "FeatureCovariance",
    "LateFusion",
    "Run",
    "Settings",
    "Unimodal",
    "build_model",
    "evaluate",
    "fuse",
    "load_dataset",
    "modification_matrix",
    "modify_gradients",
    "paper_head",
    "small_encoder",
    "train",
]
