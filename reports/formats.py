"""One table in GitHub Markdown, CSV or LaTeX; whatever a name contains is shown, never interpreted."""

from __future__ import annotations

import csv
import io
import textwrap
import unicodedata

from tabulate import tabulate

from reports.entries import Entry, Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "-": r"{-}",
    "±": r"\ensuremath{\pm}",
    "×": r"\ensuremath{\times}",
    "−": r"\ensuremath{-}",
    "—": r"\textemdash{}",
    "–": r"\textendash{}",
    "λ": r"\ensuremath{\lambda}",
}
FITTING = 30  # letters of a row's name that fit without further room
_T1 = "ĂăĄąĆćČčĎďĐđĘęĚěĞğİĹĺĽľŁłŃńŇňŊŋŐőŒœŔŕŘřŚśŞşŠšŢţŤťŮůŰűŸŹźŻżŽž"
_MARKDOWN = {ord(sign): f"\\{sign}" for sign in "\\`*_[]#|~$"} | {
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    ord("&"): "&amp;",
}


def plain(text: str) -> str:
    """Put a text on one line and show control characters as the replacement sign."""
    visible = "".join(
        "\ufffd" if unicodedata.category(sign) in {"Cc", "Cs"} else sign for sign in " ".join(text.split())
    )
    return unicodedata.normalize("NFC", visible)


def escape_markdown(text: str) -> str:
    """Return GitHub Markdown that shows the text."""
    return plain(text).translate(_MARKDOWN)


def escape_latex(text: str) -> str:
    """Return LaTeX that shows the text."""
    return "".join(_LATEX.get(sign, sign) for sign in plain(text))


def markdown(table: Table) -> str:
    """Write a table with its caption and notes in GitHub Markdown."""
    notes = table.notes()

    def show(entry: Entry) -> str:
        text = escape_markdown(entry.text)
        text = f"**{text}**" if entry.marked else text
        return text + (f" <sup>{notes[entry.note]}</sup>" if entry.note else "")

    rows = []
    for group, block in table.blocks():
        if group is not None:
            rows.append([f"*{escape_markdown(group.title)}*"] + [""] * (len(table.headings) - 1))
        rows += [[show(entry) for entry in row] for row in block]
    headings = [escape_markdown(heading) for heading in table.headings]
    alignment = ["left"] + ["right"] * (len(headings) - 1)
    grid = tabulate(rows, headings, tablefmt="github", colalign=alignment, disable_numparse=True)
    caption = " ".join(escape_markdown(sentence) for sentence in table.caption)
    footnotes = [f"<sup>{letter}</sup> {escape_markdown(note)}<br>" for note, letter in notes.items()]
    return "\n".join(
        [
            f"### {escape_markdown(table.title)}",
            "",
            grid,
            "",
            *footnotes,
            *([""] if footnotes else []),
            caption,
            "",
        ]
    )


def terminal(table: Table) -> str:
    """Write a table as a terminal shows it, with its notes and caption below."""
    notes = table.notes()

    def show(entry: Entry) -> str:
        return plain(entry.text) + (f" ({notes[entry.note]})" if entry.note else "")

    rows: list[list[str]] = []
    for group, block in table.blocks():
        rows += [[plain(group.title)]] if group else []
        rows += [[show(entry) for entry in row] for row in block]
    alignment = ["left"] + ["right"] * (len(table.headings) - 1)
    headings = [plain(heading) for heading in table.headings]
    grid = tabulate(rows, headings, tablefmt="simple", colalign=alignment, disable_numparse=True)
    footnotes = [f"({letter}) {plain(note)}" for note, letter in notes.items()]
    return "\n".join([grid, "", *footnotes, " ".join(plain(sentence) for sentence in table.caption)])


def comma_separated(table: Table) -> str:
    """Write the numbers behind a table; low, high, n and note follow the column that has any."""
    parts = [
        _csv_parts(heading, [row[place] for row in table.rows])
        for place, heading in enumerate(table.headings)
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for columns in parts for name, _ in columns])
    writer.writerows(zip(*(values for columns in parts for _, values in columns), strict=True))
    return out.getvalue()


