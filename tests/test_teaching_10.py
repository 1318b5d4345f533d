"""The checks of chapter 10: plausible wrong answers are told what is wrong, right ones pass however they are written."""

import math
from collections import Counter

import numpy as np
import torch
from answers import numbered, two_tests


def cut(
    x, start, end, top, rate=35_400, w=512, h=353, edge=math.ceil, first=0, closed=0, rows=None
):
    a, b = (edge(t * rate / h) for t in (start, end))
    rows = math.ceil(top * w / rate) if rows is None else rows(top, rate, w)
    return x[first:rows, a : b + closed]


def cut_and_clear(x, *arguments):
    part = cut(x, *arguments).copy()
    x[:] = 0
    return part


def missing(rows, names, key=lambda name: (name[:11], int(name[12:18])), drop=True):
    there = {key(name) for name in names}
    counts = Counter(label for label, youtube_id, start in rows if (youtube_id, start) not in there)
    return dict(counts) if drop else {label: counts[label] for label, _, _ in rows}


def split_name(name):
    stem = name.split(".")[0]
    youtube_id, start, _ = stem.replace("-", "_").split("_")[:3]
    return youtube_id, int(start) if start.isdigit() else start


def by_id_alone(rows, names):
    there = {name[:11] for name in names}
    return dict(Counter(label for label, youtube_id, _ in rows if youtube_id not in there))


def any_capitals(rows, names):
    return missing([(a, b.lower(), c) for a, b, c in rows], [name.lower() for name in names])


def by_whole_names(rows, names):
    stems = {name.split(".")[0] for name in names}
    lost = [a for a, b, c in rows if not {f"{b}{d}{c:06}{d}{c + 10:06}" for d in "_-"} & stems]
    return dict(Counter(lost))


def unpadded(rows, names):
    lost = [
        a
        for a, b, c in rows
        if not any(name.startswith(b) and str(c) in name[12:18] for name in names)
    ]
    return dict(Counter(lost))


def as_a_set(rows, names):
    return {label: 1 for label in missing(rows, names)}


def decide(p, p_train, labels, mean=lambda p: p.log().mean(0), only=True, numbers=True, of=None):
    score = p.log() - mean(p_train if of is None else of(p, p_train))
    there = labels.unique() if only else torch.arange(p.shape[1])
    best = score[:, there].argmax(1)
    return there[best] if numbers else best


def in_place(p, p_train, labels):
    p_train.log_()
    return decide(p, p_train.exp(), labels)


WRONG = numbered(
    10,
    [
        (lambda *a: cut(*a, edge=math.floor), "Column t has its middle"),
        (lambda *a: cut(*a, edge=round), "Column t has its middle"),
        (lambda *a: cut(*a, closed=1), "Column t has its middle"),
        (lambda x, s, e, top, *a: cut(x, s, e, top), "rate, w and h"),
        (lambda x, *a: cut(x.T, *a).T, "Row k"),
        (lambda *a: cut(*a, first=1), "Row k"),
        (lambda *a: cut(*a, rows=lambda top, rate, w: int(top * w // rate)), "Row k"),
        (lambda *a: cut(*a, rows=lambda top, rate, w: int(top * w // rate) + 1), "exactly `top`"),
        (lambda *a: cut(*a, rows=lambda top, rate, w: int(2 * top * w / rate)), "Row k"),
        (lambda *a: cut(*a).mean(0), "rows x columns"),
        (cut_and_clear, "leave the spectrogram"),
    ],
    [
        (lambda r, n: missing(r, n, key=split_name), "first 11 characters"),
        (by_id_alone, "at another second"),
        (any_capitals, "capitals"),
        (by_whole_names, "end early"),
        (unpadded, "six digits"),
        (lambda r, n: missing(r, n, drop=False), "have no label of which none"),
        (as_a_set, "all clips are missing"),
        (lambda r, n: sum(missing(r, n).values()), "a dict"),
        (lambda r, n: missing(r, n, key=lambda name: (name[:11], name[12:18])), "first 11"),
    ],
    [
        (lambda p, *a: p.argmax(1), "win everywhere"),
        (lambda *a: decide(*a, mean=lambda p: 0), "win everywhere"),
        (lambda *a: decide(*a, only=False), "occur among the training labels"),
        (lambda *a: decide(*a, numbers=False), "in the list of all"),
        (lambda *a: decide(*a, mean=lambda p: p.mean(0).log()), "logarithm of the mean"),
        (lambda *a: decide(*a, mean=lambda p: -p.log().mean(0)), "win everywhere"),
        (lambda *a: decide(*a, of=lambda p, p_train: p), "other test clips"),
        (lambda *a: decide(*a).float(), "numbers of classes"),
        (lambda *a: decide(*a).tolist(), "(n,)"),
        (in_place, "leave its arguments"),
    ],
)


def cut_by_masks(x, start, end, top, rate=35_400, w=512, h=353):
    rows = np.arange(x.shape[0]) * rate < top * w
    t = np.arange(x.shape[1]) * h
    return x[rows][:, (t >= start * rate) & (t < end * rate)]


def missing_by_names(rows, names):
    found = {}
    for label, youtube_id, start in rows:
        stem = f"{youtube_id}?{start:06}?"
        if not any(name[:11] + "?" + name[12:18] + "?" == stem for name in names):
            found[label] = found.get(label, 0) + 1
    return found


def decide_by_scaling(p, p_train, labels):
    """Divided by the geometric mean; what never occurs is out."""
    share = p / p_train.log().mean(0).exp()
    never = torch.ones(p.shape[1], dtype=torch.bool)
    never[labels] = False
    return share.masked_fill(never, -1).argmax(-1)


RIGHT = numbered(
    10,
    [cut, cut_by_masks],
    [missing, missing_by_names],
    [decide, decide_by_scaling],
)
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
