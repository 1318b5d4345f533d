"""The check before the installation: one clear line, with what to do."""

import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import preflight
import pytest

SCRIPT = Path(preflight.__file__)
Usage = namedtuple("Usage", "total used free")


def installed(environment):
    (environment / "lib" / "python3.11" / "site-packages" / "torch").mkdir(parents=True)


def free(gigabytes):
    return lambda folder: Usage(0, 0, gigabytes * 1e9)


@pytest.mark.parametrize("version", [(3, 6, 9), (3, 10, 14)])
def test_an_old_python_is_told_how_to_name_another(version):
    assert "PYTHON=python3.11" in preflight.check_python(version)


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 14, 1)])
def test_a_new_python_passes(version):
    assert preflight.check_python(version) is None


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_missing_venv_module_is_named_with_its_package(missing):
    error = preflight.check_venv(lambda name: None if name == missing else object())
    assert "python3-venv" in error


def test_a_small_disk_is_refused_before_the_first_installation(tmp_path):
    error = preflight.check_space(str(tmp_path / ".venv"), {}, free(2.5))
    assert "2.5 GB free" in error and "VENV" in error


def test_a_full_disk_is_refused_for_a_renewal_too(tmp_path):
    installed(tmp_path)
    assert preflight.check_space(str(tmp_path), {}, free(5)) is None
    assert "0.1 GB free" in preflight.check_space(str(tmp_path), {}, free(0.1))


def test_an_environment_that_conda_has_filled_is_not_filled_again(tmp_path):
    environment = tmp_path / "my conda [1]"
    assert "5.0 GB free" in preflight.check_space(str(environment), {}, free(5))
    installed(environment)
    assert preflight.check_space(str(environment), {}, free(5)) is None


def test_no_folder_for_temporary_files(tmp_path, monkeypatch):
    def full():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(preflight.tempfile, "gettempdir", full)
    assert "TMPDIR" in preflight.check_space(str(tmp_path / ".venv"), {}, free(50))


def test_a_folder_that_does_not_exist_yet_is_measured_where_it_will_be(tmp_path):
    assert preflight.check_space(str(tmp_path / "a" / "b" / ".venv"), {}, free(50)) is None


@pytest.mark.parametrize(
    ("environ", "platform", "gigabytes"),
    [
        ({}, "linux", 10),
        ({}, "darwin", 4),
        ({"PIP_EXTRA_INDEX_URL": "https://example.org/whl/cpu"}, "linux", 4),
        ({"MIN_FREE_GB": "3"}, "linux", 3),
    ],
)
def test_how_much_is_needed(environ, platform, gigabytes):
    assert preflight.needed_gb(environ, platform) == gigabytes


def test_the_script_says_one_line_and_fails(tmp_path):
    run = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / ".venv"],
        env={"MIN_FREE_GB": "1e9"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1


def test_its_syntax_is_that_of_any_python_3():
    import ast

    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 4))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)], "f-string"