def _csv_parts(heading: str, entries: list[Entry]) -> list[tuple[str, list[str]]]:
    if all(entry.value is None and not entry.note for entry in entries):
        return [(heading, [plain(entry.text) for entry in entries])]
    parts = [(heading, [_csv_number(entry.value) for entry in entries])]
    if any(entry.low is not None for entry in entries):
        parts.append((f"{heading} low", [_csv_number(entry.low) for entry in entries]))
        parts.append((f"{heading} high", [_csv_number(entry.high) for entry in entries]))
        parts.append((f"{heading} n", [_csv_number(entry.n) for entry in entries]))
    if any(entry.marked for entry in entries):
        parts.append((f"{heading} best", [str(int(entry.marked)) for entry in entries]))
    if any(entry.note for entry in entries):
        parts.append((f"{heading} note", [plain(entry.note) for entry in entries]))
    return parts


def _csv_number(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"


def latex(table: Table) -> str:
    """Write a complete LaTeX document with the table; the part between the marks can be pasted into a paper."""
    notes = table.notes()

    def show(entry: Entry) -> str:
        text = escape_latex(entry.text)
        text = rf"\textbf{{{text}}}" if entry.marked else text
        return text + (rf"\textsuperscript{{{notes[entry.note]}}}" if entry.note else "")

    width = len(table.headings)
    lines = []
    for group, block in table.blocks():
        if group is not None:
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{escape_latex(group.title)}}}}} \\")
        lines += [" & ".join(map(show, row)) + r" \\" for row in block]
    caption = " ".join(escape_latex(sentence) for sentence in (table.title + ".", *table.caption))
    footnotes = [rf"\textsuperscript{{{letter}}} {escape_latex(note)}\par" for note, letter in notes.items()]
    body = "\n".join(
        [
            r"\begin{table}[h!]",
            r"\centering\small",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
            r"\toprule",
            " & ".join(_stacked(heading) for heading in table.headings) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            *([r"\par\medskip\raggedright\footnotesize"] if footnotes else []),
            *footnotes,
            r"\end{table}",
        ]
    )
    return _DOCUMENT.format(
        width=8 + 3 * width + max(0, max(map(_breadth, table.rows), default=0) - FITTING) // 4,
        height=16 + len(lines) // 2 + len("".join(footnotes)) // 400,
        unknown="\n".join(_declarations(body)),
        body=body,
    )


_DOCUMENT = r"""\documentclass{{article}}
\usepackage[paperwidth={width}cm,paperheight={height}cm,margin=1.5cm]{{geometry}}
\usepackage[T1]{{fontenc}}
\usepackage[utf8]{{inputenc}}
\usepackage{{textcomp}}
\usepackage{{booktabs}}
\pagestyle{{empty}}
{unknown}
\begin{{document}}
% ---- the table; needs booktabs, textcomp and T1 fonts ----
{body}
% ---- end of the table ----
\end{{document}}
"""


def _breadth(row: tuple[Entry, ...]) -> int:
    """Return how many letters the row's name takes in print; a sign that the fonts lack takes as many as its code."""
    return sum(len("[U+1F680]") if _foreign(sign) else 1 for sign in plain(row[0].text))


def _foreign(sign: str) -> bool:
    return ord(sign) > 0xFF and sign not in _T1 and sign not in _LATEX


def _stacked(heading: str) -> str:
    lines = textwrap.wrap(plain(heading), 16, break_long_words=False)
    return r"\shortstack{" + r" \\ ".join(escape_latex(line) for line in lines) + "}"


def _declarations(body: str) -> list[str]:
    """Name the signs that the T1 fonts lack, so that a foreign name prints as its code points instead of an error."""
    foreign = sorted({sign for sign in body if ord(sign) > 0xFF} - set(_T1))
    return [rf"\DeclareUnicodeCharacter{{{ord(sign):04X}}}{{[U+{ord(sign):04X}]}}" for sign in foreign]
