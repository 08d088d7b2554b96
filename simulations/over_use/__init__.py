"""The risk of over-use, learned by several organisations: what privacy costs, and who is served.

- `cohort`: invented users with a latent risk that drives their sessions.
- `task`: users, their presents and labels, from the cohort or from a data set's times.
- `federation`: simulated organisations, and a run over them by the apps of a real one.
- `baselines`: logistic regressions without noise.
- `measure`: all models on held-out users, calibrated, by group.
- `run`: a whole experiment and its result file.
- `simulate`: one run at one ε, the task "over-use" of `sotto-lab simulate`.
- `plot`: calibration and AUROC over ε.
- `command`: `sotto-lab over-use`.
"""
