"""First weights from noised statistics and public interactions, before any round of training.

- `warm_start`: the stages in order, and which items get a direction of their own.
- `denoise`: Wiener shrinkage of the noised statistics, and the weights that follow from them.
- `refine`: moment matching on states of public users, or of drawn ones.
- `synthetic`: histories drawn from the model, where there are no public interactions.
- `public`: public interactions: item features from co-occurrence, and where they are stored.
"""
