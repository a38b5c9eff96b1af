"""Data as uint8 tensors in memory: where they come from, and which rows are labelled."""
