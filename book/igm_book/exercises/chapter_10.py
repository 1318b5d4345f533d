"""Checks of chapter 10: Kinetics-Sounds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch

from igm_book.exercises import require


def exercise_1(cut):
    """A part of a spectrogram by seconds and Hz."""
    # Each entry holds its own place: 10,000 times the row, plus the column.
    places = np.stack(np.meshgrid(np.arange(257), np.arange(1003), indexing="ij"), -1)
    x = 10_000.0 * places[..., 0] + places[..., 1]
    before = x.copy()

    def part(start, end, top, *arguments, of=x):
        found = np.rint(cut(of, start, end, top, *arguments))
        require(found.ndim == 2, "It should return rows x columns.")
        rows, columns = np.unique(found // 10_000), np.unique(found % 10_000)
        return rows, columns, found.shape

    rows, columns, shape = part(1, 3, 5000)
    require(np.array_equal(x, before), "It should leave the spectrogram as it is.")
    require(shape == (len(rows), len(columns)), "It should return whole rows and columns.")
    require(
        rows.tolist() == [k for k in range(257) if Fraction(k * 35_400, 512) < 5000],
        "Row k is k rate / w Hz, from 0: below 5000 Hz are 73 rows, the first ones. "
        f"Yours are {len(rows)}, from {rows[0]:.0f} to {rows[-1]:.0f}.",
    )
    expected = [t for t in range(1003) if 1 <= Fraction(t * 353, 35_400) < 3]
    require(
        columns.tolist() == expected,
        "Column t has its middle at t h / rate seconds: seconds 1 to 3 are the columns "
        f"{expected[0]} to {expected[-1]}. Yours are {columns[0]:.0f} to {columns[-1]:.0f}.",
    )
    joined = [t for second in range(10) for t in part(second, second + 1, 1000)[1]]
    require(
        joined == list(range(1003)),
        "The ten seconds of a clip should have each of its columns once.",
    )
    small = x[:5, :81]
    rows, columns, _ = part(2, 4, 300, 800, 8, 100, of=small)
    require(
        columns.tolist() == list(range(16, 32)),
        "A column exactly at `start` belongs to the part, one exactly at `end` does not; "
        "and rate, w and h are arguments.",
    )
    require(rows.tolist() == [0, 1, 2], "A row at exactly `top` does not belong: it is not below.")
    rows, columns, _ = part(9, 20, 20_000)
    require(
        columns[-1] == 1002 and rows[-1] == 256,
        "Where the part is asked to reach further than the spectrogram, it ends with it.",
    )


def exercise_2(missing):
    """The clips of a list that are not there, class by class."""
    rows = [
        ("singing", "0ab1cd2EF3g", 12),
        ("singing", "0ab1cd2EF3g", 112),  # the same video, later
        ("playing organ", "0AB1cd2EF3g", 12),
        ("bowling", "a_b-c_d-e_f", 7),
        ("bowling", "-_-_-_-_-_-", 150),
        ("tap dancing", "zzzzzzzzzzz", 1),
        ("laughing", "xxxxxxxxxxx", 360),
        ("laughing", "xxxxxxxxxxx", 3600),
    ]
    names = [
        "0ab1cd2EF3g_000012_000022.mp4",
        "a_b-c_d-e_f_000007_000017.mkv",
        "-_-_-_-_-_--000150-000160.mp4",
        "zzzzzzzzzzz_000001_000009.mp4",  # ends early
        "wwwwwwwwwww_000001_000011.mp4",  # in no row
        "xxxxxxxxxxx_003600_003610.webm",
    ]
    found = missing(list(rows), list(names))
    require(isinstance(found, dict), "It should return a dict, label -> number of missing clips.")
    require(
        not {"bowling"} & {label for label, n in found.items() if n},
        "An ID may have - and _ in it: it is the first 11 characters, whatever they are.",
    )
    require(
        not found.get("tap dancing"),
        "A clip is told by ID and start; it may end early, and is there all the same.",
    )
    require(
        found.get("singing") == 1,
        "A video may have several clips: one that is there at another second does not count.",
    )
    require(
        found.get("playing organ") == 1,
        "IDs that differ in capitals are those of different videos.",
    )
    require(
        found.get("laughing") == 1,
        "360 is not 3600: the start is the number of the six digits behind the ID.",
    )
    require(
        found == {"singing": 1, "playing organ": 1, "laughing": 1},
        "It should count the missing clips of each label, and have no label of which none is missing.",
    )
    require(
        not missing(list(rows[:1]), list(names)) and not missing([], list(names)),
        "Where nothing is missing the dict should be empty; files of no row do not count.",
    )
    require(
        missing(list(rows[:2]), []) == {"singing": 2},
        "Where no file is there, all clips are missing.",
    )


def exercise_3(decide):
    """Decisions without the favour."""
    # Scores of three clips a class for classes 1, 3, 4 of 6; class 4 is favoured.
    rng = np.random.default_rng(0)
    c, there = 6, [1, 3, 4]
    y = np.repeat(there, 4)
    z = 0.2 * rng.standard_normal((12, c))
    z[np.arange(12), y] += 1.0
    z += np.array([-5, 0, -6, 1.0, 4.0, -7])
    z[:, 0] += 3 * rng.standard_normal(12)  # a class that never occurs, and varies most
    p = torch.from_numpy(z).softmax(1)
    train, labels, test = p, torch.from_numpy(y), p[torch.from_numpy(rng.permutation(12))[:7]]
    kept = [x.clone() for x in (test, train, labels)]
    answer = decide(test, train, labels)
    require(
        isinstance(answer, torch.Tensor) and answer.shape == (7,),
        "It should return the number of a class for each test clip, (n,).",
    )
    require(
        all(map(torch.equal, (test, train, labels), kept)),
        "It should leave its arguments as they are.",
    )
    require(
        not answer.is_floating_point() and set(answer.tolist()) <= set(range(c)),
        "It should return the numbers of classes, 0 to c - 1.",
    )
    require(
        set(answer.tolist()) <= set(there),
        "Only classes that occur among the training labels should be answered, by their numbers "
        f"in the list of all: here 1, 3 and 4. Yours: {sorted(set(answer.tolist()))}.",
    )
    require(
        set(answer.tolist()) != {4},
        "The favoured class should not win everywhere: take the mean over the training clips out of its score.",
    )
    off = np.log(train.numpy()).sum(0) / 12  # of each class
    expected = [max(there, key=lambda k: np.log(row[k]) - off[k]) for row in test.numpy()]
    require(
        answer.tolist() == expected,
        "The score of a class is its log p minus the mean of its log p over the training clips.",
    )
    alone = [int(decide(row[None], train, labels)) for row in test]
    require(
        alone == expected,
        "The answer for a test clip should not depend on the other test clips: the means are those of train.",
    )
    # An arithmetic and a geometric mean of p decide differently here.
    train = torch.tensor([[0.98, 0.02], [0.98, 0.02], [0.02, 0.98], [0.6, 0.4]])
    test = torch.tensor([[0.62, 0.38], [0.73, 0.27]])
    off = np.log(train.numpy()).sum(0) / 4
    expected = (np.log(test.numpy()) - off).argmax(1).tolist()
    require(
        decide(test, train, torch.tensor([0, 0, 1, 1])).tolist() == expected,
        "It is the mean of log p that is taken out, not the logarithm of the mean of p.",
    )
