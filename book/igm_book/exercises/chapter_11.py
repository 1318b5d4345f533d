"""Checks of chapter 11: Twitter2015."""

from __future__ import annotations

import math

import numpy as np
import torch

from igm.datasets.twitter2015 import Tweet, TweetTokens
from igm_book.exercises import require


def exercise_1(told):
    """The target back in its place."""
    reader = TweetTokens(max_words=None, target=True)

    def said(text: str, target: str) -> str:
        answer = told(text, target)
        require(isinstance(answer, str), "It should return a string.")
        return " ".join(answer.split())

    def expected(text: str, target: str) -> str:
        return reader.sentence(Tweet("", 0, 1, {}, text, target=target))

    plain = "so happy for $T$ today", "Nora"
    require(" : " in said(*plain), 'The target and the sentence should stand around " : ".')
    name, sentence = said(*plain).split(" : ", 1)
    require(name == "nora", "The cleaned target should stand before the colon.")
    require(
        sentence == "so happy for nora today",
        "In the cleaned sentence the target should stand where $T$ was, and no t.",
    )
    apostrophe = "I can't believe $T$ won 3 : 0 !", "Lima"
    require(
        said(*apostrophe) == expected(*apostrophe),
        'The t of "can\'t" is no target: fill the target in before the cleaning.',
    )
    for text, target in [
        ('RT @ Daily_News : $T$ " lost', "São Paulo"),
        ("Thanks , $T$", "AC\\DC"),
        ("$T$ beats Leeds United", "Leeds United"),
    ]:
        require(
            said(text, target) == expected(text, target),
            f"For the text {text!r} and the target {target!r} it should be {expected(text, target)!r}.",
        )
    for text, right in [
        ("Best of $T$ , today 😀", "# e3 : best of # e3 today"),
        ("$T$ opens !", "# e3 : # e3 opens"),
    ]:
        answer = said(text, "# E3")
        require(
            not answer.startswith(": ") and answer.split(" : ", 1)[0] == "# e3",
            "A target of which the cleaning leaves nothing should keep its signs, in lower case, before the colon.",
        )
        require(
            answer == right,
            f"Such a target should keep its signs within the sentence, too: {right!r}, the rest cleaned as ever.",
        )


def exercise_2(batch):
    """Padding, and the mask that tells of it."""
    padding = 9
    rows = [[2, 7, 3], [2, 5, 8, 6, 3], [2, 3], [2, 9, 4, 3]]  # the last has the padding's number
    before = [list(row) for row in rows]
    found = batch(rows, padding)
    require(isinstance(found, tuple) and len(found) == 2, "It should return two tensors.")
    ids, mask = found
    require(
        isinstance(ids, torch.Tensor) and isinstance(mask, torch.Tensor),
        "It should return two tensors.",
    )
    require(rows == before, "It should leave the rows as they are.")
    require(
        ids.ndim == 2 and len(ids) == len(rows) and ids.shape == mask.shape,
        "Both should be (n, L), with a row for each text.",
    )
    require(ids.shape[1] >= 5, "No row should lose a token.")
    require(ids.shape[1] == 5, "L should be the length of the longest row and no more.")
    require(ids.dtype == torch.int64 and mask.dtype == torch.bool, "ids are int64, the mask bool.")
    for row, line in zip(before, ids.tolist()):
        require(line[: len(row)] == row, "The tokens should stand at the beginning of their line.")
        require(set(line[len(row) :]) <= {padding}, "Behind them should stand the padding's id.")
    require(
        mask[1].all() and not mask[2, 2:].any(),
        "The mask should be True at tokens and False at padding.",
    )
    require(
        mask.sum(1).tolist() == [len(row) for row in before],
        "A token may have the padding's number: the mask should come from the lengths of the rows.",
    )


def exercise_3(mean_state):
    """A mean over tokens."""
    lengths, L, d = (5, 2, 1, 3), 5, 3
    states = torch.randn(len(lengths), L, d)
    mask = torch.arange(L) < torch.tensor(lengths)[:, None]
    mask[3] = torch.tensor([True, False, True, True, False])  # not only the end can be left out
    states[~mask] = 1000.0
    before = states.clone()
    mean = mean_state(states, mask)
    require(
        isinstance(mean, torch.Tensor) and mean.shape == (len(lengths), d),
        "It should return a vector for each text, (n, d).",
    )
    require(torch.equal(states, before), "It should leave the states as they are.")
    expected = torch.stack(
        [torch.stack([z for z, kept in zip(*text) if kept]).mean(0) for text in zip(states, mask)]
    )
    require(
        mean.abs().max() < 100,
        "What stands at padding should not count: here it is 1000, and your mean shows it.",
    )
    require(
        torch.allclose(mean[0], expected[0], atol=1e-5),
        "A text without padding should give the mean over its tokens, a number for each of the d.",
    )
    require(
        torch.allclose(mean, expected, atol=1e-5),
        "Each text's sum should be divided by the number of its own tokens.",
    )


def exercise_4(error_by_tweet):
    """The standard error of a score whose rows come in groups."""
    right = [1, 0, 1, 1, 1, 0, 0, 1, 1, 1]
    alone = error_by_tweet(right, [f"{i}.jpg" for i in range(10)])
    require(isinstance(alone, float), "It should return a float.")
    plain = math.sqrt(0.7 * 0.3 / 10)
    require(
        abs(alone - plain) < 1e-6,
        f"With a tweet for each row it should be sqrt(A (1 - A) / n), here {plain:.4f}.",
    )
    pairs = error_by_tweet([1, 1, 1, 1, 1, 1, 0, 0, 0, 0], [c for c in "aabbccddee"])
    require(
        abs(pairs - math.sqrt(2) * math.sqrt(0.6 * 0.4 / 10)) < 1e-6,
        "Rows in twos that are right or wrong together are half as many: the error should grow by sqrt 2.",
    )
    require(
        abs(error_by_tweet([1, 0] * 4, [c for c in "aabbccdd"])) < 1e-6,
        "Where one row of each tweet is right and one wrong, the score is the same for any tweets: an error of 0.",
    )
    tweets = ["b", "a", "c", "a", "b", "d", "c", "a", "e", "b"]  # not side by side
    off = np.array(right) - np.mean(right)
    square = sum(off[i] * off[j] for i in range(10) for j in range(10) if tweets[i] == tweets[j])
    require(
        abs(error_by_tweet(right, tweets) - math.sqrt(square) / 10) < 1e-6,
        "Rows of one tweet need not stand side by side, and may be three: gather them all.",
    )
