"""metrics.py against scikit-learn and SciPy."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, average_precision_score, f1_score
from torch import nn

from igm.analysis.imbalance import features, linear_probe
from igm.analysis.intervals import interval, points
from igm.metrics import accuracy, evaluate, scores
from igm.models import FUSIONS, fuse


def random_predictions(seed: int, classes: int, n: int = 200):
    """Probabilities (n, c), a little better than chance, and labels in which every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    labels[:classes] = torch.arange(classes)
    logits = torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), labels] += 0.7
    return logits.softmax(-1), labels


@pytest.mark.parametrize("classes", [3, 10])
def test_scores_agree_with_scikit_learn(classes):
    p, labels = random_predictions(classes, classes)
    predicted, one_hot = p.argmax(-1), np.eye(classes)[labels]
    assert scores(p, labels) == pytest.approx(
        {
            "accuracy": accuracy_score(labels, predicted),
            "macro_f1": f1_score(labels, predicted, average="macro"),
            "map": average_precision_score(one_hot, p, average="macro"),
        },
        abs=1e-6,
    )


def test_a_class_that_is_never_predicted_counts_as_zero():
    p, labels = random_predictions(0, 4)
    p[:, 2] = 0
    predicted = p.argmax(-1)
    expected = f1_score(labels, predicted, average="macro", zero_division=0)
    by_class = f1_score(labels, predicted, average=None, zero_division=0)
    assert by_class[2] == 0
    assert scores(p, labels)["macro_f1"] == pytest.approx(expected, abs=1e-6)


def test_perfect_predictions_score_one():
    labels = torch.tensor([0, 1, 2, 1, 0])
    p = torch.eye(3)[labels]
    assert scores(p, labels) == pytest.approx(
        {"accuracy": 1.0, "macro_f1": 1.0, "map": 1.0}, abs=1e-5
    )


def average_precisions(p, labels) -> list[float]:
    """Of each class that occurs, by scikit-learn."""
    return [average_precision_score(labels == c, p[:, c]) for c in labels.unique()]


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_all_samples_may_be_of_one_class_whichever_it_is(classes):
    p = random_predictions(5, classes)[0]
    for c in range(classes):
        labels = torch.full((len(p),), c)
        assert scores(p, labels)["map"] == pytest.approx(1.0)
        assert scores(p, labels)["accuracy"] == pytest.approx((p.argmax(1) == c).float().mean())


