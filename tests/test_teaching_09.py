"""The checks of chapter 9: plausible wrong answers are told what is wrong, right ones pass however they are written."""

import random

import numpy as np
from answers import numbered, two_tests
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from igm.datasets.media import Unreadable, fit_length, log_spectrogram, read_audio


def fit(samples, length, longer=None, low=-1):
    longer = longer or (lambda x: np.tile(x, -(-length // len(x))))
    return np.clip(longer(samples)[:length], low, 1)


def fit_in_place(samples, length):
    np.clip(samples, -0.3, 0.3, out=samples)
    return fit(samples, length)


def scaled(samples, length):
    x = np.tile(samples, length)[:length]
    return x / max(1, np.abs(x).max())


def spectrogram(
    samples, w=512, h=353, sym=False, mode="constant", log=np.log, power=1, window=None, late=0
):
    window = hann(w, sym=sym) if window is None else window(w)
    padded = np.pad(samples, w // 2, mode=mode)
    frames = [padded[t * h : t * h + w] for t in range(1 + len(samples) // h)]
    frames = frames if not late else [frames[max(t - late, 0)] for t in range(len(frames))]
    magnitudes = np.abs(np.fft.rfft(np.array(frames) * window)).T
    return log(magnitudes**power + 1e-7)


def decibels(samples, w, h):
    x = spectrogram(samples, w, h)
    return x - x.max() + np.log(1e-7) * (x.max() == x.min())


def not_centred(samples, w, h):
    padded = np.pad(samples, (0, w))
    frames = [padded[t * h : t * h + w] for t in range(1 + len(samples) // h)]
    return np.log(np.abs(np.fft.rfft(np.array(frames) * hann(w, sym=False))).T + 1e-7)


def rows_turned(samples, w, h):
    return spectrogram(samples, w, h)[::-1]


def folds(names, k, seed, draw=True, order=sorted, key=lambda name: name[:4], cut=None):
    keys = list(order({key(name): None for name in names}))
    if draw:
        random.Random(seed).shuffle(keys)
    place = cut(keys) if cut else {actor: i % k for i, actor in enumerate(keys)}
    return [[name for name in names if place[key(name)] == i] for i in range(k)]


def kind_of(path, start=8, exact=False, order="little", by_size=False, wave=True, show=False):
    if not path.exists():
        return "missing"
    content = path.read_bytes()
    if not content:
        return "empty"
    if len(content) < 1000 if by_size else content.startswith(b"version https://git-lfs"):
        return "pointer"
    if content[:4] != b"RIFF" or (wave and content[8:12] != b"WAVE"):
        return "no WAV"
    size = int.from_bytes(content[4:8], order) + start
    if show:
        path.write_bytes(content[:-2])
    return "cut" if len(content) < size else "whole"


def readable(path):
    """What a program finds that only tries to read the file."""
    try:
        read_audio(path, 16_000)
    except Unreadable as error:
        for word in ("missing", "empty", "pointer"):
            if word in str(error).lower():
                return word
        return "no WAV"
    return "whole"


WRONG = numbered(
    9,
    [
        (lambda s, n: fit(s, n, lambda x: np.pad(x, (0, max(0, n - len(x))))), "begin anew"),
        (lambda s, n: fit(s, n, lambda x: np.tile(x, 2)), "(length,)"),
        (lambda s, n: fit(s, n, lambda x: np.repeat(x, n)), "begin anew"),
        (lambda s, n: np.resize(s, n), "cut to -1 and 1"),
        (lambda s, n: fit(s, n, low=0), "cut to -1 and 1"),
        (scaled, "cut to -1 and 1"),
        (lambda s, n: fit(s[max(0, len(s) - n) :], n), "the beginning"),
        (lambda s, n: fit(np.tile(s, n)[max(0, len(s) - n) :], n), "the beginning"),
        (fit_in_place, "leave the samples"),
    ],
    [
        (lambda s, w, h: spectrogram(s, w, h).T, "9 x 15"),
        (lambda s, w, h: spectrogram(s, w, h)[:, :-1], "9 x 15"),
        (
            lambda s, w, h: spectrogram(
                s, w, h, log=lambda x: np.where(x > 1.1e-7, np.log(x), -np.inf)
            ),
            "finite",
        ),
        (lambda s, w, h: spectrogram(s, w, h, log=np.log10), "natural logarithm"),
        (lambda s, w, h: spectrogram(s, w, h, power=2), "not of its square"),
        (decibels, "divided by the loudest"),
        (lambda s, w, h: np.maximum(spectrogram(s, w, h), -9), "1e-7"),
        (not_centred, "its middle"),
        (lambda s, w, h: spectrogram(s, w, h, late=1), "its middle"),
        (lambda s, w, h: spectrogram(s, w, h, sym=True), "periodic"),
        (lambda s, w, h: spectrogram(s, w, h, window=lambda w: hann(w, False) * 2 / w), "its sum"),
        (lambda s, w, h: spectrogram(s, w, h, window=np.ones), "sin^2"),
        (lambda s, w, h: spectrogram(s, w, h, window=lambda w: hann(w, False) ** 0.5), "sin^2"),
        (rows_turned, "row k"),
        (lambda s, w, h: spectrogram(s, w, h, mode="reflect"), "two ends"),
    ],
    [
        (lambda n, k, s: folds(n, k, s, key=lambda name: name), "one fold only"),
        (lambda n, k, s: folds(n, k, s, key=lambda name: name[5:8]), "one fold only"),
        (lambda n, k, s: folds(n, k, s, order=list), "order of the names"),
        (lambda n, k, s: folds(n, k, s, draw=False), "Another seed"),
        (lambda n, k, s: folds(n, k, None), "same seed"),
        (
            lambda n, k, s: folds(
                n, k, s, cut=lambda a: {x: min(i // 4, 4) for i, x in enumerate(a)}
            ),
            "differ by 1",
        ),
        (lambda n, k, s: folds(n, k, s, cut=lambda a: {x: int(x) % k for x in a}), "Another seed"),
        (lambda n, k, s: folds(n, k, s)[:-1], "as many folds"),
        (lambda n, k, s: folds(n[1:], k, s), "in one fold, once"),
        (lambda n, k, s: [sorted({x[:4] for x in f}) for f in folds(n, k, s)], "under its name"),
        (lambda n, k, s: np.array_split(n, k), "list of lists"),
    ],
    [
        (readable, '"cut"'),
        (lambda p: kind_of(p, start=0), '"cut"'),
        (lambda p: kind_of(p, start=44), '"whole"'),
        (lambda p: kind_of(p, order="big"), '"whole"'),
        (lambda p: kind_of(p, by_size=True), "however short"),
        (lambda p: kind_of(p, wave=False), '"WAVE"'),
        (lambda p: kind_of(p, show=True), "leave the file"),
        (lambda p: "whole" if p.stat().st_size else "empty", "FileNotFoundError"),
        (lambda p: "whole" if p.exists() else "missing", '"empty"'),
    ],
)


def fit_by_places(samples, length):
    return np.array([min(1, max(-1, samples[i % len(samples)])) for i in range(length)])


def by_scipy(samples, w, h):
    stft = ShortTimeFFT(hann(w, sym=False), h, 1, phase_shift=None)
    columns = 1 + len(samples) // h
    return np.log(np.abs(stft.stft(samples, p0=0, p1=columns, padding="zeros")) + 1e-7)


def folds_by_numpy(names, k, seed):
    actors = np.random.default_rng(seed).permutation(np.unique([name[:4] for name in names]))
    parts = map(set, np.array_split(actors, k))
    return [[name for name in names if name[:4] in part] for part in parts]


def by_parts(path):
    try:
        size = path.stat().st_size
    except OSError:
        return "missing"
    with path.open("rb") as file:
        riff, length, wave = file.read(4), file.read(4), file.read(4)
    if not size:
        return "empty"
    if riff + length + wave == b"version http":
        return "pointer"
    if (riff, wave) != (b"RIFF", b"WAVE"):
        return "no WAV"
    return "whole" if size - 8 >= np.frombuffer(length, "<u4")[0] else "cut"


RIGHT = numbered(
    9,
    [fit_length, fit_by_places],
    [spectrogram, log_spectrogram, by_scipy],
    [folds, folds_by_numpy],
    [kind_of, by_parts],
)
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
