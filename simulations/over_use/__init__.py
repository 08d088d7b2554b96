"""The risk of over-use, learned by several organisations: what privacy costs, and who is served.

- `cohort`: invented users with a latent risk that drives their sessions.
- `task`: users, their presents and labels, from the cohort or from a data set's times.
- `federation`: rounds of DP-SGD over organisations, each with its own ledger.
- `baselines`: logistic regressions without noise.
- `measure`: all models on held-out users, calibrated, by group.
- `run`: a whole experiment and its result file.
- `plot`: calibration and AUROC over ε.
- `command`: `sotto-lab over-use`.
"""
