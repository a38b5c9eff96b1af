"""The house: imports point down only, the first wing stands on PyTorch alone, files stay small."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import adversarial_dropout

SOURCE = Path(adversarial_dropout.__file__).parent
PACKAGE = "adversarial_dropout"
MODULES = sorted(path.relative_to(SOURCE).with_suffix("").as_posix() for path in SOURCE.rglob("*.py"))

ROOMS = (
    "tracing",
    "errors",
    "masks",
    "logits",
    "divergences",
    "layers",
    "replacing",
    "regularizers",
    "__init__",
    "integrations",
    "experiments/hub",
    "experiments/backbones",
    "experiments/models",
    "experiments/mixing",
    "experiments/step_inputs",
    "experiments/terms",
    "experiments/earlier_config",
    "experiments/sections",
    "experiments/config",
    "experiments/presets",
    "experiments/records",
    "experiments/show",
    "experiments/data",
    "experiments/trained",
    "experiments/run",
    "experiments/grid",
    "experiments/classical",
    "experiments/studies/theory",
    "experiments/studies/autoencoders",
    "experiments/studies/inspection",
    "experiments/results",
    "experiments/commands",
    "experiments/cli",
    "experiments/__main__",
)
"""Folders and single files, from the bottom up. A module imports from its own folder and from those above it here."""
TRAINING = ("experiments/run", "experiments/grid")
LOOKING = ("experiments/show", "experiments/studies", "experiments/results")


def imports(module: str, *, when_imported: bool = False) -> set[str]:
    """Modules of the package that ``module`` imports, as paths; only those that its own import needs, if so asked."""
    tree = ast.parse((SOURCE / f"{module}.py").read_text())
    nodes = tree.body if when_imported else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {found for name in names if (found := _path(name)) is not None}


def _path(name: str) -> str | None:
    parts = name.split(".")[1:]
    for length in range(len(parts), -1, -1):
        inner = "/".join(parts[:length])
        for candidate in (inner, f"{inner}/__init__".lstrip("/")):
            if candidate in MODULES:
                return candidate
    return None


def room(module: str) -> int:
    """Place in ``ROOMS`` of the folder or file that ``module`` belongs to."""
    for height, name in enumerate(ROOMS):
        if module == name or module.startswith(f"{name}/"):
            return height
    raise AssertionError(f"{module} stands in no room: say in ROOMS where its folder belongs")


def is_in(module: str, folders: tuple[str, ...]) -> bool:
    return any(module.startswith(f"{folder}/") for folder in folders)


PLACED = [module for module in MODULES if module not in ("experiments/__init__", "experiments/studies/__init__")]


def test_the_walk_sees_imports() -> None:
    assert imports("masks") == {"errors"}
    assert "experiments/run/checkpoint" in imports("experiments/run/loop")


@pytest.mark.parametrize("module", PLACED)
def test_imports_point_down(module: str) -> None:
    for target in imports(module):
        assert room(target) <= room(module), f"{module} imports {target}"


def test_no_circle_is_imported() -> None:
    try:
        list(TopologicalSorter({module: imports(module, when_imported=True) for module in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@pytest.mark.parametrize("module", MODULES)
def test_wings_do_not_mix(module: str) -> None:
    targets = imports(module)
    if not module.startswith("experiments/"):
        assert not any(target.startswith("experiments/") for target in targets)
    if is_in(module, LOOKING):
        assert not any(is_in(target, TRAINING) for target in targets), "who looks at runs never trains"
    if is_in(module, LOOKING) and not module.endswith(("/canvas", "/figures", "/page", "show/table")):
        source = (SOURCE / f"{module}.py").read_text()
        assert not re.search(r"^\s*(import|from) (rich|matplotlib|jinja2)", source, re.MULTILINE), "they draw nothing"


@pytest.mark.parametrize("module", MODULES)
def test_files_are_small_and_named_for_what_they_hold(module: str) -> None:
    assert len((SOURCE / f"{module}.py").read_text().splitlines()) <= 300
    assert not re.search(r"util|helper|common|misc", module)


def test_first_wing_needs_pytorch_alone() -> None:
    tree_names = set()
    for module in MODULES:
        if module.startswith(("experiments", "integrations")):
            continue
        for node in ast.walk(ast.parse((SOURCE / f"{module}.py").read_text())):
            if isinstance(node, ast.Import):
                tree_names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                tree_names.add(node.module.split(".")[0])
    assert tree_names - set(sys.stdlib_module_names) == {"torch", PACKAGE}


def test_import_is_quick_and_loads_no_extra() -> None:
    code = (
        "import sys, time, torch; before = set(sys.modules); start = time.perf_counter(); import adversarial_dropout;"
        "print(time.perf_counter() - start); print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
        for _ in range(3)
    ]
    assert min(float(run[0]) for run in runs) < 0.2
    foreign = set(runs[0][1].split()) - set(sys.stdlib_module_names) - {"torch", PACKAGE}
    assert not foreign, f"import {PACKAGE} also loads {foreign}"


def test_public_names() -> None:
    expected = {
        "AdversarialDropout",
        "AdversarialDropoutError",
        "AdversarialDropoutWarning",
        "AdversarialTraining",
        "EntropyMinimization",
        "MeanTeacher",
        "PiModel",
        "RDrop",
        "SupervisedAdversarialDropout",
        "TemporalEnsembling",
        "VirtualAdversarialDropout",
        "VirtualAdversarialTraining",
        "adversarial_mask",
        "bernoulli_cross_entropy",
        "bernoulli_kl_divergence",
        "bernoulli_quadratic_error",
        "cross_entropy",
        "flip_budget",
        "kl_divergence",
        "quadratic_error",
        "replace_dropout",
        "sample_mask",
        "squared_error",
    }
    lines = re.findall(r"import \(?\s*(\w+) as (\w+)", (SOURCE / "__init__.py").read_text())
    assert {name for name, _ in lines} == expected
    assert all(name == alias for name, alias in lines)
    for name in expected:
        assert getattr(adversarial_dropout, name).__doc__
