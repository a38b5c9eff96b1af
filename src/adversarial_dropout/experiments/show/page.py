"""One self-contained page: a template, filled, with figures inside it and no link to anything else."""

import base64
from dataclasses import dataclass
from pathlib import Path

import jinja2

from adversarial_dropout.experiments import records
from adversarial_dropout.experiments.records import Record


@dataclass(frozen=True)
class Picture:
    """A figure in a page.

    Attributes:
        content: A drawing as SVG, or an image file as PNG.
        alt: The same in words.
    """

    content: str | bytes
    alt: str

    @property
    def source(self) -> str:
        """The figure as the address of an image."""
        kind, content = ("svg+xml", self.content.encode()) if isinstance(self.content, str) else ("png", self.content)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def named(record: Record) -> str:
    """A run in words."""
    return f"{record.config.preset} {record.config.method}, seed {record.config.seed}"


def write_page(template: str, path: Path, **content: object) -> None:
    """Fill ``template``, a path in this wing, with ``content`` and write it to ``path``.

    Raises:
        RecordError: the file cannot be written.
    """
    loader = jinja2.PackageLoader("adversarial_dropout.experiments", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    records.write_bytes(path, environment.get_template(template).render(content).encode())
