"""Dropout conditions as graphs, and how far apart two of them are (Appendix A of Park et al., AAAI 2018).

A layer of H units stands between ``below`` and ``above`` units of its neighbours. A kept unit has an edge to each of
them; a dropped unit stays as a node and has none. Nodes are told apart by name, so two conditions of one layer differ
in edges alone. The printed appendix was not at hand: the propositions here are those that we derived and checked.
"""

import numbers

import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError

Node = tuple[str, int]
"""Which layer, "below", "layer" or "above", and which unit of it."""


def dropout_graph(mask: Tensor, *, below: int, above: int) -> tuple[frozenset[Node], frozenset[tuple[Node, Node]]]:
    """The nodes and the edges of a dropout condition.

    Args:
        mask: ε, shape (H,), bool, ``True`` = kept.
        below: Units of the layer below, 1 or more.
        above: Units of the layer above, 1 or more.

    Raises:
        InvalidTypeError: The mask is not a bool tensor, or a size not a whole number.
        InvalidValueError: The mask does not have shape (H,), or a size is below 1.
    """
    _check_masks(mask)
    _check_sizes(below=below, above=above)
    sizes = {"below": below, "layer": len(mask), "above": above}
    nodes = frozenset((layer, unit) for layer, size in sizes.items() for unit in range(size))
    neighbours = [node for node in nodes if node[0] != "layer"]
    kept = mask.nonzero().flatten().tolist()
    return nodes, frozenset((("layer", unit), neighbour) for unit in kept for neighbour in neighbours)


def graph_edit_distance(first: Tensor, second: Tensor, *, below: int, above: int) -> int:
    """Edges to add or remove to get from one condition to the other, each at cost 1, counted on the edge sets.

    Nodes keep their names. Without that the distance is up to isomorphism, and Proposition 1 fails: the conditions 10
    and 01 are the same graph then, at distance 0.

    Args:
        first: ε1, shape (H,), bool.
        second: ε2, same form.
        below: Units of the layer below, 1 or more.
        above: Units of the layer above, 1 or more.

    Raises:
        InvalidTypeError, InvalidValueError: As :func:`dropout_graph`, or the masks differ in shape.
    """
    _check_masks(first, second)
    (_, edges1), (_, edges2) = (dropout_graph(mask, below=below, above=above) for mask in (first, second))
    return len(edges1 ^ edges2)


def jaccard_distance(first: Tensor, second: Tensor, *, below: int, above: int) -> float:
    """1 − |E1 ∩ E2| / |E1 ∪ E2| of the edge sets, in [0, 1], counted directly.

    Args: as :func:`graph_edit_distance`.

    Raises:
        InvalidTypeError, InvalidValueError: As :func:`graph_edit_distance`, or all units are dropped in both.
    """
    _check_masks(first, second)
    _check_union(first, second)
    (_, edges1), (_, edges2) = (dropout_graph(mask, below=below, above=above) for mask in (first, second))
    return 1 - len(edges1 & edges2) / len(edges1 | edges2)


def proposition_1(first: Tensor, second: Tensor, *, below: int, above: int) -> int:
    """Proposition 1: the graph edit distance is (below + above) · ‖ε1 − ε2‖₀.

    The norm is a count: for binary masks an L2 norm is the root of it. Dividing by the factor needs the sizes of the
    neighbouring layers.

    Args and Raises: as :func:`graph_edit_distance`.
    """
    _check_masks(first, second)
    _check_sizes(below=below, above=above)
    return (below + above) * int((first ^ second).sum())


def proposition_2(first: Tensor, second: Tensor) -> float:
    """Proposition 2: the Jaccard distance is ‖ε1 − ε2‖₀ / ‖ε1 ∨ ε2‖₀, whatever the sizes of the neighbouring layers.

    Args:
        first: ε1, shape (H,), bool.
        second: ε2, same form.

    Raises:
        InvalidTypeError, InvalidValueError: As :func:`jaccard_distance`.
    """
    _check_masks(first, second)
    _check_union(first, second)
    return int((first ^ second).sum()) / int((first | second).sum())


def _check_masks(*masks: Tensor) -> None:
    for mask in masks:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise InvalidTypeError(f"expected a mask to be a bool tensor, got {got}; use mask.bool()")
        if mask.dim() != 1:
            raise InvalidValueError(f"expected a mask of one example, shape (H,), got {tuple(mask.shape)}")
    if len({len(mask) for mask in masks}) > 1:
        raise InvalidValueError(f"expected masks of one layer, got {' and '.join(str(len(m)) for m in masks)} units")


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | numbers.Integral):
            raise InvalidTypeError(f"expected {name}, a count of units, to be a whole number, got {size!r}")
        if size < 1:
            raise InvalidValueError(f"expected {name}, a count of units, to be 1 or more, got {size}")


def _check_union(first: Tensor, second: Tensor) -> None:
    if not (first | second).any():
        raise InvalidValueError(
            "expected a unit that is kept in one of the masks, got none: both graphs have no edge, and the Jaccard "
            "distance of two empty sets is 0 / 0; compare such masks by the edit distance"
        )
