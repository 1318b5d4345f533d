"""train.py: reproducible, honest in its choice of weights, and careful with files."""

import json
import math
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Subset

import igm.train
from igm import LateFusion, Unimodal, build_model, evaluate, paper_head, train
from igm.loading import batches, hold_out
from igm.methods import Alternating, EachAlone, method_names
from igm.metrics import predictions

QUICK = dict(epochs=4, batch_size=16, progress=False, device="cpu")


def equal(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- reproducible


@pytest.mark.parametrize("method", method_names())
def test_the_seed_decides_the_run_bit_by_bit(networks, tiny, method):
    first, again, other = (
        train(networks(), tiny, method, seed=seed, **QUICK) for seed in (1, 1, 2)
    )
    assert first.history == again.history != other.history
    assert first.results == again.results
    assert equal(first.model, again.model)
    assert not equal(first.model, other.model)


def test_what_is_drawn_in_training_depends_on_the_seed_alone(tiny):
    def dropout_run(seed):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(76, 16), nn.ReLU(), nn.Dropout(0.5))
        model = LateFusion({"fou": Unimodal(encoder, paper_head(16, 10))})
        torch.manual_seed(1000 + seed)  # the caller's state is not what counts
        return train(model, tiny, "igm", modalities=["fou"], seed=0, **QUICK).model

    assert equal(dropout_run(0), dropout_run(1))


@pytest.mark.parametrize("method", method_names())
def test_the_callers_random_state_is_untouched(networks, tiny, method):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    run = train(networks(), tiny, method, **QUICK)
    evaluate(run.model, tiny["test"])
    list(batches(tiny["train"], 8, 3))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


