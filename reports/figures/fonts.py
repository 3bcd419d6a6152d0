"""Fonts for what DejaVu Sans lacks: those of the machine that have it, and only where it is needed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache

from matplotlib.font_manager import FontProperties, findSystemFonts, fontManager, get_font

FIRST = "DejaVu Sans"  # comes with matplotlib: what it has looks the same everywhere
OTHERS = (  # in the order they are tried: TrueType, which a PDF carries as it is, before OpenType
    "IPAexGothic", "IPAGothic", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Yu Gothic", "Meiryo", "Microsoft YaHei",
    "Malgun Gothic", "Segoe UI Symbol", "Arial Unicode MS", "Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans",
    "PingFang SC", "Apple SD Gothic Neo", "Noto Sans Symbols 2",
)  # fmt: skip
log = logging.getLogger(__name__)


def families(texts: Iterable[str]) -> tuple[list[str], str]:
    """Return the fonts that these texts need, DejaVu Sans first, and the signs that none of the machine has."""
    return _families("".join(sorted(set().union(*texts))))


def warn_of_missing(texts: Iterable[str]) -> None:
    """Say in one line which signs will be boxes."""
    if missing := families(texts)[1]:
        log.warning(
            "figures: no font here has %s; they are boxes in PDF, PNG and SVG files. Install one of: %s",
            " ".join(missing),
            ", ".join((*OTHERS[:3], "Noto Sans CJK JP")),
        )


@lru_cache(maxsize=16)
def _families(signs: str) -> tuple[list[str], str]:
    found, missing = [FIRST], _lacking(FIRST, signs)
    here = _names_of_fonts() if missing else frozenset()
    for name in OTHERS:
        if missing and name in here and len(left := _lacking(name, missing)) < len(missing):
            found, missing = [*found, name], left
    return found, missing


def _names_of_fonts() -> frozenset[str]:
    """Return the names of the machine's fonts, with those that were installed after matplotlib made its list."""
    known = {str(font.fname) for font in fontManager.ttflist}
    for file in sorted(set(findSystemFonts()) - known):
        with suppress(OSError, RuntimeError):  # not every file is a font that FreeType can read
            fontManager.addfont(file)
    return frozenset(fontManager.get_font_names())


def _lacking(family: str, signs: str) -> str:
    """Return those of the signs that a font of this machine lacks."""
    font = get_font(fontManager.findfont(FontProperties(family=[family])))
    return "".join(sign for sign in signs if sign.isprintable() and not font.get_char_index(ord(sign)))
