"""The JSON configs of the authors' code, as options of ``igm train``.

Their keys are nested: ``{"train": {"batch_size": 12}}``. Each is translated or named in a sentence, none is dropped in
silence. What counts is what the authors' scripts do with a key (github.com/njustkmg/IJCAI25-IGM, commit 19aa8e5), and
that is not always what its name says:

- ``noise_ratio`` is rho for the encoder, ``noise_ratio_cls`` for the head. ``max_tokens`` counts words.
- For CREMA-D, Kinetics-Sounds and NVGesture the learning rate falls to a tenth after every ``patience`` epochs of a
  stage; nothing else of ``lr_scheduler`` is read. For Twitter2015 and Sarcasm its ``type`` decides.
- The schedule moves on before an epoch and not after it, so a step at 40 acts in the 40th epoch, after 39 of them, and
  one at 1 in the first. The warm-up is that of ``igm.optimizer.learning_rate_schedule``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from igm.cli.keys import Keys

SECTIONS = ("dataset", "backbone", "loss", "train", "test", "setting")
SUBSECTIONS = ("train.optimizer", "train.lr_scheduler")


def is_authors(config: Mapping) -> bool:
    """Is it a config of the authors' code? Only there do sections such as "train" hold further keys."""
    return any(isinstance(config.get(section), Mapping) for section in SECTIONS)


def translate(config: Mapping) -> tuple[dict, list[str]]:
    """The options of ``igm train`` that do what the authors' script does with such a config.

    Returns:
        The options by name, and a sentence for each key that is not honoured, or not as it reads. A sentence begins
        with the key, e.g. ``"gpu_id is ignored: ..."``.

    Raises:
        ValueError: a value of the wrong type, a data set that is not known, or what cannot be trained: another
            number of classes, backbone, loss, optimiser or schedule. The message begins with the key.
    """
    keys = Keys(config, SECTIONS + SUBSECTIONS)
    data = _data_set(keys)
    _check(keys, data)
    root = keys.take("dataset.data_root", "text")
    stages = keys.take("train.epoch_list", "list")
    if stages is None:
        raise ValueError(
            "train.epoch_list is missing: give the epochs of each stage, e.g. [25, 50]"
        )
    options = {"data": data.name, "variant": "released", "data_root": root, "stage_epochs": stages}
    if data.name == "twitter2015":
        options["score"] = "accuracy"  # its script chooses an epoch by it, the others by macro-F1
    for name, (option, kind) in RENAMED.items():
        options[option] = keys.take(name, kind)
    options |= _workers(keys) | _rho(keys) | _optimizer(keys) | _schedule(keys, data, max(stages))
    options |= {"reading": _reading(keys, data), "network": _network(keys, data)}
    _files(keys, data, root)
    for name, reason in WITHOUT_EFFECT.items():
        keys.ignore(name, reason)
    for name in keys.left:
        keys.tell(name, "is not known: ignored")
    return {name: x for name, x in options.items() if x is not None and x != {}}, keys.told


@dataclass(frozen=True)
class _DataSet:
    """What there is of one data set in the authors' code.

    Args:
        spellings, backbones: in small letters and digits only.
        typed: its script looks at ``lr_scheduler.type``.
        folder, files: of texts and images, where igm reads them.
    """

    name: str
    title: str
    spellings: tuple[str, ...]
    classes: int
    backbones: tuple[str, ...]
    typed: bool = False
    folder: str = ""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


DATA_SETS = (
    _DataSet("cremad", "CREMA-D", ("cremad", "crema", "cramed"), 6, ("resnet18",)),
    _DataSet(
        "kinetics_sounds",
        "Kinetics-Sounds",
        ("kineticssounds", "kineticssound", "kineticsounds", "kineticsound", "ks"),
        31,
        ("resnet18",),
    ),
    _DataSet(
        "twitter2015",
        "Twitter2015",
        ("twitter2015", "twitter15", "twitter"),
        3,
        ("bertresnet50",),
        typed=True,
        folder="Twitter15",
        files={
            "train_file": ("annotations/train_data.tsv", "annotations/train.tsv"),
            "test_file": ("annotations/test_data.tsv", "annotations/test.tsv"),
            "image_root": ("twitter2015_images",),
        },
    ),
    _DataSet(
        "sarcasm",
        "Sarcasm",
        ("sarcasm",),
        2,
        ("bertresnet50",),
        typed=True,
        folder="sarcasm",
        files={
            "train_file": ("annotations/train_data.csv", "annotations/train_data.json"),
            "test_file": ("annotations/test_data.csv", "annotations/test_data.json"),
            "image_root": ("images",),
        },
    ),
    _DataSet("nvgesture", "NVGesture", ("nvgesture", "nvgestures"), 25, ("rodmodel", "i3d")),
)
RENAMED = {  # keys that are options under another name
    "train.batch_size": ("batch_size", "whole number"),
    "test.batch_size": ("eval_batch_size", "whole number"),
    "train.mixup_alpha": ("mixup", "number"),
    "train.flat_ratio": ("flat_ratio", "number"),
    "train.temperature1": ("tau", "number"),
    "train.optimizer.lr": ("lr", "number"),
    "train.optimizer.wc": ("weight_decay", "number"),
    "seed": ("seed", "whole number"),
}
WITHOUT_EFFECT = {
    "train.up_limit": "none of the authors' scripts reads it",
    "setting.type": "it is a title",
    "gpu_id": "a GPU is found by itself, and --device names one, e.g. cuda:1",
    "debug": "in the authors' code it only names the folder of the log",
}


