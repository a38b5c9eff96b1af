"""How far apart two dropout conditions are: eqs. 17 to 21 (Appendix A of Park et al., AAAI 2018).

As a graph (eqs. 18 and 19), a layer of H units is between ``below`` and ``above`` units of its neighbours (the paper's
N_l and N_u). A kept unit has an edge to each of them; a dropped unit is a node without edges. Nodes have names, so two
conditions of a layer only differ in edges. As a set (eqs. 20 and 21), a condition is its kept units. Masks are bool
tensors of shape (H,), True = kept.

The paper writes ‖·‖₂ where it counts. For binary masks the count is the square of that norm, or the L1 norm.
"""

import itertools
from typing import Any

import torch
from torch import Tensor

from adversarial_dropout.errors import InvalidValueError, check_at_least


def graph_edit_distance(first: Tensor, second: Tensor, *, below: int, above: int) -> int:
    """Least number of edges to add or remove between two conditions (eq. 18): (below + above) · number of flips.

    The closed form is Proposition 1 (eq. 19), with a norm that counts; the tests also count the edges. It needs the
    names of the nodes: up to isomorphism the conditions 10 and 01 are the same graph.
    """
    check_at_least("below", below, 1)
    check_at_least("above", above, 1)
    return (below + above) * int((first ^ second).sum())


def jaccard_distance(first: Tensor, second: Tensor) -> float:
    """(|ε1 ∪ ε2| − |ε1 ∩ ε2|) / |ε1 ∪ ε2| of the sets of kept units, in [0, 1] (eq. 20).

    This is Proposition 2 (eq. 21): ‖ε1 − ε2‖ / ‖ε1 + ε2 − ε1 ⊙ ε2‖, with norms that count.
    """
    union = int((first | second).sum())
    if not union:
        raise InvalidValueError(
            "expected a unit that is kept in at least one of the masks, got none: the Jaccard distance of two empty "
            "sets is 0 / 0; compare these masks by the edit distance"
        )
    return int((first ^ second).sum()) / union


def proportions(*, units: int, below: int, above: int) -> list[dict[str, Any]]:
    """Which distances of eqs. 17, 19 and 21 are proportional: their quotients over pairs of different masks of a layer.

    The graph edit distance is proportional to the number of flips. The Jaccard distance is not: it divides the flips by
    the number of units that at least one of the masks keeps. It is proportional where that number is the same for all
    pairs, as it is where ε1 keeps all units.

    Returns, for each quotient: its name ``quotient``, which ``pairs``, and its ``lowest`` and ``highest`` value.
    """
    check_at_least("units", units, 1)
    masks = [torch.tensor(bits, dtype=torch.bool) for bits in itertools.product((True, False), repeat=units)]
    values: dict[tuple[str, str], list[float]] = {}
    for first, second in itertools.combinations(masks, 2):
        edits, jaccard = graph_edit_distance(first, second, below=below, above=above), jaccard_distance(first, second)
        norm = (first.double() - second.double()).norm()
        flips = float(norm**2)
        quotients = {
            ("GED / ‖ε1 − ε2‖₂²", "all"): edits / flips,
            ("GED / ‖ε1 − ε2‖₂, as printed", "all"): edits / float(norm),
            ("JD / ‖ε1 − ε2‖₂²", "all"): jaccard / flips,
            ("JD / ‖ε1 − ε2‖₂²", "ε1 keeps all units"): jaccard / flips,
            ("JD / ‖ε1 − ε2‖₂, as printed", "all"): jaccard / float(norm),
            ("JD / GED", "all"): jaccard / edits,
            ("eq. 21 with ‖·‖₂ / JD", "all"): float(norm / (first | second).double().norm()) / jaccard,
        }
        for (name, pairs), quotient in quotients.items():
            if pairs == "all" or first.all():
                values.setdefault((name, pairs), []).append(quotient)
    return [
        {"quotient": name, "pairs": pairs, "lowest": min(quotients), "highest": max(quotients)}
        for (name, pairs), quotients in values.items()
    ]
