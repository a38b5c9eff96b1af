"""What each command does: calls the rest, prints. No logic of its own."""
