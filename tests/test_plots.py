"""plots.py: the drawn marks are the data and its intervals."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from igm.analysis.intervals import interval
from igm_book.plots import (
    COLOURS,
    LINES,
    MARKERS,
    plot_grid,
    plot_lines,
    plot_pairs,
    plot_seeds,
    plot_stages,
    plot_surface,
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_series_differ_in_more_than_colour():
    assert len(set(COLOURS)) == len(set(MARKERS)) == len({str(line) for line in LINES}) == 7


def test_plot_seeds_draws_every_seed_and_the_mean():
    results = {"a": [0.1, 0.2, 0.3], "b": [0.5, 0.6, 0.8]}
    ax = plot_seeds(results, "accuracy")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    dots = [line.get_xdata().tolist() for line in ax.lines if len(line.get_xdata()) == 3]
    assert dots == list(results.values())
    means = [container.lines[0].get_xdata()[0] for container in ax.containers]
    assert means == pytest.approx([0.2, 0.6333333])


def test_plot_lines_draws_means_and_bands():
    over_seeds = [[0.1, 0.3], [0.4, 0.8]]  # two x, two seeds each
    ax = plot_lines([1, 2], {"seeds": over_seeds, "plain": [0.5, 0.7]}, "x", "y")
    assert ax.lines[0].get_ydata().tolist() == pytest.approx([0.2, 0.6])
    assert ax.lines[1].get_ydata().tolist() == [0.5, 0.7]
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices[:, 1]
    mean, half = np.array([interval(values) for values in over_seeds]).T
    assert corners.min() == pytest.approx((mean - half).min())
    assert corners.max() == pytest.approx((mean + half).max())


def test_plot_stages_marks_where_a_stage_ends():
    ax = plot_stages({"a": [0.1, 0.2, 0.3, 0.4]}, ["a", "a", "b", "b"], "accuracy")
    assert [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2] == [2.5]
    named = [(text.get_text(), text.xy[0]) for text in ax.texts]
    assert named == [("a", 1.5), ("b", 3.5)]


def test_plot_surface_draws_alpha_to_the_right_and_marks_the_centre():
    alphas, betas = np.linspace(-1, 1, 9), np.linspace(-0.5, 0.5, 5)
    surface = 10 * alphas[:, None] + 0 * betas  # grows with alpha alone
    ax = plot_surface(surface, alphas, betas, label="error", levels=[-5.0, 0.0, 5.0])
    filled, lines = ax.collections
    assert filled.levels.tolist() == lines.levels.tolist() == [-5, 0, 5]
    at_zero = lines.get_paths()[1].vertices  # the contour of 0 is the line alpha = 0
    assert np.allclose(at_zero[:, 0], 0)
    assert (at_zero[:, 1].min(), at_zero[:, 1].max()) == pytest.approx((-0.5, 0.5))
    assert len(filled.get_paths()) == 4  # and what lies beyond the levels is filled, too
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[0, 0]]]
    assert ax.get_aspect() == 1
    assert plt.gcf().axes[1].get_ylabel() == "error"


def test_plot_pairs_shows_both_modalities():
    import igm

    dataset = igm.load_dataset("digits", split="valid", samples=3)
    plot_pairs(dataset, range(3))
    shown = [ax.images[0].get_array() for ax in plt.gcf().axes]
    image = dataset[0]["image"][0].numpy()
    grey = (image - image.min()) / (image.max() - image.min())
    assert all(np.allclose(shown[0][..., channel], grey) for channel in range(3))
    assert np.array_equal(shown[5], dataset[2]["audio"][0])


def test_plot_grid_has_a_row_a_name_and_a_column_a_title():
    colour, flat = np.zeros((4, 5, 3)), np.arange(6).reshape(2, 3)
    plot_grid({"video": [colour, colour], "audio": [flat, flat + 1]}, ["left", "right"])
    axes = plt.gcf().axes
    assert [ax.get_title() for ax in axes] == ["left", "right", "", ""]
    assert [ax.get_ylabel() for ax in axes] == ["video", "", "audio", ""]
    assert np.array_equal(axes[3].images[0].get_array(), flat + 1)
    assert [ax.images[0].origin for ax in axes] == ["upper", "upper", "lower", "lower"]