def test_every_epoch_of_a_modality_has_its_own_order_whatever_else_is_trained(networks, tiny):
    def orders(**settings):
        seen = {}  # modality -> the samples in the order in which they came

        class Noted(Alternating):
            def gradient(self, stage, batch, optimizer):
                seen.setdefault(stage.modalities[0], []).extend(batch["index"].tolist())
                return super().gradient(stage, batch, optimizer)

        train(networks(), tiny, Noted, **settings, **QUICK)
        return {name: np.reshape(order, (4, 100)) for name, order in seen.items()}

    both = orders(rounds=2)
    epochs = [*both["fou"], *both["kar"]]
    assert all(sorted(order) == list(range(100)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 8
    assert (orders(rounds=1, modalities=["kar"])["kar"] == both["kar"]).all()


# ---------------------------------------------------------------- the choice of the weights


def test_only_the_validation_split_chooses(networks, tiny):
    first = train(networks(), tiny, "igm", **QUICK)
    tiny["test"].labels = (tiny["test"].labels + 1) % 10
    second = train(networks(), tiny, "igm", **QUICK)
    assert first.results["test"] != second.results["test"]
    assert first.results["valid"] == second.results["valid"]
    assert (first.best_epoch, first.history) == (second.best_epoch, second.history)
    assert equal(first.model, second.model)
    tiny["valid"].labels = (tiny["valid"].labels + 1) % 10
    third = train(networks(), tiny, "igm", **QUICK)
    assert third.history != second.history


@pytest.mark.parametrize("method", method_names())
def test_the_best_epoch_is_the_earliest_of_the_highest(networks, tiny, method):
    run = train(networks(), tiny, method, **QUICK)
    fused = [row["valid"]["fused"] for row in run.history]
    assert run.best_epoch == fused.index(max(fused)) + 1
    assert run.results["valid"]["fused"]["accuracy"] == max(fused)
    fusion = {"joint": "logits", "ogm": "logits", "mla": "entropy"}.get(method, "mean")
    assert evaluate(run.model, tiny["valid"], fusion) == run.results["valid"]
    assert evaluate(run.model, tiny["test"], fusion) == run.results["test"]
    assert not run.model.training


def test_a_tie_goes_to_the_earlier_epoch(networks, tiny):
    run = train(networks(), tiny, "unimodal", **(QUICK | {"lr": 1e-12}))
    assert len({row["valid"]["fused"] for row in run.history}) == 1
    assert run.best_epoch == 1


@pytest.mark.parametrize("method", method_names())
def test_select_last_keeps_the_last_weights(networks, tiny, method):
    run = train(networks(), tiny, method, select="last", **QUICK)
    assert run.best_epoch == len(run.history)
    assert run.history[-1]["valid"]["fused"] == run.results["valid"]["fused"]["accuracy"]
    assert all("valid" in row for row in run.history)


def test_the_accuracies_are_those_of_the_models_own_predictions(networks, tiny):
    run = train(networks(), tiny, "alternating", fusion="entropy", **QUICK)
    with torch.no_grad():
        logits = run.model(tiny["test"].inputs)
    labels = tiny["test"].labels
    predictions = logits | {"fused": igm.fuse(logits, "entropy")}
    for name, p in predictions.items():
        accuracy = (p.argmax(1) == labels).float().mean().item()
        assert run.results["test"][name]["accuracy"] == pytest.approx(accuracy)


def test_history_has_a_row_an_epoch(networks, tiny):
    run = train(networks(), tiny, "igm", rounds=2, **QUICK)
    rows = [(r["stage"], r["round"], r["modality"], r["epoch"]) for r in run.history]
    assert rows == [
        (0, 0, "fou", 1), (0, 0, "fou", 2), (1, 0, "kar", 1), (1, 0, "kar", 2),
        (2, 1, "fou", 3), (2, 1, "fou", 4), (3, 1, "kar", 3), (3, 1, "kar", 4),
    ]  # fmt: skip
    assert all(row["valid"].keys() == {"fou", "kar", "fused"} for row in run.history)


def test_the_loss_of_an_epoch_is_the_mean_over_its_batches(networks, tiny):
    model = networks()
    with torch.no_grad():
        z = model["fou"](tiny["train"].inputs["fou"])
    run = train(model, tiny, "unimodal", **(QUICK | dict(lr=1e-12, batch_size=20)))
    expected = F.cross_entropy(z, tiny["train"].labels).item()
    assert run.history[0]["loss"] == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------- hold_out


def test_hold_out_is_stratified_and_disjoint(mfeat):
    dataset = mfeat["train"]
    train_part, valid_part = hold_out(dataset, share=0.1, seed=0)
    train_rows, valid_rows = train_part.index.tolist(), valid_part.index.tolist()
    assert not set(train_rows) & set(valid_rows)
    assert set(train_rows) | set(valid_rows) == set(range(1200))
    assert np.bincount(valid_part.labels).tolist() == [12] * 10
    assert torch.equal(valid_part.labels, dataset.labels[valid_rows])
    assert hold_out(dataset, seed=0)[1].index.tolist() == valid_rows
    assert hold_out(dataset, seed=1)[1].index.tolist() != valid_rows


def test_hold_out_of_any_data_set(mfeat):
    parts = hold_out(Subset(mfeat["train"], range(0, 1200, 4)), share=0.2, seed=0)
    indices = [{int(sample["index"]) for sample in part} for part in parts]
    labels = mfeat["train"].labels[::4].bincount()
    assert len(indices[1]) == sum(max(1, round(0.2 * n)) for n in labels.tolist())
    assert not indices[0] & indices[1]
    assert indices[0] | indices[1] == set(range(0, 1200, 4))


def test_without_a_validation_split_a_tenth_of_train_is_held_out(networks, mfeat):
    whole = mfeat["train"].subset(range(300))
    held_train, held_valid = hold_out(whole, seed=3)
    explicit = {"train": held_train, "valid": held_valid}
    first = train(networks(), {"train": whole}, "unimodal", seed=3, **QUICK)
    second = train(networks(), explicit, "unimodal", seed=3, **QUICK)
    assert len(held_valid) == pytest.approx(30, abs=5)  # a tenth of each class, rounded
    assert first.results.keys() == {"valid"}
    assert first.results == second.results
    assert equal(first.model, second.model)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("shared_head", [False, True])
def test_the_folder_of_a_run(networks, tiny, tmp_path, shared_head):
    out = tmp_path / "deep" / "run"
    model = networks(shared_head=shared_head)
    run = train(model, tiny, "igm", out=out, notes={"data": "mfeat"}, tau=1.3, **QUICK)
    assert run.folder == out
    assert sorted(f.name for f in out.iterdir()) == ["metrics.csv", "model.safetensors", "run.json"]

    record = json.loads((out / "run.json").read_text())
    assert record == {"data": "mfeat"} | run.record()
    assert record["settings"]["method"] == "igm"
    assert (record["settings"]["tau"], record["settings"]["seed"]) == (1.3, 0)
    assert record["best_epoch"] == run.best_epoch
    assert record["history"] == run.history
    assert record["results"]["test"]["fused"].keys() == {"accuracy", "macro_f1", "map"}
    assert record["versions"]["torch"] == torch.__version__
    assert record["wall_seconds"] > 0

    fresh = networks(shared_head=shared_head, seed=99)
    safetensors.torch.load_model(fresh, out / "model.safetensors")
    assert equal(fresh, model)
    assert (fresh["fou"].head is fresh["kar"].head) is shared_head
    assert evaluate(fresh, tiny["test"]) == run.results["test"]


def test_without_a_folder_nothing_is_written(networks, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train(networks(), tiny, "unimodal", **QUICK).folder is None
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_and_kept(networks, tiny, tmp_path):
    (tmp_path / "run.json").write_text("precious")
    model = networks()
    with pytest.raises(FileExistsError, match="not overwritten: give another folder"):
        train(model, tiny, "igm", out=tmp_path, **QUICK)
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("run.json", "precious")]
    assert equal(model, networks())


# ---------------------------------------------------------------- errors


def test_a_loss_that_is_not_finite_names_the_samples(networks, tiny, tmp_path):
    tiny["train"].inputs["kar"][37, 5] = float("nan")
    tiny["train"] = Subset(tiny["train"], range(100))  # as if it were read from files
    with pytest.raises(FloatingPointError) as caught:
        train(networks(), tiny, "igm", out=tmp_path / "run", **QUICK)
    message = str(caught.value)
    assert "the loss of kar became nan in epoch 1" in message
    samples = json.loads(message[message.index("[") : message.index("]") + 1])
    assert 37 in samples
    assert len(samples) <= 16
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.inputs["kar"][37].fill_(math.nan), "kar .* in 1 samples of the {} split.* 37"),
        (
            lambda s: s.inputs["fou"][3, 4].fill_(-math.inf),
            "fou .* not finite in 1 samples of the {}",
        ),
        (lambda s: s.labels[8].fill_(10), "the label 10 in the {} split is no class: there are 10"),
        (lambda s: setattr(s, "labels", s.labels[:0]), "the {} split is empty"),
    ],
    ids=["NaN", "inf", "label", "empty"],
)
def test_data_that_do_not_fit_are_refused_before_the_first_epoch(
    networks, tiny, tmp_path, split, spoil, message
):
    spoil(tiny[split])
    with pytest.raises(ValueError, match=message.format(split)):
        train(networks(), tiny, out=tmp_path / "run", **QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{}, {"shared_head": True}, {"fusion": "concat"}])
