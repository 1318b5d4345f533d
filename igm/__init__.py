"""IGM: interactive multimodal learning via flat gradient modification.

The core, in the order in which it reads; a module imports only from those above it:

    flat.py        Eqs. 2-5: moments, the matrix T, T times a gradient
    sam.py         Eqs. 6-8: sharpness-aware minimisation as an optimiser
    models.py      encoder + head = Unimodal; several together; fusion
    settings.py    what can be set for every method
    optimizer.py   Eq. 9: the optimiser IGM, which joins T and SAM
    seeds.py       random numbers that depend on what they are for
    loading.py     batches of a data set
    metrics.py     predictions and their scores
    devices.py     one CPU or GPU, or several processes
    methods/       unimodal, joint, alternating, interactive (Algorithm 1)
    runs.py        a run, its record and its files
    train.py       training: an epoch, a step, a stage, a checkpoint

Its neighbours import the core and are never imported by it:

    rivals/        the competitors: OGM-GE, MLA
    analysis/      loss landscapes, imbalance, controls, comparison of runs
    datasets/      reading, preparing, checking data; a file a data set
    encoders/      small networks, and those of the paper's data sets
    cli/           the command line, a file a command

``igm.load_dataset`` and ``igm.build_model`` open the rooms ``datasets`` and ``encoders`` when they are first asked for.
What only the book needs is the package ``igm_book``.
"""

from importlib import import_module

from igm.flat import FeatureCovariance, modification_matrix, modify_gradients
from igm.metrics import evaluate
from igm.models import Concatenation, LateFusion, Unimodal, fuse
from igm.optimizer import IGM
from igm.runs import VERSION, Run
from igm.sam import SAM
from igm.settings import Settings
from igm.train import train

__version__ = VERSION
__all__ = [
    "IGM",
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


# What the neighbours give: their rooms are opened when a name is first asked for.
NEIGHBOURS = {
    "load_dataset": "igm.datasets",
    "build_model": "igm.encoders.small",
    "paper_head": "igm.encoders.small",
    "small_encoder": "igm.encoders.small",
}


def __getattr__(name: str):
    if name in NEIGHBOURS:
        return getattr(import_module(NEIGHBOURS[name]), name)
    raise AttributeError(f"module 'igm' has no attribute {name!r}")
