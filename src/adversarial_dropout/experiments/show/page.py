"""Writes self-contained HTML pages from templates, with their figures inside."""

import base64
from dataclasses import dataclass
from pathlib import Path

import jinja2

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.records import Record


@dataclass(frozen=True)
class Picture:
    """A figure in a page: an SVG drawing or the content of a PNG file, and a description in words."""

    content: str | bytes
    alt: str

    @property
    def source(self) -> str:
        """The figure as a data URL."""
        kind, content = ("svg+xml", self.content.encode()) if isinstance(self.content, str) else ("png", self.content)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def named(record: Record) -> str:
    """A run in words."""
    return f"{record.config.preset} {record.config.method}, seed {record.config.seed}"


def write_page(template: str, path: Path, **content: object) -> None:
    """Render ``template``, a path in this wing, with ``content`` and write it to ``path``."""
    loader = jinja2.PackageLoader("adversarial_dropout.experiments", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    records.write_bytes(path, environment.get_template(template).render(content).encode(errors="backslashreplace"))
