"""What every figure shares: colours, and the way to the same SVG bytes for the same content."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers as well.
_COLOURS = (
    *("#000000", "#56B4E9", "#0072B2", "#E69F00", "#CC79A7", "#009E73", "#D55E00", "#888888", "#8B5A2B"),
    "#C2B400",  # Okabe and Ito's yellow, darker, to be seen on white.
)
_LONGEST = 30  # Characters of a label.
_DPI = 130  # Of images inside.
_MARKERS = "osD^vPX*h<"


def short(label: str) -> str:
    """A label as it stands, "$" too, cut where it would leave no room for the figure; the table has the whole one."""
    cut = label if len(label) <= _LONGEST else f"{label[: _LONGEST - 2]} …"
    return cut.replace("$", r"\$")


def style(place: int) -> tuple[str, str]:
    """Colour and marker of the series at ``place``."""
    return _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """A figure, and a function that gives it as SVG once it is drawn: the same bytes for the same content."""
    with mpl.rc_context({"svg.hashsalt": "adversarial-dropout", "font.size": 10}):
        figure = Figure(figsize=(width, height), layout="constrained")
        text = io.StringIO()
        yield figure, text.getvalue
        figure.savefig(text, format="svg", dpi=_DPI, metadata={"Date": None})
