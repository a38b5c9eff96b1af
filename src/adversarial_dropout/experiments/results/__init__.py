"""What runs show together: summaries, the paper's tables, a page."""
