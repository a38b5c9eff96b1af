"""Which runs have the settings that their presets have now: those of older presets never reach a table."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import ExperimentConfig, differences

_NONE: Mapping[Path, ExperimentConfig] = {}


def check_settings(runs: Iterable[tuple[Path, dict[str, Any]]], asked: Mapping[Path, ExperimentConfig] = _NONE) -> None:
    """Refuse runs that are not what their presets say.

    Args:
        runs: Folder and config of each, the config as plain containers.
        asked: What a folder must hold; elsewhere it is the preset, method, scale and seed that the run names.

    Raises:
        InvalidValueError: at least one is not; the message has the differences, the folders of those that have them,
            and the folders of the others.
    """
    current: list[Path] = []
    refused: dict[tuple[str, ...], list[Path]] = {}
    for folder, recorded in runs:
        changed = _changed(recorded, asked.get(folder))
        (refused.setdefault(changed, []) if changed else current).append(folder)
    if not refused:
        return
    number = sum(len(folders) for folders in refused.values())
    parts = [
        f"expected runs with the settings of their presets, got others in {number} of {number + len(current)} folders "
        f"(preset → run)"
    ]
    common = set.intersection(*map(set, refused)) if len(refused) > 1 else set()
    if common:
        parts.append(f"In all {number}: {'; '.join(sorted(common))}")
    for changed, folders in refused.items():
        own = "; ".join(line for line in changed if line not in common) or "nothing else"
        parts.append(_listed(f"and {own}" if common else own, folders))
    if current:
        parts.append(_listed("As their presets say, and left as they are", current))
    parts.append(f"Take the {number} away, or choose another folder (--out): runs of different settings share no table")
    raise InvalidValueError("\n".join(parts))


def _changed(recorded: dict[str, Any], expected: ExperimentConfig | None) -> tuple[str, ...]:
    if expected is None:
        name, method, scale, seed = (recorded.get(field) for field in ("preset", "method", "scale", "seed"))
        try:
            expected = presets.get(str(name), str(method), scale, seed)  # type: ignore[arg-type]
        except InvalidValueError as error:
            return (str(error),)
    return tuple(differences(expected.to_dict(), recorded))


def _listed(title: str, folders: Iterable[Path]) -> str:
    """Folders one below the other, those that differ in seed or method alone on one line, as a shell writes it."""
    seeds: dict[Path, list[str]] = {}
    for folder in sorted(set(folders), key=lambda folder: (folder.parent, len(folder.name), folder.name)):
        seeds.setdefault(folder.parent, []).append(folder.name)
    methods: dict[tuple[Path, str], list[str]] = {}
    for folder, names in seeds.items():
        methods.setdefault((folder.parent, _braced(names)), []).append(folder.name)
    return "\n".join([f"{title}:", *(f"  {root / _braced(names) / end}" for (root, end), names in methods.items())])


def _braced(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{{{','.join(names)}}}"
