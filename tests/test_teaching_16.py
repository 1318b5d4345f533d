"""The checks of chapter 16: plausible wrong answers are told what is wrong, right ones pass however they are written."""

import math

import numpy as np
import torch
from answers import numbered, two_tests
from scipy import stats
from torch.nn.functional import cross_entropy

import igm
from igm.datasets import load_splits
from igm.methods import Alternating, Joint, Stage

# 16.1


def hold_out(groups, share, seed, shuffled=True, seeded=True, stop=None, extra=0):
    names = groups.unique()
    generator = torch.Generator().manual_seed(seed) if seeded else None
    if shuffled:
        names = names[torch.randperm(len(names), generator=generator)]
    held, count = [], 0
    for name in names:
        if count >= share * len(groups) if stop is None else len(held) >= stop(len(names)):
            break
        held.append(name)
        count += int((groups == name).sum())
    held += [name for name in names if name not in held][:extra]
    inside = torch.isin(groups, torch.stack(held))
    return (~inside).nonzero().flatten(), inside.nonzero().flatten()


def by_samples(groups, share, seed):
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    n = math.ceil(share * len(groups))
    return order[n:], order[:n]


def by_numpy(groups, share, seed):
    rng, groups = np.random.default_rng(seed), groups.numpy()
    held = []
    for name in rng.permutation(np.unique(groups)):
        if np.isin(groups, held).mean() >= share:
            break
        held.append(name)
    inside = np.isin(groups, held)
    return np.flatnonzero(~inside).tolist(), np.flatnonzero(inside).tolist()


WRONG_1 = [
    (by_samples, "both parts"),
    (lambda g, s, seed: hold_out(g, s, seed, stop=lambda m: round(s * m)), "share of the sam"),
    (lambda g, s, seed: hold_out(g, s, seed, shuffled=False), "at random"),
    (lambda g, s, seed: hold_out(g, s, seed, seeded=False), "same seed"),
    (lambda g, s, seed: hold_out(g, s, seed, extra=1), "no more groups"),
    (lambda g, s, seed: hold_out(g, 1 - s, seed)[::-1], "share of the samples"),
    (lambda g, s, seed: (hold_out(g, s, seed)[0][1:], hold_out(g, s, seed)[1]), "Every posi"),
    (lambda g, s, seed: [g[part] for part in hold_out(g, s, seed)], "Every position"),
    (lambda g, s, seed: ([], range(len(g))), "empty"),
]
RIGHT_1 = [by_numpy]


# 16.2


def variant(change, replace=False, every=False, spoil=False):
    def answer(layers, old, matrices):
        for name, layer in layers.items():
            if name not in matrices and not every:
                continue
            d = layer.weight.shape[1]
            T = matrices.get(name, torch.zeros(d, d)).float()
            new = change(layer.weight.data, old[name], T)
            if spoil:
                old[name].copy_(new)
            if replace:
                layer.weight = torch.nn.Parameter(new)
            else:
                layer.weight.data = new

    return answer


def right(W, old, T):
    return old + (W - old) @ T


def left(W, old, T):
    if len(W) == len(T):
        return old + T @ (W - old)
    return right(W, old, T)


def bias_changed(layers, old, matrices):
    variant(right)(layers, old, matrices)
    for layer in layers.values():
        layer.bias.data.zero_()


def in_the_papers_layout(layers, old, matrices):
    for name, T in matrices.items():
        W = layers[name].weight.data
        before = old[name].T.double()  # d x c
        W.copy_((before + T.T @ (W.T.double() - before)).T)


WRONG_2 = [
    (variant(left), "T on the right"),
    (variant(lambda W, old, T: W @ T), "not the weight"),
    (variant(lambda W, old, T: old), "lets through"),
    (variant(lambda W, old, T: W), "(W - W_old) T"),
    (variant(lambda W, old, T: W + (W - old) @ T), "(W - W_old) T"),
    (variant(lambda W, old, T: old - (W - old) @ T), "(W - W_old) T"),
    (variant(lambda W, old, T: old + (W - old) @ T.T), "(W - W_old) T"),
    (variant(right, replace=True), "in place"),
    (variant(right, every=True), "without a matrix"),
    (variant(right, spoil=True), "`old`"),
    (variant(lambda W, old, T: right(W, old, T).double()), "dtype"),
    (bias_changed, "Biases"),
]
RIGHT_2 = [in_the_papers_layout]


def test_16_2_with_sgd_it_is_the_modified_gradient():
    """What the chapter says: with SGD, the step along T g is T times the step."""
    x, y = torch.randn(32, 6), torch.randint(3, (32,))
    T = {"fc": igm.modification_matrix(x.T @ x, 5.0)}
    weights = []
    for on_gradient in (True, False):
        torch.manual_seed(0)
        layer = torch.nn.Linear(6, 3)
        sgd = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        for _ in range(5):
            sgd.zero_grad()
            cross_entropy(layer(x), y).backward()
            old = {"fc": layer.weight.detach().clone()}
            if on_gradient:
                igm.modify_gradients({"fc": layer}, T)
            sgd.step()
            if not on_gradient:
                variant(right)({"fc": layer}, old, T)
        weights.append(layer.weight.detach())
    assert torch.allclose(*weights, atol=1e-5)


