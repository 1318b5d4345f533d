"""Training: a model, data and settings in, a run out.

It knows a method only by ``igm.methods.base.Method``. What happens in an epoch is in ``igm.loop``, what is written
in ``igm.runs``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from torch import nn
from torch.utils.data import Dataset

from igm import runs
from igm.devices import Devices
from igm.evaluation import evaluate, predictions
from igm.loading import batches, hold_out
from igm.loop import Loop
from igm.methods import Method, find_method
from igm.progress import progress_bar
from igm.seeds import untouched_generators
from igm.settings import Settings

__all__ = ["Run", "batches", "evaluate", "hold_out", "predictions", "train"]

log = logging.getLogger("igm")


@dataclass
class Run:
    """What training leaves: the model with the selected weights, and its record.

    ``settings`` are those that were used, defaults filled in. ``history`` has a dict an epoch: stage, round,
    modality, epoch, lr, loss, and by modality and fused the validation accuracies ``valid``, ``valid_macro_f1`` and
    ``valid_map``. ``best_epoch`` counts the epochs from 1, ``why`` says why it is the best. ``results`` holds the
    scores of the selected weights by split: ``run.results["test"]["fused"]["map"]``. ``method`` is the method
    object, e.g. with IGM's matrices.
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
        return {
            "status": self.status,
            "settings": asdict(self.settings),
            "sizes": self.sizes,
            "best_epoch": self.best_epoch,
            "why": self.why,
            "results": self.results,
            "history": self.history,
            "wall_seconds": round(self.wall_seconds, 2),
            "device": self.device,
            "versions": runs.versions(),
            "commit": runs.commit(),
        }


def train(
    model: nn.Module,
    data: Mapping[str, Dataset],
    method: str | type[Method] = "igm",
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    tensorboard: bool = False,
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
        tensorboard: write the history for TensorBoard, too, in the folder tensorboard of ``out``.
        notes: more entries for run.json, e.g. how the data was loaded.
        settings: the fields of ``Settings``.

    Raises:
        ValueError: a bad setting, a modality that the data or the model lacks, or settings or data other than
            those of the run to be resumed.
        FileExistsError: ``out`` is there already; a run is never overwritten.
        FloatingPointError: the loss became NaN or infinite.
        OSError: a file could not be written; the last checkpoint is still good.
    """
    kind = find_method(method)
    settings = Settings(method=method if isinstance(method, str) else kind.__name__, **settings)
    data = dict(data)
    if "valid" not in data:
        data["train"], data["valid"] = hold_out(data["train"], seed=settings.seed)
    if settings.select == "test" and "test" not in data:
        raise ValueError("select test needs a test split: give one, or select best")
    if tensorboard and out is None:
        raise ValueError("tensorboard needs a folder for the run: give out")
    settings = replace(settings, modalities=_modalities(settings, model, data["train"]))
    devices = Devices(settings.device, settings.precision)
    devices.same_weights(model.to(devices.device))
    trainer = kind(model, settings.modalities, settings)
    trainer.autocast, trainer.backward = devices.autocast, devices.backward
    trainer.total = devices.total
    settings = replace(trainer.settings, precision=devices.precision)
    if settings.from_best and settings.select == "last":
        raise ValueError("from_best goes with select best or test: give from_best false")
    run = Run(model, settings, trainer, device=str(devices))
    run.sizes = {split: len(dataset) for split, dataset in data.items()}
    loop = Loop(run, data, devices, dict(notes or {}))
    if out is not None:
        loop.open(Path(out), resume)
    if run.status == "complete":
        return run
    if settings.select == "test" and devices.main:
        log.warning(
            "select test: the epoch is chosen by looking at the test split, as the authors' code "
            "does; the test scores are no fair estimate"
        )
    bar = progress_bar(
        progress and devices.main,
        total=len(loop.plan),
        initial=len(run.history),
        desc=settings.method,
        unit="epoch",
    )
    with untouched_generators(), bar, loop.tensorboard(tensorboard):
        try:
            while len(run.history) < len(loop.plan):
                row = loop.epoch()
                bar.set_postfix(modality=row["modality"], loss=f"{row['loss']:.3f}")
                bar.update()
            loop.finish()
        except FloatingPointError as error:
            run.status = f"failed: {error}"
            loop.write_record()
            raise
    return run


def _modalities(settings: Settings, model: nn.Module, dataset: Dataset) -> list[str]:
    there = [name for name in dataset[0] if name not in ("label", "index")]
    wanted = settings.modalities or there
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"a modality is named twice in {', '.join(wanted)}: give each one once")
    held = getattr(model, "modalities", None) or getattr(model, "encoders", {})
    for name in wanted:
        if name not in there or name not in held:
            place = "the data has" if name not in there else "the model has"
            names = there if name not in there else list(held)
            raise ValueError(f"unknown modality {name!r}: {place} {', '.join(names)}")
    return list(wanted)
