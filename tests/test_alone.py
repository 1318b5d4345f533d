"""Every notebook alone, as in Colab: an empty folder, an environment without igm, the book cloned by the first cell.

Every cell has to give its stored output there (nbval), and the same again when it is run again (rerun.py). The clone
comes from a copy of this working tree. The fresh environment finds the installed packages, torch and the others, but
not igm: its first cell has to install it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import igm

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "_build", "__pycache__", "*.egg-info", ".*_cache", ".ipynb_checkpoints", "runs"
)


def run(*command, **options) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> str:
    """The address of a repository that holds this working tree."""
    copy = tmp_path_factory.mktemp("repository") / "igm-book"
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
    run("git", "init", "-q", cwd=copy)
    run("git", "add", "-A", cwd=copy)
    who = ("-c", "user.name=reader", "-c", "user.email=reader@example.org")
    run("git", *who, "commit", "-q", "-m", "The book", cwd=copy)
    # Later work, which a notebook of this version should not get.
    run("git", "tag", f"v{igm.__version__}", cwd=copy)
    (copy / "book" / "later").touch()
    run("git", "add", "-A", cwd=copy)
    run("git", *who, "commit", "-q", "-m", "More", cwd=copy)
    return copy.as_uri()


@pytest.fixture
def fresh(tmp_path) -> dict[str, str]:
    """The variables of an environment in which all packages but igm are installed."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    # The folders alone: the link to the igm under development, a .pth file in there, is not followed.
    installed = sysconfig.get_path("purelib")
    (Path(paths["purelib"]) / "packages.pth").write_text(f"{installed}\n")
    variables = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHON", "IGM_"))
    }
    return variables | {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round: no isolation, no download
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "OMP_NUM_THREADS": "1",
    }


def first_cell(python, folder, variables, then="") -> str:
    """What the first cell prints in this folder, and then another line in Python."""
    folder.mkdir(exist_ok=True)
    cell = (ROOT / "book" / "colab_cell.py").read_text()
    (folder / "cell.ipy").write_text(f"{cell}\n{then}\n")
    command = [str(python), "-m", "IPython", "--no-banner", "--colors=NoColor", "cell.ipy"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=variables | {"TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_notebook_from_its_page_finds_the_files_of_the_installed_book(tmp_path):
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "book")))  # as pip install -e does
    variables = os.environ | {"PYTHONPATH": paths}
    variables.pop("IGM_SOURCE", None)
    shown = first_cell(sys.executable, tmp_path / "downloads", variables, "print(os.getcwd())")
    assert shown.strip() == str(ROOT / "book")


def test_a_notebook_finds_a_clone_in_its_folder(tmp_path, fresh):
    studies = tmp_path / "downloads" / "igm-book" / "book" / "studies"
    studies.mkdir(parents=True)
    (studies / "fusion.json").touch()
    for package in ("igm", "igm_book"):  # installed, without the book's files
        (tmp_path / "site" / package).mkdir(parents=True)
        (tmp_path / "site" / package / "__init__.py").touch()
    variables = fresh | {"PYTHONPATH": str(tmp_path / "site")}
    where = first_cell(sys.executable, tmp_path / "downloads", variables, "print(os.getcwd())")
    assert where.strip() == str(studies.parent)
    shown = first_cell(sys.executable, tmp_path / "elsewhere", variables)
    assert "not found: the folder studies of the book. In this folder run: git clone" in shown


def test_outside_colab_the_first_cell_says_what_to_install(tmp_path, fresh):
    python = Path(fresh["PATH"].split(os.pathsep)[0]) / Path(sys.executable).name
    shown = first_cell(python, tmp_path / "downloads", fresh)
    assert "ImportError: not found: igm. In this folder run: git clone" in shown
    assert "pip install './igm-book[media,notebook]'" in shown
    assert not (tmp_path / "downloads" / "igm-book").exists(), "fetched unasked"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_alone(notebook, repository, fresh, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copy(notebook, folder)
    shutil.copy(ROOT / "tests" / "rerun.py", folder / "conftest.py")
    fresh["IGM_SOURCE"] = repository  # fetch from there, as in Colab
    python = Path(fresh["PATH"].split(os.pathsep)[0]) / Path(sys.executable).name
    absent = "import importlib.util as u; assert u.find_spec('torch') and not u.find_spec('igm')"
    run(python, "-c", absent, cwd=folder, env=fresh)
    nbval = ["--nbval", "--nbval-current-env", "-p", "no:cacheprovider", "-p", "no:xdist"]
    nbval += ["--nbval-sanitize-with", ROOT / "tests" / "nbval_sanitize.cfg"]
    run(python, "-m", "pytest", "-q", *nbval, notebook.name, cwd=folder, env=fresh)
    assert (folder / "igm-book" / "book" / notebook.name).exists()
    assert not (folder / "igm-book" / "book" / "later").exists()
    # Run again, in a new kernel, the first cell says nothing.
    assert first_cell(python, folder, fresh).strip() == ""
    where = run(python, "-c", "import igm; print(igm.__file__)", cwd=folder, env=fresh)
    assert str(tmp_path / "environment") in where, "igm came from elsewhere"
