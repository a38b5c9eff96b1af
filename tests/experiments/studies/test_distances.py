"""Dropout conditions as graphs and as sets, eqs. 17 to 21: the propositions against counts on sets and networkx."""

from collections.abc import Callable
from fractions import Fraction
from itertools import product
from typing import Any

import networkx as nx  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError
from adversarial_dropout.experiments.studies.theory.distances import (
    graph_edit_distance,
    jaccard_distance,
    proportions,
)

Node = tuple[str, int]
"""Which layer, "below", "layer" or "above", and which unit of it."""

SIZES = [(1, 1), (2, 1), (1, 4), (3, 2)]
_NEVER = 1e6


def mask(*kept: int) -> Tensor:
    return torch.tensor(kept, dtype=torch.bool)


def pairs(units: int) -> list[tuple[Tensor, Tensor]]:
    """Every pair of masks of a layer."""
    masks = [mask(*kept) for kept in product((0, 1), repeat=units)]
    return list(product(masks, masks))


def dropout_graph(kept: Tensor, *, below: int, above: int) -> tuple[set[Node], set[tuple[Node, Node]]]:
    """The nodes and the edges of a dropout condition."""
    sizes = {"below": below, "layer": len(kept), "above": above}
    nodes = {(layer, unit) for layer, size in sizes.items() for unit in range(size)}
    neighbours = [node for node in nodes if node[0] != "layer"]
    return nodes, {(("layer", unit), node) for unit, bit in enumerate(kept.tolist()) if bit for node in neighbours}


def kept_units(kept: Tensor) -> set[int]:
    return {unit for unit, bit in enumerate(kept.tolist()) if bit}


def as_networkx(kept: Tensor, below: int, above: int) -> Any:
    """The graph built anew, node by node, with each node's name as an attribute."""
    graph = nx.Graph()
    outside = [f"below {i}" for i in range(below)] + [f"above {i}" for i in range(above)]
    for name in [*outside, *(f"layer {i}" for i in range(len(kept)))]:
        graph.add_node(name, name=name)
    graph.add_edges_from((f"layer {i}", name) for i, bit in enumerate(kept.tolist()) if bit for name in outside)
    return graph


def searched_distance(first: Tensor, second: Tensor, below: int, above: int, *, pinned: bool) -> float:
    """networkx's graph edit distance; with ``pinned`` no node may be renamed, added or removed."""
    costs = {
        "node_subst_cost": lambda a, b: 0 if a == b else _NEVER,
        "node_del_cost": lambda _: _NEVER,
        "node_ins_cost": lambda _: _NEVER,
    }
    graphs = (as_networkx(kept, below, above) for kept in (first, second))
    return float(nx.graph_edit_distance(*graphs, **(costs if pinned else {})))


@pytest.mark.parametrize(("below", "above"), SIZES)
@pytest.mark.parametrize("units", range(1, 6))
def test_counted_edges_give_the_propositions(units: int, below: int, above: int) -> None:
    for first, second in pairs(units):
        (_, edges1), (_, edges2) = (dropout_graph(kept, below=below, above=above) for kept in (first, second))
        assert graph_edit_distance(first, second, below=below, above=above) == len(edges1 ^ edges2)
        units1, units2 = kept_units(first), kept_units(second)
        union, intersection = len(units1 | units2), len(units1 & units2)
        if union:
            assert jaccard_distance(first, second) == float(Fraction(union - intersection, union))


@pytest.mark.parametrize(
    ("units", "below", "above"), [(1, 1, 1), (2, 2, 1), (3, 1, 1), (3, 2, 2), (4, 1, 2), (5, 1, 1)]
)
def test_networkx_finds_the_same_edit_distance(units: int, below: int, above: int) -> None:
    for first, second in pairs(units):
        expected = searched_distance(first, second, below, above, pinned=True)
        assert graph_edit_distance(first, second, below=below, above=above) == expected


def test_without_names_proposition_1_fails() -> None:
    first, second = mask(1, 0), mask(0, 1)
    assert searched_distance(first, second, 1, 1, pinned=False) == 0
    assert graph_edit_distance(first, second, below=1, above=1) == 4


def test_the_norms_are_counts() -> None:
    """docs/theory.md, "How far apart two masks are"."""
    first, second = mask(1, 1, 1, 1), mask(0, 0, 0, 0)
    assert graph_edit_distance(first, second, below=2, above=1) == 3 * 4
    assert (first.double() - second.double()).norm() == 2  # L2: the root of the count
    first, second = mask(1, 1, 1, 1), mask(0, 1, 1, 1)
    assert jaccard_distance(first, second) == 1 / 4
    union = (first | second).double()
    assert (first.double() - second.double()).norm() / union.norm() == 1 / 2  # Eq. 21 to the letter: the root.


