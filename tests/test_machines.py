"""Operating systems, file systems and networks other than this one: each is played by what fails on it."""

import errno
import os
import socket
import subprocess
import sys
import time

import pytest

from igm import runs, train
from igm.datasets import preparing
from igm.datasets.preparing import Preparation

QUICK = dict(epochs=1, batch_size=50, progress=False, device="cpu")


def test_no_module_needs_unix():
    """Windows has no fcntl, resource, pwd, grp or termios, and no fork."""
    code = """
import importlib, os, pkgutil, sys
import torch  # which knows where it runs

class Windows:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Windows())
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
    sys.modules.pop(name, None)
for name in ("fork", "register_at_fork", "getuid", "geteuid", "getgid", "killpg"):
    if hasattr(os, name):
        delattr(os, name)
import igm
for module in pkgutil.walk_packages(igm.__path__, "igm."):
    if module.name != "igm.__main__":
        importlib.import_module(module.name)
print(len([name for name in sys.modules if name.startswith("igm")]))
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


# ---------------------------------------------------------------- folders that cannot be synced


def refuse(monkeypatch, name, code, folders=True, files=False):
    """``os.NAME`` fails with this error number for folders or files."""
    function, paths = getattr(os, name), {}
    opened = os.open

    def remember(path, *how, **options):
        if name == "open" and (folders if os.path.isdir(path) else files):
            raise OSError(code, os.strerror(code), str(path))
        handle = opened(path, *how, **options)
        paths[handle] = path
        return handle

    def fails(handle, *rest):
        if folders if os.path.isdir(paths[handle]) else files:
            raise OSError(code, os.strerror(code))
        return function(handle, *rest)

    monkeypatch.setattr(os, "open", remember)
    if name != "open":
        monkeypatch.setattr(os, name, fails)


UNABLE = ["EINVAL", "ENOTSUP", "ENOSYS"]


@pytest.mark.parametrize(
    ("name", "code"), [*(("fsync", code) for code in UNABLE), ("fsync", "EBADF"), ("open", "EACCES")]
)  # fmt: skip
def test_a_run_begins_and_ends_where_folders_cannot_be_synced(
    networks, tiny, tmp_path, monkeypatch, name, code
):
    refuse(monkeypatch, name, getattr(errno, code))
    run = train(networks(), tiny, "unimodal", out=tmp_path / "run", **QUICK)
    found = sorted(f.name for f in (tmp_path / "run").iterdir())
    assert found == ["metrics.csv", "model.safetensors", "run.json"]
    assert runs.read_record(tmp_path / "run")["results"] == run.results


@pytest.mark.parametrize("code", UNABLE)
def test_a_file_is_written_where_the_file_system_cannot_sync(tmp_path, monkeypatch, code):
    refuse(monkeypatch, "fsync", getattr(errno, code), files=True)
    runs.write_bytes(tmp_path / "a", b"whole")
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("a", b"whole")]


@pytest.mark.parametrize(("code", "files"), [("EIO", True), ("ENOSPC", True), ("EIO", False)])
def test_a_disk_that_fails_is_still_an_error(tmp_path, monkeypatch, code, files):
    refuse(monkeypatch, "fsync", getattr(errno, code), folders=not files, files=files)
    reason = os.strerror(getattr(errno, code))
    with pytest.raises(OSError, match=f"cannot write .*{reason}.*Make room or give another folder"):
        runs.write_bytes(tmp_path / "a", b"whole")


def test_a_file_is_synced_through_a_handle_that_may_write(tmp_path, monkeypatch):
    """Windows syncs no other."""
    fcntl = pytest.importorskip("fcntl")
    modes = []
    fsync = os.fsync

    def noted(handle):
        modes.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    runs.write_bytes(tmp_path / "a", b"whole")
    assert modes == [os.O_RDWR, os.O_RDONLY]  # the file, its folder


# ---------------------------------------------------------------- locks


def no_locks(monkeypatch, code):
    fcntl = pytest.importorskip("fcntl")

    def flock(handle, what):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


def preparation(tmp_path, **options):
    (tmp_path / "raw").mkdir(exist_ok=True)
    return Preparation("cremad", tmp_path / "raw", tmp_path / "out", workers=1, **options)


class Older(preparing.FileLock):
    """Before version 4, filelock takes any failure to lock a file for a lock that somebody holds."""

    def acquire(self, *_, **__):
        raise preparing.Timeout(self.lock_file)


@pytest.mark.parametrize("code", ["ENOLCK", "ENOTSUP", "EINVAL", None])
def test_without_file_locks_prepare_warns_once_and_goes_on(tmp_path, monkeypatch, code):
    said = []
    monkeypatch.setattr(preparing.log, "warning", lambda text, *values: said.append(text % values))
    if code:
        no_locks(monkeypatch, getattr(errno, code))
    else:
        monkeypatch.setattr(preparing, "FileLock", Older)
    for _ in range(2):
        said.clear()
        with preparation(tmp_path) as job:
            assert job.run([]) == set()
        assert said == [
            f"{tmp_path / 'out'} has no file locks: let no other igm prepare work in it"
        ]


def test_with_file_locks_only_one_prepare_works_in_a_folder(tmp_path, caplog):
    second = preparation(tmp_path)
    busy = "another igm prepare is at work in"
    with preparation(tmp_path), pytest.raises(FileExistsError, match=busy):
        second.__enter__()
    with second:
        assert caplog.records == []


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs groups of processes")
def test_ctrl_c_in_a_terminal_lets_the_workers_of_prepare_finish_their_task(tmp_path):
    """A terminal sends it to all processes of a command; a worker that stops prints where it was."""
    code = f"""
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
from igm.datasets.preparing import Preparation, Task

def work(output, name):
    time.sleep(0.2)
    output.file(name, b"done")

root = Path({str(tmp_path)!r})
(root / "raw").mkdir()
try:
    with Preparation("cremad", root / "raw", root / "out", workers=2, progress=False) as job:
        job.run([Task(str(i), work, (str(i),), ()) for i in range(500)])
except KeyboardInterrupt:
    sys.exit(130)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not (tmp_path / "out" / "3").exists() and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, 2)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    lines = (tmp_path / "out/.prepare" / preparing.JOURNAL).read_bytes().splitlines()
    assert 2 <= len(lines) < 100
    assert not list(tmp_path.rglob("*.partial"))


# ---------------------------------------------------------------- no network


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """The names that were looked up, on a machine without a network and with nothing downloaded."""
    import huggingface_hub.constants

    asked, slept = [], []

    def getaddrinfo(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(huggingface_hub.constants, name, str(tmp_path), raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    yield asked
    assert slept == [], "it waits and tries again"


@pytest.mark.parametrize("options", [{}, {"text_encoder": "no-one/no-bert"}, {"clip": "no-one/no-clip"}], ids=str)  # fmt: skip
def test_without_a_network_the_hub_is_asked_once(no_network, options):
    from igm.encoders.build import build_network

    option, name = next(iter(options.items()), ("text_encoder", "bert-base-uncased"))
    message = f"network.{option} {name} is no local folder and cannot be loaded by name .*download"
    with pytest.raises(OSError, match=message):
        build_network("text_image", 3, ["text", "image"], **options)
    assert len(no_network) <= 2  # one question, perhaps for two kinds of addresses


def test_without_a_network_a_tokenizer_is_asked_for_once(no_network):
    from igm.datasets.text import Tokens

    with pytest.raises(FileNotFoundError, match="^no-one/no-bert gives no tokenizer .*Download"):
        Tokens("no-one/no-bert").ids("love")
    assert len(no_network) <= 2
