"""A simulated month of the wellbeing guard: what it does to hours of use and to NDCG.

    python -m simulations.benchmarks.wellbeing [--data FOLDER] [--users 600] [--days 28]
        [--threshold 0.3] [--seed 0] [--json]

Users of MovieLens with an invented over-use propensity come to a service that recommends films: how
often, when, and how long they stay follows from the propensity and from what they are shown. The
tenth of the highest propensity is at risk. The month is lived through without the guard, with it,
and with each measure alone.

What the guard knows is what a partner knows: engagement is estimated from an earlier month without
the guard, and the risk by a model of over-use that was trained on other users and reads the times
of that month. Since invented users are easier to tell apart than real ones, the month is lived
through with scores of stated lower AUROC, too. The truth (who is at risk, how engaging a film is)
is used to simulate and to measure alone. Both months begin with the same films to show.

- `users`: the invented users, and what they do with a list.
- `month`: the service with the guard, one user after the other.
- `scores`: the risk that the guard is given.
- `comparison`: all months, and what each came to.
- `__main__`: the command.
"""
