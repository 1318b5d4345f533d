"""The training loop: stages, validation, the best checkpoint and the record of a run.

It knows a method only by ``igm.methods.base.Method``. Every random draw is a function of the seed, the modality
and its epoch, so the same seed gives the same run, bit for bit on the same machine.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler
from torch.utils.data import DataLoader, Dataset, Subset, default_collate
from tqdm.auto import tqdm

from igm.datasets.memory import MemorySet
from igm.flat import STATISTICS
from igm.methods import Method, Stage, find_method
from igm.metrics import accuracy, scores
from igm.models import FUSIONS, fuse
from igm.sam import SAM
from igm.seeds import derive_seed


@dataclass(frozen=True)
class Settings:
    """How a run trains.

    Args:
        method: joint, unimodal, alternating or igm.
        modalities: those to train, in this order; by default all, in the order of the data.
        epochs: epochs a modality (joint training: epochs).
        rounds: rounds over the modalities, for alternating and igm; they share the epochs.
        batch_size: samples a batch.
        lr: learning rate of SGD at the start.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.
        schedule: of the learning rate over a modality's epochs, cosine or constant.
        tau: strength of the gradient modification, above 0 (Eq. 4); igm only.
        rho: radius of SAM, 0 or above, 0 for none (Eq. 6); by default 0.02 for igm and 0 for the others.
        statistic: moment of the features, batch-mean (the paper) or sample; igm only.
        center: subtract the mean from that moment; igm only.
        fusion: of the modalities' predictions: mean, entropy or logits; by default the method's own.
        select: keep the weights of the best epoch by fused accuracy on the validation split, or the last.
        seed: of the order of the batches and all else that is random in training.
        device: cpu, cuda, ..., or auto for a GPU where there is one.
    """

    method: str = "igm"
    modalities: list[str] | None = None
    epochs: int = 20
    rounds: int = 2
    batch_size: int = 32
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    tau: float = 0.4
    rho: float | None = None
    statistic: str = "batch-mean"
    center: bool = False
    fusion: str | None = None
    select: str = "best"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self):
        choices = {
            "schedule": ("cosine", "constant"),
            "statistic": STATISTICS,
            "fusion": (None, *FUSIONS),
            "select": ("best", "last"),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                names = ", ".join(a for a in allowed if a)
                raise ValueError(f"unknown {name} {value!r}: use one of {names}")
        for name in ("epochs", "rounds", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or above, got {getattr(self, name)}")
        for name in ("lr", "tau"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("momentum", "weight_decay", "rho"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must be 0 or above, got {value}")


@dataclass
class Run:
    """What training leaves: the model with the selected weights, and its record.

    ``settings`` are those that were used, defaults filled in. ``history`` has a dict an epoch: stage, modality,
    epoch, loss, and validation accuracies by modality and fused; ``best_epoch`` counts them from 1. ``results``
    holds the scores of the selected weights by split: ``run.results["test"]["fused"]["map"]``. ``method`` is
    the method object, e.g. with IGM's matrices.
    """

    model: nn.Module
    settings: Settings
    method: Method
    history: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    results: dict[str, dict] = field(default_factory=dict)
    wall_seconds: float = 0.0
    folder: Path | None = None

    def record(self) -> dict:
        """Everything but the weights, ready for JSON."""
        return {
            "settings": asdict(self.settings),
            "best_epoch": self.best_epoch,
            "results": self.results,
            "history": self.history,
            "wall_seconds": round(self.wall_seconds, 2),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }


def train(
    model: nn.Module,
    data: Mapping[str, Dataset],
    method: str | type[Method] = "igm",
    out: str | Path | None = None,
    progress: bool = True,
    notes: Mapping | None = None,
    **settings,
) -> Run:
    """Trains a model by a method and scores it on every split but train.

    Args:
        model: a LateFusion (any method) or a Concatenation (joint). It is trained in place.
        data: split -> data set; "train" is needed. Without "valid" a stratified tenth of train is held out.
            "test", if there, is scored once, at the end, and never used to choose.
        method: a name, or a subclass of Method for your own.
        out: a new folder for run.json and model.safetensors; without it nothing is written.
        progress: show a bar over the epochs.
        notes: more entries for run.json, e.g. how the data was loaded.
        settings: the fields of ``Settings``.

    Raises:
        ValueError: a bad setting, or a modality that the data or the model lacks.
        FileExistsError: ``out`` is there already; a run is never overwritten.
        FloatingPointError: the loss became NaN or infinite.
    """
    started = time.perf_counter()
    kind = find_method(method)
    settings = Settings(method=method if isinstance(method, str) else kind.__name__, **settings)
    data = dict(data)
    if "valid" not in data:
        data["train"], data["valid"] = hold_out(data["train"], seed=settings.seed)
    device = _device(settings.device)
    settings = replace(  # the record says what was used, not that nothing was given
        settings,
        modalities=_modalities(settings, model, data["train"]),
        rho=kind.default_rho if settings.rho is None else settings.rho,
        fusion=settings.fusion or kind.default_fusion,
    )
    fusion = settings.fusion
    trainer = kind(model.to(device), settings.modalities, settings)
    stages = trainer.stages()
    run = Run(model, settings, trainer, folder=_new_folder(out))

    epochs = Counter()  # modalities -> their epochs over all stages
    for stage in stages:
        epochs[stage.modalities] += stage.epochs
    done = Counter()
    optimizers = {}  # modalities -> optimiser and schedule, kept from round to round
    best = None
    bar = tqdm(total=epochs.total(), disable=not progress, desc=settings.method, unit="epoch")
    with torch.random.fork_rng(), bar:
        for number, stage in enumerate(stages):
            key = stage.modalities
            if key not in optimizers:
                optimizers[key] = _optimizer(trainer, stage, epochs[key])
            optimizer, scheduler = optimizers[key]
            for _ in range(stage.epochs):
                loss = _train_epoch(trainer, stage, optimizer, data["train"], done[key], device)
                scheduler.step()
                done[key] += 1
                row = {"stage": number, "round": stage.round, "modality": "+".join(key)}
                row |= {"epoch": done[key], "loss": loss}
                run.history.append(row)
                model.eval()
                probabilities, labels = predictions(trainer.predict, data["valid"], fusion, device)
                row["valid"] = {name: accuracy(p, labels) for name, p in probabilities.items()}
                better = best is None or row["valid"]["fused"] > best[0]
                if settings.select == "best" and better:
                    best = row["valid"]["fused"], deepcopy(model.state_dict())
                    run.best_epoch = len(run.history)
                    _save(run.folder, "model.safetensors", lambda path: save_model(model, path))
                bar.set_postfix(modality=row["modality"], loss=f"{loss:.3f}")
                bar.update()
            trainer.end_stage(stage, batches(data["train"], settings.batch_size, None, device))
    if settings.select == "best":
        model.load_state_dict(best[1])
    else:
        run.best_epoch = len(run.history)
        _save(run.folder, "model.safetensors", lambda path: save_model(model, path))
    model.eval()
    held_out = {split: dataset for split, dataset in data.items() if split != "train"}
    run.results = {
        name: evaluate(trainer.predict, d, fusion, device) for name, d in held_out.items()
    }
    run.wall_seconds = time.perf_counter() - started
    record = json.dumps(dict(notes or {}) | run.record(), indent=1)
    _save(run.folder, "run.json", lambda path: Path(path).write_text(record))
    return run


def _train_epoch(
    trainer: Method,
    stage: Stage,
    optimizer: SAM,
    dataset: Dataset,
    epoch: int,
    device: torch.device,
) -> float:
    """One pass over the data; returns the mean loss."""
    settings = trainer.settings
    seed = derive_seed(settings.seed, *stage.modalities, epoch)
    torch.manual_seed(seed)
    trainer.model.train()
    losses = []
    for batch in batches(dataset, settings.batch_size, seed, device):
        loss = trainer.gradient(stage, batch, optimizer).detach()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of {'+'.join(stage.modalities)} became {loss.item()} in epoch {epoch + 1}, on the samples "
                f"{batch['index'].tolist()}: try a smaller lr or rho, or look at these samples"
            )
        optimizer.base_optimizer.step()
        losses.append(loss)
    return torch.stack(losses).mean().item()


def batches(
    dataset: Dataset, batch_size: int, seed: int | None, device: torch.device | str = "cpu"
) -> Iterator[dict[str, Tensor]]:
    """The batches of one pass, in an order drawn from ``seed``, or in the data's own order for None."""
    generator = torch.Generator().manual_seed(seed or 0)  # its own: the global one stays as it is
    samples, collate = dataset, default_collate
    if isinstance(dataset, MemorySet):
        samples, collate = range(len(dataset)), dataset.fetch
    loader = DataLoader(
        samples, batch_size, shuffle=seed is not None, generator=generator, collate_fn=collate
    )
    for batch in loader:
        yield {name: x.to(device) for name, x in batch.items()}


