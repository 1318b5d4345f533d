"""The checks of chapter 1's exercises: a wrong answer is told what is wrong, a right one is right."""

import pytest
import torch
from answers import faulty
from torch.nn import functional as F

from igm_book.exercises import fault

# ---------------------------------------------------------------- 1.1


def naive(o, y):
    p = o.exp() / o.exp().sum(1, keepdim=True)
    return -p[range(len(y)), y].log().mean()


def summed(o, y):
    return F.cross_entropy(o, y, reduction="sum")


def wrong_axis(o, y):
    return -F.log_softmax(o, 0)[range(len(y)), y].mean()


def without_sign(o, y):
    return -F.cross_entropy(o, y)


def each_sample(o, y):
    return F.cross_entropy(o, y, reduction="none")


def clamped(o, y):
    return -o.softmax(1)[range(len(y)), y].clamp_min(1e-12).log().mean()


def shifted_by_one_number(o, y):
    o = o - o.max().detach()
    return -(o.exp() / o.exp().sum(1, keepdim=True))[range(len(y)), y].log().mean()


def without_gradient(o, y):
    return F.cross_entropy(o.detach(), y) + 0 * o.sum()


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (naive, "finite"),
        (summed, "not their sum"),
        (wrong_axis, "along the classes"),
        (without_sign, "-log p"),
        (each_sample, "one number"),
        (clamped, "probability 0"),
        (shifted_by_one_number, "probability 0"),
        (without_gradient, "gradient"),
    ],
)
def test_1_1_wrong(answer, named):
    faulty("1.1", answer, named)


def test_1_1_right():
    assert (
        fault("1.1", lambda o, y: (o.logsumexp(1) - o.gather(1, y[:, None])[:, 0]).mean()) is None
    )


# ---------------------------------------------------------------- 1.2


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (lambda d, c: d * 256 + 256 * 64 + 64 * c, "biases"),
        (lambda d, c: (d + 1) * 256 + 65 * c, "three layers"),
        (lambda d, c: (d + 1) * 256 + 257 * 64 + 64 * c, "three layers"),
    ],
)
def test_1_2_wrong(answer, named):
    faulty("1.2", answer, named)


def test_1_2_right():
    widths = (256, 64)
    assert (
        fault("1.2", lambda d, c: sum((a + 1) * b for a, b in zip((d, *widths), (*widths, c))))
        is None
    )


# ---------------------------------------------------------------- 1.3


def stack(o, present):
    p = torch.stack([logits.softmax(1) for logits in o.values()])
    return p, torch.stack([present[name] for name in o])[:, :, None]


def divided_by_m(o, present):
    p, here = stack(o, present)
    return torch.where(here, p, 0.0).mean(0)


def all_of_them(o, present):
    return stack(o, present)[0].mean(0)


def multiplied(o, present):
    p, here = stack(o, present)
    return (p * here).sum(0) / here.sum(0)


def mean_of_logits(o, present):
    total = sum(torch.where(present[name][:, None], o[name], 0.0) for name in o)
    return (total / sum(present.values())[:, None]).softmax(1)


def whole_batch(o, present):
    """A modality that is missing in any sample is left out in all."""
    kept = [o[name].softmax(1) for name in o if present[name].float().mean() > 0.5]
    return sum(kept) / len(kept)


def one_sample(o, present):
    return divided_by_m(o, present)[0]


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (divided_by_m, "add up to 1"),
        (all_of_them, "no part in the mean"),
        (multiplied, "nan"),
        (mean_of_logits, "mean of the probabilities"),
        (whole_batch, "mean"),
        (one_sample, "(n, c)"),
    ],
)
def test_1_3_wrong(answer, named):
    faulty("1.3", answer, named)


def test_1_3_right():
    def by_samples(o, present):
        n = len(next(iter(o.values())))
        rows = [[o[k][i].softmax(0) for k in o if present[k][i]] for i in range(n)]
        return torch.stack([sum(row) / len(row) for row in rows])

    assert fault("1.3", by_samples) is None


# ---------------------------------------------------------------- 1.4


def features(model, batch, missing, filler):
    n = len(next(iter(batch.values())))
    z = {name: f(batch[name]) for name, f in model.encoders.items() if name != missing}
    return z, filler.expand(n, -1)


def filler_last(model, batch, missing, filler):
    z, other = features(model, batch, missing, filler)
    return model.head(torch.cat([*z.values(), other], 1))


def zeros(model, batch, missing, filler):
    return right_early(model, batch, missing, torch.zeros_like(filler))


def filler_encoded(model, batch, missing, filler):
    return right_early(model, batch, missing, model.encoders[missing](filler))


def first_sample_only(model, batch, missing, filler):
    return right_early(model, {name: x[:1] for name, x in batch.items()}, missing, filler)


def inputs_only(model, batch, missing, filler):
    other = filler.expand(len(next(iter(batch.values()))), -1)
    return model.head(torch.cat([batch.get(name, other) for name in model.encoders], 1))


def right_early(model, batch, missing, filler):
    z, other = features(model, batch, missing, filler)
    return model.head(torch.cat([z.get(name, other) for name in model.encoders], 1))


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (filler_last, "order"),
        (zeros, "the filler in every sample"),
        (filler_encoded, "not pass the encoder"),
        (first_sample_only, "(n, c)"),
        (inputs_only, "features of the modalities"),
        (lambda model, batch, missing, filler: model(batch)["fused"], "KeyError"),
    ],
)
def test_1_4_wrong(answer, named):
    faulty("1.4", answer, named)


def test_1_4_right():
    assert fault("1.4", right_early) is None


# ---------------------------------------------------------------- 1.5


def counts(guess, y, c):
    k = torch.arange(c)[:, None]
    tp = ((guess == k) & (y == k)).sum(1)
    return tp, ((guess == k) & (y != k)).sum(1), ((guess != k) & (y == k)).sum(1)


def micro(guess, y, c):
    return (guess == y).float().mean()


def weighted(guess, y, c):
    tp, fp, fn = counts(guess, y, c)
    return (2 * tp / (2 * tp + fp + fn) * torch.bincount(y, minlength=c)).sum() / len(y)


def recall(guess, y, c):
    tp, _, fn = counts(guess, y, c)
    return (tp / (tp + fn)).mean()


def of_mean_precision_and_recall(guess, y, c):
    tp, fp, fn = counts(guess, y, c)
    precision, recalled = (tp / (tp + fp)).nan_to_num().mean(), (tp / (tp + fn)).mean()
    return 2 * precision * recalled / (precision + recalled)


def by_precision(guess, y, c):
    tp, fp, fn = counts(guess, y, c)
    precision, recalled = tp / (tp + fp), tp / (tp + fn)
    return (2 * precision * recalled / (precision + recalled)).mean()


def predicted_classes_only(guess, y, c):
    tp, fp, fn = counts(guess, y, c)
    return (2 * tp / (2 * tp + fp + fn))[torch.unique(guess)].mean()


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (micro, "class by class"),
        (weighted, "count the same"),
        (recall, "2 TP / (2 TP + FP + FN)"),
        (of_mean_precision_and_recall, "mean over the classes"),
        (by_precision, "never predicted"),
        (predicted_classes_only, "never predicted"),
    ],
)
def test_1_5_wrong(answer, named):
    faulty("1.5", answer, named)


def test_1_5_right():
    def from_matrix(guess, y, c):
        m = torch.zeros(c, c)
        m.index_put_((y, guess), torch.ones(len(y)), accumulate=True)
        return (2 * m.diag() / (m.sum(0) + m.sum(1))).mean().item()

    assert fault("1.5", from_matrix) is None
