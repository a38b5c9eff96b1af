"""How far apart two dropout conditions are: eqs. 17 to 21 (Appendix A of Park et al., AAAI 2018).

As a graph (eqs. 18 and 19): a layer of H units stands between ``below`` and ``above`` units of its neighbours (the
paper's N_l and N_u). A kept unit has an edge to each of them; a dropped unit stays as a node and has none. Nodes are
told apart by name, so two conditions of one layer differ in edges alone. As a set (eqs. 20 and 21): the kept units.

The paper writes ‖·‖₂ where it counts. For binary masks the count is the square of that norm, or the L1 norm.
"""

import itertools
import numbers
from dataclasses import dataclass

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
    """Edges to add or remove to get from one condition to the other, each at cost 1, counted on the edge sets (eq. 18).

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


def jaccard_distance(first: Tensor, second: Tensor) -> float:
    """(|ε1 ∪ ε2| − |ε1 ∩ ε2|) / |ε1 ∪ ε2| of the sets of kept units, in [0, 1], counted on the sets (eq. 20).

    Args:
        first: ε1, shape (H,), bool, ``True`` = kept.
        second: ε2, same form.

    Raises:
        InvalidTypeError: A mask is not a bool tensor.
        InvalidValueError: The masks are not of one shape (H,), or all units are dropped in both.
    """
    _check_masks(first, second)
    _check_union(first, second)
    kept1, kept2 = (set(mask.nonzero().flatten().tolist()) for mask in (first, second))
    together = len(kept1 | kept2)
    return (together - len(kept1 & kept2)) / together


def proposition_1(first: Tensor, second: Tensor, *, below: int, above: int) -> int:
    """Proposition 1: the graph edit distance is (below + above) · ‖ε1 − ε2‖ with a norm that counts (eq. 19).

    Args and Raises: as :func:`graph_edit_distance`.
    """
    _check_masks(first, second)
    _check_sizes(below=below, above=above)
    return (below + above) * int((first ^ second).sum())


def proposition_2(first: Tensor, second: Tensor) -> float:
    """Proposition 2: the Jaccard distance is ‖ε1 − ε2‖ / ‖ε1 + ε2 − ε1 ⊙ ε2‖ with norms that count (eq. 21).

    Args and Raises: as :func:`jaccard_distance`.
    """
    _check_masks(first, second)
    _check_union(first, second)
    one, other = first.long(), second.long()
    return int((one - other).abs().sum()) / int((one + other - one * other).sum())


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """Whether one distance between masks is proportional to another: their quotient over many pairs.

    Attributes:
        quotient: What is divided by what.
        pairs: Which pairs of different masks of one layer.
        lowest: Least quotient.
        highest: Largest quotient; the two are proportional if it is the least one, too.
    """

    quotient: str
    pairs: str
    lowest: float
    highest: float


def proportions(*, units: int, below: int, above: int) -> tuple[Proportion, ...]:
    """Eqs. 17, 19 and 21 over all pairs of different masks of a layer.

    The graph edit distance is proportional to the number of flips, the Jaccard distance is not: it divides the flips by
    the number of units that one of the masks keeps. It is proportional where that number is the same for all pairs, as
    where ε1 keeps all units.

    Args:
        units: H, 1 or more; all 2^H masks are made.
        below: Units of the layer below, 1 or more.
        above: Units of the layer above, 1 or more.

    Raises:
        InvalidTypeError, InvalidValueError: A size is not a whole number of 1 or more.
    """
    _check_sizes(units=units, below=below, above=above)
    masks = [torch.tensor(kept, dtype=torch.bool) for kept in itertools.product((True, False), repeat=units)]
    found: dict[tuple[str, str], list[float]] = {}
    for first, second in itertools.combinations(masks, 2):
        edits, jaccard = graph_edit_distance(first, second, below=below, above=above), jaccard_distance(first, second)
        difference = first.double() - second.double()
        union = (first | second).double()
        flips = float(difference.norm() ** 2)
        quotients = {
            "GED / ‖ε1 − ε2‖₂²": edits / flips,
            "GED / ‖ε1 − ε2‖₂, as printed": edits / float(difference.norm()),
            "JD / ‖ε1 − ε2‖₂²": jaccard / flips,
            "JD / ‖ε1 − ε2‖₂, as printed": jaccard / float(difference.norm()),
            "JD / GED": jaccard / edits,
            "eq. 21 with ‖·‖₂ / JD": float(difference.norm() / union.norm()) / jaccard,
        }
        for name, quotient in quotients.items():
            found.setdefault((name, "all"), []).append(quotient)
            if first.all() and name.startswith("JD / ‖ε1 − ε2‖₂²"):
                found.setdefault((name, "ε1 keeps all units"), []).append(quotient)
    return tuple(
        Proportion(quotient=name, pairs=pairs, lowest=min(values), highest=max(values))
        for (name, pairs), values in found.items()
    )


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
            "expected a unit that is kept in one of the masks, got none: the Jaccard distance of two empty sets is "
            "0 / 0; compare such masks by the edit distance"
        )
