"""Checks of chapter 13: NVGesture."""

from __future__ import annotations

import numpy as np

from igm_book.exercises import require


def exercise_1(pack):
    """From pixels to bytes."""
    flow = np.random.default_rng(0).uniform(-19.9, 19.9, (3, 2, 8, 9)).astype(np.float32)
    before = flow.copy()
    stored = pack(flow)
    require(
        isinstance(stored, np.ndarray) and stored.dtype == np.uint8 and stored.shape == flow.shape,
        "It should return an array of the same shape, uint8.",
    )
    require(np.array_equal(flow, before), "It should leave the flow as it is.")

    def byte(pixels):
        return int(pack(np.full((1, 2, 1, 1), pixels, np.float32))[0, 0, 0, 0])

    require(byte(0.0) == 128, "No motion should be the byte 128.")
    require(
        byte(10.0) > 128 > byte(-10.0), "Motion to the right and down should give bytes above 128."
    )
    require(
        (byte(20.0), byte(-20.0)) == (255, 1),
        f"20 pixels should be the byte 255 and -20 the byte 1: yours are {byte(20.0)} and {byte(-20.0)}.",
    )
    require(
        abs(byte(8.0) - 178.8) < 1,
        f"A byte more should be 20 / 127 pixels more: 8 pixels are 179, and yours {byte(8.0)}.",
    )
    for pixels in (20.4, 31.0, -20.4, -31.0, 500.0, -500.0):
        require(
            byte(pixels) == (255 if pixels > 0 else 1),
            f"What moves more than 20 pixels should be cut to 20, to the bytes 255 and 1: for {pixels} yours is "
            f"{byte(pixels)}. (A byte that overflows begins anew at 0.)",
        )
    error = np.abs((stored.astype(np.float64) - 128) * 20 / 127 - flow)
    require(
        error.max() < 10 / 127 + 1e-4,
        f"It should round to the nearest byte, an error of 10 / 127 = {10 / 127:.3f} pixels at most. "
        f"Yours goes up to {error.max():.3f}.",
    )


LINES = [
    "path:./Video_data/class_01/subject13_r0 depth:sk_depth:138:218 color:sk_color:138:218 label:1",
    "path:./Video_data/class_01/subject1_r0 depth:sk_depth:0:80 color:sk_color:0:80 label:1 ",
    "path:./Video_data/class_04/subject3_r1 depth:sk_depth:30:110 color:sk_color:32:112 label:5",
    "path:./Video_data/class_13/subject2_r1 depth:sk_depth:13:93 color:sk_color:13:93 label:13",
    "path:./Video_data/class_02/subject1_r13 depth:sk_depth:9:89 color:sk_color:9:89 label:2",
    "path:./Video_data/class_20/subject20_r0 depth:sk_depth:5:85 color:sk_color:5:85 label:20",
]


def exercise_2(by_driver):
    """A validation part of other drivers."""
    lines = list(LINES)
    kept, held = by_driver(lines, {1})
    require(lines == LINES, "It should leave the lines as they are.")
    require(
        isinstance(kept, list) and isinstance(held, list), "It should return two lists of lines."
    )
    require(
        sorted(kept + held) == sorted(LINES),
        "Every line should be in one of the two lists, unchanged.",
    )
    require(LINES[0] not in held, "subject13 is not driver 1.")
    require(
        LINES[1] in held and LINES[4] in held, "All gestures of the drivers should be held out."
    )
    for drivers, places in [
        ({1}, [1, 4]),
        ({13, 3}, [0, 2]),
        ({3}, [2]),
        ({2}, [3]),
        ({20}, [5]),
        ({4}, []),
    ]:
        kept, held = by_driver(list(LINES), drivers)
        require(
            held == [LINES[i] for i in places],
            f"For the drivers {drivers} the lines {places} are held out, from 0 and in their order: the driver is "
            "the number behind subject, not that of a class, a recording or a frame.",
        )
        require(
            kept == [line for line in LINES if line not in held],
            "The other lines should be kept, in their order.",
        )


