"""What several test files need: small data and the networks for it."""

import pytest
import torch

from igm import build_model, load_dataset

pytest_plugins = ("prepared",)

VIEWS = ("fou", "kar")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small networks train faster on one thread, and sums come in one order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mfeat():
    """Two views of the mfeat digits: split -> all samples."""
    return {s: load_dataset("mfeat", split=s, views=VIEWS) for s in ("train", "valid", "test")}


@pytest.fixture
def tiny(mfeat):
    """The first 100 samples of each split, copied: a test may change them."""
    return {split: dataset.subset(range(100)) for split, dataset in mfeat.items()}


@pytest.fixture
def networks(mfeat):
    """networks(**options): a new small model for the two views."""
    shapes = mfeat["train"].shapes

    def build(**options):
        return build_model(shapes, 10, **({"d": 16} | options))

    return build
