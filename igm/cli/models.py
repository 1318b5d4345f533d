"""From the options of a run to its model and its data; from the folder of a run to what it has trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from inspect import signature
from pathlib import Path

import torch
from jsonargparse import Namespace
from torch import nn

from igm.cli.parser import Parser
from igm.datasets import DATASETS, LAYOUTS, SMALL, load_splits
from igm.devices import Devices
from igm.encoders.small import build_model
from igm.methods import Method, find_method
from igm.runs import WEIGHTS, load_weights, read_record
from igm.settings import Settings, check_options

NOTES = {  # what run.json says of data and model, with its defaults
    "data": "digits",
    "data_root": None,
    "samples": None,
    "noise": None,
    "data_seed": 0,
    "reading": None,
    "cache": True,
    "model": "late",
    "network": None,
    "shared_head": False,
}
DECIDED = {  # what the functions behind --network and --reading get from elsewhere
    *("name", "root", "split", "samples", "cache"),
    *("classes", "shapes", "modalities", "kind", "fusion", "shared_head", "seed"),
}


def add_run(parser: Parser) -> None:
    """The options of a command on a finished run."""
    parser.add_argument("run", type=str, help="the folder of a run")
    parser.add_argument("--data_root", type=str | None, help="another folder of the same data")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... or auto")


def finished(options: Namespace) -> tuple[Method, dict, torch.device]:
    """The method of a finished run with its trained model in evaluation mode, its data, and the device."""
    record = read_record(options.run)
    if record["status"] != "complete":
        raise ValueError(
            f"{options.run} is not finished ({record['status']}): igm train --resume {options.run}"
        )
    settings = settings_of(record)
    model, data = model_of(record, options.data_root, pretrained=False)
    load_weights(Path(options.run) / WEIGHTS, model)
    devices = Devices(options.device, settings.precision)
    model.to(devices.device).eval()
    method = find_method(settings.method)(model, settings.modalities, settings, devices)
    return method, data, devices.device


def settings_of(record: Mapping) -> Settings:
    """The settings of a run."""
    kind = find_method(record["settings"]["method"]).Settings
    if unknown := sorted(record["settings"].keys() - {field.name for field in fields(kind)}):
        raise ValueError(
            f"the run has settings that are not known here ({', '.join(unknown)}): it was made by "
            "another version of igm, use that one"
        )
    return kind.make(**record["settings"])


def model_of(record: Mapping, data_root: str | None = None, pretrained: bool = True):
    """The untrained model of a run and its data."""
    if not all(name in record for name in NOTES):
        raise ValueError("this run was not begun by igm train: go on with it in Python")
    notes = {name: record[name] for name in NOTES}
    if data_root:
        notes["data_root"] = data_root
    settings = record["settings"]
    return model_and_data(notes, settings["modalities"], settings["seed"], pretrained)


def model_and_data(
    notes: Mapping, modalities: list[str] | None, seed: int, pretrained: bool = True
) -> tuple[nn.Module, dict]:
    """An untrained model, its encoders pretrained where they are, and the splits of its data."""
    name, network = notes["data"], dict(notes["network"] or {})
    reading = _reading(notes, network)
    data = load_splits(
        name, notes["data_root"], samples=notes["samples"], seed=notes["data_seed"], **reading
    )
    there = data["train"].modalities
    for modality in modalities or ():
        if modality not in there:
            raise ValueError(f"unknown modality {modality!r}: the data has {', '.join(there)}")
    wanted = [modality for modality in there if modality in (modalities or there)]
    kind, classes = notes["model"], len(data["train"].classes)
    shared = {"shared_head": notes["shared_head"], "seed": seed}
    shared |= {} if pretrained else {"pretrained": False}
    if name in LAYOUTS and LAYOUTS[name].network:
        from igm.encoders.build import build_network  # torchvision is slow to load

        build = LAYOUTS[name].network
        data = {split: part.view(wanted) for split, part in data.items()}  # no other is read
        return build_network(build, classes, wanted, kind, **network | shared), data
    shapes = {modality: data["train"].shapes[modality] for modality in wanted}
    check_options("network", name, network, build_model, DECIDED)
    return build_model(shapes, classes, fusion=kind, **network | shared), data


def _reading(notes: Mapping, network: Mapping) -> dict:
    """The options with which the data is read."""
    reading, name = dict(notes["reading"] or {}), notes["data"]
    for flag, given in {"network": network, "reading": reading}.items():
        if decided := sorted(DECIDED & given.keys()):
            raise ValueError(
                f"{decided[0]!r} is no option of --{flag}: the data or another option of the command "
                "decides it, see igm train --help"
            )
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: use one of {', '.join(DATASETS)}")
    if name in SMALL:
        check_options("reading", name, reading, SMALL[name], DECIDED)
    if notes["noise"]:
        if "noise" not in signature(DATASETS[name]).parameters:
            raise ValueError(f"noise is for the small data sets, not for {name}: leave it out")
        reading["noise"] = notes["noise"]
    if name in LAYOUTS:
        reading["cache"] = notes["cache"]
    _same_tokenizer(name, network, reading)
    return reading


def _same_tokenizer(name: str, network: Mapping, reading: dict) -> None:
    """A text encoder reads the numbers of its own tokenizer."""
    reads = LAYOUTS[name].readers if name in LAYOUTS else DATASETS[name]
    if "tokenizer" in signature(reads).parameters:
        text_encoder = network.get("clip") or network.get("text_encoder")
        if text_encoder:
            reading.setdefault("tokenizer", text_encoder)
