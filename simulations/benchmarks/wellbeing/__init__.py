"""A simulated month of the wellbeing guard: what it does to hours of use and to NDCG.

    python -m simulations.benchmarks.wellbeing [--data FOLDER] [--users 600] [--days 28]
        [--score model|AUROC] [--seed 0] [--json]

Users of MovieLens with an invented over-use propensity come to a service that recommends films: how
often, when, and how long they stay follows from the propensity and from what they are shown. The
tenth of the highest propensity is at risk. The month is lived through without the guard, with it,
and with each measure alone.

What the guard knows is what a partner knows: engagement is estimated from an earlier month without
the guard, and the risk by a model of over-use that was trained on other users and reads the times
of that month (`--score model`), or it is a score of a stated AUROC (`--score 0.8`). The truth (who
is at risk, how engaging a film is) is used to simulate and to measure alone.

- `users`: the invented users, and what they do with a list.
- `month`: the service with the guard, one user after the other.
- `scores`: the risk that the guard is given.
- `__main__`: the command.
"""
