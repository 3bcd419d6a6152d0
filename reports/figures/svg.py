"""Both SVGs of a figure from one drawing: a file with outlined letters, and one for a page with its text as text."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_mixed import MixedModeRenderer
from matplotlib.backends.backend_svg import FigureCanvasSVG, RendererSVG
from matplotlib.figure import Figure

POINTS = 72  # in an inch: the unit of an SVG of matplotlib's


def both_svgs(figure: Figure) -> tuple[bytes, bytes]:
    """Draw a figure once; return its SVG with outlined letters, and the one with text."""
    canvas = FigureCanvasSVG(figure)
    width, height = figure.get_size_inches()
    dpi, out = figure.dpi, _Two()
    figure.dpi = POINTS
    try:
        svg = _Renderer(width * POINTS, height * POINTS, out, image_dpi=dpi, metadata=_NAMELESS)
        renderer = MixedModeRenderer(canvas.figure, width, height, dpi, svg)  # type: ignore[no-untyped-call]
        with mpl.rc_context():  # a context for every text would take longer than a second drawing
            figure.draw(renderer)  # type: ignore[arg-type]  # stands in for a renderer without being one
            renderer.finalize()
    finally:
        figure.dpi = dpi
    return out.outlined.getvalue().encode(), out.text.getvalue().encode()


_NAMELESS = {"Date": None, "Creator": None}


class _Two:
    """A file that writes what it is given to two, or to one of them for a while."""

    def __init__(self) -> None:
        self.outlined, self.text = io.StringIO(), io.StringIO()
        self._now = [self.outlined, self.text]

    def write(self, text: str) -> None:
        for file in self._now:
            file.write(text)

    @contextmanager
    def only(self, file: io.StringIO) -> Iterator[None]:
        """Write to this file alone."""
        self._now = [file]
        try:
            yield
        finally:
            self._now = [self.outlined, self.text]


class _Renderer(RendererSVG):
    """Write every text twice, as outlines to one file and as text to the other, and all else to both."""

    def __init__(self, width: float, height: float, out: _Two, **options: Any) -> None:
        super().__init__(width, height, out, **options)  # type: ignore[no-untyped-call]
        self._out = out

    def draw_text(self, *args: Any, **options: Any) -> None:
        """Draw a text both ways."""
        self.writer._XMLWriter__flush()  # type: ignore[attr-defined]  # the end of a tag that is still open belongs to both
        for file, kind in ((self._out.outlined, "path"), (self._out.text, "none")):
            mpl.rcParams["svg.fonttype"] = kind
            with self._out.only(file):
                super().draw_text(*args, **options)  # type: ignore[no-untyped-call]
