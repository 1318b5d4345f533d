"""runs.py and the loop's checkpoints: whatever ends a run, resuming it loses nothing.

The processes that are killed here are forked from this one, so that torch is loaded once.
"""

import csv
import json
import math
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from shutil import copytree
from threading import RLock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, load_model
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

import igm
from igm import LateFusion, Unimodal, evaluate, paper_head, runs, train
from igm.datasets.memory import MemorySet
from igm.methods import Alternating

resource = pytest.importorskip("resource", reason="needs the processes and limits of Unix")

SHORT = dict(stage_epochs=[2, 1, 1, 1])  # five epochs, in which fou and kar take turns
LONG = dict(stage_epochs=[9, 3, 2, 2], seed=1)  # sixteen
RUNS = {  # IGM, in settings that between them put everything into a checkpoint that there is
    "igm": dict(variant="igm", momentum=0.9),
    "released": dict(variant="released", momentum=0.9),  # restart, from_best, mixup
    "paper": dict(variant="paper", momentum=0.9),  # cumulative
    "adam": dict(variant="igm", optimizer="adam", schedule="plateau", lr_factor=0.5, lr=0.03),
    "augmented": dict(variant="igm", schedule="step", milestones=[1, 4]),
}


@pytest.fixture(scope="module")
def data(mfeat):
    data = {split: dataset.subset(range(60)) for split, dataset in mfeat.items()}
    run = train(network(data), data, epochs=1, rounds=1, progress=False, device="cpu")
    run.record()  # so that this process has loaded and looked up all that the children need
    return data


def mislabelled(samples: MemorySet) -> MemorySet:
    return MemorySet(samples.inputs, (samples.labels + 1) % 10, samples.classes, samples.index)


def network(data) -> LateFusion:
    """A small model with batch normalisation and dropout, and one head for both views."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = paper_head(16, 10)
        return LateFusion({name: Unimodal(_encoder(*s), head) for name, s in _shapes(data)})


def _shapes(data):
    return getattr(data["train"], "samples", data["train"]).shapes.items()


def _encoder(size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))


class Augmented(Dataset):
    """Samples that are scaled and shifted at random, by the generators that every library shares."""

    def __init__(self, samples: MemorySet):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        sample = self.samples[i]
        for name in ("fou", "kar"):
            shift = np.random.normal(0, 0.3, sample[name].shape)  # noqa: NPY002
            sample[name] = sample[name] * random.uniform(0.8, 1.2) + torch.from_numpy(shift).float()
        return sample


def go(folder: Path, data, method="igm", **settings) -> igm.Run:
    """Begins the run in ``folder``, or goes on with it."""
    settings = dict(batch_size=16, lr=0.1, progress=False, device="cpu") | SHORT | settings
    return train(network(data), data, method, out=folder, resume=True, **settings)


def outcome(folder: Path) -> dict:
    """What a run left, each weight as its bytes; but for the time that it took and the state of the checkout."""
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "complete"
    del record["wall_seconds"], record["commit"]
    weights = load_file(folder / "model.safetensors").items()
    return {"record": record} | {name: w.numpy().tobytes() for name, w in weights}


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def saved(folder: Path) -> list[dict]:
    """The history in the checkpoint of a run."""
    state = runs.load_checkpoint(folder)
    return state["history"] if state else []


def fork(work: Callable[[], object]) -> int:
    """Begins ``work()`` in a child; returns its process number."""
    child = os.fork()
    if child == 0:
        try:
            tqdm.set_lock(RLock())  # its own is shared with the parent, which a dead child can lock
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def ended(child: int) -> int:
    """Waits for a child. Returns how it ended: 0, or minus the signal that killed it."""
    deadline = time.monotonic() + 120
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError("the child hangs")
        time.sleep(0.002)


def watch_files(act: Callable[[tuple, Callable], None]) -> None:
    """From here on in this process ``act(deed, do)`` stands for each renaming or removal of a file.

    ``deed`` says which: ("replace", "checkpoint.pt", 3), the third. ``do()`` does it.
    """
    times = Counter()

    def watched(name: str, original: Callable):
        def stand_in(*paths, **options):
            key = name, Path(paths[-1]).name
            times[key] += 1
            act((*key, times[key]), lambda: original(*paths, **options))

        return stand_in

    for name in ("replace", "unlink"):
        setattr(os, name, watched(name, getattr(os, name)))


def lives_until(deed: tuple, before: bool, work: Callable[[], object]) -> None:
    """Runs ``work()`` in a child that is killed right before or right after one deed."""

    def act(this, do):
        if this == deed and before:
            os.kill(os.getpid(), signal.SIGKILL)
        do()
        if this == deed:
            os.kill(os.getpid(), signal.SIGKILL)

    def life():
        watch_files(act)
        work()

    assert ended(fork(life)) == -signal.SIGKILL, f"was not killed {deed}"


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """whole(**settings): the folder of a run that nothing interrupted, and its deeds on files in order."""
    known = {}

    def run(data=data, **settings):
        key = repr(([id(dataset) for dataset in data.values()], settings))
        if key not in known:
            folder = tmp_path_factory.mktemp("whole") / "run"
            notes = folder.with_name("deeds.json")
            deeds = []

            def life():
                watch_files(lambda deed, do: (deeds.append(deed), do()))
                go(folder, data, **settings)
                notes.write_text(json.dumps(deeds))

            assert ended(fork(life)) == 0
            deeds = [tuple(deed) for deed in json.loads(notes.read_text())]
            known[key] = folder, deeds, data  # kept, so that its id stays its own
        return known[key][:2]

    return run


@pytest.fixture(scope="module")
def third_epoch(data, tmp_path_factory):
    """The folder of a run that was killed in its fourth epoch."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    lives_until(("replace", "checkpoint.pt", 4), True, lambda: go(folder, data))
    return folder


