"""One regulariser a file, on three shared ones: base (checks, reduction), passes (runs of a model), search."""
