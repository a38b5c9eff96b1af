"""A table for Markdown, CSV and the terminal; ``show/table.html.j2`` renders it in pages."""

import csv
import dataclasses
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group

_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's categories of characters that control, and are not seen.
_SHORT = 24  # The terminal breaks no word of up to this many characters.


@dataclass(frozen=True)
class Table:
    """A table, which ``console.print`` can print.

    Attributes:
        header: Names of its columns.
        rows: Its cells by row: texts, numbers, anything with a text, or ``None`` for an empty cell.
        title: A one-line title for the terminal and for pages.
        notes: Remarks to print below it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""
    notes: Sequence[str] = ()

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """The rows as texts: fractions with four significant digits, whole numbers with thousands separators.

        Control characters are shown as escapes.
        """
        return [tuple(map(_text, row)) for row in self.rows]

    @property
    def without_last(self) -> "Table":
        """The same table without its last column."""
        return dataclasses.replace(self, header=self.header[:-1], rows=[row[:-1] for row in self.rows])

    def markdown(self) -> str:
        """Header, rows and notes as Markdown."""
        lines = [" | ".join(text.replace("|", r"\|") for text in line) for line in (self.header, *self.texts)]
        lines.insert(1, " | ".join(["---"] * len(self.header)))
        notes = ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join([*(f"| {line} |" for line in lines), *notes])

    def csv(self) -> str:
        """Header and rows as CSV, numbers in full precision."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows((self.header, *self.rows))
        return text.getvalue()

    def __rich__(self) -> "Group":
        """The whole table for the terminal: numbers aligned to the right, short words unbroken."""
        from rich import table
        from rich.console import Group
        from rich.text import Text

        shown = table.Table(title=Text(self.title, "table.title") if self.title else None, title_justify="left")
        for name, *cells in zip(map(visible, self.header), *self.texts, strict=True):
            shown.add_column(
                Text(name),
                justify="right" if all(cell[:1] in "+-–0123456789" for cell in cells) else "left",
                overflow="fold",
                no_wrap=all(" " not in text and len(text) <= _SHORT for text in (name, *cells)),
            )
        for row in self.texts:
            shown.add_row(*map(Text, row))
        return Group(shown, *map(Text, self.notes))


def visible(text: str) -> str:
    r"""``text`` with control characters, and bytes of names of files that are not UTF-8, as escapes such as \x1b."""
    return "".join(
        ascii(character)[1:-1] if unicodedata.category(character) in _UNSEEN else character for character in text
    )


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return "" if cell is None else f"{cell:,}" if isinstance(cell, int) else visible(str(cell))