@pytest.fixture
def interrupted(third_epoch, tmp_path):
    """A copy of it, which a test may change."""
    return copytree(third_epoch, tmp_path / "run")


# ---------------------------------------------------------------- killed


@pytest.mark.parametrize("name", ["igm", "released", "paper"])
def test_a_run_killed_around_any_file_ends_as_if_nothing_had_happened(whole, data, tmp_path, name):
    moments = (True, False) if name == "igm" else (True,)
    folder, deeds = whole(**RUNS[name])
    third = deeds.index(("replace", "checkpoint.pt", 3))
    last = deeds.index(("replace", "checkpoint.pt", 4)) + 1
    assert len(deeds[:third]) >= 7 and len(deeds[last:]) >= 6
    for number, deed in enumerate(deeds[:third] + deeds[last:]):
        for before in moments:
            again = tmp_path / f"{number}-{before}" / "run"
            lives_until(deed, before, lambda again=again: go(again, data, **RUNS[name]))
            go(again, data, **RUNS[name])
            assert outcome(again) == outcome(folder), f"killed {before=} {deed}"


@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_at_random_again_and_again_ends_the_same(whole, data, tmp_path, name):
    settings = RUNS[name] | LONG
    if name == "adam":
        data = data | {"valid": mislabelled(data["valid"])}  # where nothing gets better for long
    if name == "augmented":
        data = data | {"train": Augmented(data["train"])}
    reference, _ = whole(data, **settings)
    if name == "adam":
        assert len({row["lr"] for row in outcome(reference)["record"]["history"]}) > 1

    seed = random.SystemRandom().randrange(10**6)
    draw = random.Random(seed)
    folder, epochs = tmp_path / "run", []
    while dies_after(draw.randrange(100_000), lambda: go(folder, data, **settings)):
        if folder.is_dir():
            check_that_nothing_is_half_written(folder)
            epochs.append(reached(folder))
    assert outcome(folder) == outcome(reference), f"seed {seed}, killed in epochs {epochs}"
    assert len(epochs) >= 10, f"seed {seed}"
    assert len(set(epochs)) >= 5, f"seed {seed}"
    assert epochs == sorted(epochs), f"seed {seed}"


def dies_after(calls: int, work: Callable[[], object]) -> bool:
    """Runs ``work()`` in a child that is killed after some calls of functions (an epoch has about 25,000).

    Was it killed before it was done?
    """
    left = count(calls, -1)

    def profile(frame, event, function):
        if event in ("call", "c_call") and not next(left):
            os.kill(os.getpid(), signal.SIGKILL)

    def life():
        sys.setprofile(profile)
        work()
        sys.setprofile(None)

    code = ended(fork(life))
    assert code in (0, -signal.SIGKILL)
    return code != 0


