"""What the coordinator keeps on disk, of its runs and its partners.

checkpoint   what a run needs to go on: weights, round, server optimiser
attempts     the numbers of attempts at sums, of which none repeats
early_stop   when training stops before its last round
sums         sums that are known, until a checkpoint holds what follows from them
status       what a run is doing, how far it has come, and what it has cost
audit_log    a hash-chained log of who did what
run_lock     one process at a time works in a run's folder
partners     who was invited, accepted and revoked, and the node of each
"""
