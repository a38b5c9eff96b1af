"""Configs of earlier versions, which gave every network and every term the same settings, used or not."""

import dataclasses
from collections.abc import Container
from typing import Any

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.models import find_network
from adversarial_dropout.experiments.terms import TERMS

# What a setting said that a network or a term did not have: a value that presets gave it, or that there is none of it.
_NETWORK: dict[str, tuple[object, ...]] = {
    "kernel_size": (3,),
    "width": (128, 32, 256),
    "norm": ("batch", "mean-only"),
    "norm_momentum": (0.1, 0.001, 0.01),
    "norm_logits": (False, True),
    "input_noise": (0.15, 0.0),
    "noise_in_evaluation": (False,),
    "dropout1": (0.5, 0.0),
    "dropout2": (0.5, 0.0),
    "granularity": ("element",),
    "initialization": ("he",),
}
_TERM: dict[str, tuple[object, ...]] = {
    "divergence": ("kl",),
    "eps": (1.0,),
    "xi": (None,),
    "noise": ("independent",),
    "linearize_at": ("ones",),
}
_BEFORE_DROPOUT_FIELDS = {"mnist-cnn": {"dropout1": 0.0, "dropout2": 0.0}}
"""What records say that were written before these fields: this network had no such layers then."""


def upgraded(plain: dict[str, Any]) -> dict[str, Any]:
    """The same run in the form of today, as plain containers; settings that it did not use may still be in it.

    Raises:
        InvalidValueError: a setting that the network or a term did not have says that it had.
        TypeError, KeyError: it is no config of an earlier version.
    """
    model = {**_BEFORE_DROPOUT_FIELDS.get(plain["model"]["name"], {}), **plain["model"]}
    name = model.pop("name")
    terms = {}
    for term in plain["terms"]:
        kind, settings = _kind(term)
        terms[kind] = _own(settings, TERMS[kind], _TERM, f"terms.{kind}")
    model = {"name": name, **_own(model, find_network(name), _NETWORK, name)}
    return {**plain, "model": model, "terms": terms}


def upgraded_rows(rows: list[dict[str, float]], terms: Container[str]) -> list[dict[str, float]]:
    """Metrics of epochs under the names of today: the term of an autoencoder was called "vadd"."""
    return [
        {"add" if name == "vadd" and "add" in terms else name: value for name, value in row.items()} for row in rows
    ]


def _kind(term: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The kind of a term today and its settings. AT and SAdD compared with labels by the cross-entropy, also as "kl";
    VAdD by squared error ("se", shared) was that of an autoencoder.
    """
    settings = dict(term)
    kind = settings.pop("kind")
    if kind in ("sadd", "vadd") and settings.get("linearize_at") == "base":
        raise InvalidValueError(
            f"expected terms.{kind} to be trained with the search of today, got linearize_at='base', which is gone; "
            f"read this run with the version that wrote it"
        )
    if kind == "at" and settings.get("divergence") == "ce":
        settings["divergence"] = "kl"
    if kind == "sadd" and settings.get("divergence") == "kl":
        settings["divergence"] = "ce"
    if kind == "vadd" and (settings.get("divergence"), settings.get("noise")) == ("se", "shared"):
        return "add", {**settings, "divergence": "kl", "noise": "independent"}
    return kind, settings


def _own(settings: dict[str, Any], kind: type, absent: dict[str, tuple[object, ...]], name: str) -> dict[str, Any]:
    """The settings that ``kind`` has."""
    own = {field.name for field in dataclasses.fields(kind)}
    for setting, value in settings.items():
        if setting not in own and value not in absent.get(setting, ()):
            raise InvalidValueError(
                f"expected a config that says what its run did, got {setting}={value!r} of {name}, which had no such "
                f"setting; delete the run and repeat it"
            )
    return {setting: value for setting, value in settings.items() if setting in own}
