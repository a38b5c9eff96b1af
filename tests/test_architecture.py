"""The house: imports point down only, the first wing stands on PyTorch alone, files stay small."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import adversarial_dropout

SOURCE = Path(adversarial_dropout.__file__).parent
PACKAGE = "adversarial_dropout"
MODULES = sorted(path.relative_to(SOURCE).with_suffix("").as_posix() for path in SOURCE.rglob("*.py"))

# From the bottom up. A module may import from rows above its own here, and from its own row where that says so.
FLOORS = (
    ("errors",),
    ("masks", "divergences"),
    ("layers",),
    ("regularizers/passes",),
    ("regularizers/base",),
    ("regularizers/search",),
    ("regularizers/",),
    ("__init__",),
    ("experiments/__init__",),
    (
        "experiments/models/network",
        "experiments/models/noise",
        "experiments/models/mean_only_batch_norm",
    ),
    (
        "experiments/models/small_cnn",
        "experiments/models/mnist_cnn",
        "experiments/models/conv_large",
        "experiments/models/autoencoder",
    ),
    ("experiments/models/__init__", "experiments/terms"),
    ("experiments/earlier_config",),
    ("experiments/config",),
    ("experiments/presets/stated",),
    (
        "experiments/presets/autoencoder",
        "experiments/presets/digits",
        "experiments/presets/images",
        "experiments/presets/paper",
        "experiments/records",
    ),
    ("experiments/presets/__init__", "experiments/data/__init__", "experiments/data/pictures", "experiments/data/hub"),
    ("experiments/data/files",),
    ("experiments/data/reading",),
    ("experiments/data/sources",),
    ("experiments/data/splits", "experiments/data/pixels"),
    ("experiments/models/prediction",),
    ("experiments/trained",),
    ("experiments/show/",),
    ("experiments/training/", "experiments/analysis/", "experiments/export"),
    ("experiments/figures/",),
    ("experiments/report/",),
    ("experiments/commands/__init__", "experiments/commands/options"),
    ("experiments/commands/terminal",),
    ("experiments/commands/",),
    ("experiments/cli",),
    ("experiments/__main__",),
)
MAY_IMPORT_NEIGHBOURS = (
    "experiments/training/",
    "experiments/analysis/",
    "experiments/figures/",
    "experiments/report/",
)


def imports(module: str) -> set[str]:
    """Modules of the package that ``module`` imports, as paths."""
    tree = ast.parse((SOURCE / f"{module}.py").read_text())
    names = set()
    for node in ast.walk(tree):
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


def floor(module: str) -> int:
    for height, names in enumerate(FLOORS):
        if any(module == name or (name.endswith("/") and module.startswith(name)) for name in names):
            return height
    raise AssertionError(f"{module} has no floor: say in FLOORS where it belongs")


def room(module: str) -> str:
    return module.rsplit("/", 1)[0] + "/"


def test_the_walk_sees_imports() -> None:
    assert imports("masks") == {"errors"}
    assert "experiments/training/checkpoint" in imports("experiments/training/loop")


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    for target in imports(module):
        same_room = room(module) == room(target) and room(module) in MAY_IMPORT_NEIGHBOURS
        assert floor(target) < floor(module) or same_room, f"{module} imports {target}"


@pytest.mark.parametrize("module", MODULES)
def test_wings_do_not_mix(module: str) -> None:
    targets = imports(module)
    if not module.startswith("experiments/"):
        assert not any(target.startswith("experiments/") for target in targets)
    if module.startswith(("experiments/analysis/", "experiments/figures/", "experiments/report/")):
        assert not any(target.startswith("experiments/training/") for target in targets), "analysis never trains"
    if module.startswith("experiments/analysis/"):
        source = (SOURCE / f"{module}.py").read_text()
        assert not re.search(r"^\s*(import|from) (rich|matplotlib|jinja2)", source, re.MULTILINE), "nor shows anything"


@pytest.mark.parametrize("module", MODULES)
def test_files_are_small_and_named_for_what_they_hold(module: str) -> None:
    assert len((SOURCE / f"{module}.py").read_text().splitlines()) <= 300
    assert not re.search(r"util|helper|common|misc", module)


def test_first_wing_needs_pytorch_alone() -> None:
    tree_names = set()
    for module in MODULES:
        if module.startswith("experiments"):
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
        "PiModel",
        "SupervisedAdversarialDropout",
        "VirtualAdversarialDropout",
        "VirtualAdversarialTraining",
        "adversarial_mask",
        "cross_entropy",
        "flip_budget",
        "kl_divergence",
        "quadratic_error",
        "sample_mask",
    }
    lines = re.findall(r"import \(?\s*(\w+) as (\w+)", (SOURCE / "__init__.py").read_text())
    assert {name for name, _ in lines} == expected
    assert all(name == alias for name, alias in lines)
    for name in expected:
        assert getattr(adversarial_dropout, name).__doc__
