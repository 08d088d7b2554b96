"""What is computed from one site's users; knows no message, no file and no ledger.

- `steps`: private training steps (DP-SGD, one user one sample), of whatever model.
- `trainer`: their batches and losses, of recommenders.
- `noise_optimiser`: their step, by Opacus, on clipped sums.
- `batches`: physical batches of constant shape, independent of who is in them.
- `statistics`: noised popularity and moment, for a warm start.
- `evaluation`: noised ranking metrics of given weights, over all users and by group.
- `groups`: in which public group each user is, and what its users count.
- `queries`: queries of users as a training step reads them.
- `friends`: friends of users likewise, and the bound that the claim rests on.
- `over_use`: one noised gradient of the model of over-use risk.
- `memory`: keeps freed memory in the process.
"""
