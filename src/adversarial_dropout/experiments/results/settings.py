"""Check that runs have the settings that their presets have now, so that runs of older presets never reach a table."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adversarial_dropout.errors import InvalidValueError
from adversarial_dropout.experiments import presets
from adversarial_dropout.experiments.config import ExperimentConfig, differences


def check_settings(
    runs: Iterable[tuple[Path, dict[str, Any]]], asked: Mapping[Path, ExperimentConfig] = MappingProxyType({})
) -> None:
    """Raise unless the settings of all runs, given as folder and config, are those of their presets.

    ``asked`` holds what a folder must contain; other folders must contain the preset, method, scale and seed that the
    run names. The error lists the differences, the folders of the runs that have them, and the folders of the others.
    """
    current: list[Path] = []
    refused: dict[tuple[str, ...], list[Path]] = {}
    for folder, recorded in runs:
        changed = _changed(recorded, asked.get(folder))
        (refused.setdefault(changed, []) if changed else current).append(folder)
    if not refused:
        return
    count = sum(len(folders) for folders in refused.values())
    lines = [
        f"expected runs with the settings of their presets, got others in {count} of {count + len(current)} folders "
        f"(preset → run)"
    ]
    common = set.intersection(*map(set, refused)) if len(refused) > 1 else set()
    if common:
        lines.append(f"In all {count}: {'; '.join(sorted(common))}")
    for changed, folders in refused.items():
        rest = "; ".join(line for line in changed if line not in common) or "nothing else"
        lines.append(_listed(f"and {rest}" if common else rest, folders))
    if current:
        lines.append(_listed("As their presets say, and left as they are", current))
    lines.append(f"Take the {count} away, or choose another folder (--out): runs of different settings share no table")
    raise InvalidValueError("\n".join(lines))


def _changed(recorded: dict[str, Any], expected: ExperimentConfig | None) -> tuple[str, ...]:
    if expected is None:
        name, method, scale, seed = (recorded.get(field) for field in ("preset", "method", "scale", "seed"))
        try:
            expected = presets.get(str(name), str(method), scale, seed)  # type: ignore[arg-type]
        except InvalidValueError as error:
            return (str(error),)
    return tuple(differences(expected.to_dict(), recorded))


def _listed(title: str, folders: Iterable[Path]) -> str:
    """A title and a list of run folders; those that differ only in seed or method share a line with shell braces."""
    seeds: dict[Path, list[str]] = {}
    for folder in sorted(set(folders), key=lambda folder: (folder.parent, len(folder.name), folder.name)):
        seeds.setdefault(folder.parent, []).append(folder.name)
    methods: dict[tuple[Path, str], list[str]] = {}
    for folder, names in seeds.items():
        methods.setdefault((folder.parent, _braced(names)), []).append(folder.name)
    return "\n".join([f"{title}:", *(f"  {root / _braced(names) / end}" for (root, end), names in methods.items())])


def _braced(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{{{','.join(names)}}}"
