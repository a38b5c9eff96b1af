"""Features of the images of a data set from a frozen backbone: computed once, and cached."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from adversarial_dropout.errors import NonFiniteError
from adversarial_dropout.experiments.backbones import Backbone, BackboneFiles
from adversarial_dropout.experiments.config import DataConfig
from adversarial_dropout.experiments.data.pixels import Pixels
from adversarial_dropout.experiments.data.sources import ImageData, cache_folder, write_to_cache

_PART = 1024
"""Images of a file in the cache: what is lost if the program is stopped."""

Progress = Callable[[int, int], None]
"""Called with the number of images done, and of all."""


class FeatureViews(Pixels):
    """What :class:`~.pixels.Pixels` is for images, for their features, float32 (N, V, D) with V views.

    In evaluation a network sees the features of the image itself, shape (N, D); in training, where the config says
    ``flip``, at random those of the image or of its mirror image.
    """

    def forward(self, stored: Tensor) -> Tensor:
        return stored[:, 0]

    def view(self, stored: Tensor) -> Tensor:
        if stored.shape[1] == 1:
            return stored[:, 0]
        drawn = torch.randint(stored.shape[1], (len(stored),), device=stored.device)
        return stored[torch.arange(len(stored), device=stored.device), drawn]


def features_of(
    backbone: Backbone,
    found: BackboneFiles,
    data: ImageData,
    rows: Tensor,
    config: DataConfig,
    *,
    device: torch.device | None = None,
    digest: str | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Features of images, and with ``config.flip`` also those of their mirror images.

    They are cached in :func:`~.sources.cache_folder`, by the data, the backbone, its preprocessing, the view, PyTorch
    and the kind of the device. Only what is missing there is computed.

    Args:
        backbone: Moved to ``device``.
        found: Its files.
        data: The images.
        rows: Which of them, int64, shape (R,).
        config: Uses ``flip``.
        device: The CPU if not given.
        digest: That of ``data``, if it is known.
        progress: Called after each batch with the images done and to do, which count once for each view.

    Returns:
        Shape (N, V, D) for all N images, with V = 1 or 2; zeros for those that are not among ``rows``.

    Raises:
        NonFiniteError: the backbone gives NaN or infinity for an image.
    """
    device = device or torch.device("cpu")
    rows = torch.unique(rows)
    views = (False, True) if config.flip else (False,)
    features = torch.zeros(len(data.labels), len(views), backbone.width)
    described = (digest or data.digest, data.brightest, found.described, torch.__version__, device.type)
    folders = [
        cache_folder() / "features" / hashlib.sha256(repr((*described, mirrored)).encode()).hexdigest()[:32]
        for mirrored in views
    ]
    backbone.to(device)
    with _alone(folders[0]):
        todo = []
        for view, folder in enumerate(folders):
            missing = torch.zeros(len(features), dtype=torch.bool)
            missing[rows] = True
            for known, values in _cached(folder, features[:, view]):
                features[known, view] = values
                missing[known] = False
            todo.append(missing.nonzero().squeeze(1))
        total, done = sum(map(len, todo)), 0
        for view, (folder, missing_rows) in enumerate(zip(folders, todo, strict=True)):
            for part in torch.split(missing_rows, _PART):
                for batch in torch.split(part, backbone.chunk) if len(part) else ():
                    features[batch, view] = _computed(backbone, data, batch, device, mirrored=views[view])
                    done += len(batch)
                    if progress is not None:
                        progress(done, total)
                _check_finite(features[part, view], part, found)
                _to_cache(folder, part, features[part, view])
    return features


def _computed(backbone: Backbone, data: ImageData, rows: Tensor, device: torch.device, *, mirrored: bool) -> Tensor:
    """Features of one batch, filled up with copies of its first image: another size may be rounded differently."""
    filled = torch.cat([rows, rows[:1].expand(backbone.chunk - len(rows))])
    images = data.images[filled.to(data.images.device)].to(device).float() / data.brightest
    with torch.no_grad():
        features: Tensor = backbone(images.flip(3) if mirrored else images)
    return features[: len(rows)].cpu()


def _check_finite(features: Tensor, rows: Tensor, found: BackboneFiles) -> None:
    bad = rows[~features.isfinite().all(dim=1)]
    if len(bad):
        raise NonFiniteError(
            f"expected finite features, got NaN or infinity from {found.source} for {len(bad)} images, such as the one "
            f"in row {int(bad[0])} of the data; take another --model.source"
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time compute what is cached in ``folder``; the others wait, and read it."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # Without a cache, nobody can share.
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(filelock.FileLock(folder.with_suffix(".lock")))
        yield


def _cached(folder: Path, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and their features in ``folder``; damaged files are left out."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            content = safetensors.torch.load_file(path)
            rows, features = content["rows"], content["features"]
        except (OSError, safetensors.SafetensorError, KeyError):
            continue
        if features.shape[1:] == like.shape[1:] and len(rows) == len(features) and int(rows.max()) < len(like):
            yield rows, features


def _to_cache(folder: Path, rows: Tensor, features: Tensor) -> None:
    if not len(rows):
        return
    content = safetensors.torch.save({"rows": rows, "features": features.contiguous()})
    number = 1 + max((int(path.stem) for path in folder.glob("*.safetensors") if path.stem.isdecimal()), default=-1)
    path = folder / f"{number:05}.safetensors"
    write_to_cache(path, content, "features cannot be cached, and will be computed again next time")
