"""Figures that move without a kernel: what they write into a page."""

import base64
import io
import json
import re

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from igm_book.interactive import Frames, RotatableSurface, control

TAUS = [0.4, 1.3, 20]


def draw(tau):
    plt.plot([0, 1], [1, tau])


@pytest.fixture
def page():
    frames = Frames(draw, "<tau>", TAUS, alt=lambda tau: f'A line up to "{tau}".', start=1)
    return BeautifulSoup(frames._repr_html_(), "html.parser")


def test_every_value_has_a_picture_with_its_own_text(page):
    images = page.find_all("img")
    assert [image["alt"] for image in images] == [f'A line up to "{tau}".' for tau in TAUS]
    pictures = [base64.b64decode(image["src"].split(",")[1]) for image in images]
    opened = [Image.open(io.BytesIO(picture)) for picture in pictures]
    assert len({image.size for image in opened}) == 1
    assert len(set(pictures)) == 3


def test_only_the_first_picture_is_shown(page):
    assert [image.has_attr("hidden") for image in page.find_all("img")] == [True, False, True]


def test_the_slider_has_a_label_and_covers_the_values(page):
    slider = page.find("label").find("input")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "2", "1")
    assert json.loads(slider["data-names"]) == ["0.4", "1.3", "20"]
    assert page.find("label").find("span").get_text() == "<tau>"
    assert page.find("output").get_text() == slider["aria-valuetext"] == "1.3"


def test_no_figure_is_left_open():
    plt.close("all")
    Frames(draw, "tau", TAUS, alt=str)
    assert plt.get_fignums() == []


def test_the_text_of_frames_names_the_values():
    assert repr(Frames(draw, "tau", TAUS, alt=str)) == "a figure for each tau: 0.4, 1.3, 20"


def test_a_surface_holds_its_numbers_the_right_way_round():
    alphas, betas = [-1.0, 0.0, 1.0], [0.0, 1.0]
    surface = np.array([[a + 10 * b for b in betas] for a in alphas])  # (3, 2)
    text = RotatableSurface(surface, alphas, betas, label="loss", name="bowl")._repr_html_()
    name, data, layout, _ = json.loads(re.search(r"newPlot\(\.\.\.(.*)\);", text)[1])
    assert name == "bowl" and 'id="bowl"' in text
    assert data[0]["x"] == alphas and data[0]["y"] == betas
    z = numbers(data[0]["z"])  # a row for each beta
    np.testing.assert_allclose(z, surface.T)
    assert layout["scene"]["zaxis"]["title"]["text"] == "loss"


def numbers(stored) -> np.ndarray:
    """What plotly stores: a list, or base64 of an array."""
    if isinstance(stored, list):
        return np.array(stored)
    shape = [int(n) for n in str(stored["shape"]).split(",")]
    return np.frombuffer(base64.b64decode(stored["bdata"]), stored["dtype"]).reshape(shape)


def test_a_control_draws_the_figure_of_its_value():
    drawn = []

    def draw_and_note(tau):
        drawn.append(tau)
        draw(tau)

    slider = ipywidgets.FloatSlider(0.5, max=2)
    slider_shown, picture = control(draw_and_note, slider).children
    assert slider_shown is slider
    before = picture.value
    slider.value = 1.5
    assert drawn == [0.5, 1.5]
    assert picture.value != before
    assert Image.open(io.BytesIO(picture.value)).format == "PNG"
