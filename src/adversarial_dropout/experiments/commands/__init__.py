"""The commands: one file each, with what it takes and what it does."""
