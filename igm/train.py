"""Training: a model, data and settings in, a run out.

``train`` begins or resumes a run; ``Training`` moves it on: an epoch, a step, the end of a stage, a checkpoint. Both
know a method only by ``igm.methods.Method``.

Every random draw is a function of the seed, the modality and its epoch: each epoch seeds all generators and draws its
own order of the data. So the same seed gives the same run, bit for bit on the same machine, also when it was
interrupted and resumed, and a checkpoint at the end of an epoch needs no state of the generators.
"""

import logging
import time
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import Dataset

from igm import runs
from igm.devices import Devices
from igm.loading import batches, check_splits, hold_out, steps
from igm.methods import Method, Stage, find_method
from igm.metrics import evaluate
from igm.models import check_outputs, held_modalities
from igm.optimizer import base_optimizer, learning_rate_schedule
from igm.runs import Run
from igm.sam import SAM
from igm.seeds import derive_seed, seed_everything, untouched_generators
from igm.settings import ON_A_MACHINE, Settings

log = logging.getLogger("igm")


def train(
    model: nn.Module,
    data: Mapping[str, Dataset],
    method: str | type[Method] = "igm",
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    notes: Mapping | None = None,
    **settings,
) -> Run:
    """Trains a model by a method and scores it on every split but train.

    Args:
        model: a LateFusion (any method) or a Concatenation (joint). It is trained in place.
        data: split -> data set; "train" is needed. Without "valid" a stratified tenth of train is held out.
            "test", if there, is scored once, at the end, and never used to choose unless ``select="test"``.
        method: a name, or a subclass of Method for your own.
        out: a new folder for the run's files, see ``igm.runs``; without it nothing is written.
        resume: go on with the run in ``out`` where it was interrupted; where there is none yet, begin it.
        progress: show a bar over the epochs.
        notes: more entries for run.json, e.g. how the data was loaded.
        settings: the fields of the method's ``Settings``.

    Raises:
        ValueError: a bad setting, data that do not fit the model or themselves, or settings or data other than
            those of the run to be resumed.
        FileExistsError: ``out`` is there already; a run is never overwritten.
        FloatingPointError: the loss became NaN or infinite, or a prediction NaN.
        OSError: a file could not be written; the last checkpoint is still good.
    """
    kind = find_method(method)
    settings = kind.Settings.make(method=getattr(method, "__name__", method), **settings)
    data = dict(data)
    if "valid" not in data:
        data["train"], data["valid"] = hold_out(data["train"], seed=settings.seed)
    if settings.select == "test" and "test" not in data:
        raise ValueError("select test needs a test split: give one, or select best")
    modalities = _modalities(settings, model, data["train"])
    check_splits(data, modalities)
    check_outputs(model, getattr(data["train"], "classes", None))
    devices = Devices(settings.device, settings.precision)
    settings = replace(settings, modalities=modalities, precision=devices.precision)
    devices.same_weights(model.to(devices.device))
    run = Run(model, settings, kind(model, modalities, settings, devices), device=str(devices))
    run.sizes = {split: len(dataset) for split, dataset in data.items()}
    training = Training(run, data, devices, dict(notes or {}))
    if out is not None:
        training.open(Path(out), resume)
    if run.status != "complete":
        training.to_the_end(progress)
    return run


def _modalities(settings: Settings, model: nn.Module, data: Dataset) -> list[str]:
    there = getattr(data, "modalities", None) or [n for n in data[0] if n not in ("label", "index")]
    wanted = settings.modalities or there
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"a modality is named twice in {', '.join(wanted)}: give each one once")
    for name in wanted:
        for place, names in (("data", there), ("model", held_modalities(model))):
            if name not in names:
                raise ValueError(f"unknown modality {name!r}: the {place} has {', '.join(names)}")
    return list(wanted)


