"""Creates figures with common colours, and as SVG with the same bytes for the same content."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib.figure import Figure

from adversarial_dropout.experiments.show.table import visible

# Okabe and Ito's colours, which colour-blind readers can tell apart as well.
_COLOURS = (
    *("#000000", "#56B4E9", "#0072B2", "#E69F00", "#CC79A7", "#009E73", "#D55E00", "#888888", "#8B5A2B"),
    "#C2B400",  # Their yellow, darker, so that it is visible on white.
)
_LONGEST = 30  # Characters of a label.
_DPI = 130  # Of images inside.
_MARKERS = "osD^vPX*h<"


def short(label: str) -> str:
    """A label for a figure, shortened if it is long; "$" and control characters are escaped."""
    label = visible(label)
    cut = label if len(label) <= _LONGEST else f"{label[: _LONGEST - 2]} …"
    return cut.replace("$", r"\$")


def style(index: int) -> tuple[str, str]:
    """Colour and marker of a series."""
    return _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """A new figure, and a function that returns it as SVG after the ``with`` block."""
    with mpl.rc_context({"svg.hashsalt": "adversarial-dropout", "font.size": 10}):
        figure = Figure(figsize=(width, height), layout="constrained")
        text = io.StringIO()
        yield figure, text.getvalue
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # A name in another script.
            figure.savefig(text, format="svg", dpi=_DPI, metadata={"Date": None})
