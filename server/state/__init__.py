"""What is kept of a run on disk.

checkpoint   what a run needs to go on: weights, round, server optimiser
status       what a run is doing, how far it has come, and what it has cost
audit_log    a hash-chained log of who did what
run_lock     one process at a time works in a run's folder
"""
