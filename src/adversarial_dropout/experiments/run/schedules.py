"""Ramps over time, as factors in (0, 1] (Laine & Aila, ICLR 2017; Park et al., AAAI 2018)."""

import math


def ramp_up(epoch: float, length: float) -> float:
    """exp(-5 (1 - T)²) with T = epoch / length rising from 0 to 1; 1 from ``length`` on."""
    if epoch >= length:
        return 1.0
    return math.exp(-5 * (1 - epoch / length) ** 2)


def ramp_down(epoch: float, length: float, epochs: float) -> float:
    """1 until ``length`` epochs before the end, then exp(-12.5 T²) with T rising from 0 to 1 at ``epochs``."""
    start = epochs - length
    if epoch <= start:
        return 1.0
    return math.exp(-12.5 * ((epoch - start) / length) ** 2)
