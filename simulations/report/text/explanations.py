"""Fixed texts of a report: introductions, how to read each figure, and why one is missing."""

from __future__ import annotations

from simulations.experiment.hold_out import describe_timing
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
    "NO_AUDIT",
    "NO_BUDGET",
    "NO_EVALUATION",
    "NO_EXPOSURE",
    "NO_GROUPS",
    "NO_HOME",
    "NO_MEMBERSHIP",
    "lead_of_run",
    "lead_of_sweep",
    "protocol",
]

_TARGETS = {
    "test": "Each user's last item is held out.",
    "validation": "Each user's second to last item is held out.",
    "temporal": "All events are cut at the same moments: before the first, models train; each "
    "user's first item from the second on is the target.",
    "temporal-validation": "All events are cut at the same moments: before the first, models "
    "train; each user's first item between the two is the target.",
}

# --- how to read a figure ------------------------------------------------------------------------

FRONTIER = (
    "Each point is the mean over the seeds, which determine the partition, the initial weights and "
    "the noise. The bar is the standard deviation; the small dots are the individual seeds. “none” "
    "is the same without noise, and protects nobody. Horizontal lines without points are models "
    "that do not depend on ε, such as what each organisation gets from its own data at home."
)
MODELS = (
    "The point is the share of test users whose item is among the ten that they are shown (HR@10); "
    "the line is its 95% interval."
)
BUDGET = (
    "Each answer of an organisation is a noised sum and costs some privacy. The total ε is "
    "computed by numerical composition, release by release, and recorded in the organisation's own "
    "ledger, which refuses any request that would exceed the limit."
)
AUDIT = (
    "An audit adds synthetic users (canaries), each with probability 1/2, and lets an observer "
    "guess which of them took part. Too many right guesses disprove the claim. A filled dot is the "
    "lower bound of ε that is proved at the stated confidence; a hollow diamond is the largest "
    "that so many guesses could prove; the vertical bar is the claim. A bound below the claim does "
    "not show that the claim is true: it shows that this attack does not disprove it."
)
MEMBERSHIP = (
    "An attacker who has the published model guesses for each person whether they were in the "
    "training data. Both axes are logarithmic, because small false positive rates matter most: how "
    "many members are recognised while hardly anyone is identified wrongly. Dots with a line are "
    "rates with their 95% intervals."
)
GAIN = (
    "One row for each organisation: the share of its users with a hit, for the best that it gets "
    "from its own data alone (diamond) and for the federated model, adapted at home (dot). Its own "
    "data never leave it, so neither needs noise at home."
)
ACTIVITY = (
    "Quarters of the users by their number of training events; users with equal numbers are in one "
    "quarter. Lines are 95% intervals."
)
GROUPS = (
    "The groups are public in this benchmark. Neither a model nor an organisation gets them. Lines "
    "are 95% intervals, which are long for small groups."
)
EXPOSURE = (
    "All positions in all lists of ten, by the popularity of the shown item in the training data. "
    "The first bar is what the same users chose next."
)

# --- why a figure is missing ---------------------------------------------------------------------

NO_AUDIT = (
    "No attack has tested this claim: its only evidence is the accountant's bound. `sotto-lab "
    "audit` runs attacks, and `--audit FOLDER` adds their result to this page."
)
NO_MEMBERSHIP = "This audit did not try membership inference on the published model."
NO_BUDGET = "No noise was added, so there is no budget: an answer may reveal anything."
INFINITE = "Something was sent without noise: ε is infinite from then on, and there is no curve."
NO_EVALUATION = (
    "This run has no evaluation.parquet with each user's rank, since an earlier version wrote it. "
    "Run it again to compare organisations, activity and groups."
)
NO_HOME = (
    "This run was made by an earlier version, which did not measure what an organisation gets from "
    "its own data alone. Run it again to see what joining brings."
)
NO_GROUPS = (
    "The data set has no public groups of users. A file `users.csv` beside the interactions adds "
    "them."
)
NO_EXPOSURE = (
    "This run was made by an earlier version, which did not record the popularity of shown items."
)
ALL_ALIKE = "All users are in one group, so there is nothing to compare."


# --- introductions and protocol --------------------------------------------------------


def lead_of_run(run: Run) -> str:
    """Return the introduction of a report on one run."""
    count = len(run.organisations)
    who = f"{count} simulated organisations" if count > 1 else "One simulated organisation"
    return (
        f"{who} trained a recommender {'together ' if count > 1 else ''}on {run.data} "
        f"({run.users:,} users). This page states the privacy claim for these users, how good the "
        "recommendations are, and which users they serve well."
    )


def lead_of_sweep(sweep: Sweep, run: Run) -> str:
    """Return the introduction of a report on a sweep."""
    count = len(sweep.runs)
    return (
        f"{count} run{'s' * (count != 1)} of one federated recommender on {run.data} "
        f"({run.users:,} users, {len(run.organisations)} simulated organisations) at different "
        "privacy budgets. This page states the privacy claim of each run, and how good its "
        "recommendations are."
    )


def protocol(run: Run) -> tuple[str, ...]:
    """Return how the metrics were measured, what they mean, and what was planned."""
    figures = (
        f"{_TARGETS.get(run.split, _TARGETS['test'])} Every model ranks all {run.items:,} items of "
        "the catalogue, except those that the user already has, and the first ten are shown. HR@10 "
        "(hit rate) is the share of users whose held-out item is among their ten. NDCG@10 "
        "(normalised discounted cumulative gain) counts a hit in the first place as 1, and less "
        "further down: 0.29 in the tenth place. A perfect model has 1 in both. Coverage@10 is the "
        "share of the catalogue that is shown to at least one user."
    )
    order = f"Where scores tie: {run.ties}." if run.ties else ""
    time = describe_timing(run.timing, run.tested) if run.timing else []
    sentences = " ".join(f"{text[:1].upper()}{text[1:]}." for text in time)
    return tuple(text for text in (figures, order, sentences, run.plan) if text)