def check_that_nothing_is_half_written(folder: Path) -> None:
    """Every file of a run that stands under its own name is a whole one, and what the next life needs is there."""
    status = runs.read_record(folder)["status"]
    assert status in ("running", "complete")
    if status == "complete":  # killed while it tidied up: the checkpoint may be half gone
        assert (folder / "model.safetensors").exists()
    elif (folder / "checkpoint.pt").exists():
        state = runs.load_checkpoint(folder)
        assert (folder / f"best-{state['best_epoch']:04}.safetensors").exists()
    for path in folder.glob("*.safetensors"):
        load_model(network({"train": Shapes}), path)
    if (folder / "metrics.csv").exists():
        assert all(None not in row.values() for row in read_table(folder / "metrics.csv"))


def reached(folder: Path) -> int:
    """The epochs that a killed run need not do again."""
    record = runs.read_record(folder)
    return len(record["history"] if record["status"] == "complete" else saved(folder))


class Shapes:
    shapes = {"fou": (76,), "kar": (64,)}


def test_nothing_but_the_files_of_a_run_is_left_however_it_was_killed(whole, data, tmp_path):
    folder, deeds = whole()
    last = deeds.index(("replace", "checkpoint.pt", 4)) + 1
    epochs = []
    for number, deed in enumerate(deeds[:3] + deeds[last:]):
        for before in (True, False):
            again = tmp_path / f"{number}-{before}" / "run"
            lives_until(deed, before, lambda again=again: go(again, data))
            if again.is_dir():
                check_that_nothing_is_half_written(again)
                epochs.append(reached(again))
            go(again, data)
            killed = f"killed {before=} {deed}"
            assert files(again).keys() == files(folder).keys(), killed
            assert files(again)["metrics.csv"] == files(folder)["metrics.csv"], killed
            assert [f.name for f in again.parent.iterdir()] == ["run"], killed
    assert epochs == sorted(epochs)
    assert set(epochs) == {0, 4, 5}


def test_the_scores_are_the_same_where_the_data_of_all_splits_are_random(whole, data, tmp_path):
    data = {split: Augmented(dataset) for split, dataset in data.items()}
    folder, _ = whole(data)
    again = tmp_path / "run"
    lives_until(("replace", "model.safetensors", 1), True, lambda: go(again, data))
    assert len(saved(again)) == 5
    go(again, data)
    assert outcome(again) == outcome(folder)


def test_a_resumed_run_is_the_run_object_of_an_uninterrupted_one(whole, interrupted, data):
    run = go(interrupted, data)
    record = json.loads((interrupted / "run.json").read_text())
    assert record == run.record()
    whole_run = outcome(whole()[0])["record"]
    assert (run.history, run.results) == (whole_run["history"], whole_run["results"])
    assert (run.best_epoch, run.why) == (whole_run["best_epoch"], whole_run["why"])
    assert evaluate(run.model, data["test"]) == run.results["test"]
    assert not run.model.training
    assert set(run.method.covariances) == {"fou", "kar"}


def test_resuming_what_is_not_there_begins_it(whole, data, tmp_path):
    settings = dict(batch_size=16, lr=0.1, progress=False, device="cpu") | SHORT
    train(network(data), data, "igm", out=tmp_path / "plain", **settings)
    go(tmp_path / "deep" / "run", data)
    assert outcome(tmp_path / "deep" / "run") == outcome(tmp_path / "plain") == outcome(whole()[0])


def test_the_file_of_the_weights_is_the_same_byte_by_byte(whole, data, tmp_path):
    go(tmp_path / "run", data)
    assert files(tmp_path / "run")["model.safetensors"] == files(whole()[0])["model.safetensors"]


def test_the_metrics_are_at_most_one_epoch_from_the_checkpoint(data, tmp_path):
    folder = tmp_path / "run"
    for times in (2, 1, 1):  # in the second epoch, the third, the fourth
        death = ("replace", "checkpoint.pt", times)
        lives_until(death, False, lambda: go(folder, data))
    rows, epochs = len(read_table(folder / "metrics.csv")), len(saved(folder))
    assert epochs == 4
    assert rows in (epochs - 1, epochs, epochs + 1)


