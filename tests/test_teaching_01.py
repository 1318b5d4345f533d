"""The checks of chapter 1's exercises: a wrong answer is told what is wrong, a right one is right."""

import torch
from answers import numbered, two_tests
from torch.nn import functional as F

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


WRONG_1 = [
    (naive, "finite"),
    (summed, "not their sum"),
    (wrong_axis, "along the classes"),
    (without_sign, "-log p"),
    (each_sample, "one number"),
    (clamped, "probability 0"),
    (shifted_by_one_number, "probability 0"),
    (without_gradient, "gradient"),
]
RIGHT_1 = [lambda o, y: (o.logsumexp(1) - o.gather(1, y[:, None])[:, 0]).mean()]


# ---------------------------------------------------------------- 1.2

WRONG_2 = [
    (lambda d, c: d * 256 + 256 * 64 + 64 * c, "biases"),
    (lambda d, c: (d + 1) * 256 + 65 * c, "three layers"),
    (lambda d, c: (d + 1) * 256 + 257 * 64 + 64 * c, "three layers"),
]
RIGHT_2 = [lambda d, c: sum((a + 1) * b for a, b in zip((d, 256, 64), (256, 64, c)))]


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


def by_samples(o, present):
    n = len(next(iter(o.values())))
    rows = [[o[k][i].softmax(0) for k in o if present[k][i]] for i in range(n)]
    return torch.stack([sum(row) / len(row) for row in rows])


WRONG_3 = [
    (divided_by_m, "add up to 1"),
    (all_of_them, "no part in the mean"),
    (multiplied, "nan"),
    (mean_of_logits, "mean of the probabilities"),
    (whole_batch, "mean"),
    (one_sample, "(n, c)"),
]
RIGHT_3 = [by_samples]


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


WRONG_4 = [
    (filler_last, "order"),
    (zeros, "the filler in every sample"),
    (filler_encoded, "not pass the encoder"),
    (first_sample_only, "(n, c)"),
    (inputs_only, "features of the modalities"),
    (lambda model, batch, missing, filler: model(batch)["fused"], "KeyError"),
]
RIGHT_4 = [right_early]


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


def from_matrix(guess, y, c):
    m = torch.zeros(c, c)
    m.index_put_((y, guess), torch.ones(len(y)), accumulate=True)
    return (2 * m.diag() / (m.sum(0) + m.sum(1))).mean().item()


WRONG_5 = [
    (micro, "class by class"),
    (weighted, "count the same"),
    (recall, "2 TP / (2 TP + FP + FN)"),
    (of_mean_precision_and_recall, "mean over the classes"),
    (by_precision, "never predicted"),
    (predicted_classes_only, "never predicted"),
]
RIGHT_5 = [from_matrix]


WRONG = numbered(1, WRONG_1, WRONG_2, WRONG_3, WRONG_4, WRONG_5)
RIGHT = numbered(1, RIGHT_1, RIGHT_2, RIGHT_3, RIGHT_4, RIGHT_5)
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
