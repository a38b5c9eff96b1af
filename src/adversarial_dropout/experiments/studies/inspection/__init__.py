"""What the search finds in one trained network."""
