"""One self-contained page: a template, filled, with figures inside it and no link to anything else."""

import base64
from dataclasses import dataclass
from pathlib import Path

import jinja2

from adversarial_dropout.experiments import records


@dataclass(frozen=True)
class Picture:
    """A figure in a page.

    Attributes:
        svg: What is drawn.
        alt: The same in words.
    """

    svg: str
    alt: str

    @property
    def source(self) -> str:
        """The figure as the address of an image."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode()).decode()


def write_page(template: str, path: Path, **content: object) -> None:
    """Fill ``template`` with ``content`` and write it to ``path``.

    Raises:
        RecordError: the file cannot be written.
    """
    loader = jinja2.PackageLoader(__package__, ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    records.write_bytes(path, environment.get_template(template).render(content).encode())