@torch.no_grad()
def predictions(
    predict: nn.Module | Callable[[dict], dict[str, Tensor]],
    dataset: Dataset,
    fusion: str = "mean",
    device: torch.device | str = "cpu",
) -> tuple[dict[str, Tensor], Tensor]:
    """What each modality predicts for a whole data set, and what they predict together.

    Args:
        predict: batch -> {name: logits (n, c)}: a model, which is put in evaluation mode, or any such function.
        fusion: see ``igm.fuse``.

    Returns:
        {name: probabilities (n, c)} with the further entry "fused" (a network with one output has only that), and
        the labels (n,).
    """
    if isinstance(predict, nn.Module):
        predict.eval()
    outputs, labels = [], []
    for batch in batches(dataset, 256, None, device):
        outputs.append({name: z.cpu() for name, z in predict(batch).items()})
        labels.append(batch["label"].cpu())
    logits = {name: torch.cat([o[name] for o in outputs]) for name in outputs[0]}
    probabilities = {name: z.softmax(-1) for name, z in logits.items()}
    return probabilities | {"fused": fuse(logits, fusion)}, torch.cat(labels)


def evaluate(
    predict: nn.Module | Callable[[dict], dict[str, Tensor]],
    dataset: Dataset,
    fusion: str = "mean",
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, float]]:
    """Accuracy, macro-F1 and mAP of the ``predictions``: ``{"image": {"accuracy": ...}, ..., "fused": {...}}``."""
    probabilities, labels = predictions(predict, dataset, fusion, device)
    return {name: scores(p, labels) for name, p in probabilities.items()}


