"""Experiments with adversarial dropout: preset → config → data, model, objective → loop → record → report."""