# 16.3


def believe(new, old, control, paired=True, both=True, level=0.975, ddof=1, two_sided=False):
    new, old, control = map(np.asarray, (new, old, control))
    if len(new) < 2:
        return False
    for other in (old, control) if both else (old,):
        delta = new - other
        deviation = delta.std(ddof=ddof)
        if not paired:
            deviation = math.hypot(new.std(ddof=ddof), other.std(ddof=ddof))
        half = stats.t.ppf(level, len(new) - 1) * deviation / math.sqrt(len(new))
        gain = abs(delta.mean()) if two_sided else delta.mean()
        if gain <= half:
            return False
    return True


def by_the_normal_distribution(new, old, control):
    def lower(delta):
        return delta.mean() - 1.96 * delta.std(ddof=1) / math.sqrt(len(delta))

    new, old, control = map(np.asarray, (new, old, control))
    return len(new) > 1 and bool(min(lower(new - old), lower(new - control)) > 0)


def by_the_t_test(new, old, control):
    if len(new) < 2:
        return False
    tests = [stats.ttest_rel(new, other, alternative="greater") for other in (old, control)]
    return all(test.pvalue < 0.025 for test in tests)


WRONG_3 = [
    (lambda *x: believe(*x, paired=False), "pair the seeds"),
    (lambda *x: believe(*x, two_sided=True), "below 0"),
    (lambda *x: believe(*x, both=False), "control has too"),
    (lambda *x: np.mean(x[0]) > max(np.mean(x[1]), np.mean(x[2])), "control"),
    (lambda *x: believe(*x, level=0.85), "holds 0"),
    (lambda n, o, c: len(n) < 2 or believe(n, o, c), "One seed"),
    (lambda *x: believe(*x, level=0.95), "Student's at 95 %"),
    (lambda *x: believe(*x, ddof=0), "divided by n - 1"),
    (lambda *x: 0.02, "True or False"),
    (by_the_normal_distribution, "degrees of freedom"),
]
RIGHT_3 = [by_the_t_test]


# 16.4


class Right(Alternating):
    """Written otherwise than the solution: by delegation to Joint."""

    def stages(self):
        stages = super().stages()
        stages.insert(0, Stage(tuple(self.modalities), epochs=2))
        return stages

    def parameters(self, stage):
        return [p for j in stage.modalities for p in self.model[j].parameters()]

    def loss(self, stage, batch):
        if stage.modalities == tuple(self.modalities):
            return Joint.loss(self, stage, batch)
        return super().loss(stage, batch)

    def predict(self, batch):
        return self.model(batch)


class Epochs(Right):
    def stages(self):
        return [Stage(tuple(self.modalities), self.settings.epochs), *super().stages()[1:]]


class Last(Right):
    def stages(self):
        first, *rest = super().stages()
        return [*rest, first]


class Pairs(Right):
    def stages(self):
        return [Stage(tuple(self.modalities[:2]), 2), *super().stages()[1:]]


class OneRound(Right):
    def stages(self):
        return super().stages()[:4]


class HeadsOnly(Right):
    def parameters(self, stage):
        return [p for j in stage.modalities for p in self.model[j].head.parameters()]


class Everything(Right):
    def parameters(self, stage):
        return list(self.model.parameters())


class Mean(Right):
    def loss(self, stage, batch):
        logits = [self.model[j](batch[j]) for j in stage.modalities]
        return cross_entropy(sum(logits) / len(logits), batch["label"])


class Sum(Right):
    def loss(self, stage, batch):
        return sum(cross_entropy(self.model[j](batch[j]), batch["label"]) for j in stage.modalities)


class Always(Right):
    def loss(self, stage, batch):
        return Joint.loss(self, stage, batch)


WRONG_4 = [
    (Epochs, "2 epochs"),
    (Last, "first stage should hold all"),
    (Pairs, "first stage should hold all"),
    (OneRound, "stages of Alternating"),
    (HeadsOnly, "train all parameters"),
    (Everything, "no others"),
    (Mean, "not of their mean"),
    (Sum, "not a sum of cross-entropies"),
    (Always, "that modality's own"),
    (Alternating, "first stage should hold all"),
    (Joint, "subclass"),
    (lambda *arguments: Right(*arguments), "subclass"),
]
RIGHT_4 = [Right]


def test_16_4_another_way_trains_too():
    data = load_splits("mfeat", samples=40, views=["fou", "zer"])
    model = igm.build_model(data["train"].shapes, 10)
    run = igm.train(model, data, Right, epochs=2, rounds=1, progress=False)
    assert [row["modality"] for row in run.history] == ["fou+zer"] * 2 + ["fou"] * 2 + ["zer"] * 2


WRONG = numbered(16, WRONG_1, WRONG_2, WRONG_3, WRONG_4)
RIGHT = numbered(16, RIGHT_1, RIGHT_2, RIGHT_3, RIGHT_4)
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
