"""Dropout masks as pure functions: draw a mask, count the flips of a budget, make the adversarial mask.

Source: Park, Park, Shin, Moon, "Adversarial Dropout for Supervised and Semi-supervised Learning", AAAI 2018.
"""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from adversarial_dropout.errors import (
    AdversarialDropoutWarning,
    InvalidTypeError,
    InvalidValueError,
    NonFiniteError,
    check_at_least,
    check_fraction,
    values_readable,
)

# δ·H is rounded to a whole number within this relative error: 0.29 · 100 is 29, not 28.999999999999996.
_FLOAT_NOISE = 1e-12


def sample_mask(
    shape: Sequence[int],
    p: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw a dropout mask: each entry is dropped independently with probability ``p``.

    On CPU, the same seed gives the same mask as ``torch.nn.functional.dropout`` for a contiguous input. Like it, this
    function draws no random number if ``p`` is 0 or 1.

    Args:
        shape: Shape of the mask.
        p: Probability of *dropping* an entry, in [0, 1].
        generator: Random number generator; PyTorch's default one if ``None``.
        device: Device of the mask. If ``None``, the generator's device, or the default device without a generator.

    Returns:
        Bool tensor of the given shape, ``True`` = kept.

    Raises:
        InvalidValueError, InvalidTypeError: ``p`` is not a number in [0, 1].
    """
    check_fraction("p", p)
    if device is None and generator is not None:
        device = generator.device
    if p in (0, 1):
        return torch.full(tuple(shape), p == 0, dtype=torch.bool, device=device)
    where = torch.get_default_device() if device is None else torch.device(device)
    if _COMPARES_DOUBLES and where.type == "cpu" and not torch.compiler.is_compiling():
        return torch.rand(tuple(shape), generator=generator, dtype=torch.float64, device=where) < 1 - p
    return torch.empty(tuple(shape), dtype=torch.bool, device=where).bernoulli_(1 - p, generator=generator)


def _bernoulli_compares_doubles() -> bool:
    """Whether ``bernoulli_`` on this CPU compares uniform doubles, as it does where MKL does not draw for it.

    ``rand`` then draws the same mask in a third of the time.
    """
    ours, theirs = (torch.Generator().manual_seed(0) for _ in range(2))
    with torch.inference_mode(False):
        drawn = torch.empty(1000, dtype=torch.bool, device="cpu").bernoulli_(0.3, generator=theirs)
        same = torch.rand(1000, generator=ours, dtype=torch.float64, device="cpu") < 0.3
    return torch.equal(drawn, same) and torch.equal(ours.get_state(), theirs.get_state())


_COMPARES_DOUBLES = _bernoulli_compares_doubles()


def flip_budget(delta: float, units: int) -> int:
    """Number of flips that a budget allows: ``k = floor(δ · H)``.

    The budget counts flips (Hamming distance). The paper writes ‖εˢ − ε‖₂ ≤ δH, which taken literally allows (δH)²
    flips, but its Appendix B counts: 10 of 2048 at δ = 0.005, 6 of 128 at δ = 0.05. Floating-point noise is ignored:
    δ = 0.29 of 100 units gives 29.

    Args:
        delta: Share of the units that may be flipped, in [0, 1].
        units: Number of units per example, H.

    Returns:
        k, between 0 and H.

    Raises:
        InvalidValueError, InvalidTypeError: ``delta`` is not in [0, 1], or ``units`` is not a whole number ≥ 0.

    Warns:
        AdversarialDropoutWarning: ``delta`` > 0 allows no flip at all.
    """
    check_fraction("delta", delta)
    check_at_least("units", units, 0)
    exact = float(delta) * int(units)
    nearest = round(exact)
    flips = nearest if math.isclose(exact, nearest, rel_tol=_FLOAT_NOISE) else math.floor(exact)
    if flips == 0 and delta > 0 and units > 0:
        warnings.warn(
            f"delta={delta} of {units} units allows no flip, so adversarial dropout does nothing; "
            f"delta={math.ceil(1e9 / units) / 1e9} or more gives one flip",
            AdversarialDropoutWarning,
            stacklevel=2,
        )
    return flips


def adversarial_mask(mask: Tensor, jacobian: Tensor, *, max_flips: int) -> Tensor:
    r"""Flip the units of ``mask`` that raise a linearised divergence the most (Algorithm 1, eq. 10).

    Flipping unit i of the base mask εˢ changes :math:`\sum_i J_i\,\varepsilon_i` by its gain
    :math:`(1 - 2\varepsilon^s_i)\,J_i`. The ``max_flips`` units with the largest *positive* gain are flipped, or fewer
    if fewer gains are positive. This is the exact optimum of the linearised problem: the paper calls it a 0/1 knapsack,
    and because every flip has weight 1, a greedy pass over the sorted gains solves it. Ties go to the lower index on
    every device.

    Three slips of the printed algorithm are corrected. It sorts |J| in *ascending* order, which would flip the least
    influential units; the paper's text on SAdD ("the most contributing features"), its eq. 14 and the authors' code
    take the most influential ones. It tests the distance with ≤ *before* a flip, which allows one flip too many. It
    measures the distance in the L2 norm, which is the root of the number of flips (see :func:`flip_budget`).

    Args:
        mask: Base mask εˢ, shape (N, H), bool (``True`` = kept) or floating with entries 0 and 1.
        jacobian: J = ∂D/∂ε, shape (N, H), floating. Half precision is ranked in float32.
        max_flips: Largest number of flips per example, k ≥ 0; values above H mean H.

    Returns:
        New mask with the shape, dtype and device of ``mask``. The arguments are not changed.

    Raises:
        InvalidValueError: shapes or devices differ, ``max_flips`` < 0, J has NaN or infinite entries, or ``mask`` has
            entries other than 0 and 1.
        InvalidTypeError: ``mask``, ``jacobian`` or ``max_flips`` has an invalid type or dtype.
    """
    _check_search(mask, jacobian, max_flips)
    units = mask.shape[1]
    k = min(max_flips, units)
    with torch.no_grad():
        if k == 0:
            return mask.clone()
        gradient = jacobian.float() if jacobian.dtype in (torch.float16, torch.bfloat16) else jacobian
        # (1 - 2ε)J in place, from bytes: on a CPU, torch.where and conversions from bool cost more than the ranking.
        kept = mask.view(torch.int8) if mask.dtype == torch.bool else mask
        gain = kept.to(gradient.dtype, copy=True).mul_(-2).add_(1).mul_(gradient)
        ranked, order = gain.topk(min(k + 1, units), dim=1)
        threshold = ranked[:, k - 1 : k].clamp(min=0)
        ambiguous = (ranked[:, k:] == threshold) & (threshold > 0)
        if values_readable(gain) and not ambiguous.any():
            chosen = order[:, :k]
            flipped = mask.bool().gather(1, chosen) ^ (ranked[:, :k] > 0)
            return mask.clone().scatter_(1, chosen, flipped.to(mask.dtype))
        # topk does not define which of several equal gains it takes.
        above = gain > threshold
        tied = (gain == threshold) & (gain > 0)
        room = k - above.sum(dim=1, keepdim=True)
        flip = above | (tied & (tied.cumsum(dim=1) <= room))
        return (mask.bool() ^ flip).to(mask.dtype)


def _check_search(mask: Tensor, jacobian: Tensor, max_flips: int) -> None:
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise InvalidTypeError(f"expected mask to be bool or floating, got {mask.dtype}; use mask.bool()")
    if not jacobian.is_floating_point():
        raise InvalidTypeError(f"expected jacobian to be floating, got {jacobian.dtype}")
    check_at_least("max_flips", max_flips, 0, "; flip_budget(delta, units) gives a valid number")
    if mask.dim() != 2:
        raise InvalidValueError(f"expected mask to have shape (N, H), got {tuple(mask.shape)}; use mask.flatten(1)")
    if jacobian.shape != mask.shape:
        raise InvalidValueError(
            f"expected jacobian to have the mask's shape {tuple(mask.shape)}, got {tuple(jacobian.shape)}"
        )
    if jacobian.device != mask.device:
        raise InvalidValueError(f"expected mask and jacobian on one device, got {mask.device} and {jacobian.device}")
    # A finite sum means finite entries; the sum of finite entries may overflow, so the entries decide.
    if values_readable(jacobian) and not jacobian.sum().isfinite() and not jacobian.isfinite().all():
        row, unit = (~jacobian.isfinite()).nonzero()[0].tolist()
        raise NonFiniteError(
            f"expected a finite jacobian, got {jacobian[row, unit].item()} at example {row}, unit {unit}"
        )
    if mask.is_floating_point() and values_readable(mask) and not ((mask == 0) | (mask == 1)).all():
        raise InvalidValueError("expected mask entries 0 and 1, got others; pass the mask before any rescaling")