# ---------------------------------------------------------------- what is trained


def _plain(text: str) -> str:
    """Small letters and digits only: "CREMA-D" -> "cremad"."""
    return "".join(c for c in text.lower() if c.isalnum())


def _data_set(keys: Keys) -> _DataSet:
    given = keys.take("dataset.dataset_name", "text")
    for data in DATA_SETS:
        if given is not None and _plain(given) in data.spellings:
            return data
    known = ", ".join(data.name for data in DATA_SETS)
    problem = "is missing" if given is None else f"{given!r} is not known"
    raise ValueError(f"dataset.dataset_name {problem}: use one of {known}")


def _check(keys: Keys, data: _DataSet) -> None:
    """Raises ValueError where the config asks for another network or loss, or another number of classes."""
    backbone = keys.take("backbone.name", "text")
    if backbone is not None and _plain(backbone) not in data.backbones:
        raise ValueError(
            f"backbone.name {backbone!r} is not what the authors' script trains for {data.title}: "
            "remove the key, and give igm train options of the network"
        )
    if backbone is not None and data.name == "nvgesture":
        keys.tell(
            "backbone.name",
            f"{backbone} begins at random: give the weights, which the authors' script finds in its "
            "folder checkpoint, as network.rgb_weights and network.flow_weights",
        )
    loss = keys.take("loss.type", "text")
    if loss is not None and _plain(loss) not in ("crossentropy", "crossentropyloss"):
        raise ValueError(f"loss.type must be CrossEntropy, got {loss!r}")
    classes = keys.take("setting.num_class", "whole number")
    if classes is not None and classes != data.classes:
        raise ValueError(
            f"setting.num_class is {classes}, but {data.title} has {data.classes} classes: correct "
            "it, or dataset.dataset_name"
        )


# ---------------------------------------------------------------- training


def _workers(keys: Keys) -> dict:
    train = keys.take("train.num_workers", "whole number")
    test = keys.take("test.num_workers", "whole number")
    if None not in (train, test) and train != test:
        keys.tell(
            "test.num_workers", f"{test} is not honoured: train.num_workers, {train}, is for both"
        )
    return {"workers": test if train is None else train}


def _rho(keys: Keys) -> dict:
    encoder = keys.take("train.noise_ratio", "number")
    head = keys.take("train.noise_ratio_cls", "number")
    if head is not None and head != encoder:
        used = "the variant's" if encoder is None else f"train.noise_ratio, {encoder}"
        keys.tell(
            "train.noise_ratio_cls",
            f"{head} is not honoured: encoder and head have one rho, {used}",
        )
    return {"rho": encoder}


def _optimizer(keys: Keys) -> dict:
    given = keys.take("train.optimizer.type", "text")
    kind = None if given is None else _plain(given)
    if kind not in (None, "sgd", "adam"):
        raise ValueError(f"train.optimizer.type must be SGD or ADAM, got {given!r}")
    if kind == "adam":
        keys.ignore("train.optimizer.momentum", "Adam has none")
        return {"optimizer": kind, "beta2": 0.99}  # as in the authors' code
    return {"optimizer": kind, "momentum": keys.take("train.optimizer.momentum", "number")}


SCHEDULER = {
    "type": "text",
    "lr_step": "whole number or list",
    "lr_factor": "number",
    "warmup_epoch": "whole number",
    "patience": "whole number",
}
READ = {  # which of them are read, by type
    "warmup": {"type", "lr_step", "lr_factor", "warmup_epoch"},
    "multistep": {"type", "lr_step", "lr_factor"},
    "step": {"type", "lr_step", "lr_factor"},
    "normal": {"type", "patience"},
    "cosine": {"type"},
    "plateau": {"type", "lr_factor"},
}
ELSEWHERE = {  # what the authors' scripts do with a type that is here, and not the same
    "step": "has no such schedule",
    "plateau": "has no such schedule",
    "cosine": "lets the rate fall over 30 epochs, whatever a stage has, and begins one epoch ahead",
}


