"""authors_config.py: the configs of the authors' code are read, and nothing in them is dropped in silence."""

import copy
import inspect
import json
from pathlib import Path

import pytest
import test_optimizer
import torch
from torch.optim.lr_scheduler import MultiStepLR, StepLR

from igm.cli import main
from igm.cli.authors_config import DATA_SETS, is_authors, translate
from igm.datasets import LAYOUTS
from igm.encoders import networks
from igm.methods import IGMSettings

# What the authors' five files say, where they differ.
FILES = {
    "cremad": dict(name="CREMA-D", net="ResNet-18", classes=6, epochs=[25, 50] * 6, rho=1e-10),
    "kinetics_sounds": dict(
        name="kinetics_sound", net="ResNet-18", classes=31, epochs=[25, 50] * 2, rho=1e-10
    ),
    "twitter2015": dict(
        name="twitter", net="BERT & ResNet-50", classes=3, epochs=[10, 30] * 2, rho=1e-15
    ),
    "sarcasm": dict(
        name="sarcasm", net="BERT & ResNet-50", classes=2, epochs=[2, 30] * 2, rho=1e-15
    ),
    "nvgesture": dict(name="nvGesture", net="RODModel", classes=25, epochs=[50] * 6, rho=1e-15),
}
TEXTS = ("twitter2015", "sarcasm")


def authors(data: str = "cremad") -> dict:
    """The config of one data set, with every key that there is."""
    file, texts = FILES[data], data in TEXTS
    return {
        "dataset": {"dataset_name": file["name"], "data_root": "/data"},
        "backbone": {"name": file["net"]},
        "loss": {"type": "CrossEntropy"},
        "train": {
            "epoch_list": file["epochs"],
            "batch_size": 6 if data == "nvgesture" else 12,
            "mixup_alpha": 0.9,
            "num_workers": 8,
            "flat_ratio": 0.3,
            "noise_ratio": file["rho"],
            "noise_ratio_cls": file["rho"],
            "temperature1": 0.4,
            "up_limit": 1.0,
            "optimizer": {
                "type": "ADAM" if texts else "SGD",
                "momentum": 0.9,
                "lr": 1e-5 if texts else 1e-2,
                "wc": 1e-4,
            },
            "lr_scheduler": {
                "type": "warmup",
                "lr_step": [160, 180],
                "lr_factor": 0.1,
                "warmup_epoch": 2,
                "patience": 40,
            },
        },
        "test": {"batch_size": 64, "num_workers": 8},
        "setting": {"type": "Classification", "num_class": file["classes"]},
        "seed": 42,
        "gpu_id": "4",
        "image_res": 224,
        "fps": 1,
        "train_file": "/data/annotations/train_data.tsv",
        "test_file": "/data/annotations/test_data.tsv",
        "image_root": "/data/twitter2015_images/",
        "bert_config": "configs/config_bert.json",
        "text_encoder": "checkpoint/bert",
        "max_tokens": 50,
        "debug": False,
    }


