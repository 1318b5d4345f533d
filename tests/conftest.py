"""What several test files need: small data and the networks for it."""

import os
import time
from contextlib import nullcontext

import pytest
import torch
from rounding import asked_for

from igm import build_model, load_dataset

pytest_plugins = ("prepared",)

VIEWS = ("fou", "kar")


def pytest_runtest_setup():
    """What has not begun at the time TESTS_END is left out, and counted: see tools/elsewhere.py."""
    if time.time() > float(os.environ.get("TESTS_END", "inf")):
        pytest.skip("no time left")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    """The arithmetic that the environment variable ROUNDING asks for, in the fixtures too: see rounding.py."""
    with asked_for() or nullcontext():
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small networks train faster on one thread, and sums come in one order."""
    torch.set_num_threads(int(os.environ.get("TORCH_THREADS", "1")))


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