@pytest.mark.parametrize(("below", "above"), SIZES)
@pytest.mark.parametrize("units", range(1, 5))
def test_sets_of_edges_have_the_jaccard_distance_of_the_sets_of_nodes(units: int, below: int, above: int) -> None:
    for first, second in pairs(units):
        if (first | second).any():
            (_, edges1), (_, edges2) = (dropout_graph(kept, below=below, above=above) for kept in (first, second))
            of_edges = Fraction(len(edges1 ^ edges2), len(edges1 | edges2))
            assert jaccard_distance(first, second) == float(of_edges)


def test_more_flips_may_be_nearer_in_jaccard_distance() -> None:
    """docs/theory.md: from 1000 to 0000 is one flip and the Jaccard distance 1, to 1110 two flips and 2/3."""
    base, near, far = mask(1, 0, 0, 0), mask(0, 0, 0, 0), mask(1, 1, 1, 0)
    edits = [graph_edit_distance(base, other, below=1, above=1) for other in (near, far)]
    assert edits == [2, 4]
    assert [jaccard_distance(base, other) for other in (near, far)] == [1, 2 / 3]


def test_which_quotients_of_eq_17_are_constant() -> None:
    of_four = proportions(units=4, below=3, above=2)
    assert {(row["quotient"], row["pairs"]): (row["lowest"], row["highest"]) for row in of_four} == {
        ("GED / ‖ε1 − ε2‖₂²", "all"): pytest.approx((5, 5)),
        ("GED / ‖ε1 − ε2‖₂, as printed", "all"): pytest.approx((5, 10)),
        ("JD / ‖ε1 − ε2‖₂²", "all"): pytest.approx((1 / 4, 1)),
        ("JD / ‖ε1 − ε2‖₂²", "ε1 keeps all units"): pytest.approx((1 / 4, 1 / 4)),
        ("JD / ‖ε1 − ε2‖₂, as printed", "all"): pytest.approx((1 / 4, 1)),
        ("JD / GED", "all"): pytest.approx((1 / 20, 1 / 5)),
        ("eq. 21 with ‖·‖₂ / JD", "all"): pytest.approx((1, 2)),
    }
    of_one = proportions(units=1, below=1, above=1)
    assert {"quotient": "JD / GED", "pairs": "all", "lowest": 0.5, "highest": 0.5} in of_one
    with pytest.raises(InvalidValueError, match="units to be a whole number, 1 or more, got 0"):
        proportions(units=0, below=1, above=1)


@pytest.mark.parametrize(("below", "above"), SIZES)
def test_the_graph_has_all_nodes_and_the_edges_of_kept_units(below: int, above: int) -> None:
    nodes, edges = dropout_graph(mask(1, 0, 1), below=below, above=above)
    assert len(nodes) == below + above + 3
    assert len(edges) == 2 * (below + above)
    assert {unit for unit, _ in edges} == {("layer", 0), ("layer", 2)}
    assert {neighbour for _, neighbour in edges} == {node for node in nodes if node[0] != "layer"}


@pytest.mark.parametrize("units", [1, 2, 3])
def test_both_are_metrics(units: int) -> None:
    masks = [mask(*kept) for kept in product((0, 1), repeat=units) if any(kept)]
    distances: list[Callable[[Tensor, Tensor], float]] = [
        lambda a, b: graph_edit_distance(a, b, below=2, above=1),
        jaccard_distance,
    ]
    for distance in distances:
        for a, b, c in product(masks, repeat=3):
            assert distance(a, b) == distance(b, a)
            assert (distance(a, b) == 0) == torch.equal(a, b)
            assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-12


@pytest.mark.parametrize("units", [0, 1, 4])
def test_jaccard_distance_of_two_empty_sets_is_undefined(units: int) -> None:
    nothing = torch.zeros(units, dtype=torch.bool)
    assert graph_edit_distance(nothing, nothing, below=1, above=1) == 0
    with pytest.raises(
        InvalidValueError, match=r"kept in at least one of the masks, got none: .* 0 / 0; compare .* edit distance"
    ):
        jaccard_distance(nothing, nothing)


@pytest.mark.parametrize(
    ("first", "second", "below", "above", "error", "message"),
    [
        (mask(1, 0), mask(1, 1), 0, 1, InvalidValueError, "below to be a whole number, 1 or more, got 0"),
        (mask(1, 0), mask(1, 1), 1, -1, InvalidValueError, "above to be a whole number, 1 or more, got -1"),
        (mask(1, 0), mask(1, 1), 1.0, 1, InvalidTypeError, r"below to be a whole number, 1 or more, got 1\.0"),
        (mask(1, 0), mask(1, 1), 1, True, InvalidTypeError, "above to be a whole number, 1 or more, got True"),
    ],
)
def test_bad_arguments(first: Any, second: Any, below: Any, above: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        graph_edit_distance(first, second, below=below, above=above)
