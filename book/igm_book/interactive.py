"""Figures that a reader can move where no Python runs: in the built page, in print, in a notebook that was saved.

``Frames`` draws a figure once for each value of a slider and shows the one that is asked for. ``RotatableSurface`` is
a surface that turns under the mouse. In a live notebook, ``control`` puts an ipywidgets slider over the same figure.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

COLOURS = 64  # of a stored picture: enough for a plot, at a third of the bytes

# An attribute and no <script>: a notebook may drop scripts, and may show the same output twice.
_MOVE = (
    "const box = this.closest('.igm-frames');"
    "box.querySelectorAll('img').forEach((img, i) => img.hidden = i != this.value);"
    "box.querySelector('output').value = JSON.parse(this.dataset.names)[this.value];"
    "this.setAttribute('aria-valuetext', box.querySelector('output').value)"
)


# A page of the book has plotly already. A live notebook has not, and fetches it.
_PLOT = """<div class="igm-surface" role="group" aria-label="%(label)s surface, it turns under the mouse">
<div id="%(name)s" style="height: 420px"></div>
<script>(() => {
  const draw = () => Plotly.newPlot(...%(plot)s);
  if (window.Plotly) return draw();
  const script = document.createElement("script");
  script.src = "%(plotly)s";
  script.onload = draw;
  document.head.append(script);
})()</script></div>"""


class Frames:
    """A figure with a slider: one picture for each value, drawn beforehand.

    Args:
        draw: draws the figure of a value with matplotlib; every figure has the same size.
        name: what the slider sets, e.g. "tau".
        values: of the slider, from left to right.
        alt: what the picture of a value shows, for readers who do not see it: value -> text.
        start: which picture comes first, and is printed.
    """

    def __init__(
        self,
        draw: Callable[[object], object],
        name: str,
        values: Sequence,
        alt: Callable[[object], str],
        start: int = 0,
    ):
        self.name, self.values, self.start = name, list(values), start
        self.alts = [alt(value) for value in self.values]
        self.pictures = [_picture(draw, value) for value in self.values]

    def _repr_html_(self) -> str:
        names = [f"{value}" for value in self.values]
        images = "".join(
            f'<img src="data:image/png;base64,{base64.b64encode(picture).decode()}" '
            f'alt="{html.escape(alt)}"{"" if i == self.start else " hidden"}>'
            for i, (picture, alt) in enumerate(zip(self.pictures, self.alts))
        )
        return (
            f'<div class="igm-frames">{images}<label><span>{html.escape(self.name)}</span> '
            f'<input type="range" min="0" max="{len(names) - 1}" step="1" value="{self.start}" '
            f'aria-valuetext="{html.escape(names[self.start])}" '
            f'data-names="{html.escape(json.dumps(names))}" oninput="{html.escape(_MOVE)}"> '
            f"<output>{html.escape(names[self.start])}</output></label></div>"
        )

    def __repr__(self) -> str:
        return f"a figure for each {self.name}: {', '.join(map(str, self.values))}"


def control(draw: Callable[[object], object], slider: ipywidgets.ValueWidget) -> ipywidgets.VBox:
    """A slider over a figure that is drawn anew for each of its values; for live notebooks.

    ``ipywidgets.interact`` does the same with an Output widget, at which notebooks that are run by nbclient hang
    now and then.

    Args:
        draw: draws the figure of a value with matplotlib.
        slider: any widget with a value, e.g. ``FloatSlider(0.4, max=20, description="tau")``.
    """
    picture = ipywidgets.Image(value=_picture(draw, slider.value), format="png")
    slider.observe(lambda change: setattr(picture, "value", _picture(draw, change.new)), "value")
    return ipywidgets.VBox([slider, picture])


class RotatableSurface:
    """A surface over a plane that turns and zooms (plotly). The book's pages bring plotly themselves.

    Args:
        surface: (len(alphas), len(betas)), e.g. from ``igm.analysis.landscape.loss_surface``.
        alphas, betas: where it was computed.
        label: of the height.
        name: of the figure, unique on its page.
    """

    def __init__(
        self,
        surface: Sequence[Sequence[float]],
        alphas: Sequence[float],
        betas: Sequence[float],
        label: str = "loss",
        name: str = "surface",
    ):
        self.surface = np.asarray(surface, dtype=float)
        self.alphas, self.betas, self.label, self.name = list(alphas), list(betas), label, name

    def _repr_html_(self) -> str:
        import plotly.graph_objects as go  # slow to load
        from plotly.offline import get_plotlyjs_version

        # plotly has a row for each y
        shown = go.Surface(
            z=self.surface.T.round(4),
            x=self.alphas,
            y=self.betas,
            colorscale="Cividis",
            colorbar={"title": self.label, "thickness": 12},
        )
        axes = {"xaxis_title": "alpha", "yaxis_title": "beta", "zaxis_title": self.label}
        layout = go.Layout(
            scene=axes, height=420, margin=dict(l=0, r=0, t=0, b=0), paper_bgcolor="white"
        )
        figure = json.loads(go.Figure(shown, layout).to_json())
        return _PLOT % {
            "name": html.escape(self.name),
            "label": html.escape(self.label),
            "plot": json.dumps([self.name, figure["data"], figure["layout"], {"responsive": True}]),
            "plotly": f"https://cdn.plot.ly/plotly-{get_plotlyjs_version()}.min.js",
        }

    def __repr__(self) -> str:
        return f"a surface of the {self.label} over {self.surface.shape} points"


def _picture(draw: Callable[[object], object], value: object) -> bytes:
    """PNG of what draw(value) draws."""
    plt.close("all")
    draw(value)
    figure = plt.gcf()
    stored = io.BytesIO()
    figure.savefig(stored, format="png", dpi=110)
    plt.close(figure)
    image = Image.open(stored).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small = io.BytesIO()
    image.save(small, format="png", optimize=True)
    return small.getvalue()