@pytest.mark.parametrize("classes", [9, 12])
def test_a_model_for_another_number_of_classes_is_refused(mfeat, tiny, tmp_path, options, classes):
    model = build_model(mfeat["train"].shapes, classes, d=16, **options)
    with pytest.raises(ValueError, match=rf"the model has {classes} outputs .* build it for 10"):
        train(model, tiny, "joint", out=tmp_path / "run", **QUICK)
    assert list(tmp_path.iterdir()) == []


class Wide(nn.Module):
    """A head whose number of outputs cannot be seen from outside."""

    def __init__(self, classes):
        super().__init__()
        self.hidden, self.classes = nn.Linear(16, 10), classes

    def forward(self, z):
        return F.pad(self.hidden(z), (0, self.classes - 10))


def test_outputs_that_only_show_when_it_runs_are_refused_at_the_first_evaluation(tiny):
    encoder = nn.Linear(76, 16)
    model = LateFusion({"fou": Unimodal(encoder, Wide(11))})
    with pytest.raises(ValueError, match="the model has 11 outputs and the data 10 classes"):
        train(model, tiny, "unimodal", modalities=["fou"], **QUICK)
    assert len(train(LateFusion({"fou": Unimodal(encoder, Wide(10))}), tiny, "unimodal",
                     modalities=["fou"], **QUICK).history) == 4  # fmt: skip


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_prediction_that_is_nan_ends_the_run_and_names_split_and_modality(
    networks, tiny, tmp_path, split
):
    tiny[split].inputs["kar"][37] = math.nan
    tiny[split] = Subset(tiny[split], range(100))  # as if it were read from files
    epoch = {"valid": 1, "test": 8}[split]
    message = (
        f"^{split} split, epoch {epoch}: kar: the predictions of 1 samples are NaN, of sample 37"
    )
    with pytest.raises(FloatingPointError, match=message):
        train(networks(), tiny, out=tmp_path / "run", **QUICK)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"].startswith(f"failed: {split} split")


