"""Another order of what is shown: calibrated, diverse, or with a place for rare items.

It is computed from a user's scores and public properties of items, after training: it costs no ε.

- `settings`: the section `[rerank]`.
- `reranker`: chooses lists from candidates, whatever the method.
- `calibrated`: the groups of items that the user chose, in their proportions.
- `diverse`: items unlike each other.
- `minimum_exposure`: a share of each list's places for rare items.
- `price`: what it changes: accuracy, coverage, exposure, calibration.
"""
