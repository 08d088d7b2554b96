"""Fixed texts of a report: what this is, how to read each figure, what is not there."""

from __future__ import annotations

from simulations.report.reading.runs import Run
from simulations.report.reading.sweeps import Sweep

__all__ = [
    "ACTIVITY",
    "ALL_ALIKE",
    "AUDIT",
    "BUDGET",
    "EXPOSURE",
    "FRONTIER",
    "GAIN",
    "GROUPS",
    "INFINITE",
    "MEMBERSHIP",
    "MODELS",
    "NO_ALONE",
    "NO_AUDIT",
    "NO_BUDGET",
    "NO_EVALUATION",
    "NO_EXPOSURE",
    "NO_GROUPS",
    "NO_MEMBERSHIP",
    "lead_of_run",
    "lead_of_sweep",
    "protocol",
]

# --- how to read a figure ------------------------------------------------------------------------

FRONTIER = (
    "Each point is the mean over the seeds, which draw the partition, the first weights and the "
    "noise; the bar is their standard deviation and the small dots beside it are the single seeds. "
    "“none” is the same without noise, and protects nobody. Lines without points are exact "
    "counts: what anybody could do who may see all data."
)
MODELS = (
    "The point is the share of test users whose item is among the ten they are shown (HR@10), the "
    "line its 95% interval."
)
BUDGET = (
    "Each answer of an organisation is a noised sum, and each costs: after it, an observer may "
    "know a little more of a person. What all cost together is computed by numerical composition, "
    "release by release, and kept in the organisation's own ledger, which refuses to go past the "
    "limit."
)
AUDIT = (
    "An audit plants made-up users (canaries), each by the toss of a coin, and lets an observer "
    "guess which of them took part. Too many right guesses disprove the claim. A filled dot is the "
    "ε that is proven at the stated confidence, a hollow diamond the most that so many guesses "
    "could prove, the bar across is the claim. A proof left of the claim does not show that the "
    "claim is true: it shows that this attack does not disprove it."
)
MEMBERSHIP = (
    "An attacker who has the published model guesses of each person whether they were in the "
    "training data. Both axes are logarithmic, for what counts is how many members are recognised "
    "while hardly anyone is accused wrongly: the far left. Dots with a line are rates with their "
    "95% intervals."
)
GAIN = (
    "One row an organisation: the share of its users who are hit by a model that it trained by "
    "itself (diamond), and by the one that all trained together (dot), both under the same ε."
)
ACTIVITY = (
    "Quarters of the users by how many training events they have; equal numbers stay together. "
    "Lines are 95% intervals."
)
GROUPS = (
    "The groups are public facts of this benchmark. No model and no organisation is given them. "
    "Lines are 95% intervals: small groups have long ones."
)
EXPOSURE = (
    "All places in all lists of ten, by how popular the shown item is in the training data. The "
    "first bar is what the same users really chose next."
)

# --- what is not there ---------------------------------------------------------------------------

NO_AUDIT = (
    "Nobody has attacked this claim yet: it rests on the accountant alone. `sotto-lab audit` does, "
    "and `--audit FOLDER` adds what it finds."
)
NO_MEMBERSHIP = "This audit did not try to tell members from others by the published model."
NO_BUDGET = "Nothing was noised, so there is no budget: each answer may give away anything."
INFINITE = "Something left without noise: ε is infinite from there on, and there is no curve."
NO_EVALUATION = (
    "This run was made by a version that did not write each user's rank (evaluation.parquet), so "
    "organisations, activity and groups cannot be told apart. Run it again to see them."
)
NO_ALONE = (
    "The organisations were not trained alone in this run, so nobody knows what they gain. Set "
    "`lab.alone` to true to see it."
)
NO_GROUPS = (
    "The data set has no public groups of users. A `users.csv` beside the interactions adds them."
)
NO_EXPOSURE = "This run was made by a version that did not write where recommendations went."
ALL_ALIKE = "All users are alike in this, so there is nothing to compare."


# --- what this is and how it was measured --------------------------------------------------------


def lead_of_run(run: Run) -> str:
    """Of one run."""
    count = len(run.organisations)
    who = f"{count} simulated organisations" if count > 1 else "One simulated organisation"
    return (
        f"{who} trained a recommender {'together ' if count > 1 else ''}on {run.data} "
        f"({run.users:,} users). This page says what was promised to these users, what the "
        "recommender is worth, and to whom."
    )


def lead_of_sweep(sweep: Sweep, run: Run) -> str:
    """Of many runs."""
    count = len(sweep.runs)
    return (
        f"{count} run{'s' * (count != 1)} of one federated recommender on {run.data} "
        f"({run.users:,} users, {len(run.organisations)} simulated organisations) at different "
        "privacy budgets: what each promises to these users, and what it is worth."
    )


def protocol(run: Run) -> tuple[str, ...]:
    """What the figures of accuracy mean."""
    item = "last" if run.split == "test" else "last but one"
    return (
        f"Of each user the {item} item is kept back. Every model is then asked to rank all "
        f"{run.items:,} items of the catalogue, without those the user has had before, and the ten "
        "first are shown. HR@10 (hit rate) is the share of users who find the item that was kept "
        "back among their ten. NDCG@10 (normalised discounted cumulative gain) counts a hit as 1 "
        "in the first place and as less further down, 0.29 in the tenth. Both would be 1 for "
        "someone who reads minds. Coverage@10 is the share of the catalogue that anybody is shown.",
    )