def exercise_3(frames):
    """The same moments of depth, colour and flow."""

    def found(count, depth=(30, 110), colour=(32, 112)):
        line = (
            f"path:./Video_data/class_04/subject3_r1 depth:sk_depth:{depth[0]}:{depth[1]} "
            f"color:sk_color:{colour[0]}:{colour[1]} duo_left:duo_left:61:154 label:5"
        )
        answer = frames(line, count)
        require(
            isinstance(answer, dict) and set(answer) == {"depth", "color", "flow"},
            'It should return a dict with "depth", "color" and "flow".',
        )
        require(
            all(len(answer[name]) == count for name in answer),
            f"Each should have {count} entries, count.",
        )
        return {name: list(numbers) for name, numbers in answer.items()}

    whole = found(80)
    require(
        whole["depth"][:2] == [30, 31],
        "Frames are counted from 0, so START is the number of the first frame.",
    )
    require(
        whole["depth"][-1] == 109 and whole["color"][-1] == 111,
        "END is not a frame of the span: 30:110 ends with frame 109.",
    )
    require(
        whole["color"][0] == 32, "Each camera has its own span: colour begins at its own START."
    )
    require(
        whole["flow"] == list(range(80)),
        "A file of flow begins with the span: its first field is number 0.",
    )
    middle = found(64)
    require(
        middle["depth"] == list(range(38, 102)),
        "A window of 64 in a span of 80 leaves out 8 frames on each side. "
        f"Yours goes from {middle['depth'][0]} to {middle['depth'][-1]} in 30:110.",
    )
    require(
        middle["color"] == list(range(40, 104)) and middle["flow"] == list(range(8, 72)),
        "The window should have the same place in the spans of all three.",
    )
    odd = found(3, (10, 16), (10, 16))
    require(
        odd["depth"] == [11, 12, 13],
        "Where an odd number of frames is left out, the one more should be at the end.",
    )
    still = found(7, (10, 14), (0, 4))
    require(
        still["depth"] == [10, 11, 12, 13, 13, 13, 13] and still["color"] == [0, 1, 2, 3, 3, 3, 3],
        "A span that is too short should be taken whole, and its last frame stand still for the rest. "
        f"Of 10:14 you take {still['depth']} for count 7.",
    )
    require(
        still["flow"] == [0, 1, 2, 3, None, None, None],
        "Where the clip stands still nothing moves: there the flow has no field, None.",
    )


def exercise_4(motion):
    """A clip's motion in three numbers."""
    y, x = np.mgrid[-1:1:7j, -1:1:11j]

    def of(fx, fy, frames=4):
        field = np.stack([fx + 0 * x, fy + 0 * x])
        answer = np.asarray(motion(np.stack([field] * frames).astype(np.float32)), float)
        require(answer.shape == (3,), "It should return three numbers.")
        return answer

    even = of(3.0, -2.0)
    require(
        np.allclose(even[:2], [3, -2], atol=1e-4),
        "The first two should be the means of x and y, over time and place, in this order. "
        f"For a motion of (3, -2) everywhere yours are {even[0]:.2f} and {even[1]:.2f}.",
    )
    require(
        abs(even[2]) < 1e-4,
        "Where all moves alike nothing comes nearer: the third should be 0. x and y go from -1 to 1.",
    )
    nearer = of(x, y)
    require(
        nearer[2] > 0,
        "Where the flow points away from the middle the third number should be above 0.",
    )
    require(
        abs(of(y, -x)[2]) < 1e-4,
        "A picture that turns does not come nearer: x goes with the flow's x, and with the columns.",
    )
    wide, high = of(x, 0 * x)[2], of(0 * x, y)[2]
    right = [float(np.mean([v * v for v in np.linspace(-1, 1, n)])) for n in (11, 7)]
    require(
        abs(wide - right[0]) < 1e-4 and abs(high - right[1]) < 1e-4,
        "The third should be the mean over all places of x f_x + y f_y, with x from -1 to 1 over the columns "
        f"and y over the rows: for the flow (x, 0) of 7 x 11 pixels it is {right[0]:.3f}, yours is {wide:.3f}.",
    )
    fields = np.random.default_rng(0).standard_normal((5, 2, 7, 11))
    third = sum(
        (2 * j / 10 - 1) * fields[t, 0, i, j] + (2 * i / 6 - 1) * fields[t, 1, i, j]
        for t in range(5)
        for i in range(7)
        for j in range(11)
    ) / (5 * 7 * 11)
    expected = [fields[:, 0].mean(), fields[:, 1].mean(), third]
    require(
        np.allclose(np.asarray(motion(fields.copy()), float), expected, atol=1e-5),
        "All frames should count alike, and signs matter: no absolute values, no squares.",
    )
