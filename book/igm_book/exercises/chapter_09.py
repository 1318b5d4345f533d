"""Checks of chapter 9: CREMA-D."""

from __future__ import annotations

import math
import tempfile
import wave
from collections import Counter
from pathlib import Path

import numpy as np

from igm_book.exercises import require


def _like(found: object, wanted: object) -> bool:
    """Of the same shape and equal up to rounding."""
    return np.shape(found) == np.shape(wanted) and np.allclose(found, wanted)


def exercise_1(fit):
    """Three seconds of every clip."""
    short = np.array([0.5, 0.25, 0.125])
    given = short.copy()
    x = np.asarray(fit(given, 8))
    require(x.shape == (8,), "It should return as many samples as asked for, (length,).")
    require(np.array_equal(given, short), "It should leave the samples as they are.")
    require(
        np.allclose(x, [short[i % 3] for i in range(8)]),
        "A sound that is too short should begin anew each time it ends, as often as needed.",
    )
    loud = np.array([2.0, -0.5, -3.0, 0.75])
    require(
        _like(fit(loud.copy(), 4), [1, -0.5, -1, 0.75]),
        "Samples beyond -1 and 1 should be cut to -1 and 1, and the others kept as they are.",
    )
    long = np.linspace(-0.9, 0.9, 11)
    require(
        _like(fit(long.copy(), 4), long[:4]),
        "Of a sound that is too long the beginning should be kept.",
    )
    require(
        _like(fit(long.copy(), 11), long),
        "A sound of the right length should stay as it is.",
    )


def exercise_2(spectrogram):
    """The spectrogram by its equation."""
    w, h = 16, 7
    silence = np.asarray(spectrogram(np.zeros(100), w, h))
    require(
        silence.shape == (9, 15),
        "It should return w / 2 + 1 rows and 1 + samples // h columns: 9 x 15 for 100 samples with "
        f"w = 16 and h = 7. Yours is {' x '.join(map(str, silence.shape))}.",
    )
    require(np.isfinite(silence).all(), "Silence should give a finite number.")
    sound = np.random.default_rng(0).standard_normal(100)
    x, louder = (np.asarray(spectrogram(s, w, h)) for s in (sound.copy(), 2 * sound))
    step = float(np.median(louder - x))
    require(
        abs(step - math.log(2)) < 1e-3,
        "A sound twice as loud should be higher by ln 2: it is the natural logarithm of the magnitude, "
        f"not of its square, and nothing is divided by the loudest. Yours is higher by {step:.2f}.",
    )
    require(
        np.allclose(silence, math.log(1e-7), atol=1e-3),
        "Silence should give the logarithm of 1e-7.",
    )
    click = np.zeros(100)
    click[6 * h] = 1  # in the middle of column 6, where the window is 1
    column = np.asarray(spectrogram(click, w, h))
    magnitudes = np.exp(column).sum(0)
    loudest = round(float(magnitudes @ np.arange(15) / magnitudes.sum()))
    require(
        loudest == 6,
        "Column t should have its middle at sample t h: a click there is loudest in column t. "
        f"A click at sample {6 * h} is loudest in your column {loudest}.",
    )
    require(
        np.allclose(column[:, 6], 0, atol=1e-4),
        "The middle of the window should be 1: the Hann window here is the periodic one, "
        "sin^2(pi n / w), not divided by its sum.",
    )
    expected = _by_loops(sound, w, h)
    heard = expected > math.log(1e-3)
    off = np.abs(x - expected) * heard
    require(
        off[:, 2:-2].max() < 1e-3,
        f"In the columns away from the ends it is off by up to {off[:, 2:-2].max():.2g}: the window "
        "should be sin^2(pi n / w), and row k the frequency k / w.",
    )
    require(
        off.max() < 1e-3,
        "The columns at the two ends are wrong: before its first and behind its last sample the sound is zero.",
    )


