"""plots.py: the drawn marks are the data and its intervals."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

import igm
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
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("accuracy", "")
    assert ax.get_ylim() == (1.5, -0.5), "the first condition is at the top"
    dots = [points.get_offsets().tolist() for points in ax.collections]
    assert dots == [[[x, row] for x in values] for row, values in enumerate(results.values())]
    (means,) = [line.get_xydata() for line in ax.lines if line.get_marker() == "D"]
    assert means.tolist() == [[pytest.approx(0.2), 0], [pytest.approx(0.6333333), 1]]
    ends = [line.get_xdata() for line in ax.lines if line.get_marker() != "D"]
    for values, x in zip(results.values(), ends, strict=True):
        mean, half = interval(values)
        assert (np.nanmin(x), np.nanmax(x)) == pytest.approx((mean - half, mean + half))


def test_plot_seeds_draws_one_seed_without_an_interval():
    ax = plot_seeds({"a": [0.4]}, "accuracy")
    assert ax.collections[0].get_offsets().tolist() == [[0.4, 0]]
    assert all(np.isnan(line.get_xdata()).any() or line.get_marker() == "D" for line in ax.lines)


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


def heat_map(ax):
    """The numbers of a heat map, and a check of its place: the first row at the bottom."""
    (mesh,) = ax.collections
    numbers = mesh.get_array()
    assert ax.get_ylim() == (0, len(numbers)) and ax.get_xlim() == (0, numbers.shape[1])
    return numbers


def test_plot_pairs_shows_both_modalities():
    dataset = igm.load_dataset("digits", split="valid", samples=3)
    plot_pairs(dataset, range(3))
    axes = plt.gcf().axes
    image = dataset[0]["image"][0].numpy()
    grey = (image - image.min()) / (image.max() - image.min())
    shown = axes[0].images[0].get_array()
    assert all(np.allclose(shown[..., channel], grey) for channel in range(3))
    assert np.array_equal(heat_map(axes[5]), dataset[2]["audio"][0])


def test_plot_grid_has_a_row_a_name_and_a_column_a_title():
    colour, flat = np.zeros((4, 5, 3)), np.arange(6).reshape(2, 3)
    plot_grid({"video": [colour, colour], "audio": [flat, flat + 1]}, ["left", "right"])
    axes = plt.gcf().axes
    assert [ax.get_title() for ax in axes] == ["left", "right", "", ""]
    assert [ax.get_ylabel() for ax in axes] == ["video", "", "audio", ""]
    assert np.array_equal(heat_map(axes[3]), flat + 1)
    assert all(ax.collections[0].get_cmap().name == "magma" for ax in axes[2:])
    assert [ax.images[0].origin for ax in axes[:2]] == ["upper", "upper"]
