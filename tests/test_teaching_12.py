"""The checks of chapter 12: plausible wrong answers are told what is wrong, right ones pass however they are written."""

import ast
import json
import math
from collections import Counter
from contextlib import suppress

import numpy as np
from answers import numbered, two_tests
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import pairwise_distances

from igm.datasets.sarcasm import TELLING, telling


def read_rows(lines, read=ast.literal_eval, label=-1, tells=telling, row=tuple):
    fields = [read(line) for line in lines if line.strip()]
    return [row((f[0], f[1], f[label])) for f in fields if not tells(f[1])]


def lenient(lines):
    kept = []
    for line in lines:
        with suppress(ValueError):
            kept += read_rows([line])
    return kept


def contains(text):
    return any(word in text for word in TELLING)


def word_scores(texts, labels, once=set, add=(1, 2), sizes=None, sign=1, words=str.split):
    counts = {0: Counter(), 1: Counter()}
    for text, label in zip(texts, labels):
        counts[label].update(once(words(text)))
    n = {label: labels.count(label) for label in (0, 1)} if sizes is None else sizes(counts)
    share = {y: lambda w, y=y: (counts[y][w] + add[0]) / (n[y] + add[1]) for y in (0, 1)}
    return {w: sign * math.log(share[1](w) / share[0](w)) for w in counts[0] | counts[1]}


def twins(train, test, share, of=set, size=lambda a, b: len(a | b), above=False, first=None):
    def alike(a, b):
        a, b = of(a.split()), of(b.split())
        return len(a & b) > share * size(a, b) if above else len(a & b) >= share * size(a, b)

    return [i for i, text in enumerate(test) if any(alike(t, text) for t in train[:first])]


def letters_alike(train, test, share):
    return twins([" ".join(t) for t in train], [" ".join(t) for t in test], share)


def A(s, q, r):
    return s * q + (1 - s) * (1 - r)


def best(s, q, r):
    return max(s * q, (1 - s) * r) + max(s * (1 - q), (1 - s) * (1 - r))


WRONG = numbered(
    12,
    [
        (lambda x: read_rows(x, read=eval), "should not run"),
        (lambda x: read_rows(x, label=2), "last counts"),
        (lambda x: read_rows(x, tells=contains), "humorous"),
        (lambda x: read_rows(x, tells=lambda text: False), "dropped"),
        (lambda x: read_rows(x, row=list), "tuple"),
        (lambda x: [(n, " ".join(t.split()), y) for n, t, y in read_rows(x)], "as it is"),
        (lambda x: read_rows(x)[::-1], "in their order"),
        (lambda x: {row[0]: row[1:] for row in read_rows(x)}, "a list"),
        (lambda x: read_rows([line for line in x if "(" not in line]), "ValueError"),
        (lenient, "ValueError"),
        (lambda x: read_rows(x, read=json.loads), "It raised JSONDecodeError"),
        (lambda x: [read_rows([line])[0] for line in x], "It raised IndexError"),
    ],
    [
        (lambda x, y: word_scores(x, y, once=list), "counts once"),
        (lambda x, y: word_scores(x, y, add=(1, 1)), "1 and 2 are added"),
        (lambda x, y: word_scores(x, y, sign=-1), "above 0"),
        (lambda x, y: word_scores(x, y, sizes=lambda c: {0: 7, 1: 7}), "score of rain"),
        (lambda x, y: word_scores(x, [1 - v for v in y]), "above 0"),
        (lambda x, y: word_scores(x, y, words=lambda t: t.split("o")), "end at spaces"),
        (lambda x, y: sorted(word_scores(x, y).items()), "a dict"),
        (lambda x, y: {w: v for w, v in word_scores(x, y).items() if v > 0}, "each word"),
        (lambda x, y: word_scores(x, y, add=(0, 0)), "It raised"),
    ],
    [
        (lambda a, b, s: twins(a, b, s, size=lambda u, v: max(len(u), len(v))), "over the words"),
        (lambda a, b, s: twins(a, b, s, size=lambda u, v: len(v)), "over the words"),
        (lambda a, b, s: twins(a, b, s, size=lambda u, v: max(1, len(u))), "over the words"),
        (lambda a, b, s: twins(b, a, s), "in train as it is"),
        (
            lambda a, b, s: twins(a, b, s, of=Counter, size=lambda u, v: (u | v).total()),
            "over the words",
        ),
        (lambda a, b, s: [i for i, t in enumerate(b) if t in a], "order of the words"),
        (lambda a, b, s: twins(a, b, s, above=True), "same words"),
        (lambda a, b, s: twins(a, b, s, above=s == 0.5), "exactly that size"),
        (lambda a, b, s: twins(a, b, s, first=20), "every training text"),
        (lambda a, b, s: [b[i] for i in twins(a, b, s)], "positions"),
        (lambda a, b, s: twins(a, b, s) * 2, "once"),
        (letters_alike, "over the words"),
    ],
    [
        (A, "sign of the other class"),
        (lambda s, q, r: max(A(s, q, r), 1 - A(s, q, r)), "larger class"),
        (lambda s, q, r: (1 + q) / 2, "half of the answers"),
        (lambda s, q, r: max(A(s, q, r), s, 1 - s), "sign of the other class"),
        (lambda s, q, r: max(A(0.5, q, r), 1 - A(0.5, q, r)), "larger class"),
        (lambda s, q, r: (1 + abs(q - r)) / 2, "larger class"),
        (lambda s, q, r: 1 - best(s, q, r), "(1 + q) / 2"),
        (lambda s, q, r: max(best(s, q, r), 0.55) if s != 0.5 else best(s, q, r), "four rules"),
    ],
)


def read_by_pattern(lines):
    rows = []
    for line in lines:
        if line.strip() == "":
            continue
        name, text, *labels = ast.literal_eval(line.strip())
        if TELLING.isdisjoint(text.split()):
            rows.append((name, text, int(labels.pop())))
    return rows


def scores_by_arrays(texts, labels):
    counter = CountVectorizer(binary=True, analyzer=str.split)
    X, y = counter.fit_transform(texts).toarray(), np.array(labels)
    one, none = ((X[y == k].sum(0) + 1) / ((y == k).sum() + 2) for k in (1, 0))
    return dict(zip(counter.get_feature_names_out(), np.log(one) - np.log(none)))


def twins_by_distance(train, test, share):
    counter = CountVectorizer(binary=True, analyzer=str.split).fit(train + test)
    X, Y = (counter.transform(texts).toarray().astype(bool) for texts in (train, test))
    near = 1 - pairwise_distances(Y, X, metric="jaccard") >= share - 1e-9
    return [int(i) for i in np.flatnonzero(near.any(1))]


RIGHT = numbered(
    12,
    [read_rows, read_by_pattern],
    [word_scores, scores_by_arrays],
    [twins, twins_by_distance],
    [best, lambda s, q, r: max(A(s, q, r), 1 - A(s, q, r), s, 1 - s)],
)
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