def leaves(config: dict, prefix: str = "") -> dict:
    """The values of a config by nested key."""
    found = {}
    for key, value in config.items():
        name = prefix + key
        found |= leaves(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def changed(config: dict, key: str, value) -> dict:
    """The config with another value of a nested key; ... takes it out."""
    config = copy.deepcopy(config)
    *sections, name = key.split(".")
    inside = config
    for section in sections:
        inside = inside[section]
    inside[name] = value
    if value is ...:
        del inside[name]
    return config


def named(key: str, sentences: list[str]) -> list[str]:
    return [sentence for sentence in sentences if sentence.startswith(f"{key} ")]


# ---------------------------------------------------------------- the authors' files


def test_the_file_of_crema_d_is_the_run_of_its_script():
    options, _ = translate(authors())
    assert options == {
        "data": "cremad",
        "data_root": "/data",
        "variant": "released",
        "stage_epochs": [25, 50] * 6,
        "batch_size": 12,
        "eval_batch_size": 64,
        "mixup": 0.9,
        "workers": 8,
        "flat_ratio": 0.3,
        "tau": 0.4,
        "rho": 1e-10,
        "optimizer": "sgd",
        "momentum": 0.9,
        "lr": 1e-2,
        "weight_decay": 1e-4,
        "schedule": "step",
        "milestones": [39],
        "lr_factor": 0.1,
        "seed": 42,
        "reading": {"frames": 1, "size": 224},
    }


def test_the_file_of_twitter_is_the_run_of_its_script():
    options, sentences = translate(authors("twitter2015"))
    assert options == {
        "data": "twitter2015",
        "data_root": "/data",
        "variant": "released",
        "score": "accuracy",
        "stage_epochs": [10, 30] * 2,
        "batch_size": 12,
        "eval_batch_size": 64,
        "mixup": 0.9,
        "workers": 8,
        "flat_ratio": 0.3,
        "tau": 0.4,
        "rho": 1e-15,
        "optimizer": "adam",
        "beta2": 0.99,
        "lr": 1e-5,
        "weight_decay": 1e-4,
        "schedule": "step",
        "milestones": [159, 179],
        "lr_factor": 0.1,
        "warmup": 2,
        "seed": 42,
        "reading": {"max_words": 50, "size": 224},
        "network": {"text_encoder": "checkpoint/bert"},
    }
    assert not named("train.optimizer.type", sentences) and not named("train_file", sentences)


@pytest.mark.parametrize("data", FILES)
def test_every_file_gives_settings_that_are_valid(data):
    config = authors(data)
    assert is_authors(config)
    options, _ = translate(config)
    assert options["data"] == data
    other = ("data", "data_root", "reading", "network")
    settings = IGMSettings.make(**{name: x for name, x in options.items() if name not in other})
    assert settings.rho == FILES[data]["rho"]
    assert settings.stage_epochs == FILES[data]["epochs"]


@pytest.mark.parametrize("data", FILES)
def test_the_options_are_those_that_the_data_set_has(data):
    layout, options = LAYOUTS[data], translate(authors(data))[0]
    assert options["reading"].keys() <= inspect.signature(layout.readers).parameters.keys()
    network = getattr(networks, layout.network)
    assert options.get("network", {}).keys() <= inspect.signature(network).parameters.keys()
    (ours,) = (entry for entry in DATA_SETS if entry.name == data)
    assert ours.classes == len(layout.classes)
    assert ours.folder in ("", layout.folder)


@pytest.mark.parametrize("data", FILES)
@pytest.mark.parametrize("key", leaves(authors()))
def test_every_key_is_translated_or_named(data, key):
    config = authors(data)
    options, sentences = translate(config)
    if named(key, sentences):
        return
    value = leaves(config)[key]
    other = {int: 7, float: 0.7, str: f"{value}x", list: [3, 4]}[type(value)]
    try:
        assert translate(changed(config, key, other)) != (options, sentences)
    except ValueError as error:
        assert str(error).startswith(f"{key} ")


@pytest.mark.parametrize("key", ["train.foo", "train.optimizer.foo", "dataset.foo", "foo", "head"])
@pytest.mark.parametrize("value", [1, {"type": "MLP"}, None], ids=str)
def test_an_unknown_key_is_named_and_changes_nothing(key, value):
    options, sentences = translate(authors())
    found, more = translate(changed(authors(), key, value))
    assert found == options
    assert more == [*sentences, f"{key} is not known: ignored"]


def test_a_config_of_igm_is_not_taken_for_one_of_the_authors():
    assert not is_authors({"data": "digits", "noise": {"image": 2.0}, "network": {"size": "tiny"}})
    assert not is_authors({"train": 3, "igm": {"tau": 0.4}})
    for section in ("dataset", "train", "setting"):
        assert is_authors({section: {}})


# ---------------------------------------------------------------- key by key


@pytest.mark.parametrize(
    ("data", "spellings"),
    [
        ("cremad", ["CREMAD", "CREMA-D", "crema_d", "Crema"]),
        (
            "kinetics_sounds",
            ["KineticSound", "kinetics_sound", "Kinetics-Sounds", "kinetic_sounds"],
        ),
        ("twitter2015", ["twitter", "Twitter15", "Twitter-2015"]),
        ("sarcasm", ["Sarcasm", "SARCASM"]),
        ("nvgesture", ["NvGesture", "NVGesture", "nv_gesture"]),
    ],
)
def test_a_data_set_has_many_spellings(data, spellings):
    for spelling in spellings:
        config = changed(authors(data), "dataset.dataset_name", spelling)
        assert translate(config)[0]["data"] == data


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("patience", [1, 2, 7, 40])
def test_the_rate_falls_in_the_epoch_in_which_it_falls_there(patience):
    options, _ = translate(changed(authors(), "train.lr_scheduler.patience", patience))

    def rates(schedule, first: bool) -> list[float]:
        found = []
        for _ in range(50):
            if first:  # as in the authors' loop
                schedule.step()
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if not first:
                schedule.step()
        return found

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    optimizer.step()
    there = rates(StepLR(optimizer, patience, 0.1), first=True)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    here = rates(MultiStepLR(optimizer, options["milestones"], options["lr_factor"]), first=False)
    assert here == there


@pytest.mark.parametrize(
    ("scheduler", "expected", "unread"),
    [
        (dict(type="StepLR", lr_step=20, lr_factor=0.5), ("step", [19, 39], 0.5), []),
        (dict(type="StepLR", lr_step=40, patience=9), ("step", [39], None), ["patience"]),
        (dict(type="multistep", lr_step=[10, 20]), ("step", [9, 19], None), []),
        (dict(type="normal", patience=25, lr_step=[9]), ("step", [24, 49], 0.1), ["lr_step"]),
        (dict(patience=30, lr_factor=0.5), ("step", [29], 0.1), ["lr_factor"]),
        (dict(type="cosine", warmup_epoch=2), ("cosine", None, None), ["warmup_epoch"]),
        (dict(type="plateau", lr_factor=0.2, patience=5), ("plateau", None, 0.2), []),
        (dict(type="ReduceLROnPlateau", patience=9), ("plateau", None, None), ["patience"]),
    ],
    ids=str,
)
def test_schedules(scheduler, expected, unread):
    options, sentences = translate(changed(authors(), "train.lr_scheduler", scheduler))
    assert (options["schedule"], options.get("milestones"), options.get("lr_factor")) == expected
    assert "warmup" not in options
    told = [s.split()[0].split(".")[-1] for s in sentences if s.startswith("train.lr_scheduler")]
    told = [name for name in told if name not in ("patience", "type") or name in unread]
    assert told == unread


def test_a_warmup_is_read_where_the_script_reads_it():
    for epochs, expected in ((3, 3), (0, None)):
        config = changed(authors("sarcasm"), "train.lr_scheduler.warmup_epoch", epochs)
        options, sentences = translate(config)
        assert options.get("warmup") == expected
        assert not named("train.lr_scheduler.warmup_epoch", sentences)  # it is honoured


def rates_of(config: dict, epochs: int) -> list[float]:
    """The rate of each epoch of a stage that igm trains by this config."""
    options, _ = translate(config)
    other = ("data", "data_root", "reading", "network")
    made = IGMSettings.make(**{name: x for name, x in options.items() if name not in other})
    return test_optimizer.rates_of(made, epochs)


def test_the_rates_of_sarcasm_are_those_of_its_script():
    """Its first stages have two epochs: 2/3 of the rate, then all of it."""
    assert rates_of(authors("sarcasm"), 2) == pytest.approx([2e-5 / 3, 1e-5], rel=1e-12)
    assert rates_of(authors("sarcasm"), 30) == pytest.approx([2e-5 / 3] + 29 * [1e-5], rel=1e-12)
    config = changed(authors("sarcasm"), "train.lr_scheduler.lr_step", [2, 4])
    config = changed(config, "train.lr_scheduler.warmup_epoch", 3)
    shares = [5 / 9, 0.1 * 7 / 9, 0.1, 0.01, 0.01]  # in the epochs 2 and 4 it falls
    assert rates_of(config, 5) == pytest.approx([1e-5 * share for share in shares], rel=1e-12)


@pytest.mark.parametrize("steps", [[1], [1, 3], 1, 2], ids=str)
def test_a_step_at_1_lowers_the_rate_of_the_first_epoch_as_there(steps):
    scheduler = {"type": "multistep", "lr_step": steps, "lr_factor": 0.5}
    config = changed(authors("sarcasm"), "train.lr_scheduler", scheduler)
    there = steps if isinstance(steps, list) else range(steps, 31, steps)
    expected = [1e-5 * 0.5 ** sum(e >= step for step in there) for e in range(1, 7)]
    assert rates_of(config, 6) == pytest.approx(expected, rel=1e-12)
    (sentence,) = named("train.lr_scheduler.lr_step", translate(config)[1]) or [None]
    assert (sentence is not None) == (1 in there)
    if sentence:
        assert "1 lowers the rate in the first epoch" in sentence


@pytest.mark.parametrize(
    ("data", "scheduler", "said"),
    [
        ("sarcasm", {"type": "cosine"}, "over 30 epochs, whatever a stage has"),
        ("cremad", {"type": "cosine"}, "CREMA-D does not read it, and the rate falls to a tenth"),
        ("nvgesture", {"type": "StepLR", "lr_step": 9}, "NVGesture does not read it"),
        ("sarcasm", {"type": "plateau"}, "Sarcasm has no such schedule"),
        ("sarcasm", {"type": "multistep", "lr_step": [9]}, None),
        ("cremad", {"type": "normal", "patience": 40}, None),
        ("cremad", {"type": "warmup", "patience": 40}, "CREMA-D does not read it"),
    ],
    ids=str,
)
def test_a_type_that_does_something_else_there_is_named(data, scheduler, said):
    _, sentences = translate(changed(authors(data), "train.lr_scheduler", scheduler))
    found = named("train.lr_scheduler.type", sentences)
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_what_is_said_twice_and_not_alike_is_named():
    for key, value, said in (
        ("test.num_workers", 4, "train.num_workers, 8, is for both"),
        ("train.noise_ratio_cls", 0.1, "one rho, train.noise_ratio, 1e-10"),
    ):
        options, sentences = translate(changed(authors(), key, value))
        assert (options["workers"], options["rho"]) == (8, 1e-10)
        assert said in named(key, sentences)[0]
    options, _ = translate(changed(authors(), "train.num_workers", ...))
    assert options["workers"] == 8


@pytest.mark.parametrize(
    ("data", "root", "name", "path", "read"),
    [
        ("twitter2015", "/d/Twitter15", "train_file", "/d/Twitter15/annotations/train_data.tsv", 1),
        ("twitter2015", "/d/", "train_file", "/d/Twitter15/annotations/train_data.tsv", 1),
        ("twitter2015", "/d/Twitter15", "train_file", "/d/Twitter15/annotations/train.tsv", 1),
        ("twitter2015", "/d/Twitter15", "train_file", "/d/Twitter15/annotations/all.tsv", 0),
        ("twitter2015", "/d/Twitter15", "train_file", "/e/Twitter15/annotations/train_data.tsv", 0),
        ("twitter2015", "/d/Twitter15", "test_file", "/d/Twitter15/annotations/train_data.tsv", 0),
        ("sarcasm", "/d/sarcasm", "test_file", "/d/sarcasm/annotations/test_data.json", 1),
        ("sarcasm", "/d/sarcasm", "image_root", "/d/sarcasm/images/", 1),
        ("sarcasm", "/d/sarcasm", "image_root", "/d/pictures", 0),
        ("cremad", "/d", "train_file", "/d/annotations/train.csv", 0),
    ],
)
def test_files_elsewhere_are_named(data, root, name, path, read):
    config = changed(changed(authors(data), "dataset.data_root", root), name, path)
    options, sentences = translate(config)
    assert options["data_root"] == root
    assert len(named(name, sentences)) == 1 - read


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.batch_size", "12", "train.batch_size must be a whole number, got '12'"),
        ("train.batch_size", 12.5, "train.batch_size must be a whole number, got 12.5"),
        ("train.batch_size", True, "train.batch_size must be a whole number, got True"),
        ("train.batch_size", {"a": 1}, "train.batch_size must be a whole number, got {'a': 1}"),
        ("train.epoch_list", 25, "train.epoch_list must be a list of whole numbers, e.g. [25, 50]"),
        ("train.epoch_list", [], "train.epoch_list must be a list of whole numbers"),
        ("train.epoch_list", ["25"], "train.epoch_list must be a list of whole numbers"),
        ("train.epoch_list", ..., "train.epoch_list is missing: give the epochs of each stage"),
        ("train.optimizer.lr", "1e-2", "train.optimizer.lr must be a number, got '1e-2'"),
        ("train.optimizer.lr", None, "train.optimizer.lr must be a number, got None"),
        ("train.optimizer", "SGD", "train.optimizer must hold keys in braces, got 'SGD'"),
        ("train.optimizer.type", "LBFGS", "train.optimizer.type must be SGD or ADAM, got 'LBFGS'"),
        ("train.lr_scheduler.patience", 0, "train.lr_scheduler.patience must be 1 or above, got 0"),
        (
            "train.lr_scheduler.lr_step",
            "x",
            "train.lr_scheduler.lr_step must be a whole number, or",
        ),
        (
            "train.lr_scheduler.type",
            "poly",
            "type 'poly' is not known: use one of warmup, multistep",
        ),
        ("train.lr_scheduler", {"type": "StepLR"}, "train.lr_scheduler.lr_step is missing"),
        ("train.lr_scheduler", {"lr_step": 9}, "train.lr_scheduler.type is missing: use one of"),
        ("dataset.data_root", 5, "dataset.data_root must be text, got 5"),
        ("dataset.dataset_name", ..., "dataset.dataset_name is missing: use one of cremad"),
        ("dataset.dataset_name", 5, "dataset.dataset_name must be text, got 5"),
        (
            "dataset.dataset_name",
            "VGGSound",
            "dataset.dataset_name 'VGGSound' is not known: use one of cremad, kinetics_sounds, "
            "twitter2015, sarcasm, nvgesture",
        ),
        ("setting.num_class", 31, "setting.num_class is 31, but CREMA-D has 6 classes"),
        ("backbone.name", "ResNet-50", "backbone.name 'ResNet-50' is not what the authors' script"),
        ("loss.type", "Focal", "loss.type must be CrossEntropy, got 'Focal'"),
        ("setting", 6, "setting must hold keys in braces, got 6"),
        ("seed", "42", "seed must be a whole number, got '42'"),
    ],
    ids=str,
)
def test_a_mistake_names_the_nested_key(key, value, message):
    with pytest.raises(ValueError) as caught:
        translate(changed(authors(), key, value))
    assert message in str(caught.value)
    assert str(caught.value).startswith(key)


