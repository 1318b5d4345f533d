"""The checks of chapter 13: plausible wrong answers are told what is wrong, right ones pass however they are written."""

import re
from pathlib import Path

import numpy as np
import torch
from answers import numbered, two_tests

from igm.datasets.nvgesture import _item, _packed


def pack(flow, whole=np.round, cut=lambda x: np.clip(x, -20, 20), rest=128, scale=127 / 20):
    return whole(rest + cut(flow) * scale).astype(np.int64).astype(np.uint8)


def pack_in_place(flow):
    flow *= 127 / 20
    return (np.round(np.clip(flow, -127, 127)) + 128).astype(np.uint8)


def by_driver(lines, drivers, inside=None, change=lambda line: line):
    inside = inside or (lambda line, d: f"/subject{d}_" in line)
    held = [change(line) for line in lines if any(inside(line, d) for d in drivers)]
    return [line for line in lines if change(line) not in held], held


def by_driver_in_place(lines, drivers):
    _, held = by_driver(lines, drivers)
    for line in held:
        lines.remove(line)
    return lines, held


def frames(line, count, start=0, end=0, own=True, flow="span", place=lambda n: n // 2, still=True):
    found = {}
    for name in ("depth", "color"):
        first, last = map(
            int, re.search(rf" {name if own else 'depth'}:\w+:(\d+):(\d+)", line).groups()
        )
        there = list(range(first + start, last + end))[place(max(0, last - first - count)) :][
            :count
        ]
        found[name] = there + [there[-1]] * (count - len(there)) if still else there
        n, begin = len(there), there[0] - first
    if flow == "color":
        return found | {"flow": found["color"]}
    found["flow"] = list(range(begin, begin + n)) + [None if still is True else 0] * (count - n)
    return found


def frozen_flow(line, count):
    found = frames(line, count)
    last = max(i for i in found["flow"] if i is not None)
    return found | {"flow": [last if i is None else i for i in found["flow"]]}


def one_more_before(line, count):
    return frames(line, count, place=lambda n: -(-n // 2))


def from_behind(line, count):
    found = frames(line, count, place=lambda n: n)
    return found


def beginning_anew(line, count):
    found = frames(line, count)
    n = sum(i is not None for i in found["flow"])
    return found | {k: [found[k][i % n] for i in range(count)] for k in ("depth", "color")}


def motion(flow, ends=(-1, 1), swap=False, sign=1, combine=np.mean):
    y = np.linspace(*ends, flow.shape[2])[:, None]
    x = np.linspace(*ends, flow.shape[3])[None]
    fx, fy = flow[:, 0], flow[:, 1]
    a, b = (fy, fx) if swap else (fx, fy)
    return combine(fx), combine(fy), sign * combine(x * a + y * b)


def means_swapped(flow):
    a, b, c = motion(flow)
    return b, a, c


def outward_speed(flow):
    """Divided by the distance from the middle."""
    y = np.linspace(-1, 1, flow.shape[2])[:, None]
    x = np.linspace(-1, 1, flow.shape[3])[None]
    r = np.hypot(x, y) + 1e-9
    return (*motion(flow)[:2], ((x * flow[:, 0] + y * flow[:, 1]) / r).mean())


def first_frame_left_out(flow):
    return motion(flow[1:])


WRONG = numbered(
    13,
    [
        (lambda f: pack(f, whole=np.trunc), "round to the nearest"),
        (lambda f: pack(f, whole=np.floor), "round to the nearest"),
        (lambda f: pack(f, cut=lambda x: x), "overflows"),
        (lambda f: pack(f, rest=127), "128"),
        (lambda f: pack(f, scale=128 / 20), "255"),
        (lambda f: pack(f, scale=-127 / 20), "right and down"),
        (lambda f: pack(f).astype(np.int16), "uint8"),
        (lambda f: pack(f / np.abs(f).max() * 20 if f.any() else f), "20 / 127"),
        (lambda f: pack(f, scale=1), "the byte 255"),
        (pack_in_place, "leave the flow"),
    ],
    [
        (lambda t, d: by_driver(t, d, lambda line, d: f"subject{d}" in line), "subject13 is not"),
        (lambda t, d: by_driver(t, d, lambda line, d: f"{d}_r" in line), "driver is the number"),
        (
            lambda t, d: by_driver(t, d, lambda line, d: line.endswith(f"label:{d}")),
            "subject13 is not",
        ),
        (lambda t, d: by_driver(t, d, lambda line, d: f"class_{d:02}" in line), "subject13 is not"),
        (lambda t, d: by_driver(t, d)[::-1], "subject13 is not"),
        (lambda t, d: by_driver(t, d, change=str.strip), "unchanged"),
        (lambda t, d: by_driver(t, d)[:1] * 2, "one of the two lists"),
        (lambda t, d: tuple(map(set, by_driver(t, d))), "lists of lines"),
        (
            lambda t, d: tuple(sorted(part, reverse=True) for part in by_driver(t, d)),
            "in their order",
        ),
        (by_driver_in_place, "leave the lines"),
    ],
    [
        (lambda t, n: frames(t, n, start=-1, end=-1), "counted from 0"),
        (lambda t, n: frames(t, n, start=1, end=1), "counted from 0"),
        (lambda t, n: {k: v[:-1] + [v[-1] + 1] for k, v in frames(t, n).items()}, "END is not"),
        (lambda t, n: frames(t, n, own=False), "END is not"),
        (lambda t, n: frames(t, n, flow="color"), "first field is number 0"),
        (lambda t, n: frames(t, n, place=lambda n: 0), "on each side"),
        (from_behind, "on each side"),
        (one_more_before, "one more should be at the end"),
        (lambda t, n: frames(t, n, still=False), "entries"),
        (beginning_anew, "stand still"),
        (frozen_flow, "None"),
        (lambda t, n: frames(t, n)["depth"], "a dict"),
    ],
    [
        (means_swapped, "in this order"),
        (lambda f: motion(f, ends=(0, 1)), "nothing comes nearer"),
        (lambda f: motion(f, swap=True), "above 0"),
        (lambda f: motion(f, sign=-1), "above 0"),
        (lambda f: motion(f, combine=np.sum), "means of x and y"),
        (lambda f: motion(f, ends=(-0.5, 0.5)), "from -1 to 1"),
        (outward_speed, "mean over all places"),
        (lambda f: motion(f, combine=lambda v: np.abs(v).mean()), "means of x and y"),
        (first_frame_left_out, "All frames"),
        (lambda f: motion(f)[:2], "three numbers"),
    ],
)


def pack_as_the_library(flow):
    import io

    return np.load(io.BytesIO(_packed(flow)))["flow"]


def pack_by_torch(flow):
    f = torch.from_numpy(flow)
    return (f * 6.35 + 128).clamp(1, 255).round().to(torch.uint8).numpy()


def by_driver_with_a_pattern(lines, drivers):
    kept, held = [], []
    for line in lines:
        driver = int(re.search(r"/subject(\d+)_r\d+ ", line)[1])
        (held if driver in drivers else kept).append(line)
    return kept, held


def frames_by_the_library_s_spans(line, count):
    item = _item(line.split(), 1, Path())
    found = {}
    for name, key in [("depth", "depth"), ("color", "rgb"), ("flow", "flow")]:
        first, last = item.spans[key]
        start = first + max(last - first + 1 - count, 0) // 2
        numbers = np.arange(start, start + count)
        found[name] = [
            None if key == "flow" and i > last else min(i, last) for i in numbers.tolist()
        ]
    return found


def motion_by_torch(flow):
    f = torch.as_tensor(flow, dtype=torch.float64).mean(0)
    x, y = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in (f.shape[2], f.shape[1]))
    nearer = torch.einsum("hw,w->", f[0], x) + torch.einsum("hw,h->", f[1], y)
    return f[0].mean().item(), f[1].mean().item(), (nearer / f[0].numel()).item()


RIGHT = numbered(
    13,
    [pack, pack_as_the_library, pack_by_torch],
    [by_driver, by_driver_with_a_pattern],
    [frames, frames_by_the_library_s_spans],
    [motion, motion_by_torch],
)
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