# ---------------------------------------------------------------- a full disk


@pytest.mark.parametrize(
    "deed",
    [
        ("replace", "checkpoint.pt", 3),
        ("replace", "best", 1),
        ("replace", "metrics.csv", 3),
        ("replace", "model.safetensors", 1),
        ("replace", "run.json", 2),
    ],
    ids=lambda deed: deed[1],
)
def test_a_full_disk_is_one_error_and_the_run_can_go_on(whole, data, tmp_path, deed):
    reference, deeds = whole()
    if deed[1] == "best":  # the best weights of a later epoch than the first
        deed = [d for d in deeds if d[0] == "replace" and d[1].startswith("best")][1]
    epochs = sum(d[1] == "checkpoint.pt" and d[0] == "replace" for d in deeds[: deeds.index(deed)])
    assert epochs > 0
    folder = tmp_path / "run"
    error = fails_for_want_of_room(folder, data, deeds[deeds.index(deed) - 1])
    assert error.startswith(f"OSError: cannot write {folder / deed[1]}: ")
    assert "Make room" in error and "\n" not in error
    assert not list(tmp_path.rglob("*.partial"))
    assert len(saved(folder)) == epochs
    check_that_nothing_is_half_written(folder)
    go(folder, data)
    assert outcome(folder) == outcome(reference)


def test_a_disk_that_was_full_before_the_run_is_left_as_it_was(data, tmp_path):
    error = fails_for_want_of_room(tmp_path / "run", data, None)
    assert error.startswith("OSError: cannot write ") and "run.json: " in error
    assert [f.name for f in tmp_path.iterdir()] == ["error"]


def fails_for_want_of_room(folder: Path, data, last: tuple | None) -> str:
    """The error of a run for which, after its ``last`` deed on files, no file can be longer than 100 bytes."""
    error = folder.with_name("error")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1]))

    def act(deed, do):
        do()
        if deed == last:
            limit()

    def life():
        watch_files(act)
        if last is None:
            limit()
        try:
            go(folder, data)
        except Exception as caught:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
            error.write_text(f"{type(caught).__name__}: {caught}")

    assert ended(fork(life)) == 0
    return error.read_text()


# ---------------------------------------------------------------- damaged files


class Trap:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def damaged_checkpoints(whole: bytes) -> dict[str, bytes]:
    noise = random.Random(0)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    shorter = {f"cut to {i} %": whole[: len(whole) * i // 100] for i in range(0, 100, 5)}
    random_bytes = {f"random {i}": noise.randbytes(i) for i in (1, 10, 100, 1000, 10_000)}
    opcodes = {f"pickle of {i}": b"\x80\x02" + bytes([i]) + b"." for i in range(256)}
    return shorter | random_bytes | opcodes | {"one bit flipped": bytes(flipped)}


def test_a_damaged_checkpoint_is_refused_by_name(interrupted, data):
    path = interrupted / "checkpoint.pt"
    for damage, content in damaged_checkpoints(path.read_bytes()).items():
        path.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            runs.load_checkpoint(interrupted)
        assert str(caught.value).startswith(f"{path} is damaged"), damage
    with pytest.raises(ValueError, match=f"{path} is damaged .*: remove it to begin the run anew"):
        go(interrupted, data)


def test_a_good_checkpoint_that_cannot_be_read_just_now_is_not_called_damaged(interrupted):
    said = interrupted.with_name("said")
    unlimited = resource.getrlimit(resource.RLIMIT_NOFILE)

    def life():
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, unlimited[1]))  # no more files can be opened
        try:
            runs.load_checkpoint(interrupted)
        except Exception as error:
            resource.setrlimit(resource.RLIMIT_NOFILE, unlimited)
            said.write_text(f"{type(error).__name__}: {error}")

    assert ended(fork(life)) == 0
    assert said.read_text().startswith("OSError: [Errno 24] Too many open files: ")
    assert str(interrupted / "checkpoint.pt") in said.read_text()


