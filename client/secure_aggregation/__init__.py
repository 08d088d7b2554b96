"""The partner's side of secure aggregation: sessions on disk, and the five steps.

- `sessions`: the state of each run's current attempt, as a file that survives a restart.
- `answering`: what each step gets, where it is repeated, changed or out of order, too.
"""
