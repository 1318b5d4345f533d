"""Checks of chapter 12: sarcasm."""

from __future__ import annotations

import math

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from igm_book.exercises import require

RAN: list[int] = []  # grows where an answer runs the code that exercise_1 puts into a line


def exercise_1(read_rows):
    """The raw lines."""
    lines = [
        repr(["101", "what a great day , rain # delay …\n.\n# lol", 1]) + "\n",
        repr(["102", "it 's my sister 's \"birthday\"", 0, 1]) + "\n",
        "\n",
        repr(["103", "haha # irony", 1, 0]) + "\n",
        repr(["104", "such a humorous sarcasms", 1, 0]) + "\n",
        repr(["105", "see <url>", 0]) + "\n",
    ]
    rows = read_rows(list(lines))
    require(isinstance(rows, list), "It should return a list.")
    names = [row[0] for row in rows]
    require("104" in names, 'A word that only contains a telling one, as "humorous", drops no row.')
    require(
        not {"103", "105"} & set(names),
        "A row with a telling word should be dropped, whatever its label.",
    )
    require(names == ["101", "102", "104"], "All other rows should be there, in their order.")
    require(
        [row[2] for row in rows] == [1, 1, 0],
        "Where two labels stand the last counts, a person's: here they are 1, 1, 0.",
    )
    require(
        rows[0] == ("101", "what a great day , rain # delay …\n.\n# lol", 1),
        "A row should be the tuple (name, text, label), with the text as it is.",
    )
    RAN.clear()
    code = f"__import__({__name__!r}, fromlist=['RAN']).RAN.append(1)"
    try:
        read_rows([*lines, f"['106', str({code}), 0]\n"])
        raised = False
    except ValueError:
        raised = True
    require(not RAN, "A line is data: code in it should not run.")
    require(raised, "A line that is no list of plain values should raise a ValueError.")


def exercise_2(word_scores):
    """Words that tell the label."""
    texts = ["so much fun humor", "so much rain rain rain", "rain again", "fun humor", "so sunny"]
    texts += ["humorous so", "fun day"]
    labels = [1, 0, 0, 1, 1, 0, 0]
    found = word_scores(list(texts), list(labels))
    require(isinstance(found, dict), "It should return a dict, word -> score.")
    require(
        set(found) == {word for text in texts for word in text.split()},
        "It should have each word of the texts, and words end at spaces.",
    )
    require(
        found["humor"] > 0 > found["rain"],
        "A word of the sarcastic texts alone should have a score above 0, one of the others alone below.",
    )
    counts = CountVectorizer(token_pattern=r"\S+", lowercase=False)
    there = counts.fit_transform(texts).toarray() > 0
    y = np.array(labels)
    shares = [(there[y == label].sum(0) + 1) / ((y == label).sum() + 2) for label in (1, 0)]
    expected = dict(zip(counts.get_feature_names_out(), np.log(shares[0] / shares[1]).tolist()))
    require(
        abs(found["rain"] - expected["rain"]) < 1e-6,
        "A text counts once for a word, however often it has it, and 1 and 2 are added to the counts: "
        f"the score of rain should be {expected['rain']:.3f}.",
    )
    require(
        all(abs(found[word] - score) < 1e-6 for word, score in expected.items()),
        "Each count should be divided by the number of texts of its own class: here they are 3 and 4.",
    )


def exercise_3(twins):
    """Texts that stand in train already, or nearly."""
    train = ["so much fun rain and delay", "i love it", "thanks user meeting", ""]
    test = [
        "rain and delay so much fun",  # other order: 1
        "so much fun rain and delay again",  # 6 of 7
        "i love it so much",  # 3 of 5
        "love love love it",  # 2 of 3
        "nothing like these",
        "i love it",
        "so much fun rain coffee delay",  # 5 of 7
    ]
    for share, right in [(1.0, [0, 5]), (0.8, [0, 1, 5]), (0.6, [0, 1, 2, 3, 5, 6])]:
        found = twins(list(train), list(test), share)
        require(
            isinstance(found, list) and all(isinstance(i, int) for i in found),
            "It should return a list of positions in test.",
        )
        require(
            found == sorted(set(found)),
            "A position should come once, however many twins it has, and in rising order.",
        )
        require(
            0 in found,
            "The order of the words does not matter: a text with the same words is a twin.",
        )
        require(5 in found, "A text that is in train as it is should be a twin at every share.")
        require(4 not in found, "A text that shares no word with train is no twin.")
        require(
            found == right,
            f"At the share {share} the twins are {right}, you have {found}: the words that both have, "
            "over the words that at least one has, each counted once.",
        )
    rng = np.random.default_rng(0)
    words = np.array(list("abcdefgh"))
    train, test = (
        [" ".join(rng.choice(words, rng.integers(1, 7))) for _ in range(25)] for _ in range(2)
    )
    X, Y = (
        np.array([[word in text.split() for word in words] for text in texts]).astype(int)
        for texts in (train, test)
    )
    both = Y @ X.T
    either = Y.sum(1)[:, None] + X.sum(1) - both
    expected = np.flatnonzero((2 * both >= either).any(1)).tolist()
    require(
        twins(train, test, 0.5) == expected,
        "A share of exactly that size counts, and every training text should be looked at.",
    )


def exercise_4(best_of_word):
    """The most that one word can tell."""
    require(
        abs(best_of_word(0.5, 0.6, 0.0) - 0.8) < 1e-6,
        "With s = 1/2 and r = 0 it should be (1 + q) / 2.",
    )
    require(
        abs(best_of_word(0.5, 0.3, 0.3) - 0.5) < 1e-6,
        "A word as frequent in both classes tells nothing: with s = 1/2 half of the answers are right.",
    )
    require(
        abs(best_of_word(0.5, 0.1, 0.9) - 0.9) < 1e-6,
        "The word may be a sign of the other class: the rule is free to use it so.",
    )
    require(
        abs(best_of_word(0.1, 0.3, 0.2) - 0.9) < 1e-6,
        "The rule may give the same answer with and without the word: no less than the larger class.",
    )
    rng = np.random.default_rng(0)
    for s, q, r in rng.random((50, 3)):
        cells = {(1, 1): s * q, (1, 0): s * (1 - q), (0, 1): (1 - s) * r}
        cells[0, 0] = (1 - s) * (1 - r)  # (label, is the word there) -> share of the rows
        rules = [{1: a, 0: b} for a in (0, 1) for b in (0, 1)]  # is it there -> answer
        best = max(sum(p for (y, w), p in cells.items() if rule[w] == y) for rule in rules)
        answer = best_of_word(float(s), float(q), float(r))
        require(
            math.isclose(answer, best, abs_tol=1e-6),
            f"For s = {s:.2f}, q = {q:.2f}, r = {r:.2f} one of the four rules is right in {best:.3f} "
            f"of all rows, and you say {answer:.3f}.",
        )