@pytest.mark.parametrize("score", ["accuracy", "macro_f1", "map"])
def test_a_score_that_is_higher_by_rounding_alone_is_a_tie(networks, tiny, monkeypatch, score):
    valid = iter([0.5, 0.5 + 5e-8, 0.5 - 5e-8, 0.5 + 2e-7, 0.51, 0.51 + 1e-7, 0.4, 0.51])

    def rounded(predict, dataset, *where, **how):
        value = next(valid, 0.0)
        return {"fused": dict.fromkeys(("accuracy", "macro_f1", "map"), value)}

    monkeypatch.setattr(sys.modules["igm.train"], "evaluate", rounded)  # igm.train is the function
    run = train(networks(), tiny, "alternating", score=score, **QUICK)
    assert run.best_epoch == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(modalities=["fou", "video"]), "unknown modality 'video': the data has fou, kar"),
        (dict(modalities=["fou", "fou"]), "named twice in fou, fou"),
        (dict(method="pmr"), "unknown method 'pmr': use one of unimodal, joint"),
        (dict(method="ogm", ogm_alpha=-1.0), "ogm_alpha must be 0 or above, got -1.0"),
        (dict(method="ogm", ogm_epochs=0), "ogm_epochs must be 1 or above, got 0"),
        (dict(method="ogm", ogm_layers="head"), "unknown ogm_layers 'head': use one of all, conv"),
        (dict(method="ogm", modalities=["fou"]), "give it two or more, not fou alone"),
        (dict(epochs=0), "epochs must be 1 or above, got 0"),
        (dict(rounds=0), "rounds must be 1 or above, got 0"),
        (dict(rounds=9), "9 rounds need at least 9 epochs"),
        (dict(batch_size=0), "batch_size must be 1 or above"),
        (dict(lr=0.0), "lr must be above 0"),
        (dict(tau=0.0), "tau must be above 0"),
        (dict(tau=float("nan")), "tau must be above 0"),
        (dict(rho=-0.1), "rho must be 0 or above, got -0.1"),
        (dict(momentum=-0.1), "momentum must be 0 or above"),
        (dict(weight_decay=-0.1), "weight_decay must be 0 or above"),
        (dict(schedule="linear"), "unknown schedule 'linear': use one of cosine, constant"),
        (dict(statistic="median"), "unknown statistic 'median': use one of batch-mean, sample"),
        (dict(fusion="max"), "unknown fusion 'max': use one of mean, entropy, logits"),
        (dict(select="first"), "unknown select 'first': use one of best, last, test"),
        (dict(warmup=-1), "warmup must be 0 or above, got -1"),
        (dict(warmup=1, schedule="plateau"), "plateau schedule has no warmup: give warmup 0"),
        (dict(eval_batch_size=0), "eval_batch_size must be 1 or above, got 0"),
        (dict(workers=-1), "workers must be 0 or above, got -1"),
        (dict(device="tpu"), "device 'tpu' cannot be used: give cpu, or auto"),
    ],
)
def test_bad_settings_are_named_and_nothing_is_written(networks, tiny, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        train(networks(), tiny, out=tmp_path / "run", **(QUICK | settings))
    assert not (tmp_path / "run").exists()


def test_a_modality_that_the_model_lacks_is_named(tiny):
    model = build_model({"fou": (76,)}, 10, d=16)
    with pytest.raises(ValueError, match="unknown modality 'kar': the model has fou"):
        train(model, tiny, **QUICK)


def test_a_setting_that_a_method_does_not_have_is_named(networks, tiny):
    with pytest.raises(ValueError, match="igm has no setting 'epoch': it has method, modalities"):
        train(networks(), tiny, **(QUICK | {"epoch": 3}))
    with pytest.raises(ValueError, match="joint has no setting 'tau'"):
        train(networks(), tiny, "joint", tau=3.0, **QUICK)


# ---------------------------------------------------------------- optimiser and schedule


class Watched(Alternating):
    """Notes the learning rate and the number of momentum buffers at each batch, by modality and round."""

    def __init__(self, model, modalities, *rest):
        super().__init__(model, modalities, *rest)
        self.lr = {name: [] for name in modalities}
        self.buffers = {}
        self.optimizers = {}

    def gradient(self, stage, batch, optimizer):
        (name,) = stage.modalities
        self.lr[name].append(optimizer.param_groups[0]["lr"])
        momentum = [s["momentum_buffer"] for s in optimizer.state.values()]
        key = name, stage.round
        self.buffers.setdefault(key, [m.clone() for m in momentum if m is not None])
        assert self.optimizers.setdefault(name, optimizer) is optimizer
        return super().gradient(stage, batch, optimizer)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_the_cosine_schedule_runs_over_all_epochs_of_a_modality(networks, tiny, rounds):
    run = train(networks(), tiny, Watched, rounds=rounds, lr=0.1, **(QUICK | {"epochs": 6}))
    batches_an_epoch = math.ceil(100 / 16)
    expected = [0.1 * (1 + math.cos(math.pi * epoch / 6)) / 2 for epoch in range(6)]
    for name in ("fou", "kar"):
        rates = np.array(run.method.lr[name]).reshape(6, batches_an_epoch)
        assert np.allclose(rates, np.array(expected)[:, None])
        assert run.method.optimizers[name].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_a_constant_schedule_is_constant(networks, tiny):
    run = train(networks(), tiny, Watched, schedule="constant", lr=0.1, **QUICK)
    assert set(run.method.lr["fou"] + run.method.lr["kar"]) == {0.1}


def test_momentum_is_kept_between_rounds(networks, tiny):
    run = train(networks(), tiny, Watched, rounds=2, **QUICK)
    for name in ("fou", "kar"):
        assert run.method.buffers[name, 0] == []  # the modality's first batch
        kept = run.method.buffers[name, 1]
        assert len(kept) == len(list(run.model[name].parameters()))
        assert all(m.abs().max() > 0 for m in kept)


# ---------------------------------------------------------------- methods


def test_a_method_of_your_own_can_be_passed(networks, tiny):
    ended = []

    class Flipped(EachAlone):
        """Learns to say anything but the label."""

        class Settings(EachAlone.Settings):
            @classmethod
            def defaults(cls, given):
                return {"fusion": "entropy"}

        def loss(self, stage, batch):
            return -super().loss(stage, batch)

        def end_stage(self, stage, batches):
            ended.append((stage.modalities, [b["index"].tolist() for b in batches]))

    run = train(networks(), tiny, Flipped, **(QUICK | {"epochs": 1, "select": "last"}))
    assert isinstance(run.method, Flipped)
    assert run.settings.method == "Flipped"
    assert run.history[0]["loss"] < 0
    assert [modalities for modalities, _ in ended] == [("fou",), ("kar",)]
    assert sum(ended[0][1], []) == list(range(100))  # the training batches, in order
    assert evaluate(run.model, tiny["test"], "entropy") == run.results["test"]


@pytest.mark.parametrize("method", [*method_names(), "joint, concat"])
def test_every_method_learns(mfeat, method):
    data = mfeat | {"train": mfeat["train"].subset(range(300))}
    method, _, fusion = method.partition(", ")
    model = build_model(data["train"].shapes, 10, fusion=fusion or "late", d=32)
    run = train(model, data, method, lr=0.05, **(QUICK | {"epochs": 12}))
    test = {name: score["accuracy"] for name, score in run.results["test"].items()}
    assert test["fused"] > 0.75  # chance: 0.1
    if method not in ("joint", "ogm"):  # there no head was trained to stand alone
        assert min(test.values()) > 0.5


def test_a_subset_can_be_trained_on(networks, mfeat):
    data = mfeat | {"train": Subset(mfeat["train"], range(0, 1200, 12))}
    run = train(networks(), data, "alternating", **QUICK)
    assert len(run.history) == 8


@pytest.mark.parametrize(
    ("method", "rho", "fusion"), [("igm", 0.02, "mean"), ("joint", 0, "logits")]
)
def test_the_record_has_the_defaults_that_were_used(networks, tiny, method, rho, fusion):
    settings = train(networks(), tiny, method, **QUICK).record()["settings"]
    assert (settings["rho"], settings["fusion"]) == (rho, fusion)
    assert settings["modalities"] == ["fou", "kar"]


# ---------------------------------------------------------------- warm-up


PLAIN = {  # the rate of epoch e of T without a warm-up, as a share of lr
    "constant": lambda e, T: 1,
    "step": lambda e, T: 0.1 ** sum(e >= milestone for milestone in (1, 3, 5)),
    "cosine": lambda e, T: (1 + math.cos(math.pi * e / T)) / 2,
}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("schedule", PLAIN)
def test_a_warmup_raises_the_rate_linearly_and_then_the_schedule_goes_on(
    networks, tiny, schedule, restart
):
    """2/3, then all of the schedule's rate: (1/3)(1 - e/w) + e/w in the e-th epoch, from 1."""
    options = dict(schedule=schedule, milestones=[1, 3, 5], lr=0.03, warmup=2, restart=restart)
    run = train(networks(), tiny, "alternating", stage_epochs=[6] * 4, **options, **QUICK)
    T = 6 if restart else 12
    rise = [2 / 3, *[1] * T]
    expected = [0.03 * rise[e] * PLAIN[schedule](e, T) for e in range(T)] * (12 // T)
    for name in ("fou", "kar"):
        rates = [row["lr"] for row in run.history if row["modality"] == name]
        assert rates == pytest.approx(expected, rel=1e-12)


def test_after_the_warmup_the_rates_are_those_without_one(networks, tiny):
    for schedule in (dict(schedule="cosine"), dict(schedule="step", milestones=[1, 4])):
        options = QUICK | schedule | dict(epochs=7, rounds=1, lr=0.3, modalities=["fou"])
        with_warmup, without = (
            [row["lr"] for row in train(networks(), tiny, warmup=w, **options).history]
            for w in (3, 0)
        )
        assert with_warmup[:3] != without[:3]
        assert with_warmup[3:] == pytest.approx(without[3:], rel=1e-12)


@pytest.mark.parametrize(
    "schedule", [dict(schedule="cosine"), dict(schedule="step", milestones=[1, 2])], ids=str
)
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_run_that_is_interrupted_in_or_after_its_warmup_goes_on_the_same(
    networks, tiny, tmp_path, epochs, schedule
):
    class Stopped(Alternating):
        steps = 0

        def gradient(self, stage, batch, optimizer):
            self.steps += 1
            if self.steps > 7 * epochs:  # an epoch has 7 steps
                raise KeyboardInterrupt
            return super().gradient(stage, batch, optimizer)

    Stopped.__name__ = "alternating"
    options = QUICK | schedule | dict(lr=0.1, warmup=2, rounds=1)
    whole = train(networks(), tiny, "alternating", out=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train(networks(), tiny, Stopped, out=tmp_path / "run", **options)
    resumed = train(networks(), tiny, "alternating", out=tmp_path / "run", resume=True, **options)
    assert len({row["lr"] for row in whole.history}) > 2
    assert resumed.history == whole.history
    assert equal(resumed.model, whole.model)


# ---------------------------------------------------------------- how a machine is used


def test_the_batch_size_of_evaluation_changes_no_score(networks, tiny):
    class Noted(Alternating):
        sizes = []

        def predict(self, batch):
            self.sizes.append(len(batch["label"]))
            return super().predict(batch)

    whole = train(networks(), tiny, "alternating", select="last", **QUICK)
    parts = train(networks(), tiny, Noted, eval_batch_size=30, select="last", **QUICK)
    assert set(Noted.sizes) == {30, 10}
    assert equal(parts.model, whole.model)
    sevens = predictions(whole.model, tiny["test"], batch_size=7)[0]
    for name, p in predictions(whole.model, tiny["test"])[0].items():
        assert torch.allclose(sevens[name], p, atol=1e-5)
    # A score jumps where rounding orders two samples otherwise, by up to 1 / 100 a sample.
    near = dict(abs=0.03)
    for a, b in zip(parts.history, whole.history):
        assert a["valid"] == pytest.approx(b["valid"], **near)
    for split, found in whole.results.items():
        for name, scores in found.items():
            assert parts.results[split][name] == pytest.approx(scores, **near)


def test_a_run_goes_on_with_another_use_of_the_machine(networks, tiny, tmp_path):
    run = train(networks(), tiny, out=tmp_path / "run", **QUICK)
    options = dict(out=tmp_path / "run", resume=True) | QUICK
    again = train(networks(), tiny, eval_batch_size=64, workers=2, **options)
    assert again.results == run.results
    with pytest.raises(ValueError, match="was begun with warmup 0, not 1: give the same"):
        train(networks(), tiny, warmup=1, **options)
