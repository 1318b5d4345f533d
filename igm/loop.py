"""The state of a run and what moves it: one epoch at a time, with a checkpoint after each.

Every random draw is a function of the seed, the modality and its epoch, so the same seed gives the same run, bit for
bit on the same machine, also when the run was interrupted and resumed: each epoch seeds all generators and draws its
own order of the data, so a checkpoint at the end of an epoch needs no state of theirs.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LRScheduler,
    MultiStepLR,
    ReduceLROnPlateau,
)
from torch.utils.data import Dataset

from igm import runs
from igm.devices import Devices
from igm.evaluation import evaluate
from igm.loading import batches, steps
from igm.methods import Method, Stage
from igm.methods.base import PLAIN
from igm.sam import SAM
from igm.seeds import derive_seed, seed_everything
from igm.settings import Settings

if TYPE_CHECKING:
    from igm.train import Run

# Settings that say where and how a run computes, not what.
ON_A_MACHINE = ("device", "precision", "eval_batch_size", "workers")


class Loop:
    """The state of a run between two epochs: what a checkpoint holds."""

    def __init__(self, run: Run, data: Mapping[str, Dataset], devices: Devices, notes: dict):
        self.run, self.data, self.devices, self.notes = run, data, devices, notes
        stages = run.method.stages()
        self.plan = [(i, stage) for i, stage in enumerate(stages) for _ in range(stage.epochs)]
        self.epochs = Counter()  # modalities -> their epochs over all stages
        for stage in stages:
            self.epochs[stage.name] += stage.epochs
        # Kept from round to round.
        self.optimizers: dict[str, tuple[SAM, LRScheduler | _WarmUp]] = {}
        self.best: dict | None = None  # the weights of run.best_epoch
        self.best_score = float("-inf")
        self.board = None  # a writer for TensorBoard
        self.before = 0.0  # seconds that the run took before it was resumed
        self.started = time.perf_counter()

    # ---------------------------------------------------------------- training

    def epoch(self) -> dict:
        """Trains one epoch, and ends the stage after its last; returns its row of the history."""
        run, settings = self.run, self.run.settings
        number, stage = self.plan[len(run.history)]
        begins = not run.history or run.history[-1]["stage"] != number
        if begins and settings.restart:
            self.optimizers.pop(stage.name, None)
        optimizer, scheduler = self.optimizer(stage)
        done = sum(row["modality"] == stage.name for row in run.history)
        row = {"stage": number, "round": stage.round, "modality": stage.name, "epoch": done + 1}
        row["lr"] = optimizer.param_groups[0]["lr"]
        row["loss"] = self.pass_over_data(stage, optimizer, done)
        self.devices.average_buffers(run.model)
        self.validate(row)
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(row[_entry("valid", settings.score)]["fused"])
        else:
            scheduler.step()
        run.history.append(row)
        self.choose(row)
        ended = len(run.history) == len(self.plan) or self.plan[len(run.history)][0] != number
        if ended:
            if settings.from_best and self.best:
                # Here the next stage goes on, and here T is taken.
                run.model.load_state_dict(self.best)
            share = batches(
                self.data["train"],
                settings.batch_size,
                None,
                *self.devices.place,
                settings.workers,
                stage.modalities,
            )
            run.method.end_stage(stage, share)
        if self.board:
            _add_scalars(self.board, row, len(run.history))
        self.write_checkpoint()
        return row

    def pass_over_data(self, stage: Stage, optimizer: SAM, done: int) -> float:
        """One pass over the training data; returns the mean loss of its steps."""
        settings, devices, method = self.run.settings, self.devices, self.run.method
        seed = derive_seed(settings.seed, *stage.modalities, done)
        seed_everything(seed if devices.rank == 0 else derive_seed(seed, "process", devices.rank))
        self.run.model.train()
        data, s = self.data["train"], settings
        stream = steps(
            data,
            s.batch_size,
            seed,
            *devices.place,
            s.accumulation,
            s.drop_last,
            s.workers,
            stage.modalities,
        )
        losses = _Losses(devices)
        try:
            for size, shards in stream:
                for turn in method.turns(stage):
                    loss = step_gradient(method, turn, size, shards, optimizer, devices)
                    losses.add(loss, [shard["index"] for shard in shards])
                    devices.step(optimizer.base_optimizer, settings.clip)
                    method.end_turn(turn)
            mean = losses.mean()
            if not self.finite():
                raise FloatingPointError(math.nan, [], losses.last())
            return mean
        except FloatingPointError as error:
            raise FloatingPointError(self.blame(stage, done, *error.args)) from None

    def finite(self) -> bool:
        return all(bool(torch.isfinite(p).all()) for p in self.run.model.parameters())

    def optimizer(self, stage: Stage) -> tuple[SAM, LRScheduler | _WarmUp]:
        """The optimiser inside SAM (rho = 0 makes it plain), and the schedule of its learning rate."""
        if stage.name not in self.optimizers:
            s = self.run.settings
            epochs = stage.epochs if s.restart else self.epochs[stage.name]
            parameters = self.run.method.parameters(stage)
            if s.optimizer == "adam":
                base = Adam(parameters, s.lr, (0.9, s.beta2), weight_decay=s.weight_decay)
            else:
                base = SGD(parameters, s.lr, s.momentum, weight_decay=s.weight_decay)
            optimizer = SAM(base, s.rho, s.adaptive, s.rho_norm)
            self.optimizers[stage.name] = optimizer, _schedule(base, s, epochs)
        return self.optimizers[stage.name]

    def validate(self, row: dict) -> None:
        splits = ["valid", "test"] if self.run.settings.select == "test" else ["valid"]
        for split in splits:
            for name, values in self.evaluate(split).items():
                for score, value in values.items():
                    row.setdefault(_entry(split, score), {})[name] = value

    def evaluate(self, split: str) -> dict[str, dict[str, float]]:
        run, devices = self.run, self.devices
        run.model.eval()

        data, s = self.data[split], run.settings
        place = (*devices.place, devices.gather)
        sizes = {"batch_size": s.eval_batch_size, "workers": s.workers}
        return evaluate(run.method.logits, data, s.fusion, *place, **sizes)

    def choose(self, row: dict) -> None:
        """Keeps the weights of this epoch where it is the best so far."""
        run, settings = self.run, self.run.settings
        if settings.select == "last":
            run.best_epoch, run.why = len(run.history), "the last epoch"
            return
        split = "test" if settings.select == "test" else "valid"
        score = row[_entry(split, settings.score)]["fused"]
        if not score > self.best_score:  # nor where it is NaN
            return
        self.best_score = score
        self.best = deepcopy(run.model.state_dict())
        run.best_epoch = len(run.history)
        run.why = (
            f"the highest fused {settings.score} on the {split} split, {score:.4f}, first in epoch "
            f"{run.best_epoch}: {row['modality']}, round {row['round'] + 1}"
        )

    def finish(self) -> None:
        """Takes the selected weights, scores them, and completes the record."""
        run = self.run
        if self.best is not None:
            run.model.load_state_dict(self.best)
        seed_everything(derive_seed(run.settings.seed, "results"))
        run.results = {split: self.evaluate(split) for split in self.data if split != "train"}
        run.status = "complete"
        if run.folder and self.devices.main:
            runs.save_weights(run.folder / runs.WEIGHTS, run.model)
        self.write_record()
        if run.folder and self.devices.main:
            runs.clear_checkpoint(run.folder)
        self.devices.wait()

    def blame(self, stage: Stage, done: int, loss: float, samples: list, before: list) -> str:
        """What to say of a loss that is not finite, on these samples, or of weights after the step on those before."""
        if samples:
            text = f"the loss of {stage.name} became {loss} in epoch {done + 1}, on the samples {samples}"
            if before and not self.finite():
                text += f", perhaps by the gradient of the step before, on {before}"
        else:
            text = (
                f"the weights of {stage.name} became {loss} in the last step of epoch {done + 1}, by the "
                f"gradient on the samples {before}"
            )
        text += ": try a smaller lr or rho, or look at these samples"
        if self.run.folder and self.run.history:
            path = self.run.folder / runs.CHECKPOINT
            text += f". The last good checkpoint is {path}, of epoch {len(self.run.history)}"
        return text

    # ---------------------------------------------------------------- files

    def open(self, folder: Path, resume: bool) -> None:
        """Begins the run in a new folder, or takes up the one that is there."""
        there = self.devices.gather([folder.exists()])[0]  # the first process's word for all
        if resume and there:
            self.resume(folder)
        elif self.devices.main:
            runs.new_folder(folder, self.notes | self.run.record())
        self.devices.wait()
        self.run.folder = folder

    def resume(self, folder: Path) -> None:
        run, record = self.run, runs.read_record(folder)
        # As they come back from a file, so that a tuple is the list that it was written as.
        now, notes = json.loads(json.dumps([run.record(), self.notes]))
        # It may be older than some settings, and did then what they are where nobody says more.
        settings = asdict(Settings()) | PLAIN | record["settings"]
        for given, begun in (
            (now["settings"], settings),
            ({"sizes": now["sizes"]}, {"sizes": record.get("sizes")}),
            (notes, {k: v for k, v in record.items() if k not in now}),
        ):
            for name in given | begun:
                if name not in ON_A_MACHINE and given.get(name) != begun.get(name):
                    raise ValueError(
                        f"{folder} was begun with {name} {begun.get(name)}, not {given.get(name)}: "
                        "give the same, or begin another run"
                    )
        run.folder = folder
        if record["status"] == "complete":
            runs.load_weights(folder / runs.WEIGHTS, run.model)
            run.model.eval()
            for name in ("status", "history", "best_epoch", "why", "results", "wall_seconds"):
                setattr(run, name, record[name])
            if self.devices.main:
                runs.clear_checkpoint(folder)  # a crash may have come between
            return
        if (state := runs.load_checkpoint(folder)) is not None:
            self.load_state_dict(state)
            if self.devices.main:
                runs.write_metrics(folder / runs.METRICS, run.history)
        self.write_record()  # it may have said that the run failed

    def write_checkpoint(self) -> None:
        """After every epoch: best weights first, then the checkpoint that names them, then what it replaces goes."""
        folder = self.run.folder
        if folder is None or not self.devices.main:
            return
        if self.run.best_epoch == len(self.run.history) and self.best is not None:
            runs.save_weights(folder / self._best_name(), self.run.model)
        runs.save_checkpoint(folder, self.state_dict())
        runs.clear_checkpoint(folder, keep=self._best_name())
        runs.write_metrics(folder / runs.METRICS, self.run.history)

    def write_record(self) -> None:
        self.run.wall_seconds = self.before + time.perf_counter() - self.started
        if self.run.folder and self.devices.main:
            runs.write_json(self.run.folder / runs.RECORD, self.notes | self.run.record())

    def state_dict(self) -> dict:
        run = self.run
        return {
            "model": run.model.state_dict(),
            "optimizers": {
                name: {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
                for name, (optimizer, schedule) in self.optimizers.items()
            },
            "scaler": self.devices.scaler.state_dict(),
            "method": run.method.state_dict(),
            "history": run.history,
            "best_epoch": run.best_epoch,
            "best_score": self.best_score,
            "why": run.why,
            "wall_seconds": self.before + time.perf_counter() - self.started,
        }

    def load_state_dict(self, state: Mapping) -> None:
        run = self.run
        run.history, run.best_epoch, run.why = state["history"], state["best_epoch"], state["why"]
        if run.settings.select != "last" and run.best_epoch:
            runs.load_weights(run.folder / self._best_name(), run.model)
            self.best = deepcopy(run.model.state_dict())
        try:
            self.before, self.best_score = state["wall_seconds"], state["best_score"]
            run.model.load_state_dict(state["model"])
            stages = {stage.name: stage for _, stage in self.plan[: len(run.history)]}
            for name, states in state["optimizers"].items():
                optimizer, schedule = self.optimizer(stages[name])
                schedule.load_state_dict(states["schedule"])
                optimizer.load_state_dict(states["optimizer"])
            if state["scaler"]:
                self.devices.scaler.load_state_dict(state["scaler"])
            run.method.load_state_dict(state["method"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise runs.foreign(run.folder / runs.CHECKPOINT) from error

    def _best_name(self) -> str:
        return f"best-{self.run.best_epoch:04}.safetensors"

    @contextmanager
    def tensorboard(self, wanted: bool) -> Iterator[None]:
        """Inside, the epochs are written for TensorBoard, too."""
        if not (wanted and self.devices.main):
            yield
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("tensorboard is not installed: pip install tensorboard") from error
        folder = self.run.folder / "tensorboard"
        self.board = SummaryWriter(str(folder), purge_step=len(self.run.history) + 1)
        with closing(self.board):
            yield


class _Losses:
    """The losses of an epoch's steps. One that is not finite raises FloatingPointError(loss, samples, before).

    A GPU runs ahead of Python, and to read a loss is to wait for it, so there they are looked at fifty at a time.
    """

    def __init__(self, devices: Devices):
        self.devices = devices
        self.every = 1 if devices.device.type == "cpu" and devices.processes == 1 else 50
        self.losses: list[Tensor] = []
        self.samples: list[list[Tensor]] = []  # of each step, in its shards

    def add(self, loss: Tensor, samples: list[Tensor]) -> None:
        self.losses.append(loss)
        self.samples.append(samples)
        if len(self.losses) % self.every == 0:
            self.check(self.every)

    def check(self, count: int) -> None:
        """Looks at the last ``count`` losses, summed over the processes."""
        first = len(self.losses) - count
        self.losses[first:] = self.devices.total(torch.stack(self.losses[first:])).unbind()
        for step in range(first, len(self.losses)):
            if not torch.isfinite(self.losses[step]):
                before = self._of(step - 1) if step else []
                raise FloatingPointError(self.losses[step].item(), self._of(step), before)

    def mean(self) -> float:
        if rest := len(self.losses) % self.every:
            self.check(rest)
        return torch.stack(self.losses).mean().item()

    def last(self) -> list:
        """The samples of the last step."""
        return self._of(len(self.samples) - 1)

    def _of(self, step: int) -> list:
        return self.devices.gather([i for part in self.samples[step] for i in part.tolist()])


def step_gradient(
    method: Method,
    stage: Stage,
    size: int,
    shards: list[dict[str, Tensor]],
    optimizer: SAM,
    devices: Devices,
) -> Tensor:
    """Leaves in ``.grad`` the mean gradient over the ``size`` samples of a step, of all shards and processes.

    Returns this process's part of the loss: the parts of all processes add up to the mean over the samples.
    """
    parameters = optimizer.parameters
    loss = torch.zeros((), device=devices.device)
    gradients: list[Tensor | None] = [None] * len(parameters)
    for shard in shards:
        part = method.gradient(stage, shard, optimizer).detach()
        share = len(shard["label"]) / size
        if share == devices.processes == 1:  # the whole step: nothing to add up
            return part
        loss += share * part
        for i, p in enumerate(parameters):
            if p.grad is not None:
                g = p.grad * share
                gradients[i] = g if gradients[i] is None else gradients[i] + g
    for p, g in zip(parameters, gradients):
        p.grad = g
    devices.total_gradients(parameters)
    return loss


def _schedule(optimizer: Optimizer, s: Settings, epochs: int) -> LRScheduler | _WarmUp:
    schedule = _without_warmup(optimizer, s, epochs)
    return _WarmUp(schedule, s.warmup) if s.warmup else schedule


def _without_warmup(optimizer: Optimizer, s: Settings, epochs: int) -> LRScheduler:
    if s.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=epochs)
    if s.schedule == "step":
        return MultiStepLR(optimizer, s.milestones, s.lr_factor)
    if s.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, mode="max", factor=s.lr_factor, patience=5)
    return ConstantLR(optimizer, factor=1)


class _WarmUp:
    """Another schedule, but in its first ``epochs``, w of them, epoch e has (e + 1) / (w + 1) of the first rate.

    torch's schedules multiply the rate that they find, so the other one finds its own before each of its steps.
    """

    def __init__(self, schedule: LRScheduler, epochs: int):
        self.schedule, self.epochs = schedule, epochs
        self._warm()

    def step(self) -> None:
        self._set(self.schedule.get_last_lr())
        self.schedule.step()
        self._warm()

    def state_dict(self) -> dict:
        return self.schedule.state_dict()

    def load_state_dict(self, state: Mapping) -> None:
        self.schedule.load_state_dict(state)

    def _warm(self) -> None:
        e, w = self.schedule.last_epoch, self.epochs
        if e < w:
            self._set([lr * (e + 1) / (w + 1) for lr in self.schedule.base_lrs])

    def _set(self, rates: list[float]) -> None:
        for group, lr in zip(self.schedule.optimizer.param_groups, rates):
            group["lr"] = lr


def _entry(split: str, score: str) -> str:
    """The name of a score in a row of the history: "valid" is the accuracy."""
    return split if score == "accuracy" else f"{split}_{score}"


def _add_scalars(board, row: Mapping, epoch: int) -> None:
    for key, value in row.items():
        if isinstance(value, Mapping):
            for name, entry in value.items():
                board.add_scalar(f"{key}/{name}", entry, epoch)
        elif key in ("loss", "lr"):
            board.add_scalar(f"{key}/{row['modality']}", value, epoch)
    board.flush()  # or a crash takes the last minutes along
