"""Colours, markers and the saving of figures: the same records give the same bytes."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures.fonts import families
from reports.figures.svg import both_svgs
from reports.outcomes import teacher_label
from results.frame import Frame

INK = "#1f2328"
GRID = "#d0d7de"
PAGE_WIDTH = 6.7  # inches, the text width of an A4 page
# Okabe and Ito (2008), without the yellow that vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
LETTERS = 19.5  # of a legend in one inch
DOT = (34, 90)  # area of a point, and of a star, which fills less of it
_STYLE = Path(__file__).with_name("paper.mplstyle")


@dataclass(frozen=True)
class Mark:
    """How a method is drawn in every figure."""

    colour: str
    marker: str


@dataclass(frozen=True)
class FigureEntry:
    """One entry of the registry of figures.

    Attributes:
        name: Stem of its files.
        title: One line.
        note: How to read it.
        draw: Draws it from a frame, or returns None where the frame has nothing of the kind.
    """

    name: str
    title: str
    note: str
    draw: Callable[[Frame], Figure | None]


def marks(frame: Frame) -> dict[str, Mark]:
    """Give every method a colour and a marker; the marker alone tells neighbours apart in grey."""
    teacher = teacher_label(frame)
    plain = set(frame.cells["method"])  # methods take their colours before variants of them do
    students = sorted(set(frame.cells["label"]) - {teacher}, key=lambda label: (label not in plain, label))
    drawn = {
        label: Mark(COLOURS[place % len(COLOURS)], MARKERS[(place + place // len(COLOURS)) % len(MARKERS)])
        for place, label in enumerate(students)
    }
    return drawn | ({teacher: Mark(INK, "*")} if teacher else {})


def names_in(frame: Frame) -> list[str]:
    """Return the texts of a frame that figures show."""
    return [text for column in ("task", "label", "config") for text in frame.cells[column].unique()]


@contextmanager
def paper_style(texts: Iterable[str] = ()) -> Iterator[None]:
    """Apply the style file on top of matplotlib's own defaults, whatever the user's settings.

    Args:
        texts: Names that will be shown; signs that DejaVu Sans lacks are taken from other fonts of the machine.
    """
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        matplotlib.style.use(_STYLE)
        mpl.rcParams["font.family"] = families(texts)[0]
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def panels(count: int, *, height: float = 2.2, columns: int = 3) -> tuple[Figure, list[Any]]:
    """Make a page-wide figure of ``count`` equal panels and return it with its axes."""
    across = min(count, columns)
    down = -(-count // across)
    figure = Figure(figsize=(PAGE_WIDTH if across > 1 else PAGE_WIDTH * 0.72, height * down))
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.remove()
    return figure, list(axes[:count])


def figure_of(width: float, height: float) -> tuple[Figure, Any]:
    """Make a figure of one panel, in inches, and return it with its axes."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def short(name: str, letters: int = 34) -> str:
    """Leave out the middle of a name that would push everything else aside; tables have it whole."""
    if len(name) <= letters:
        return name
    kept = letters - 1
    return f"{name[: kept - kept // 3]}…{name[-(kept // 3) :]}"


def heading(name: str, letters: int = 25) -> str:
    """Break a long name at its bracket: it stands above a panel of a third of the page and must not leave it."""
    method, bracket, knobs = name.partition("[")
    if len(name) <= letters or not bracket:
        return short(name, letters)
    return f"{short(method, letters)}\n{short(bracket + knobs, letters)}"


def legend(figure: Figure, shown: Mapping[str, Mark]) -> None:
    """Name the methods: beside the panels where they are few, else below."""
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=mark.marker,
            color=mark.colour,
            markersize=_size(mark),
            markeredgewidth=0,
        )
        for mark in shown.values()
    ]
    if len(handles) <= 12:
        figure.legend(handles, [short(name) for name in shown], loc="outside right upper")
    else:
        legend_below(figure, handles, list(shown))


def legend_below(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Name what is drawn below a figure, in as many columns as fit, and make room for the rows."""
    names = [short(name) for name in names]
    letters = int(LETTERS * figure.get_figwidth())
    columns = max(1, min(5, len(names), letters // (max(map(len, names)) + 6)))
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + 0.16 * (rows - 1))
    figure.legend(handles, names, loc="outside lower center", ncols=columns)


def _size(mark: Mark) -> float:
    return math.sqrt(DOT[mark.marker == "*"])


def files(entries: Iterable[FigureEntry], frame: Frame) -> Iterator[tuple[FigureEntry, Mapping[str, bytes]]]:
    """Draw each figure that the frame has something for and yield its files by suffix.

    ``svg`` and ``pdf`` stand alone with their fonts; ``inline`` is the SVG for a page, its text left as text.
    """
    names = names_in(frame)
    for entry in entries:
        with paper_style(names):
            figure = entry.draw(frame)
            if figure is None:
                continue
            with mpl.rc_context(
                {"figure.constrained_layout.use": False}
            ):  # would lay out anew for every format
                _lay_out(figure)
                saved = _formats(figure)
        yield entry, saved


def _lay_out(figure: Figure) -> None:
    """Find the place of everything once, for every format."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
    to_figure = figure.transFigure.inverted()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_tightbbox(figure.canvas.get_renderer())  # type: ignore[attr-defined]
            label = axis.label
            x, y = to_figure.transform(label.get_transform().transform(label.get_position()))
            axis.set_label_coords(x, y, figure.transFigure)


def _formats(figure: Figure) -> dict[str, bytes]:
    saved = {
        "png": _save(figure, "png", {"Software": None}),
        "pdf": _save(figure, "pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
    }
    saved["svg"], saved["inline"] = both_svgs(figure)
    return saved


def _save(figure: Figure, suffix: str, metadata: dict[str, None]) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format=suffix, metadata=metadata)
    return out.getvalue()