def _by_loops(sound: np.ndarray, w: int, h: int) -> np.ndarray:
    """The sum of the equation, term by term."""
    x = np.empty((w // 2 + 1, 1 + len(sound) // h))
    for k in range(x.shape[0]):
        for t in range(x.shape[1]):
            total = 0j
            for n in range(w):
                i = t * h + n - w // 2
                s = sound[i] if 0 <= i < len(sound) else 0.0
                angle = -2 * math.pi * k * n / w
                hann = 0.5 - 0.5 * math.cos(2 * math.pi * n / w)
                total += hann * s * complex(math.cos(angle), math.sin(angle))
            x[k, t] = math.log(abs(total) + 1e-7)
    return x


def exercise_3(folds):
    """Folds by actor."""
    rng = np.random.default_rng(0)
    emotions = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
    names = [
        f"{actor}_{sentence}_{emotion}_XX"
        for actor in range(1001, 1024)
        for sentence in ("DFA", "IEO")[: int(rng.integers(1, 3))]
        for emotion in emotions
    ]
    made = folds(list(names), 5, 0)
    require(
        isinstance(made, list) and all(isinstance(fold, list) for fold in made),
        "It should return a list of lists of names.",
    )
    require(len(made) == 5, "It should return as many folds as asked for.")
    times = Counter(name for fold in made for name in fold)
    require(
        times == Counter(names),
        "Every clip should be in one fold, once, under its name.",
    )
    actors = [{name.split("_")[0] for name in fold} for fold in made]
    require(
        sum(map(len, actors)) == len(set.union(*actors)),
        "An actor should be in one fold only: you have some in several.",
    )
    require(
        sorted(map(len, actors)) == [4, 4, 5, 5, 5],
        "The numbers of actors in two folds should differ by 1 at most: 23 actors make folds of 4 and "
        f"5. Yours have {', '.join(map(str, sorted(map(len, actors))))}.",
    )

    def parts(*arguments):
        return sorted(sorted({name[:4] for name in fold}) for fold in folds(*arguments))

    again = parts(list(names), 5, 0)
    require(again == parts(list(names), 5, 0), "The same seed should give the same folds.")
    require(
        all(
            again == parts([names[i] for i in rng.permutation(len(names))], 5, 0) for _ in range(5)
        ),
        "The folds should not depend on the order of the names: a file system lists them in any order. "
        "Sort the actors before the draw.",
    )
    require(
        len({str(parts(list(names), 5, seed)) for seed in range(4)}) > 1,
        "Another seed should draw other folds.",
    )


def exercise_4(kind_of):
    """Is this file the sound?"""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1001_DFA_ANG_XX.wav"
        require(kind_of(path) == "missing", 'A file that is not there is "missing".')
        path.write_bytes(b"")
        require(kind_of(path) == "empty", 'A file without a byte is "empty".')
        path.write_bytes(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:"
            + b"0f" * 32
            + b"\nsize 72342\n"
        )
        require(
            kind_of(path) == "pointer",
            'What Git LFS puts in the place of a clip, some text that begins with "version '
            'https://git-lfs", is a "pointer".',
        )
        path.write_bytes(b"<!DOCTYPE html><title>404</title>" + b" " * 40_000)
        require(
            kind_of(path) == "no WAV",
            'A file that begins neither like a pointer nor like a WAV file is "no WAV".',
        )
        path.write_bytes(b"RIFF" + (1000).to_bytes(4, "little") + b"AVI " + bytes(996))
        require(
            kind_of(path) == "no WAV",
            '"RIFF" begins other files, too: bytes 8 to 11 should be "WAVE".',
        )
        for seconds in (0.001, 1):
            whole = _wav(path, seconds)
            require(
                kind_of(path) == "whole",
                'A WAV file that has all its bytes is "whole", however short: one of '
                f"{len(whole)} bytes is not. The size in bytes 4 to 7 does not count the first 8.",
            )
            require(path.read_bytes() == whole, "It should leave the file as it is.")
        for size in (len(whole) // 2, len(whole) - 1, len(whole) - 7):
            path.write_bytes(whole[:size])
            require(
                kind_of(path) == "cut",
                f'A WAV file of which {size} of {len(whole)} bytes are there is "cut".',
            )


def _wav(path: Path, seconds: float) -> bytes:
    """Writes a WAV file; returns what is in it."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(2 * round(16_000 * seconds)))
    return path.read_bytes()