def test_without_the_damaged_checkpoint_the_run_begins_anew(whole, interrupted, data):
    (interrupted / "checkpoint.pt").unlink()
    go(interrupted, data)
    assert outcome(interrupted) == outcome(whole()[0])


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_a_checkpoint_cannot_run_code(interrupted, data, tmp_path, kind):
    path, trap = interrupted / "checkpoint.pt", Trap(tmp_path / "marker")
    state = runs.load_checkpoint(interrupted) | {"why": trap}
    if kind == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state, protocol=2))
    with pytest.raises(ValueError, match=f"{path} is damaged or was not written by igm train"):
        go(interrupted, data)
    assert not trap.marker.exists()
    pickle.loads(pickle.dumps(trap))  # the trap works
    assert trap.marker.exists()


@pytest.mark.parametrize(
    "content", [{"weights": torch.zeros(3)}, [1, 2], "another model"], ids=["dict", "list", "model"]
)
def test_the_checkpoint_of_something_else_is_refused_by_name(interrupted, data, content):
    path = interrupted / "checkpoint.pt"
    if content == "another model":
        state = runs.load_checkpoint(interrupted)
        content = state | {"model": nn.Linear(3, 3).state_dict()}
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"{path} .*: remove it to begin the run anew"):
        go(interrupted, data)


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(p.read_bytes()[:999]), Path.unlink])
def test_damaged_best_weights_are_refused_by_name(interrupted, data, damage):
    best = runs.load_checkpoint(interrupted)["best_epoch"]
    path = interrupted / f"best-{best:04}.safetensors"
    damage(path)
    with pytest.raises(ValueError, match=f"{path} is damaged, missing or of another model"):
        go(interrupted, data)


def test_damaged_weights_of_a_complete_run_are_refused_by_name(whole, data, tmp_path):
    path = copytree(whole()[0], tmp_path / "run") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:999])
    with pytest.raises(ValueError, match=f"{path} is damaged, missing or of another model"):
        go(path.parent, data)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"status": "running", "settings": {"method": "igm", "se',
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'{"name": "something else"}',
        b'{"settings": {"lr": 0.1}}',
        b'{"settings": {"seed": 0}}',
    ],
)
def test_a_damaged_or_foreign_record_is_refused_by_name(interrupted, data, content):
    path = interrupted / "run.json"
    path.write_bytes(content)
    for use in (lambda: runs.read_record(interrupted), lambda: go(interrupted, data)):
        with pytest.raises(ValueError, match=f"{path} is damaged: it is not the record of a run"):
            use()
    assert path.read_bytes() == content
    assert len(saved(interrupted)) == 3


# ---------------------------------------------------------------- losses that are not finite


