"""Images, folders of them and parquet files made by hand."""

import io
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]


def plain(value: int, size: tuple[int, int] = (4, 4)) -> PIL.Image.Image:
    """A grey image of one value: what it was can be told afterwards. The size is width and height."""
    return PIL.Image.new("L", size, value)


def noise(seed: int, size: tuple[int, int] = (5, 7), channels: int = 3) -> PIL.Image.Image:
    """Random pixels."""
    width, height = size
    shape = (height, width) if channels == 1 else (height, width, channels)
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoded(picture: PIL.Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The content of an image file."""
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def as_tensor(picture: PIL.Image.Image) -> Tensor:
    """Its pixels, shape (C, H, W)."""
    pixels: Pixels = np.array(picture)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def png_of_16_bits(values: Iterable[Iterable[int]], *, colour: bool) -> bytes:
    """A PNG with 16 bits per channel, from rows of values, three a pixel with ``colour``: Pillow writes no such."""
    rows = [list(row) for row in values]

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    width = len(rows[0]) // (3 if colour else 1)
    header = struct.pack(">IIBBBBB", width, len(rows), 16, 2 if colour else 0, 0, 0, 0)
    data = b"".join(b"\0" + struct.pack(f">{len(row)}H", *row) for row in rows)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def write(path: Path, content: bytes | PIL.Image.Image) -> Path:
    """Write a file, an image as PNG whatever its name ends in, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(content) if isinstance(content, PIL.Image.Image) else content)
    return path


def write_all(folder: Path, *names: str) -> list[Path]:
    """Write grey images; the n-th of them has the value n."""
    return [write(folder / name, plain(value)) for value, name in enumerate(names)]


def write_parquet(path: Path, **columns: Any) -> Path:
    """Write a table as pyarrow does it, without what Hugging Face notes in such files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def images(*values: int) -> list[bytes]:
    """A column of plain images."""
    return [encoded(plain(value)) for value in values]
