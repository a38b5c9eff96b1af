"""Configs of earlier versions, which gave every network and every term the same settings, used or not."""

import dataclasses
from collections.abc import Container
from typing import Any

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments.models import find_network
from adversarial_dropout.experiments.terms import TERMS

_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
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
    "divergence": ("kl",),
    "eps": (1.0,),
    "xi": (None,),
    "noise": ("independent",),
    "linearize_at": ("ones",),
}
"""Values of a setting that a network or a term did not have: those that presets gave it, or that say it has none."""


def upgraded(plain: dict[str, Any]) -> dict[str, Any]:
    """The same run in today's layout, as plain containers. Settings that it did not use may still be in it.

    Raises:
        InvalidValueError: a setting that the network or a term did not have says that it had.
        TypeError, KeyError: this is no config of an earlier version.
    """
    model = {**plain["model"]}
    name = model.pop("name")
    if name == "mnist-cnn":  # Before there were these fields, it had no such layers.
        model = {"dropout1": 0.0, "dropout2": 0.0, **model}
    return {
        **plain,
        "model": {"name": name, **_settings_of(find_network(name), name, model)},
        "terms": {kind: _settings_of(TERMS[kind], f"terms.{kind}", term) for kind, term in map(_term, plain["terms"])},
    }


def upgraded_rows(rows: list[dict[str, float]], terms: Container[str]) -> list[dict[str, float]]:
    """Metrics of epochs under today's names: the term of an autoencoder was called "vadd"."""
    return [
        {"add" if name == "vadd" and "add" in terms else name: value for name, value in row.items()} for row in rows
    ]


def _term(term: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Today's kind of a term, and its settings. AT and SAdD compared with labels by the cross-entropy, also as "kl".
    VAdD by squared error ("se", shared) was that of an autoencoder.
    """
    settings = {**term}
    kind, divergence = settings.pop("kind"), settings.get("divergence")
    if kind in ("sadd", "vadd") and settings.get("linearize_at") == "base":
        raise InvalidValueError(
            f"expected terms.{kind} to be trained with today's search, got linearize_at='base', which is gone; "
            f"read this run with the version that wrote it"
        )
    if kind == "at" and divergence == "ce":
        settings["divergence"] = "kl"
    if kind == "sadd" and divergence == "kl":
        settings["divergence"] = "ce"
    if kind == "vadd" and (divergence, settings.get("noise")) == ("se", "shared"):
        return "add", {**settings, "divergence": "kl", "noise": "independent"}
    return kind, settings


def _settings_of(part: type, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that ``part`` has."""
    names = {field.name for field in dataclasses.fields(part)}
    for setting, value in settings.items():
        if setting not in names and value not in _WITHOUT_EFFECT.get(setting, ()):
            raise InvalidValueError(
                f"expected a config that says what its run did, got {setting}={value!r} of {name}, which had no such "
                f"setting; delete the run and repeat it"
            )
    return {setting: value for setting, value in settings.items() if setting in names}