class Poison(torch.autograd.Function):
    """y = x, whose gradient is NaN."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


class Failing(Alternating):
    """Alternating training in which one step has a NaN in its loss, or in its gradient only."""

    at: int | None = None  # counted from 1, 4 steps an epoch
    poison = staticmethod(Poison.apply)

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = []  # the samples of each step

    def loss(self, stage, batch):
        self.seen.append(batch["index"].tolist())
        self.last = self
        loss = super().loss(stage, batch)
        return self.poison(loss) if len(self.seen) == self.at else loss


@pytest.fixture
def fails(data, monkeypatch):
    """fails(folder, at, poison): the error of a run whose step ``at`` is not finite, and the samples of its steps."""

    def run(folder, at, poison=Poison.apply, **settings):
        steps = []

        class Noted(Failing):
            def loss(self, stage, batch):
                steps.append(batch["index"].tolist())
                return super().loss(stage, batch)

        Noted.__name__ = "Failing"  # it can be resumed as Failing, which then does not fail
        Noted.at, Noted.poison = at, staticmethod(poison)
        with pytest.raises(FloatingPointError) as caught:
            go(folder, data, Noted, **settings)
        return str(caught.value), steps

    return run


def samples_in(message: str) -> list[list[int]]:
    return [json.loads(found) for found in re.findall(r"\[[\d, ]*\]", message)]


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(whole, fails, data, tmp_path):
    folder = tmp_path / "run"
    message, steps = fails(folder, 4 * 3 + 2, lambda loss: loss * math.nan)
    assert "the loss of fou became nan in epoch 3, on the samples" in message
    assert samples_in(message) == [steps[-1]]
    assert len(steps) == 14
    assert f"The last good checkpoint is {folder / 'checkpoint.pt'}, of epoch 3" in message
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == f"failed: {message}"
    assert len(record["history"]) == len(saved(folder)) == 3
    weights = runs.load_checkpoint(folder)["model"].values()
    assert all(torch.isfinite(w).all() for w in weights)

    go(folder, data, Failing)  # it was the machine's fault
    go(tmp_path / "whole", data, Failing)
    assert outcome(folder) == outcome(tmp_path / "whole")


def test_in_the_first_epoch_there_is_no_checkpoint_to_name(fails, tmp_path):
    message, steps = fails(tmp_path / "run", 2, lambda loss: loss * math.inf)
    assert "the loss of fou became inf in epoch 1" in message
    assert "checkpoint" not in message
    assert saved(tmp_path / "run") == []


def test_a_gradient_that_is_not_finite_is_seen_in_the_next_loss(fails, tmp_path):
    message, steps = fails(tmp_path / "run", 4 * 3 + 2)
    assert "the loss of fou became nan in epoch 3" in message
    assert len(steps) == 15
    assert samples_in(message) == [steps[14]]


@pytest.mark.parametrize("epoch", [3, 4, 5])
def test_a_gradient_that_is_not_finite_in_the_last_step_of_an_epoch(fails, tmp_path, epoch):
    folder = tmp_path / "run"
    message, steps = fails(folder, 4 * epoch, select="last")
    assert "the weights of" in message and samples_in(message) == [steps[4 * epoch - 1]]
    assert f"of epoch {epoch - 1}" in message
    assert len(saved(folder)) == epoch - 1
    weights = runs.load_checkpoint(folder)["model"].values()
    assert all(torch.isfinite(w).all() for w in weights)


# ---------------------------------------------------------------- the record


def test_the_record_is_there_from_the_beginning(data, tmp_path):
    folder = tmp_path / "run"
    lives_until(("replace", "run", 1), False, lambda: go(folder, data, notes={"by": "me"}))
    assert [f.name for f in folder.iterdir()] == ["run.json"]
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["by"]) == ("running", "me")
    assert (record["history"], record["results"]) == ([], {})
    check_how_it_was_made(record)


def test_the_record_at_the_end(whole, data):
    folder, _ = whole()
    record = json.loads((folder / "run.json").read_text())
    check_how_it_was_made(record)
    assert record["status"] == "complete"
    assert [row["modality"] for row in record["history"]] == ["fou", "fou", "kar", "fou", "kar"]
    fused = [row["valid"]["fused"] for row in record["history"]]
    best = fused.index(max(fused))
    row = record["history"][best]
    assert record["best_epoch"] == best + 1
    assert record["why"] == (
        f"the highest fused accuracy on the valid split, {max(fused):.4f}, first in epoch {best + 1}: "
        f"{row['modality']}, round {row['round'] + 1}"
    )
    assert list(record["results"]) == ["valid", "test"]
    assert record["wall_seconds"] > 0


def check_how_it_was_made(record: dict) -> None:
    settings = record["settings"]
    assert settings["modalities"] == ["fou", "kar"]
    filled = ("tau", "rho", "statistic", "fusion", "score", "restart", "from_best", "precision")
    assert [settings[name] for name in filled] == [
        20.0, 0.02, "sample", "mean", "accuracy", False, False, "no"
    ]  # fmt: skip
    assert (settings["lr"], settings["stage_epochs"]) == (0.1, [2, 1, 1, 1])
    assert record["sizes"] == {"train": 60, "valid": 60, "test": 60}
    assert record["versions"] == {
        "igm": igm.__version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    assert re.fullmatch(r"1 x cpu \(.+, 1 threads\)", record["device"])


def test_the_commit_is_that_of_the_checkout(interrupted, data):
    runs.commit.cache_clear()
    commit = runs.commit()
    git = ["git", "-C", str(Path(igm.__file__).parent)]
    try:
        listed = subprocess.run([*git, "ls-files", "train.py"], capture_output=True, check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        listed = None
    if listed is None or not listed.stdout:
        assert commit is None
    else:
        assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", commit)
        assert commit[:40] == head.strip()
    go(interrupted, data)
    assert json.loads((interrupted / "run.json").read_text())["commit"] == commit


def read_table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("select", ["best", "test"])
def test_the_metrics_are_the_history(data, tmp_path, select):
    run = go(tmp_path / "run", data, select=select)
    table = read_table(tmp_path / "run" / "metrics.csv")
    assert len(table) == len(run.history) == 5
    scores = [
        f"{split}{s}" for split in {"valid", select} - {"best"} for s in ("", "_macro_f1", "_map")
    ]
    for line, row in zip(table, run.history):
        flat = {k: row[k] for k in ("stage", "round", "modality", "epoch", "lr", "loss")}
        flat |= {f"{s} {name}": row[s][name] for s in scores for name in ("fou", "kar", "fused")}
        assert line == {name: str(value) for name, value in flat.items()}


def test_the_seconds_add_up_over_a_resumption(interrupted, data):
    state = runs.load_checkpoint(interrupted)
    assert 0 < state["wall_seconds"] < 60
    runs.save_checkpoint(interrupted, state | {"wall_seconds": 1000.0})
    started = time.monotonic()
    run = go(interrupted, data)
    elapsed = time.monotonic() - started
    assert 1000 < run.wall_seconds < 1000 + elapsed
    record = json.loads((interrupted / "run.json").read_text())
    assert record["wall_seconds"] == pytest.approx(run.wall_seconds, abs=0.01)


def test_a_run_that_goes_on_after_a_failure_says_that_it_is_running(fails, data, tmp_path):
    folder = tmp_path / "run"
    fails(folder, 4 * 3 + 2)
    lives_until(("replace", "checkpoint.pt", 1), False, lambda: go(folder, data, Failing))
    assert json.loads((folder / "run.json").read_text())["status"] == "running"


# ---------------------------------------------------------------- the choice


def test_select_test_is_an_oracle_and_says_so(data, tmp_path, caplog):
    data = data | {"valid": mislabelled(data["valid"])}  # on which it gets worse with every epoch
    run = go(tmp_path / "oracle", data, select="test", **LONG)
    assert len(caplog.records) == 1 and caplog.records[0].levelname == "WARNING"
    assert "the test scores are no fair estimate" in caplog.text
    assert "on the test split" in run.why
    fused = [row["test"]["fused"] for row in run.history]
    assert run.best_epoch == fused.index(max(fused)) + 1
    assert run.results["test"]["fused"]["accuracy"] == max(fused)

    caplog.clear()
    honest = go(tmp_path / "honest", data, select="best", **LONG)
    assert honest.best_epoch < run.best_epoch
    assert "on the valid split" in honest.why
    assert not caplog.records
    assert all("test" not in row for row in honest.history)
    other = data | {"test": mislabelled(data["test"])}
    blind = go(tmp_path / "blind", other, select="best", **LONG)
    assert (blind.history, blind.best_epoch) == (honest.history, honest.best_epoch)
    blind_file, honest_file = outcome(tmp_path / "blind"), outcome(tmp_path / "honest")
    assert all(blind_file[name] == honest_file[name] for name in honest_file if name != "record")
    assert blind.results["test"] != honest.results["test"]


class Scripted(Alternating):
    """Predicts class 0 in its first epoch; later all classes alike, each by half."""

    steps = 0

    def loss(self, stage, batch):
        self.steps += 1
        return super().loss(stage, batch)

    def predict(self, batch):
        y = batch["label"]
        if self.steps <= 4:
            guess = torch.zeros_like(y)
        else:
            guess = torch.where(batch["index"] % 2 == 0, y, (y + 1) % 10)
        logits = nn.functional.one_hot(guess, 10).float()
        return dict.fromkeys(self.modalities, logits)


@pytest.mark.filterwarnings("ignore:Average precision score for one or more classes")
@pytest.mark.parametrize("score", ["accuracy", "macro_f1", "map"])
def test_the_score_decides_which_epoch_is_the_best(mfeat, data, tmp_path, score):
    every, zeros = mfeat["valid"], (mfeat["valid"].labels == 0).nonzero().flatten()
    others = (mfeat["valid"].labels != 0).nonzero().flatten()[:18]
    rows = torch.cat([zeros[:40], others])
    inputs = {name: x[rows] for name, x in every.inputs.items()}
    valid = MemorySet(inputs, every.labels[rows], every.classes)
    run = go(tmp_path / "run", data | {"valid": valid}, Scripted, score=score)
    column = "valid" if score == "accuracy" else f"valid_{score}"
    fused = [row[column]["fused"] for row in run.history]
    assert fused[0] != fused[1]
    assert run.best_epoch == fused.index(max(fused)) + 1 == (1 if score == "accuracy" else 2)
    assert f"fused {score} on the valid split, {max(fused):.4f}" in run.why


# ---------------------------------------------------------------- another run


@pytest.mark.parametrize(
    ("name", "value", "begun"),
    [
        ("lr", 0.2, 0.1),
        ("stage_epochs", [2, 1, 1, 2], [2, 1, 1, 1]),
        ("tau", 0.4, 20.0),
        ("seed", 1, 0),
        ("select", "last", "best"),
        ("modalities", ["kar", "fou"], ["fou", "kar"]),
        ("schedule", "constant", "cosine"),
        ("method", "alternating", "igm"),
        ("notes", {"data": "digits"}, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_settings_are_refused_and_named(interrupted, data, name, value, begun):
    before = files(interrupted)
    if name == "notes":
        name, given = "data", {"notes": value}
        value = value["data"]
    else:
        given = {name: value}
    message = f"{interrupted} was begun with {name} {begun}, not {value}: give the same"
    with pytest.raises(ValueError, match=re.escape(message)):
        go(interrupted, data, **given)
    assert files(interrupted) == before


def test_other_data_are_refused(interrupted, data):
    before = files(interrupted)
    fewer = data | {"train": data["train"].subset(range(59))}
    with pytest.raises(ValueError, match="was begun with sizes .*'train': 60.*, not .*'train': 59"):
        go(interrupted, fewer)
    del fewer["test"]
    with pytest.raises(ValueError, match="was begun with sizes"):
        go(interrupted, fewer | {"train": data["train"]})
    assert files(interrupted) == before


def test_notes_that_are_left_out_are_refused(data, tmp_path):
    folder = tmp_path / "run"
    begin = ("replace", "checkpoint.pt", 1)
    lives_until(begin, False, lambda: go(folder, data, notes={"data": "mfeat"}))
    with pytest.raises(ValueError, match="was begun with data mfeat, not None"):
        go(folder, data)


def test_the_same_call_resumes_also_with_tuples(whole, data, tmp_path):
    folder = tmp_path / "run"
    same = dict(stage_epochs=(2, 1, 1, 1), notes={"pair": (1, 2)})
    lives_until(("replace", "checkpoint.pt", 1), False, lambda: go(folder, data, **same))
    run = go(folder, data, **same)
    assert run.history == outcome(whole()[0])["record"]["history"]


def test_the_device_and_the_precision_may_have_another_name(whole, interrupted, data):
    device = "cpu" if torch.cuda.is_available() or torch.backends.mps.is_available() else "auto"
    run = go(interrupted, data, device=device, precision="no")
    assert run.settings.device == device
    record = outcome(whole()[0])["record"]
    assert (run.history, run.results) == (record["history"], record["results"])
    weights = outcome(interrupted).keys() - {"record"}
    assert all(outcome(interrupted)[name] == outcome(whole()[0])[name] for name in weights)


def test_a_complete_run_is_returned_without_training(whole, data, tmp_path):
    folder = copytree(whole()[0], tmp_path / "run")
    times = {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}
    content = files(folder)
    progress = []
    model = network(data)
    for layer in model.modules():
        layer.register_forward_hook(lambda *_: progress.append("a pass"))
    settings = dict(batch_size=16, lr=0.1, progress=False, device="cpu") | SHORT
    run = train(model, data, "igm", out=folder, resume=True, **settings)
    assert not progress
    assert files(folder) == content
    assert {f.name: f.stat().st_mtime_ns for f in folder.iterdir()} == times
    record = outcome(folder)["record"]
    for name in ("status", "history", "best_epoch", "why", "results"):
        assert getattr(run, name) == record[name]
    assert run.wall_seconds == json.loads(content["run.json"])["wall_seconds"]
    assert run.folder == folder
    assert not model.training
    assert evaluate(model, data["test"]) == run.results["test"]


def test_a_folder_that_holds_no_run_is_not_touched(data, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(FileNotFoundError, match="run.json is not there: give the folder of a run"):
        go(tmp_path, data)
    assert files(tmp_path) == {"thesis.txt": b"precious"}
