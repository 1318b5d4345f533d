"""``igm prepare``: from a raw download to the layout that training reads, in parallel, and safe to interrupt.

A preparation is a list of tasks, most often one a clip. Each task writes its files whole or not at all. When it is
done, a line in the journal says so, with the checksums of its files, so that the same command goes on where it was
stopped. What cannot be read is skipped, counted and reported. At the end the annotations are written, of the samples
that are there, then ``report.json`` and ``manifest.json``.
"""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from igm.datasets.media import Unreadable, one_thread
from igm.datasets.output import Output
from igm.runs import CANNOT, progress_bar, write_bytes, write_json

log = logging.getLogger("igm")
FOLDER, JOURNAL = ".prepare", "journal.jsonl"
MANIFEST, REPORT = "manifest.json", "report.json"
PATHS = ("annotations", "images", "lists")  # options that name a folder


class NothingLeft(ValueError):
    """Not one sample of train or test can be used; ``report`` says why."""

    def __init__(self, text: str, report: Mapping):
        super().__init__(text)
        self.report = report


@dataclass(frozen=True)
class Task:
    """Some files to be made from some sources.

    Args:
        name: of the sample, unique.
        work: a function of a module, called in another process as ``work(output, *arguments)``. It writes with
            ``output``, and raises ``Unreadable`` for a source that cannot be used.
        arguments: for ``work``.
        sources: the files that it reads; it is done again when one has changed.
    """

    name: str
    work: Callable
    arguments: tuple
    sources: tuple[Path, ...]


