"""Many runs, from one command: grids, searches, and their table."""
