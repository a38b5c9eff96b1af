"""Adversarial dropout inside other libraries: one module a library, each behind an extra."""
