"""Figures 2 and 3: what dropout does to the units of an autoencoder."""
