"""The regularisers, one per file, on three shared modules: base, passes and search."""
