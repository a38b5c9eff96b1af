"""Adversarial dropout inside other libraries; each module needs the extra that it is named for."""
