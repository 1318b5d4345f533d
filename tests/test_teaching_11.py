"""The checks of chapter 11: plausible wrong answers are told what is wrong, right ones pass however they are written."""

import math
import re
from itertools import groupby

import numpy as np
import torch
from answers import numbered, two_tests
from torch.nn.utils.rnn import pad_sequence

from igm.datasets.text import letters
from igm.datasets.twitter2015 import Tweet, TweetTokens


def told(text, target, name=None):
    before, after = (letters(part) for part in text.split("$T$"))
    name = letters(target) or target.lower() if name is None else name
    return f"{name} : {before} {name} {after}"


def cleaned_first(text, target):
    words = [letters(target) if word == "t" else word for word in letters(text).split()]
    return f"{letters(target)} : {' '.join(words)}"


def as_the_library(text, target):
    return TweetTokens(target=True).sentence(Tweet("", 0, 1, {}, text, target=target))


def name_kept_before_only(text, target):
    return f"{letters(target) or target.lower()} : {letters(text.replace('$T$', target))}"


def batch(rows, padding, length=max, left=False, mask_of=None, dtype=torch.int64):
    L = length(map(len, rows))
    ids = torch.full((len(rows), L), padding, dtype=dtype)
    mask = torch.zeros(len(rows), L, dtype=torch.bool)
    for i, row in enumerate(rows):
        kept = row[:L]
        places = slice(L - len(kept), L) if left else slice(len(kept))
        ids[i, places], mask[i, places] = torch.tensor(kept, dtype=dtype), True
    return ids, mask if mask_of is None else mask_of(ids, mask)


def batch_in_place(rows, padding):
    made = batch(rows, padding)
    for row in rows:
        row.extend([padding] * (5 - len(row)))
    return made


def mean_state(states, mask, divisor=None):
    total = (states * mask[..., None]).sum(1)
    return total / (mask.sum(1, keepdim=True) if divisor is None else divisor(mask))


def mean_in_place(states, mask):
    states[~mask] = 0
    return mean_state(states, mask)


def error(right, tweets, gather=None, centred=True, divide=len, root=math.sqrt):
    right = np.array(right, float)
    off = right - centred * right.mean()
    if gather is None:
        sums = [off[[t == tweet for t in tweets]].sum() for tweet in set(tweets)]
    else:
        sums = gather(off, tweets)
    return float(root(np.square(sums).sum()) / divide(right))


def neighbours(off, tweets):
    together = groupby(zip(tweets, off), key=lambda row: row[0])
    return [sum(o for _, o in rows) for _, rows in together]


def by_tweets(right, tweets):
    """The share of right rows of each tweet, as if these were the rows."""
    means = [np.mean([r for r, t in zip(right, tweets) if t == tweet]) for tweet in set(tweets)]
    return float(np.std(means) / math.sqrt(len(means)))


WRONG = numbered(
    11,
    [
        (cleaned_first, "before the cleaning"),
        (as_the_library, "keep its signs"),
        (name_kept_before_only, "within the sentence"),
        (lambda t, x: told(t, x, x.lower()), "it should be 'paulo :"),
        (lambda t, x: told(t, x, letters(x)), "keep its signs"),
        (lambda t, x: told(t, x).split(" : ", 1)[1], 'around " : "'),
        (lambda t, x: f"{letters(x)} : {letters(t)}", "where $T$ was"),
        (lambda t, x: f"{x} : {letters(t.replace('$T$', x))}", "cleaned target"),
        (lambda t, x: f"{letters(x)} : {letters(re.sub('$T$', x, t))}", "where $T$ was"),
        (lambda t, x: f"{letters(x)} : {letters(re.sub(r'[$]T[$]', x, t))}", "bad escape"),
        (lambda t, x: told(t, x).split(), "a string"),
    ],
    [
        (lambda r, p: batch(r, p, mask_of=lambda ids, mask: ids != p), "from the lengths"),
        (lambda r, p: batch(r, p, mask_of=lambda ids, mask: ~mask), "True at tokens"),
        (lambda r, p: batch(r, p, mask_of=lambda ids, mask: mask.long()), "the mask bool"),
        (lambda r, p: batch(r, p, mask_of=lambda ids, mask: mask.sum(1)), "(n, L)"),
        (lambda r, p: batch(r, p, length=lambda lengths: 128), "no more"),
        (lambda r, p: batch(r, p, length=min), "lose a token"),
        (lambda r, p: batch(r, p, left=True), "at the beginning"),
        (lambda r, p: batch(r, 0), "padding's id"),
        (lambda r, p: batch(r, p, dtype=torch.float32), "int64"),
        (lambda r, p: batch(r, p)[0], "two tensors"),
        (batch_in_place, "leave the rows"),
    ],
    [
        (lambda z, m: z.mean(1), "shows it"),
        (lambda z, m: mean_state(z, m, lambda m: m.shape[1]), "its own tokens"),
        (lambda z, m: mean_state(z, m, lambda m: 1), "mean over its tokens"),
        (lambda z, m: mean_state(z, m, lambda m: m.sum()), "mean over its tokens"),
        (lambda z, m: z.masked_fill(~m[..., None], 0).amax(1), "mean over its tokens"),
        (lambda z, m: z[m].mean(0), "(n, d)"),
        (lambda z, m: mean_state(z, m)[:, :1].expand(-1, 3), "each of the d"),
        (mean_in_place, "leave the states"),
    ],
    [
        (lambda r, t: error(r, range(len(r))), "grow by sqrt 2"),
        (lambda r, t: error(r, t, gather=neighbours), "side by side"),
        (lambda r, t: error(r, t, centred=False), "sqrt(A (1 - A) / n)"),
        (lambda r, t: error(r, t, root=lambda x: x), "sqrt(A (1 - A) / n)"),
        (lambda r, t: error(r, t, divide=lambda r: math.sqrt(len(r))), "sqrt(A (1 - A) / n)"),
        (lambda r, t: error(r, t, divide=lambda r: len(set(t))), "grow by sqrt 2"),
        (by_tweets, "gather them all"),
        (lambda r, t: np.float32(error(r, t)), "a float"),
    ],
)


def told_by_words(text, target):
    name = letters(target) if letters(target) else target.lower()
    marked = letters(text.replace("$T$", " thetargetofthistweet "))
    return f"{name} : {marked.replace('thetargetofthistweet', name)}"


def padded(rows, padding):
    ids = pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=padding)
    return ids, torch.arange(ids.shape[1]) < torch.tensor([[len(r)] for r in rows])


def error_by_matrix(right, tweets):
    off = np.array(right) - np.mean(right)
    same = np.equal.outer(np.array(tweets), np.array(tweets))
    return float(np.sqrt(max(0.0, off @ same @ off))) / len(right)


RIGHT = numbered(
    11,
    [told, told_by_words],
    [batch, padded],
    [mean_state, lambda z, m: torch.stack([s[k].mean(0) for s, k in zip(z, m)])],
    [error, error_by_matrix],
)
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
