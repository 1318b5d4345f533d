"""pyproject.toml, environment.yml, constraints.txt and the Makefile say the same."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
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
PINNED = {
    canonicalize_name(name): version
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.M
    )
}
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


def test_conda_and_make_install_all_extras():
    assert extras_in("\n".join(CONDA_PIP)) == extras_in(MAKEFILE) == set(EXTRAS)


def test_conda_and_make_use_the_constraints():
    assert "-c constraints.txt" in CONDA_PIP
    assert re.search(r"^CONSTRAINTS \?= constraints\.txt$", MAKEFILE, flags=re.M)


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
        "opencv-python",
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
