"""The book's figures: one style, one function a kind of figure. They draw data and never train.

Heat maps and points by category are seaborn's, the rest is matplotlib.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and every series has a marker or a line
style as a second cue. The background is opaque, so that figures are legible on a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from igm.analysis.compare import Comparison
from igm.analysis.intervals import interval
from igm.runs import write

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
LINES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]


def set_style() -> None:
    """The book's matplotlib style; call it once at the top of a notebook."""
    plt.rcParams.update(
        {
            "figure.figsize": (7, 3.6),
            "figure.dpi": 110,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": plt.cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "font.size": 11,
            "legend.frameon": False,
        }
    )


def plot_seeds(results: Mapping[str, Sequence[float]], xlabel: str, ax: Axes | None = None) -> Axes:
    """A row a condition: a faint dot for each seed, the mean and its 95 % interval.

    Args:
        results: condition -> one number a seed.
    """
    ax = ax or plt.subplots(figsize=(7, 0.9 + 0.42 * len(results)))[1]
    names = [name for name, values in results.items() for _ in values]
    points = {
        "x": np.concatenate([np.ravel(values) for values in results.values()]),
        "y": names,
        "order": list(results),
        "orient": "h",
        "ax": ax,
    }
    sns.stripplot(**points, jitter=False, color="#999999", alpha=0.5, size=5, zorder=2)
    sns.pointplot(
        **points,
        errorbar=_ends,
        linestyle="none",
        marker="D",
        markersize=6,
        markeredgewidth=1,
        color=COLOURS[0],
        capsize=0.2,
        err_kws={"linewidth": 1.5},
        zorder=3,
    )
    ax.yaxis.grid(True)  # seaborn takes the lines of a categorical axis away
    ax.set(xlabel=xlabel, ylabel="")
    return ax


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Of the 95 % interval of the mean."""
    mean, half = interval(values)
    return mean - half, mean + half


def plot_lines(
    x: Sequence[float],
    series: Mapping[str, Sequence],
    xlabel: str,
    ylabel: str,
    ax: Axes | None = None,
) -> Axes:
    """A line a series. A series is one number an x, or one list over seeds an x: then the mean and its 95 % band."""
    ax = ax or plt.subplots()[1]
    for i, (name, values) in enumerate(series.items()):
        style = _series_style(i)
        if np.ndim(values[0]) == 0:
            ax.plot(x, values, label=name, **style)
            continue
        mean, half = np.array([interval(over_seeds) for over_seeds in values]).T
        ax.plot(x, mean, label=name, **style)
        ax.fill_between(x, mean - half, mean + half, color=style["color"], alpha=0.15, linewidth=0)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return ax


def plot_pairs(dataset, rows: Sequence[int]) -> None:
    """The image and the spectrogram of some pairs, one above the other."""
    samples = [dataset[i] for i in rows]
    shown = {}
    for name in ("image", "audio"):
        shown[name] = [sample[name][0].numpy() for sample in samples]
    shown["image"] = [_grey(image) for image in shown["image"]]
    plot_grid(shown, [dataset.classes[sample["label"]] for sample in samples])


def plot_grid(rows: Mapping[str, Sequence[np.ndarray]], titles: Sequence[str]) -> None:
    """A row of pictures for each name, a column for each title.

    Args:
        rows: name -> pictures: (height, width, 3) as they are; (height, width), such as a spectrogram, low values
            dark, the first row at the bottom.
    """
    columns = len(titles)
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(1.2 * columns, 0.3 + 1.3 * len(rows)), squeeze=False
    )
    for row, (name, pictures) in zip(axes, rows.items()):
        for ax, picture in zip(row, pictures):
            if np.ndim(picture) == 2:
                sns.heatmap(picture, cmap="magma", cbar=False, rasterized=True, ax=ax)
                ax.invert_yaxis()
                ax.spines[["left", "bottom"]].set_visible(True)
            else:
                ax.imshow(picture, aspect="auto")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
        row[0].set_ylabel(name)
    for ax, title in zip(axes[0], titles):
        ax.set_title(title, fontsize=10)


def plot_stages(
    series: Mapping[str, Sequence[float]],
    stages: Sequence[str],
    ylabel: str,
    ax: Axes | None = None,
) -> Axes:
    """Curves over the epochs of training that goes in stages, each named above it.

    Args:
        series: name -> one number an epoch.
        stages: what is trained in each epoch; a stage ends where it changes.
    """
    ax = ax or plt.subplots()[1]
    epochs = np.arange(1, len(stages) + 1)
    for i, (name, values) in enumerate(series.items()):
        ax.plot(epochs, values, label=name, markersize=4, **_series_style(i))
    starts = [0, *(i for i in range(1, len(stages)) if stages[i] != stages[i - 1]), len(stages)]
    for first, last in zip(starts, starts[1:]):
        if first:
            ax.axvline(first + 0.5, color="#666666", linewidth=1)
        middle = (first + last + 1) / 2
        ax.annotate(
            stages[first], (middle, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom"
        )
    ax.set(xlabel="epoch", ylabel=ylabel)
    ax.legend(loc="lower right")
    return ax


def plot_surface(
    surface: Sequence[Sequence[float]],
    alphas: Sequence[float],
    betas: Sequence[float],
    label: str = "loss",
    levels: int | Sequence[float] = 15,
    ax: Axes | None = None,
) -> Axes:
    """Filled contours of a function over a plane; a cross marks the centre, (0, 0).

    Args:
        surface: (len(alphas), len(betas)), e.g. from ``igm.analysis.landscape.loss_surface``.
        levels: how many contours, or where: give the same ones to surfaces that are to be compared.
    """
    ax = ax or plt.subplots(figsize=(4.6, 3.8))[1]
    z = np.asarray(surface).T  # matplotlib has a row for each y
    beyond = "neither" if np.ndim(levels) == 0 else "both"
    filled = ax.contourf(alphas, betas, z, levels=levels, cmap="cividis", extend=beyond)
    ax.contour(filled, colors="white", linewidths=0.5)
    ax.plot(0, 0, "+", color="white", markersize=12, markeredgewidth=2)
    ax.figure.colorbar(filled, ax=ax, label=label)
    ax.set(xlabel="alpha", ylabel="beta", aspect="equal")
    ax.grid(False)
    return ax


def _series_style(i: int) -> dict:
    """Colour, marker and line of the i-th series; they come round again after the last."""
    n = len(COLOURS)
    return dict(color=COLOURS[i % n], marker=MARKERS[i % n], linestyle=LINES[i % n])


def _grey(image: np.ndarray) -> np.ndarray:
    """(height, width) of any range -> (height, width, 3) within 0 ... 1."""
    low, high = image.min(), image.max()
    return np.repeat(((image - low) / max(high - low, 1e-12))[..., None], 3, axis=-1)


def plot_comparison(comparison: Comparison, path: str | Path) -> None:
    """Draws the groups, and beside them their differences from the first one, into a new PNG or SVG file.

    Raises:
        ValueError: the name ends in neither .png nor .svg.
        FileExistsError: the file is there already.
        OSError: it could not be written.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".png", ".svg"):
        raise ValueError(
            f"a figure is written as .png or .svg, got {path}: end its name in one of these"
        )
    if path.exists():
        raise FileExistsError(f"{path} is there already and is not overwritten: give another name")

    differences = {name: d for name, d in comparison.differences.items() if d}
    panels = 2 if differences else 1
    height = 1 + 0.6 * len(comparison.groups)
    figure = Figure(figsize=(6 * panels, height), layout="constrained")
    left, *right = figure.subplots(1, panels, squeeze=False)[0]
    plot_seeds(_percent(comparison.groups), f"{comparison.what} (%)", left)
    for ax in right:
        first = next(iter(comparison.groups))
        plot_seeds(_percent(differences), fill(f"minus {first} (points)", 60), ax)
        ax.axvline(0, color="#666666", linewidth=1)
    write(path, lambda name: figure.savefig(name, format=kind[1:], dpi=150))


def save_surface(path: Path, axis: Sequence[float], surface: Sequence[Sequence[float]]) -> None:
    """Draws a loss surface over a square, axis x axis, into a new PNG file."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    plot_surface(np.asarray(surface), axis, axis, ax=figure.subplots())
    write(path, lambda name: figure.savefig(name, format="png", dpi=150))


def _percent(groups: Mapping[str, Mapping[int, float]]) -> dict[str, list[float]]:
    """The scores in %, by the name in short lines."""
    return {fill(name, 28): [100 * x for x in group.values()] for name, group in groups.items()}