def hold_out(dataset: Dataset, share: float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Splits a training set into train and valid, stratified by class."""
    from sklearn.model_selection import train_test_split  # slow to load

    labels = [int(dataset[i]["label"]) for i in range(len(dataset))]
    train_rows, valid_rows = train_test_split(
        range(len(dataset)), test_size=share, stratify=labels, random_state=seed
    )
    part = MemorySet.subset if isinstance(dataset, MemorySet) else Subset
    return part(dataset, sorted(train_rows)), part(dataset, sorted(valid_rows))


def _optimizer(trainer: Method, stage: Stage, epochs: int) -> tuple[SAM, LRScheduler]:
    """SGD inside SAM (rho = 0 makes it plain SGD), and the learning-rate schedule."""
    s = trainer.settings
    sgd = SGD(trainer.parameters(stage), s.lr, s.momentum, weight_decay=s.weight_decay)
    if s.schedule == "cosine":
        return SAM(sgd, s.rho), CosineAnnealingLR(sgd, T_max=epochs)
    return SAM(sgd, s.rho), ConstantLR(sgd, factor=1)


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


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {name!r} cannot be used: give cpu, or auto") from error


def _new_folder(out: str | Path | None) -> Path | None:
    if out is None:
        return None
    folder = Path(out)
    if folder.exists():
        raise FileExistsError(
            f"{folder} is there already and is not overwritten: give another folder as --out"
        )
    folder.mkdir(parents=True)
    return folder


def _save(folder: Path | None, name: str, write: Callable[[str], object]) -> None:
    """Writes a file under a temporary name and renames it: a reader sees the old one or the new one, never half."""
    if folder is None:
        return
    temporary = folder / f"{name}.partial"
    write(str(temporary))
    os.replace(temporary, folder / name)
