"""Where a data set comes from: the Hugging Face hub, or images or parquet files in a folder on this machine.

Folders name the splits and the classes. The folder reader of ``datasets`` ("imagefolder") cannot replace this one.
Without any message it skips folders such as ``unlabeled/`` beside ``train/``, linked folders, broken links and
unreadable folders; it drops all labels if images are at different depths; and it takes a file called
``my-test-photo.png`` for a test image.
"""

import glob
import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import hub
from adversarial_dropout.experiments.data.pictures import ENDINGS
from adversarial_dropout.experiments.records import RecordError

UNLABELLED_NAMES = ("unlabeled", "unlabelled", "unsupervised")
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "validation", "val", "valid")
_SPLITS = (*TRAIN_NAMES, *TEST_NAMES, *UNLABELLED_NAMES, "extra")


@dataclass(frozen=True)
class Files:
    """Files on this machine."""

    folder: Path  # It contains them.
    splits: dict[str, list[Path]]  # Paths by split.
    classes: dict[Path, str] | None = None  # The class of each labelled image; None for parquet files.
    listed_in: Path | None = None  # The list that names them and their classes.

    @property
    def identity(self) -> str:
        """Identifies the decoded images in the cache: it changes when a file, its split or its class changes."""
        described = []
        for split, paths in self.splits.items():
            for path in paths:
                state = path.stat(follow_symlinks=path.exists())
                described.append((split, self.name(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns))
        if self.listed_in is None or self.classes is None:
            return f"files {self.folder.resolve()} {described}"
        classes = [(self.name(path), label) for path, label in self.classes.items()]
        return f"list {self.folder.resolve()} {described} {classes}"

    def name(self, path: Path) -> str:
        """``path`` as seen from the folder, if it is below it."""
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    def load(self) -> dict[str, Any]:
        """Load all splits, each a ``datasets.Dataset``."""
        import datasets

        if self.classes is not None:
            features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
            columns = {
                split: {"image": list(map(str, paths)), "label": list(map(self.classes.get, paths))}
                for split, paths in self.splits.items()
            }
            return {split: datasets.Dataset.from_dict(content, features) for split, content in columns.items()}
        try:
            with tempfile.TemporaryDirectory() as scratch:
                return {
                    split: datasets.Dataset.from_parquet(
                        [glob.escape(str(path)) for path in paths], cache_dir=scratch, keep_in_memory=True
                    )
                    for split, paths in self.splits.items()
                }
        except Exception as error:  # datasets raises many kinds of errors.
            raise RecordError(
                f"cannot read the parquet files in {self.folder} ({error.__cause__ or error}); check that they are "
                f"complete and have the same columns"
            ) from error


@dataclass(frozen=True)
class Hub:
    """A data set on the hub: OWNER/NAME, and one of its subsets if it has several."""

    name: str
    subset: str | None = None

    @property
    def identity(self) -> str:
        """Identifies the decoded images in the cache."""
        return f"hub {self.name} {self.subset}"

    def load(self) -> dict[str, Any]:
        """Load all splits, each a ``datasets.Dataset``."""
        import datasets

        answers = hub.answers()
        offline = datasets.config.HF_HUB_OFFLINE
        try:
            # Without the hub, datasets then uses its own cache or fails at once; otherwise it would keep trying.
            datasets.config.HF_HUB_OFFLINE = offline or not answers
            return dict(datasets.load_dataset(self.name, self.subset))
        except Exception as error:  # datasets raises many kinds of errors.
            if answers:
                raise RecordError(
                    f"cannot load {self.name} from the Hugging Face hub, and there is no folder of that name here: "
                    f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                ) from error
            raise RecordError(
                f"cannot load {self.name}: the Hugging Face hub does not answer, and there is no folder of that name "
                f"here. On another machine, download train-*.parquet and test-*.parquet from "
                f"https://huggingface.co/datasets/{self.name}/tree/main{f'/{self.subset}' if self.subset else ''}, put "
                f"them into a folder here, and give that with --data FOLDER"
            ) from error
        finally:
            datasets.config.HF_HUB_OFFLINE = offline


def find(folder: Path, name: str | None = None, subset: str | None = None) -> Files:
    """Find a data set in ``folder``, or in the folder ``name`` there.

    Parquet files directly in it, in ``data/`` or in ``subset/`` (the layouts of the hub) come first, then images in a
    folder per class, then parquet files anywhere below. Hidden files and other files are ignored.
    """
    if not folder.is_dir():
        raise InvalidValueError(
            f"expected a folder of images or parquet files, got {folder}, which is "
            f"{'a file' if folder.exists() else 'not there'}; a list of images is a file that ends in .csv or .tsv"
        )
    named = folder / (name or "")
    try:
        for around, inner in itertools.product((folder, named), ("", "data", subset or "")):
            if parquet := _parquet(around / inner):
                return Files(around / inner, parquet)
        for around in (named, folder):
            if paths := images_in(around):
                return _by_class(around, paths)
        return _parquet_below(named if named.is_dir() else folder)
    except OSError as error:
        raise RecordError(f"cannot read {error.filename}: {error.strerror}; make it readable") from error


def images_in(folder: Path) -> list[Path]:
    """All image files below ``folder``, by their endings, in order, without hidden ones."""
    return [path for path in _below(folder) if path.suffix.lower() in ENDINGS]


def _parquet(folder: Path) -> dict[str, list[Path]]:
    """Parquet files in ``folder`` and in its ``train/``, ``test/``, ..., by split; any other name means training."""
    splits: dict[str, list[Path]] = {}
    for inner in (folder, *(path for path in _inside(folder) if path.name.lower() in _SPLITS)):
        for path in _inside(inner):
            if path.suffix.lower() == ".parquet":
                words = (inner.name.lower() if inner != folder else "", *re.findall("[a-z]+", path.name.lower())[:1])
                split = next((word for word in words if word in _SPLITS), "train")
                splits.setdefault(split, []).append(path)
    return splits


def _parquet_below(folder: Path) -> Files:
    """The only data set in parquet files somewhere below ``folder``."""
    folders = sorted({path.parent for path in _below(folder) if path.suffix.lower() == ".parquet"})
    if len(folders) == 1:
        return Files(folders[0], _parquet(folders[0]))
    if folders:
        raise InvalidValueError(
            f"expected one data set in {folder}, got parquet files in {', '.join(map(str, folders))}; give one of "
            f"these folders, or, for a table of several data sets, put train-*.parquet and test-*.parquet of each into "
            f"a folder mnist, svhn, cifar10 (on the hub: ylecun/mnist, ufldl-stanford/svhn, uoft-cs/cifar10), or leave "
            f"columns out with --presets"
        )
    raise InvalidValueError(
        f"expected images or parquet files in {folder}, got neither; give a folder with train-*.parquet and "
        f"test-*.parquet, or one with a folder of images per class"
    )


def _by_class(folder: Path, paths: list[Path]) -> Files:
    """Images in a folder per class; with a ``train/``, these folders are in ``train/``, ``test/``, ``unlabeled/``."""
    parents = {path.parent for path in paths}
    outer = Path(os.path.commonpath(parents))
    if outer in parents and outer != folder:
        outer = outer.parent  # The folder of the only class.
    folders = {path: path.relative_to(outer).parts[:-1] for path in paths}
    # A train/ with images directly in it is a class of that name.
    is_split = any(len(parts) > 1 and parts[0].lower() in TRAIN_NAMES for parts in folders.values())
    unexpected = sorted({parts[0] for parts in folders.values() if parts and parts[0].lower() not in _SPLITS})
    if is_split and unexpected:
        raise InvalidValueError(
            f"expected no other folders of images beside train/, test/ and unlabeled/ in {outer}, got "
            f"{', '.join(unexpected)}; move them into these, or away"
        )
    splits: dict[str, list[Path]] = {}
    classes = {}
    for path, parts in folders.items():
        split, *inner = parts if is_split and parts else ("train", *parts)
        splits.setdefault(split.lower(), []).append(path)
        if not any(name.lower() in UNLABELLED_NAMES for name in (split, *inner[:1])):
            classes[path] = inner[0] if inner else ""
    if loose := [path for path, name in classes.items() if not name]:
        raise InvalidValueError(
            f"expected each image in a folder of its class, got {len(loose)} outside, such as {loose[0]}; make a "
            f"folder per class and move them there, or into unlabeled/"
        )
    return Files(outer, splits, classes)


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Files in ``folder`` and the folders in it, in order. Links are followed unless they lead to a folder above."""
    here = folder.resolve()
    if here in above:
        return
    for path in _inside(folder):
        if path.is_dir():
            yield from _below(path, (*above, here))
        else:
            yield path