class Training:
    """A run in progress. Between two epochs its state is what a checkpoint holds."""

    def __init__(self, run: Run, data: Mapping[str, Dataset], devices: Devices, notes: dict):
        self.run, self.data, self.devices, self.notes = run, data, devices, notes
        stages = run.method.stages()
        # The number of the stage, the stage, and which of its epochs it is, from 0.
        self.plan = [(i, stage, k) for i, stage in enumerate(stages) for k in range(stage.epochs)]
        self.epochs = Counter(stage.name for _, stage, _ in self.plan)  # over all stages
        # By modalities; kept from round to round.
        self.optimizers: dict[str, tuple[SAM, LRScheduler]] = {}
        self.best: dict | None = None  # the weights of run.best_epoch
        self.best_score = float("-inf")
        self.before = 0.0  # seconds that the run took before it was resumed
        self.started = time.perf_counter()

    def to_the_end(self, progress: bool) -> None:
        """Trains the epochs that are left, and finishes."""
        run, total = self.run, len(self.plan)
        if run.settings.select == "test" and self.devices.main:
            log.warning(
                "select test: the epoch is chosen by looking at the test split, as the authors' code "
                "does; the test scores are no fair estimate"
            )
        shown = {"total": total, "initial": len(run.history), "desc": run.settings.method}
        bar = runs.progress_bar(progress and self.devices.main, unit="epoch", **shown)
        with untouched_generators(), bar:
            try:
                while len(run.history) < total:
                    row = self.epoch()
                    bar.set_postfix(modality=row["modality"], loss=f"{row['loss']:.3f}")
                    bar.update()
                self.finish()
            except FloatingPointError as error:
                run.status = f"failed: {error}"
                self.write_record()
                raise

    # ---------------------------------------------------------------- an epoch

    def epoch(self) -> dict:
        """Trains one epoch, and begins and ends its stage where that is due; returns its row of the history."""
        run = self.run
        number, stage, k = self.plan[len(run.history)]
        if k == 0 and run.settings.restart:
            self.optimizers.pop(stage.name, None)
        optimizer, schedule = self.optimizer(stage)
        if k == 0:
            run.method.begin_stage(stage, optimizer)
        done = sum(row["modality"] == stage.name for row in run.history)
        row = {"stage": number, "round": stage.round, "modality": stage.name, "epoch": done + 1}
        row["lr"] = optimizer.param_groups[0]["lr"]
        row["loss"] = self.pass_over_data(stage, optimizer, done)
        self.devices.average_buffers(run.model)
        self.validate(row)
        watched = [row[_entry("valid", run.settings.score)]["fused"]]
        schedule.step(*watched if isinstance(schedule, ReduceLROnPlateau) else ())
        run.history.append(row)
        self.choose(row)
        if k == stage.epochs - 1:
            self.end_stage(stage)
        self.write_checkpoint()
        return row

    def pass_over_data(self, stage: Stage, optimizer: SAM, done: int) -> float:
        """One pass over the training data; returns the mean loss of its steps."""
        s, devices, method = self.run.settings, self.devices, self.run.method
        seed = derive_seed(s.seed, *stage.modalities, done)
        seed_everything(seed if devices.rank == 0 else derive_seed(seed, "process", devices.rank))
        self.run.model.train()
        cut = {"shards": s.accumulation, "drop_last": s.drop_last, "workers": s.workers}
        read = devices.share | cut | {"modalities": stage.modalities}
        stream = steps(self.data["train"], s.batch_size, seed, **read)
        # A GPU runs ahead of Python, and to read a loss is to wait for it: there it is done for fifty at a time.
        every = 1 if devices.device.type == "cpu" and devices.processes == 1 else 50
        losses: list[Tensor] = []
        unseen: list[list[Tensor]] = []  # the samples of the steps whose loss nobody has looked at
        for size, shards in stream:
            for turn in method.turns(stage):
                losses.append(step_gradient(method, turn, size, shards, optimizer, devices))
                unseen.append([shard["index"] for shard in shards])
                if len(unseen) == every:
                    self.look(stage, losses, unseen)
                devices.step(optimizer.base_optimizer, s.clip)
                method.end_turn(turn)
        self.look(stage, losses, unseen)
        if not all(bool(torch.isfinite(p).all()) for p in self.run.model.parameters()):
            raise self.not_finite("the weights", "not finite", stage, [x["index"] for x in shards])
        return torch.stack(losses).mean().item()

    def look(self, stage: Stage, losses: list[Tensor], unseen: list[list[Tensor]]) -> None:
        """Sums the last losses over the processes. Raises FloatingPointError where one is not finite."""
        if first := len(unseen):
            losses[-first:] = self.devices.total(torch.stack(losses[-first:])).unbind()
            for loss, samples in zip(losses[-first:], unseen):
                if not torch.isfinite(loss):
                    raise self.not_finite("the loss", loss.item(), stage, samples)
            unseen.clear()

    def not_finite(self, what, value, stage: Stage, samples: list[Tensor]) -> FloatingPointError:
        indices = self.devices.gather([i for part in samples for i in part.tolist()])
        epoch = sum(row["modality"] == stage.name for row in self.run.history) + 1
        text = (
            f"{what} of {stage.name} became {value} in epoch {epoch}, on the samples {indices}: try a "
            "smaller lr or rho, or look at these samples"
        )
        if self.run.folder and self.run.history:
            path = self.run.folder / runs.CHECKPOINT
            text += f". The last good checkpoint is {path}, of epoch {len(self.run.history)}"
        return FloatingPointError(text)

    def optimizer(self, stage: Stage) -> tuple[SAM, LRScheduler]:
        """The method's optimiser for a stage (rho = 0 makes it plain), and the schedule of its learning rate."""
        if stage.name not in self.optimizers:
            s, method = self.run.settings, self.run.method
            base = base_optimizer(method.parameters(stage), s)
            epochs = stage.epochs if s.restart else self.epochs[stage.name]
            schedule = learning_rate_schedule(base, s, epochs)
            self.optimizers[stage.name] = method.optimizer(stage, base), schedule
        return self.optimizers[stage.name]

    # ---------------------------------------------------------------- scores, the end of a stage, the end

    def evaluate(self, split: str) -> dict[str, dict[str, float]]:
        run, s = self.run, self.run.settings
        run.model.eval()
        read = self.devices.share | {"batch_size": s.eval_batch_size, "workers": s.workers}
        data, gather = self.data[split], self.devices.gather
        try:
            return evaluate(run.method.logits, data, s.fusion, gather=gather, **read)
        except FloatingPointError as error:
            epoch = min(len(run.history) + 1, len(self.plan))
            raise FloatingPointError(f"{split} split, epoch {epoch}: {error}") from None

    def validate(self, row: dict) -> None:
        for split in ["valid", "test"] if self.run.settings.select == "test" else ["valid"]:
            for name, values in self.evaluate(split).items():
                for score, value in values.items():
                    row.setdefault(_entry(split, score), {})[name] = value

    def choose(self, row: dict) -> None:
        """Keeps the weights of this epoch where it is the best so far."""
        run, settings = self.run, self.run.settings
        if settings.select == "last":
            run.best_epoch, run.why = len(run.history), "the last epoch"
            return
        split = "test" if settings.select == "test" else "valid"
        score = row[_entry(split, settings.score)]["fused"]
        if score <= self.best_score + 1e-6:  # what is closer differs by rounding: it is a tie
            return
        self.best_score, self.best = score, deepcopy(run.model.state_dict())
        run.best_epoch = len(run.history)
        run.why = (
            f"the highest fused {settings.score} on the {split} split, {score:.4f}, first in epoch "
            f"{run.best_epoch}: {row['modality']}, round {row['round'] + 1}"
        )

    def end_stage(self, stage: Stage) -> None:
        s, read = self.run.settings, self.devices.share | {"modalities": stage.modalities}
        if s.from_best and self.best:  # the next stage goes on from here, and T is taken here
            self.run.model.load_state_dict(self.best)
        read |= {"workers": s.workers, "drop_last": s.drop_last}
        self.run.method.end_stage(stage, batches(self.data["train"], s.batch_size, None, **read))

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

    # ---------------------------------------------------------------- files

    def open(self, folder: Path, resume: bool) -> None:
        """Begins the run in a new folder, or takes up the one that is there."""
        if resume and self.devices.gather([folder.exists()])[0]:  # all do as the first one sees it
            self.resume(folder)
        elif self.devices.main:
            runs.new_folder(folder, self.notes | self.run.record())
        self.devices.wait()
        self.run.folder = folder

    def resume(self, folder: Path) -> None:
        run, record = self.run, runs.read_record(folder)
        runs.check_same(folder, record, self.notes | run.record(), but=ON_A_MACHINE)
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
        self.run.wall_seconds = round(self.seconds(), 2)
        if self.run.folder and self.devices.main:
            runs.write_json(self.run.folder / runs.RECORD, self.notes | self.run.record())

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

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
            "wall_seconds": self.seconds(),
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
            stages = {stage.name: stage for _, stage, _ in self.plan[: len(run.history)]}
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


def step_gradient(
    method: Method, turn: Stage, size: int, shards: list[dict], optimizer: SAM, devices: Devices
) -> Tensor:
    """Leaves in ``.grad`` the mean gradient over the ``size`` samples of a step, of all shards and processes.

    Returns this process's part of the loss: the parts of all processes add up to the mean over the samples.
    """
    parameters = optimizer.parameters
    loss = torch.zeros((), device=devices.device)
    gradients: list[Tensor | None] = [None] * len(parameters)
    for shard in shards:
        part = method.gradient(turn, shard, optimizer).detach()
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


def _entry(split: str, score: str) -> str:
    """The name of a score in a row of the history: "valid" is the accuracy."""
    return split if score == "accuracy" else f"{split}_{score}"