def _schedule(keys: Keys, data: _DataSet, longest: int) -> dict:
    """``schedule`` and what belongs to it, for stages of at most ``longest`` epochs."""
    values = {name: keys.take(f"train.lr_scheduler.{name}", k) for name, k in SCHEDULER.items()}
    values = {name: value for name, value in values.items() if value is not None}
    if not values:
        return {}
    given = values.get("type")
    kind = None if given is None else _plain(given).removeprefix("reducelron").removesuffix("lr")
    reason = f"with type {given} it is not read"
    if not data.typed and "patience" in values and kind in (None, "warmup", "multistep", "cosine"):
        kind, read = "normal", {"patience"}
        reason = f"the authors' script for {data.title} does not read it"
    elif kind in READ:
        read = set(READ[kind])
        _tell_of_type(keys, data, given, kind)
    else:
        problem = "is missing" if given is None else f"{given!r} is not known"
        raise ValueError(f"train.lr_scheduler.type {problem}: use one of {', '.join(READ)}")

    found: dict = {"schedule": kind if kind in ("cosine", "plateau") else "step"}
    before = "the authors' schedule moves on before each epoch"
    if "lr_step" in read:
        found["milestones"] = _milestones(values, "lr_step", longest)
        if 0 in found["milestones"]:
            name = "train.lr_scheduler.lr_step"
            keys.tell(name, f"1 lowers the rate in the first epoch: {before}")
    if "lr_factor" in read:
        found["lr_factor"] = values.get("lr_factor")
    if kind == "normal":
        found |= {"milestones": _milestones(values, "patience", longest), "lr_factor": 0.1}
        p = values["patience"]
        every = f"{p} lowers the rate to a tenth after epoch {p - 1} of a stage and every {p} from there"
        keys.tell("train.lr_scheduler.patience", f"{every}: {before}")
        if values.get("lr_factor") == 0.1:  # the authors' factor, whatever the key says
            read.add("lr_factor")
    if kind == "plateau" and values.get("patience") == 5:  # the only patience that there is here
        read.add("patience")
    if "warmup_epoch" in read and values.get("warmup_epoch"):
        found["warmup"] = values["warmup_epoch"]
    for name in values:
        if name not in read:
            keys.tell(f"train.lr_scheduler.{name}", f"is ignored: {reason}")
    return found


def _tell_of_type(keys: Keys, data: _DataSet, given: str, kind: str) -> None:
    """Says where the authors' script does something else with the type."""
    text = ELSEWHERE.get(kind)
    if not data.typed and kind != "normal":
        text = "does not read it, and the rate falls to a tenth after every patience epochs"
    if text:
        name = "train.lr_scheduler.type"
        keys.tell(name, f"{given}: the authors' script for {data.title} {text}")


def _milestones(values: Mapping, name: str, longest: int) -> list[int]:
    """The epochs after which the rate falls. A number stands for its multiples."""
    key, steps = f"train.lr_scheduler.{name}", values.get(name)
    if steps is None:
        raise ValueError(f"{key} is missing: give the epochs at which the learning rate falls")
    if min(steps if isinstance(steps, list) else [steps]) < 1:
        raise ValueError(f"{key} must be 1 or above, got {steps}")
    if not isinstance(steps, list):
        steps = range(steps, max(steps, longest) + 1, steps)
    return [step - 1 for step in steps]  # there the schedule moves on before an epoch


# ---------------------------------------------------------------- data and networks


def _reading(keys: Keys, data: _DataSet) -> dict:
    found = {"size": keys.take("image_res", "whole number")}
    if not data.typed and found["size"] not in (None, 224):
        keys.tell(
            "image_res",
            f"{found['size']} is honoured here; the authors' script for {data.title} has 224 in any case",
        )
    if data.name in ("cremad", "kinetics_sounds"):
        found["frames"] = keys.take("fps", "whole number")
    if data.files:
        found["max_words"] = keys.take("max_tokens", "whole number")
    for name in ("fps", "max_tokens"):
        keys.ignore(name, f"the authors' script for {data.title} does not read it")
    return {name: value for name, value in found.items() if value is not None}


def _network(keys: Keys, data: _DataSet) -> dict:
    encoder = keys.take("text_encoder", "text") if data.files else None
    keys.ignore("text_encoder", f"{data.title} has no texts")
    keys.ignore("bert_config", "what is read is the config.json beside the text encoder's weights")
    return {} if encoder is None else {"text_encoder": encoder}


def _files(keys: Keys, data: _DataSet, root: str | None) -> None:
    """Names the files and folders that are not where igm reads them."""
    for name, places in data.files.items():
        given = keys.take(name, "text")
        above = [] if root is None else [PurePosixPath(root), PurePosixPath(root, data.folder)]
        read = [folder / place for folder in above for place in places]
        if given is not None and PurePosixPath(given) not in read:
            keys.tell(
                name,
                f"{given!r} is not honoured: what is read is {' or '.join(places)} in the folder of "
                "the data",
            )
    for name in ("train_file", "test_file", "image_root"):
        keys.ignore(name, f"{data.title} has fixed places in the folder of the data")
