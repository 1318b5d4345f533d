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
from igm.metrics import scores


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
    assert scores(p, labels) == {"accuracy": 1.0, "macro_f1": 1.0, "map": 1.0}


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