@pytest.mark.parametrize("data", FILES)
def test_another_number_of_classes_is_refused(data):
    with pytest.raises(
        ValueError, match=f"setting.num_class is 7, but .* {FILES[data]['classes']} "
    ):
        translate(changed(authors(data), "setting.num_class", 7))


# ---------------------------------------------------------------- the command line


@pytest.fixture
def file(tmp_path, monkeypatch):
    """file(config): writes crema.json into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IGM_TRACEBACK", raising=False)
    return lambda config: (tmp_path / "crema.json").write_text(json.dumps(config))


def printed(capsys, *words) -> tuple[dict, list[str]]:
    """What ``igm train`` would use, and what it says."""
    with pytest.raises(SystemExit) as leaving:
        main(["train", *words, "--print_config"])
    assert not leaving.value.code
    out, err = capsys.readouterr()
    return json.loads(out), err.splitlines()


def test_igm_train_takes_the_file_and_says_what_it_does_not_honour(file, capsys):
    file(authors())
    expected, sentences = translate(authors())
    options, lines = printed(capsys, "--config", "crema.json")
    assert {name: options[name] for name in expected} == expected
    assert lines == [f"igm: config crema.json: {sentence}" for sentence in sentences]


def test_an_option_after_the_file_wins_and_one_before_it_does_not(file, capsys):
    file(authors())
    words = ["--seed", "7", "--tau", "9", "--epochs", "3", "--config", "crema.json", "--tau", "1.3"]
    options, _ = printed(capsys, *words)
    assert (options["seed"], options["tau"], options["epochs"]) == (42, 1.3, 3)
    Path("mine.json").write_text('{"tau": 5.0, "lr": 0.5}')
    options, _ = printed(capsys, "--config", "crema.json", "--config", "mine.json")
    assert (options["tau"], options["lr"], options["batch_size"]) == (5.0, 0.5, 12)


def test_a_run_with_the_file(file, capsys, tmp_path):
    config = authors()
    for key in ("dataset.data_root", "fps", "image_res"):
        config = changed(config, key, ...)
    file(config)
    small = {"data": "mfeat", "samples": 60, "modalities": ["fou", "kar"], "stage_epochs": [1, 1]}
    small |= {"workers": 0, "device": "cpu", "out": "run"}
    words = [
        w
        for name, x in small.items()
        for w in (f"--{name}", x if isinstance(x, str) else json.dumps(x))
    ]
    assert main(["train", "--config", "crema.json", *words]) == 0
    assert "igm: config crema.json: gpu_id is ignored" in capsys.readouterr().err
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert (settings["variant"], settings["seed"], settings["milestones"]) == ("released", 42, [39])
    assert (settings["mixup"], settings["stage_epochs"]) == (0.9, [1, 1])


def test_several_processes_say_it_once(file, capsys, monkeypatch):
    file(authors())
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert printed(capsys, "--config", "crema.json")[1] == []


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("train.batch_size", "12", "train.batch_size must be a whole number, got '12'"),
        ("setting.num_class", 5, "setting.num_class is 5, but CREMA-D has 6 classes"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_file_and_key(file, capsys, key, value, part):
    file(changed(authors(), key, value))
    with pytest.raises(SystemExit) as leaving:
        main(["train", "--config", "crema.json"])
    out, err = capsys.readouterr()
    assert (leaving.value.code, out) == (2, "")
    assert err.startswith(f"igm: in the config file crema.json {part}")
    assert len(err.splitlines()) == 1
