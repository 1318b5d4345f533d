"""What the tests of the data sets share: the sample of each, copies of it that a test may spoil, and igm prepare.

A test module says which data set it is about, ``NAME = "cremad"``, or has its own fixture ``data_name``.
"""

import dataclasses
import shutil
from functools import partial
from pathlib import Path

import pytest

from igm.datasets import LAYOUTS
from igm.datasets.layout import make_sample, prepare


def run(layout, raw, out, workers=1, strict=False, follow_links=False, **options):
    """The report of a preparation."""
    running = {"workers": workers, "strict": strict, "follow_links": follow_links}
    return prepare(layout, raw, out, options, progress=False, **running)


def tree(folder, but=(".prepare",)):
    """relative name -> content of every file."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and not set(but) & set(path.relative_to(folder).parts)
    }


def half_written(folder):
    return [str(path) for path in Path(folder).rglob("*") if "partial" in path.name]


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """samples(name): the folder of what ``igm sample`` makes, raw/ and the layout's own; made once."""
    made = {}

    def sample(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "sample"
            make_sample(LAYOUTS[name], made[name])
        return made[name]

    return sample


@pytest.fixture(scope="module")
def data_name(request):
    return request.module.NAME


@pytest.fixture(scope="module")
def made(data_name, samples):
    """The sample. No test may change it."""
    return samples(data_name)


@pytest.fixture(scope="module")
def layout(data_name, made):
    """The data set; where it has text, its tokenizer is that of the sample's tiny BERT: nothing is downloaded."""
    found, tokenizer = LAYOUTS[data_name], made / "raw" / "tiny-bert"
    if tokenizer.is_dir():
        readers = partial(found.readers, tokenizer=str(tokenizer))
        found = dataclasses.replace(found, readers=readers)
    return found


@pytest.fixture
def raw(made, tmp_path):
    """A copy of the raw download that a test may spoil."""
    shutil.copytree(made / "raw", tmp_path / "raw")
    return tmp_path / "raw"


@pytest.fixture
def root(made, layout, tmp_path):
    """A copy of the prepared data that a test may spoil."""
    shutil.copytree(made / layout.folder, tmp_path / layout.folder)
    return tmp_path / layout.folder
