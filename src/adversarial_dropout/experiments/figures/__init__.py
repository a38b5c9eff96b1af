"""Figures as SVG, drawn from what analysis found."""
