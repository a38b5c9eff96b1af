"""What a command line gives, read before its defaults are known: they depend on it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import DataConfig, TrainingConfig
from adversarial_dropout.experiments.data.sources import NAMES
from adversarial_dropout.experiments.models import NETWORKS
from adversarial_dropout.experiments.models.network import Network
from adversarial_dropout.experiments.models.pretrained import Pretrained
from adversarial_dropout.experiments.terms import TERMS

_SECTIONS = (DataConfig, TrainingConfig, *NETWORKS.values(), *TERMS.values())


def scan(arguments: Sequence[str], command: type) -> tuple[list[str], dict[str, str]]:
    """The positional arguments of ``command``, and the values of its options by their names: "" for a flag."""
    parts = (command, *_SECTIONS)
    flags = {"help", *(field.name for part in parts for field in dataclasses.fields(part) if field.type is bool)}
    positionals, options = [], {}
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            *section, setting = name.replace("-", "_").split(".")
            flag = setting.removeprefix("no_")
            if flag in flags:
                options[".".join((*section, flag))] = ""
            else:
                options[".".join((*section, setting))] = value if equals else next(rest, "")
        elif not argument.startswith("-"):
            positionals.append(argument)
    return positionals, options


def named_as_given(data: DataConfig, options: dict[str, str]) -> DataConfig:
    """The settings of one's own images, with the folder that the command line gives as their name."""
    if "data" not in options:
        return data
    name = str(Path(options["data"]))
    return dataclasses.replace(data, name=f"./{name}" if name in NAMES else name)


def found_from_anywhere(model: Network) -> Network:
    """``model``, with an absolute path of its backbone where that is a folder, so that later commands find it."""
    if isinstance(model, Pretrained) and (source := Path(model.source).expanduser()).is_dir():
        return dataclasses.replace(model, source=str(source.resolve()))
    return model


def check_images_given(data: DataConfig) -> None:
    """Raise :class:`InvalidValueError` if the preset for one's own images has none."""
    if data.name == presets.OWN_IMAGES:
        raise InvalidValueError("expected images to train on: give --data FOLDER, or --data.name with a hub id")
