"""A run: its record and its files. At every moment of a crash the folder holds the last good state, nothing half written.

    run.json            settings, seed, versions; at the end the results and the history; "status" says how it stands
    metrics.csv         the history as a table, a row an epoch, written after each
    model.safetensors   the selected weights, once the run is complete
    checkpoint.pt       while it runs: all that the next epoch needs
    best-0007.safetensors   while it runs: the weights of the best epoch so far, the seventh

Each file is written under a temporary name, forced to the disk and renamed. The checkpoint is loaded as tensors,
numbers and strings only (``weights_only``): a pickle from elsewhere cannot run code here.
"""

import csv
import errno
import glob
import json
import os
import platform
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_file
from torch import nn
from tqdm.auto import tqdm

from igm.methods import Method
from igm.settings import Settings

VERSION = "0.1.0"  # of igm
RECORD, METRICS, WEIGHTS = "run.json", "metrics.csv", "model.safetensors"
CHECKPOINT = "checkpoint.pt"
# The entries of a record that a run found out. The others say how it was made: settings, sizes, notes on the data.
FINDINGS = ("status", "best_epoch", "why", "results", "history")
FINDINGS += ("wall_seconds", "device", "versions", "commit")


# ---------------------------------------------------------------- any file


def write(path: Path, save: Callable[[str], object]) -> None:
    """Writes a file by ``save(name)`` so that its name always stands for a whole file, the old one or the new one.

    Raises:
        OSError: it could not be written, e.g. as the disk is full; the old file is still there.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        save(str(partial))
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OSError(
            f"cannot write {path}: {reason}. Make room or give another folder; what was written before "
            "is still good"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    write(path, lambda name: Path(name).write_bytes(content))


def write_json(path: Path, content: Mapping | list) -> None:
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


# What a file system answers that cannot do what it is asked for: CIFS, vboxsf, some FUSE and NFS.
CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


def sync(path: Path | str) -> None:
    """Waits until a file, or the names in a folder, are on the disk, where the file system can tell."""
    folder = os.path.isdir(path)
    # Windows syncs only what may be written, and opens no folder.
    how = os.O_RDONLY if folder else os.O_RDWR
    try:
        handle = os.open(path, how)
    except PermissionError:
        if folder:
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in CANNOT and not (folder and error.errno == errno.EBADF):
            raise
    finally:
        os.close(handle)


def progress_bar(shown: bool = True, **options) -> tqdm:
    """A bar of tqdm. With ``shown`` it is up to tqdm, which is silent where TQDM_DISABLE is set."""
    return tqdm(**options) if shown else tqdm(**options, disable=True)


# ---------------------------------------------------------------- a run


@dataclass
class Run:
    """What training leaves: the model with the selected weights, and its record.

    ``settings`` are those that were used, defaults filled in. ``history`` has a dict an epoch: stage, round,
    modality, epoch, lr, loss, and by modality and fused the validation accuracies ``valid``, ``valid_macro_f1`` and
    ``valid_map``. ``best_epoch`` counts the epochs from 1, ``why`` says why it is the best. ``results`` holds the
    scores of the selected weights by split: ``run.results["test"]["fused"]["map"]``. ``method`` is the method
    object, e.g. with IGM's moments.
    """

    model: nn.Module
    settings: Settings
    method: Method
    history: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    why: str = ""
    results: dict[str, dict] = field(default_factory=dict)
    status: str = "running"
    wall_seconds: float = 0.0
    sizes: dict[str, int] = field(default_factory=dict)
    device: str = ""
    folder: Path | None = None

    def record(self) -> dict:
        """Everything but the weights, ready for JSON."""
        made = {"versions": versions(), "commit": commit()}
        found = {name: made[name] if name in made else getattr(self, name) for name in FINDINGS}
        return found | {"settings": asdict(self.settings), "sizes": self.sizes}


def new_folder(folder: str | Path, record: Mapping) -> Path:
    """Makes the folder of a run with its run.json in it, both or neither.

    Raises:
        FileExistsError: it is there already; a run is never overwritten.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(
            f"{folder} is there already and is not overwritten: give another folder as --out, "
            f"or go on with it: --resume {folder}"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.partial*"):  # of a crash before
        shutil.rmtree(left)
    nursery = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    nursery.mkdir()
    try:
        write_json(nursery / RECORD, record)
        os.replace(nursery, folder)
    except BaseException:
        shutil.rmtree(nursery, ignore_errors=True)
        raise
    sync(folder.parent)
    return folder


def write_metrics(path: Path, history: Sequence[Mapping]) -> None:
    """The history as a table; an entry that is a dict by prediction gives a column each, such as "valid fused"."""

    rows = []
    for row in history:
        nested = {key: value for key, value in row.items() if isinstance(value, Mapping)}
        columns = {f"{key} {name}": x for key, by in nested.items() for name, x in by.items()}
        rows.append({key: x for key, x in row.items() if key not in nested} | columns)

    def save(name: str) -> None:
        with open(name, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)

    write(path, save)


def read_record(folder: str | Path) -> dict:
    """run.json of a run's folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a run's record.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: give the folder of a run of igm train")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["settings"]["seed"], record["settings"]["method"], record["status"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: it is not the record of a run") from error
    return record


def check_same(folder: Path, record: Mapping, now: Mapping, but: Sequence[str]) -> None:
    """Raises ValueError where a run was begun in another way than ``now``, which is its record as it would begin.

    Args:
        but: settings that may differ.
    """
    now = json.loads(json.dumps(now))  # as a file gives it back: tuples become lists
    given, begun = (
        {name: x for name, x in r.items() if name not in FINDINGS} | r["settings"]
        for r in (now, record)
    )
    for name in given | begun:
        if name not in ("settings", *but) and given.get(name) != begun.get(name):
            raise ValueError(
                f"{folder} was begun with {name} {begun.get(name)}, not {given.get(name)}: give the "
                "same, or begin another run"
            )


def save_checkpoint(folder: Path, state: Mapping) -> None:
    write(folder / CHECKPOINT, lambda name: torch.save(dict(state), name))


def load_checkpoint(folder: Path) -> dict | None:
    """What ``save_checkpoint`` wrote, on the CPU, or None where there is no checkpoint yet.

    Raises:
        ValueError: the file is damaged, or holds more than tensors, numbers and strings.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    with open(path, "rb") as file:  # an error here says nothing about the content
        try:
            # torch.load does not look at the checksums.
            if zipfile.ZipFile(file).testzip() is not None:
                raise ValueError("a checksum is wrong")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or "history" not in state:
                raise ValueError("not a checkpoint of a run")
            return state
        except Exception as error:  # a damaged file can raise anything
            raise foreign(path) from error


def foreign(path: Path) -> ValueError:
    """The error for a checkpoint that cannot be used."""
    return ValueError(
        f"{path} is damaged or was not written by igm train: remove it to begin the run anew"
    )


def save_weights(path: Path, model: nn.Module) -> None:
    """The model's parameters and buffers, those that it holds under several names (a shared head) once.

    ``safetensors.torch.load_model`` reads such a file. Its ``save_model`` would choose another of the names each time.
    """
    named = chain(model.named_parameters(), model.named_buffers())
    once = {name for name, _ in named}
    tensors = {name: x.contiguous() for name, x in model.state_dict().items() if name in once}
    write(path, lambda name: save_file(tensors, name, metadata={"format": "pt"}))


def load_weights(path: Path, model: nn.Module) -> None:
    """Raises ValueError: the file is damaged or missing, or the weights are those of another model."""
    try:
        load_model(model, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{path} is damaged, missing or of another model: restore it, or begin another run"
        ) from error


def clear_checkpoint(folder: Path, keep: str | None = None) -> None:
    """Removes the weights of earlier best epochs and, with nothing to keep, the checkpoint."""
    for path in folder.glob("best-*.safetensors"):
        if path.name != keep:
            path.unlink()
    if keep is None:
        (folder / CHECKPOINT).unlink(missing_ok=True)
        for path in folder.glob("*.partial"):  # of a crash before
            path.unlink()


def versions() -> dict[str, str]:
    """Of the software that decides the numbers."""
    found = {"igm": VERSION, "python": platform.python_version()}
    return found | {"torch": torch.__version__, "numpy": numpy.__version__}


@cache
def commit() -> str | None:
    """The git commit of this code, with "+changes" where the checkout differs from it; None outside a checkout."""
    package = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", package, *words], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):
            return None  # installed inside some other project's checkout
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None
