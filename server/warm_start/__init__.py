"""warm_start."""
