"""What adversarial dropout does to networks, and the paper's theory."""