class Preparation:
    """One ``igm prepare``, used as a context manager, which holds the lock of the output folder.

    Args:
        data: the name of the data set.
        raw, out: the folders.
        options: those of the data set; a preparation is resumed only with the same.
        workers: processes; by default one a core.
        strict: a sample that cannot be used is an error, not a skip.
        follow_links: read files that symbolic links bring in from outside the raw folder.

    Raises:
        FileNotFoundError: there is no raw folder.
        FileExistsError: the output folder holds something else, or another preparation is at work in it.
        OSError: it cannot be written to.
    """

    def __init__(
        self,
        data: str,
        raw: str | Path,
        out: str | Path,
        options: Mapping | None = None,
        workers: int | None = None,
        strict: bool = False,
        follow_links: bool = False,
        progress: bool = True,
    ):
        self.data, self.raw, self.out = data, Path(raw), Path(out)
        self.options = dict(options or {})
        self.workers = workers or os.cpu_count() or 1
        self.strict, self.follow_links, self.progress = strict, follow_links, progress
        self.skipped: dict[str, str] = {}  # sample -> why
        self.files: dict[str, dict] = {}
        self.counts: dict[str, Counter] = {}  # split -> class -> samples
        self.tables: dict[str, tuple[str, str]] = {}  # split -> name and content of its annotations
        self.notes: list[str] = []
        self.done: dict[str, dict] = {}  # what the journal says
        self._lock = FileLock(self.out / FOLDER / "lock")

    def __enter__(self) -> Preparation:
        if not self.raw.is_dir():
            raise FileNotFoundError(f"the raw folder {self.raw} is not there: give an existing one")
        raw, out = self.raw.resolve(), self.out.resolve()
        if raw == out or out in raw.parents:
            raise ValueError(f"{self.out} holds the raw data: give another folder to write to")
        if self.out.exists() and not self.out.is_dir():
            raise FileExistsError(f"{self.out} is a file: give a folder to write to")
        foreign = self.out.is_dir() and any(self.out.iterdir())
        if foreign and not (self.out / FOLDER / JOURNAL).is_file():
            raise FileExistsError(
                f"{self.out} is not empty and was not begun by igm prepare: give a new folder"
            )
        try:
            (self.out / FOLDER).mkdir(parents=True, exist_ok=True)
            self._acquire()
            self._begin()
        except OSError as error:
            self._lock.release()
            if isinstance(error, FileExistsError):
                raise
            raise OSError(
                f"cannot write to {self.out}: {error.strerror or error}: give a folder that you may "
                "write to"
            ) from None
        return self

    def __exit__(self, *_) -> None:
        self._lock.release()

    def _acquire(self) -> None:
        """Takes the lock, where the file system has locks: not every NFS and Lustre has."""
        try:
            self._lock.acquire(timeout=0)
            return
        except Timeout:
            if self._has_locks():
                text = f"another igm prepare is at work in {self.out}: wait"
                raise FileExistsError(text) from None
        except (OSError, NotImplementedError) as error:
            if getattr(error, "errno", errno.ENOSYS) not in CANNOT:
                raise
        log.warning("%s has no file locks: let no other igm prepare work in it", self.out)

    def _has_locks(self) -> bool:
        """Can a file be locked that nobody else knows? Where none can, filelock before 4 says that somebody holds it."""
        trial = self.out / FOLDER / f"lock-{os.getpid()}"
        try:
            with FileLock(trial, timeout=0):
                return True
        except Timeout:
            return False
        finally:
            trial.unlink(missing_ok=True)

    # ---------------------------------------------------------------- for the data sets

    def source(self, path: Path) -> Path:
        """A file or folder of the raw data.

        Raises:
            Unreadable: it is missing, or a symbolic link leads out of the raw folder.
        """
        if not path.exists():
            raise Unreadable(path, "is missing")
        if not self.follow_links:
            home = path.resolve()
            if self.raw.resolve() not in home.parents:
                raise Unreadable(
                    path, "is a link out of the raw folder: allow it with --follow_links true"
                )
        return path

    def skip(self, name: str, why: str) -> None:
        """Notes a sample that is left out, and why; with ``strict`` that is a ValueError."""
        if self.strict:
            raise ValueError(f"{name}: {why}")
        self.skipped[name] = why

    def note(self, text: str) -> None:
        """A line for the report."""
        self.notes.append(text)

    def run(self, tasks: Sequence[Task]) -> set[str]:
        """Does the tasks that are not done yet; returns the names of those whose files are there."""
        made, todo = set(), []
        for task in tasks:
            entry = self.done.get(task.name)
            if entry and entry["stamps"] == _stamps(task.sources) and self._there(entry):
                self._take(task.name, entry, made)
            else:
                todo.append(task)
        bar = progress_bar(
            self.progress,
            total=len(tasks),
            initial=len(tasks) - len(todo),
            desc=f"prepare {self.data}",
            unit="sample",
        )
        journal = open(self.out / FOLDER / JOURNAL, "ab", buffering=0)  # noqa: SIM115
        with journal, bar, one_thread():
            for task, entry in self._results(todo):
                line = (json.dumps(entry) + "\n").encode()
                try:
                    if journal.write(line) < len(line):
                        raise OSError(errno.ENOSPC, "no room for the whole line")
                except OSError as error:
                    raise OSError(
                        f"cannot write {journal.name}: {error.strerror}: make room; the same command "
                        "goes on from here"
                    ) from error
                self._take(task.name, entry, made)
                bar.update()
        return made

    def annotations(self, split: str, name: str, content: str, labels: Sequence[str]) -> None:
        """The annotations of a split, to be written at the end, and the class of each of its samples.

        Args:
            name: of the file, with {} for the split.
        """
        self.tables[split] = (name, content)
        self.counts[split] = Counter(labels)

    def finish(self) -> dict:
        """Writes the annotations, the report and the manifest; returns the report.

        Raises:
            NothingLeft: train or test has not one sample; then nothing of this is written.
        """
        if self.counts.get("valid", True) == Counter():
            del self.counts["valid"], self.tables["valid"]
            self.note("valid: not one sample can be used: a share of train will be held out for it")
        report = {
            "data": self.data,
            "options": self.options,
            "counts": {split: dict(sorted(c.items())) for split, c in self.counts.items()},
            "files": len(self.files) + len(self.tables),
            "bytes": sum(entry["bytes"] for entry in self.files.values()),
            "skipped": dict(sorted(self.skipped.items())),
            "notes": self.notes,
        }
        for split in ("train", "test"):
            if not self.counts.get(split):
                why = "its annotations have no row"
                if self.skipped:
                    first = next(iter(self.skipped.values()))
                    why = f"in all {len(self.skipped):,} samples are skipped, e.g. {first}"
                text = f"no sample of the {split} split could be used from {self.raw}: {why}"
                raise NothingLeft(text, report)
        output, (of_train, _) = Output(self.out), self.tables["train"]
        for split, (name, content) in self.tables.items():
            output.file(name.format(split), content.encode())
        if "valid" not in self.tables and "{}" in of_train:  # that of an earlier run
            (self.out / of_train.format("valid")).unlink(missing_ok=True)
        self.files |= output.files
        report["bytes"] += sum(entry["bytes"] for entry in output.files.values())
        write_json(
            self.out / MANIFEST, {"data": self.data, "files": dict(sorted(self.files.items()))}
        )
        write_json(self.out / REPORT, report)
        return report

    # ---------------------------------------------------------------- the journal

    def _begin(self) -> None:
        journal = self.out / FOLDER / JOURNAL
        head = {"data": self.data, "options": self.options}
        if not journal.is_file():
            write_bytes(journal, (json.dumps(head) + "\n").encode())
            return
        text = journal.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):  # cut off by a crash
            write_bytes(journal, text[: text.rfind("\n") + 1].encode())
        lines = []
        for line in text.splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
        if len(lines) < 2:  # nothing was done yet
            write_bytes(journal, (json.dumps(head) + "\n").encode())
            return
        if _resolved(lines[0]) != _resolved(head):
            begun = {k: lines[0].get(k) for k in head}
            raise FileExistsError(
                f"{self.out} was begun as {begun}, not as {head}: give the same options or a new folder"
            )
        self.done = {entry["task"]: entry for entry in lines[1:] if "task" in entry}

    def _there(self, entry: Mapping) -> bool:
        for relative, file in entry["files"].items():
            path = self.out / relative
            if not path.is_file() or path.stat().st_size != file["bytes"]:
                return False
        return True

    def _take(self, name: str, entry: Mapping, made: set[str]) -> None:
        self.files |= entry["files"]
        if entry["skipped"]:
            self.skip(name, entry["skipped"])
        else:
            made.add(name)

    # ---------------------------------------------------------------- the processes

    def _results(self, todo: Sequence[Task]):
        """(task, its line for the journal) as they are done."""
        if self.workers == 1 or len(todo) < 2:
            for task in todo:
                yield task, _perform(self.out, task)
            return
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        pool = ProcessPoolExecutor(self.workers, context, initializer=_worker)
        waiting, queue = {}, iter(todo)
        try:
            while True:
                while len(waiting) < 4 * self.workers and (task := next(queue, None)) is not None:
                    waiting[pool.submit(_perform, self.out, task)] = task
                if not waiting:
                    break
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool:
            names = ", ".join(sorted(task.name for task in waiting.values())[:8])
            raise OSError(
                f"a worker died at one of {names} ...: if memory ran out, go on with fewer --workers; if it "
                "happens again there, the file makes the decoder crash: remove it"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def report_text(report: Mapping) -> str:
    """The report in words."""
    lines = [f"{'split':8}{'samples':>9}  by class"]
    for split, counts in report["counts"].items():
        classes = ", ".join(f"{name} {n:,}" for name, n in counts.items())
        lines.append(f"{split:8}{sum(counts.values()):>9,}  {classes}")
    lines += [f"note: {note}" for note in report["notes"]]
    skipped = report["skipped"]
    lines += [f"skipped: {name}: {why}" for name, why in list(skipped.items())[:20]]
    if len(skipped) > 20:
        lines.append(f"skipped: ... and {len(skipped) - 20:,} more, see {REPORT}")
    lines.append(f"{len(skipped):,} samples skipped")
    return "\n".join(lines)


def _perform(out: Path, task: Task) -> dict:
    output, skipped = Output(out), None
    stamps = _stamps(task.sources)
    try:
        task.work(output, *task.arguments)
    except Unreadable as error:
        skipped = str(error)
    return {"task": task.name, "stamps": stamps, "files": output.files, "skipped": skipped}


def _resolved(head: Mapping) -> dict:
    """The head of a journal, with one path for each folder, however it was spelled."""
    options = {
        name: os.path.realpath(value) if name in PATHS and value is not None else value
        for name, value in head.get("options", {}).items()
    }
    return json.loads(json.dumps({"data": head.get("data"), "options": options}))


def _stamps(sources: Sequence[Path]) -> list:
    stamps = []
    for path in sources:
        try:
            status = os.stat(path)
            stamps.append([status.st_size, status.st_mtime_ns])
        except OSError:
            stamps.append(None)
    return stamps


def _worker() -> None:
    """Prepares each worker: OpenCV takes one thread, and the worker ends when the main process is gone, even killed."""
    import cv2  # an ImportError here would only say that a worker died: ``run`` has loaded it before

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process
    cv2.setNumThreads(1)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