@pytest.mark.parametrize("absent", [[0], [3], [0, 1], [1, 2, 3]])
def test_the_map_is_the_mean_over_the_classes_that_occur(absent):
    p, labels = random_predictions(2, 4)
    kept = ~torch.isin(labels, torch.tensor(absent))
    p, labels = p[kept], labels[kept]
    expected = np.mean(average_precisions(p, labels))
    assert scores(p, labels)["map"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("modalities", [1, 2, 3, 5, 7])
def test_the_scores_of_fused_predictions_agree_with_scikit_learn(modalities, fusion):
    """Half of them are as sure as float32 can be: rounding may not take one to where it counts as a logit."""
    generator = torch.Generator().manual_seed(modalities)
    n = 4000
    labels = torch.randint(8, (n,), generator=generator)
    logits = {}
    for name in map(str, range(modalities)):
        z = torch.randn(n, 8, generator=generator)
        margin = 14 + 16 * torch.rand(n, generator=generator)
        z[torch.arange(n), labels] += torch.where(torch.arange(n) % 2 == 0, margin, 1.0)
        logits[name] = z
    p = fuse(logits, fusion)
    assert p.sum(1).numpy() == pytest.approx(1, abs=1e-5)
    expected = np.mean(average_precisions(p, labels))
    assert scores(p, labels)["map"] == pytest.approx(expected, abs=1e-5)


def test_a_probability_that_rounding_took_above_1_does_not_change_the_others():
    p, labels = random_predictions(1, 4)
    p[0] = torch.eye(4)[labels[0]]
    above = p.clone()
    above[0, labels[0]] = 1 + 2e-7
    assert above.max() > 1
    assert scores(above, labels) == scores(p, labels)


@pytest.mark.parametrize("function", [scores, accuracy])
@pytest.mark.parametrize(
    ("p", "labels", "kind", "message"),
    [
        (torch.empty(0, 3), torch.empty(0).long(), ValueError, "there is no sample to score"),
        (torch.eye(3), torch.zeros(3, 1).long(), ValueError, r"labels \(n,\), not \(3, 3\) and \(3, 1\)"),
        (torch.eye(3), torch.zeros(4).long(), ValueError, r"not \(3, 3\) and \(4,\)"),
        (torch.ones(3), torch.zeros(3).long(), ValueError, r"\(n, c\) and labels"),
        (torch.eye(3), torch.tensor([0, 1, 3]), ValueError, "labels go from 0 to 3, .* have 3 classes"),
        (torch.eye(3), torch.tensor([0, -1, 2]), ValueError, "labels go from -1 to 2"),
        (torch.full((3, 3), math.nan), torch.arange(3), FloatingPointError, "of 3 samples are NaN, of sample 0 first"),
    ],
    ids=["empty", "column", "longer", "one row", "unknown label", "negative label", "NaN"],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused(function, p, labels, kind, message):
    with pytest.raises(kind, match=message):
        function(p, labels)


@pytest.mark.parametrize("p", [torch.eye(3) * 4, torch.eye(3) - 0.1, torch.eye(3) * 1.01])
def test_logits_are_not_scored_as_probabilities(p):
    with pytest.raises(
        ValueError, match=r"probabilities, from 0 to 1, and got .*: give softmax\(-1\)"
    ):
        scores(p, torch.arange(3))


def test_a_nan_in_one_prediction_names_the_modality(tiny):
    class Half(torch.nn.Module):
        def forward(self, batch):
            z = torch.randn(len(batch["label"]), 10, generator=torch.Generator().manual_seed(0))
            return {"fou": z, "kar": torch.where(batch["index"][:, None] == 70, math.nan, z)}

    message = "^kar: the predictions of 1 samples are NaN, of sample 70 first"
    with pytest.raises(FloatingPointError, match=message):
        evaluate(Half(), tiny["test"], batch_size=32)


def test_an_empty_data_set_has_no_predictions(tiny, networks):
    with pytest.raises(ValueError, match="no sample to predict: the data set is empty"):
        evaluate(networks(), tiny["test"].subset(torch.arange(0)))


# ---------------------------------------------------------------- linear probe


@pytest.fixture
def noise():
    generator = torch.Generator().manual_seed(0)

    def part(n):
        return torch.randn(n, 6, generator=generator), torch.randint(5, (n,), generator=generator)

    return part(300), part(500)


def test_linear_probe_is_perfect_on_separable_features(noise):
    train, test = ((torch.eye(6)[y] + 0.01 * x, y) for x, y in noise)
    assert linear_probe(nn.Identity(), train, test) == 1.0


def test_linear_probe_is_at_chance_on_noise(noise):
    assert linear_probe(nn.Identity(), *noise) == pytest.approx(1 / 5, abs=0.08)


def test_linear_probe_sees_the_features_and_not_the_inputs(noise):
    train, test = ((torch.eye(6)[y] + 0.01 * x, y) for x, y in noise)
    blind = nn.Linear(6, 3)
    nn.init.zeros_(blind.weight)
    assert linear_probe(blind, train, test) < 0.4


@pytest.mark.parametrize("training", [True, False])
def test_linear_probe_leaves_the_encoder_as_it_was(noise, training):
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)).train(training)
    before = copy.deepcopy(encoder.state_dict())
    linear_probe(encoder, *noise)
    assert all(module.training is training for module in encoder.modules())
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())


def test_features_are_those_of_evaluation_mode_in_order(noise):
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    inputs = noise[0][0]
    z = features(encoder, inputs, batch_size=64)  # 300 = 4 * 64 + 44
    assert not z.requires_grad
    assert torch.allclose(z, encoder.eval()(inputs), atol=1e-6)


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_interval_is_students(n, confidence):
    values = np.random.default_rng(n).normal(0.7, 0.05, n)
    mean, half = interval(values.tolist(), confidence)
    low, high = stats.t.interval(confidence, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_the_interval_of_a_single_value_has_no_width():
    mean, half = interval([0.5])
    assert mean == 0.5
    assert math.isnan(half)


def test_points_are_the_interval_in_percent():
    values = [0.10, 0.12, 0.14]
    low, high = stats.t.interval(0.95, 2, loc=12, scale=100 * stats.sem(values))
    assert points(values) == f"12.0 ± {(high - low) / 2:.1f}"
    assert points([0.02, -0.06, 0.01], signed=True).startswith("-1.0 ± ")
    assert points([0.02, 0.03], signed=True).startswith("+2.5 ± ")
