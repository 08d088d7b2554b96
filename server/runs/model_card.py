"""Write the model card of a published run: what the model is, and which ε is claimed for it.

The claim follows from public facts alone: from what every partner was asked for, and from nothing
that a partner's ledger says. It is an upper bound for one partner's part in this one run. Under
secure aggregation it counts each attempt at a sum for which an organisation may have charged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.noise_plan import plan_noise, release_of
from server.runs.over_use_card import over_use_head, what_the_score_is
from server.runs.transparency import describe_groups, main_parameters
from server.state.attempts import Charges
from server.training_plan import about_rounds
from shared.config import Masking, ModelKind, RunConfig
from shared.groups import tables_of
from shared.messages import evaluation_bound
from shared.models.moments import STATISTIC_CLIP_NORM
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind

__all__ = [
    "Participation",
    "Published",
    "claimed_epsilon",
    "escape_markdown",
    "requested_releases",
    "write_card",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Participation:
    """One organisation's part in a run.

    Attributes:
        organisation: its name.
        population: its declared number of users.
        answered: rounds in which it sent a valid reply.
        charges: under secure aggregation, what it may have charged in all attempts.
    """

    organisation: str
    population: int
    answered: int
    charges: Charges = field(default_factory=Charges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Contents of a card.

    Attributes:
        name: of the run.
        config: its parameters.
        rounds: that were finished.
        asked_rounds: that were asked for: one more than were finished where the run broke off.
        parts: the organisations that took part.
        bundle: SHA-256 of the app that ran.
        catalogue: fingerprint of the catalogue.
        items: size of the catalogue.
        version: of Sotto.
        attempts: at sums under secure aggregation; 0 without masks.
        stopped_early: whether noised metrics ended training before its last round.
        groups: figures of public groups, released with noise; {} where there are none.
        measurements: sums of such figures that were released, hidden by noise or not.
        popularity: shares of the model's choices before any event, by tenth of the items, largest
            first; () where they are not known.
        modalities: what each block of features weighs, by its name; {} where there are no gates.
    """

    name: str
    config: RunConfig
    rounds: int
    parts: Sequence[Participation]
    bundle: str
    catalogue: str
    items: int
    version: str
    asked_rounds: int = 0
    attempts: int = 0
    stopped_early: bool = False
    groups: Mapping[str, Any] = field(default_factory=dict)
    measurements: int = 0
    popularity: Sequence[float] = ()
    modalities: Mapping[str, float] = field(default_factory=dict)

    @property
    def claimed_rounds(self) -> int:
        """Rounds that the claim counts: what was asked for may have left an organisation."""
        return max(self.rounds, self.asked_rounds)


def requested_releases(config: RunConfig, rounds: int) -> list[Release]:
    """Return what `rounds` rounds ask of one organisation; its statistics count as one release."""
    noise, rate = plan_noise(config), config.training.sample_rate
    every = config.server.evaluate_every
    statistics = int(config.warm_start.share > 0)
    asked = (
        (ReleaseKind.STATISTICS, noise.statistics, 1.0, statistics),
        (ReleaseKind.TRAIN, noise.training, rate, rounds * config.training.local_steps),
        (ReleaseKind.EVALUATE, noise.training, rate, rounds // every if every else 0),
        (ReleaseKind.EVALUATE, noise.groups, 1.0, config.measurements),
    )
    return [
        release_of(config, kind, multiplier, sampled, steps)
        for kind, multiplier, sampled, steps in asked
        if steps
    ]


def claimed_epsilon(published: Published) -> float:
    """Return the largest ε of any organisation in this run; infinity without privacy.

    It counts every organisation as if it had answered in every round: an answer that came too late,
    or that the coordinator refused, has left the organisation nevertheless.
    """
    return epsilon(_largest_releases(published), published.config.privacy.delta)


def _largest_releases(published: Published) -> Sequence[Release]:
    """Return the releases of the organisation that may have spent most.

    Where an attempt at a sum came to nothing, these are all for which it was asked for its masked
    input, if that is more than what every round asks for once.
    """
    planned = requested_releases(published.config, published.claimed_rounds)
    if not _has_failed_attempts(published):
        return planned
    delta = published.config.privacy.delta
    asked = [part.charges.releases for part in published.parts if part.charges.releases]
    return max([planned, *asked], key=lambda releases: epsilon(releases, delta))


def escape_markdown(text: str) -> str:
    """Return text that Markdown and HTML show as it is, on one line of a table.

    All but letters, digits, blanks, hyphens and commas become numeric character references, which
    no parser takes for markup or for a bare link. What cannot be printed is replaced.

    >>> escape_markdown("Bücher & Co | <b>")
    'Bücher &#38; Co &#124; &#60;b&#62;'
    """
    return "".join(
        character
        if character.isalnum() or character in " -,"
        else f"&#{ord(character if character.isprintable() else _REPLACEMENT)};"
        for character in text
    )


def write_card(published: Published) -> str:
    """Return the text of README.md in the model's folder."""
    ranks = published.config.model.kind is not ModelKind.OVER_USE
    about = (
        (
            main_parameters(published.config, published.popularity, published.modalities),
            describe_groups(published.groups, escape_markdown),
        )
        if ranks
        else (what_the_score_is(published.config),)
    )
    sections = [
        _head(published),
        *about,
        _privacy(published),
        _partners(published),
        _training(published),
    ]
    return "\n".join(sections)


def _head(published: Published) -> str:
    if published.config.model.kind is ModelKind.OVER_USE:
        parts, version = len(published.parts), published.version
        return f"""\
---
library_name: sotto
tags: [federated-learning, differential-privacy]
---
# {escape_markdown(published.name)}

{over_use_head(published.config, parts, version)}"""
    return f"""\
---
library_name: sotto
tags: [recommender-systems, federated-learning, differential-privacy]
---
# {escape_markdown(published.name)}

A recommender of kind "{published.config.model.kind}" over {published.items:,} items, trained
with Sotto {published.version} by {len(published.parts)} organisations together. `catalogue/` holds
its items, `model/` its weights (safetensors) and its shape.

```python
from shared.data.catalogue import Catalogue
from shared.models.registry import load_recommender

catalogue = Catalogue.load("catalogue")
model = load_recommender("model")
```
"""


def _privacy(published: Published) -> str:
    config = published.config
    if not config.privacy.private:
        return """\
## Privacy
**None.** This model was trained without noise and may reveal what single users did: train it on
public data only.
"""
    names = {} if _has_failed_attempts(published) else _NAMES
    sums = "\n".join(
        f"| {names.get(release.kind, release.kind)} | {release.steps} | "
        f"{release.noise_multiplier:.4g} | {release.sample_rate:g} | "
        f"{_clip_norm(release, config):.4g} |"
        for release in _largest_releases(published)
    )
    return f"""\
## Privacy
| | |
|---|---|
| claim | (ε, δ)-differential privacy of what each organisation sent in this run |
| unit | one user's whole history at one organisation |
| neighbours | add or remove one user |
| worst ε | {claimed_epsilon(published):.3f} |
| δ | {config.privacy.delta:g} |
| mechanism | Poisson-subsampled Gaussian on clipped per-user sums; each organisation adds its \
{"share of the noise" if config.privacy.secure else "noise"} before anything leaves it |
| accountant | numerical composition of privacy loss distributions ("connect the dots", \
arXiv:2207.04380), an upper bound |
{_trust(published)}

{_asked(published)}:

| noised sums | how many | noise multiplier | sample rate | clip norm |
|---|---|---|---|---|
{sums}

What this does **not** say:
- *A user of several organisations*: each of them counts alone. The ε of one person's part in the
  model add up over the organisations that hold data of that person.
- *Earlier and later runs*: an organisation's users have spent what all of its runs cost together.
  Only its own ledger knows (`sotto-node budget`).
- *Events, not users*, are not the unit: all of a user's events are covered together, as above.
- *What is public*: the item list and its texts, each organisation's name and declared population,
  sample rate, noise and number of rounds.
- *What an organisation does at home* with the model and its own data.
- *Truthfulness*: each organisation's node computes its own noise. It cannot be checked from outside
  that a node ran the vetted app; a partner protects its own users by running it.
- *Quality against attackers*: privacy is no protection against an organisation that sends nonsense.
"""


def _trust(published: Published) -> str:
    """Return the rows that say against whom the claim holds."""
    privacy = published.config.privacy
    if not privacy.secure:
        return "| trust | none in the coordinator: the claim holds against it, too |"
    organisations = published.config.server.organisations
    releases = _largest_releases(published)
    everybody = epsilon([release.alone for release in releases], privacy.delta)
    masks = (
        "" if privacy.masking is Masking.ON else " **Its masks were off: this was a simulation.**"
    )
    return f"""\
| trust | secure aggregation: the claim holds against the coordinator and \
{privacy.colluding_of(organisations)} of the {organisations} organisations together, with \
{privacy.dropouts} more missing.{masks} |
| ε if all others collude | {everybody:.3f} |{_attempts(published)}"""


def _attempts(published: Published) -> str:
    """Return the row about attempts at sums that came to nothing; "" where there are none."""
    if not _has_failed_attempts(published):
        return ""
    unsure = [part for part in published.parts if part.charges.unsure]
    bound = ", ".join(
        f"{escape_markdown(part.organisation)} ({part.charges.unsure} of {part.charges.sums})"
        for part in unsure
    )
    known = (
        f"It is an upper bound for those that were asked for one and sent none, for they may or "
        f"may not have charged it: {bound}."
        if unsure
        else "Each of them is known to have been charged."
    )
    return f"""
| attempts | {published.attempts}, at {_sums(published)} sums. The ε counts every masked input \
that an organisation was asked for, also in an attempt that came to nothing. {known} |"""


def _asked(published: Published) -> str:
    """Return what the table of noised sums is of."""
    if not _has_failed_attempts(published):
        return "What every organisation was asked for"
    return "What the organisation with the largest ε was asked for, in all attempts"


def _has_failed_attempts(published: Published) -> bool:
    return published.attempts > _sums(published)


def _sums(published: Published) -> int:
    """Return how many sums the finished rounds took."""
    config = published.config
    every, statistics = config.server.evaluate_every, 2 * (config.warm_start.share > 0)
    evaluations = published.rounds // every if every else 0
    return statistics + published.rounds + evaluations + published.measurements


_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_NAMES = {
    ReleaseKind.STATISTICS: "statistics (popularity and a moment), charged as one release",
}
"""Of releases that are not called as their kind, in what every round asks for."""


def _clip_norm(release: Release, config: RunConfig) -> float:
    groups = config.groups
    asked = release_of(config, ReleaseKind.EVALUATE, plan_noise(config).groups, 1.0, 1)
    of_groups = groups.share and release.noise_multiplier == asked.noise_multiplier
    bounds = {
        ReleaseKind.STATISTICS: STATISTIC_CLIP_NORM,
        ReleaseKind.TRAIN: config.training.clip_norm,
        ReleaseKind.EVALUATE: evaluation_bound(len(tables_of(groups.tables)) if of_groups else 0),
    }
    return bounds[release.kind]


def _partners(published: Published) -> str:
    rows = [
        f"| {escape_markdown(part.organisation)} | {part.population:,} | {part.answered} |"
        for part in published.parts
    ]
    table = "\n".join(
        ["| organisation | users (declared) | rounds with a valid reply |", "|---|---|---|", *rows]
    )
    return f"## Organisations\n{table}\n"


def _training(published: Published) -> str:
    config = published.config
    rounds = config.training.number_of_rounds
    about = about_rounds(config, config.server.users, published.items)
    about = f"\n\n{about}" if about else ""
    unfinished = ""
    if published.stopped_early:
        unfinished = (
            f"**Stopped early**, after round {published.rounds} of {rounds}: noised metrics had "
            f"not improved by more than their noise in {config.training.patience} evaluations. "
            "The weights are those of the best evaluation; the ε above counts the rounds that were "
            "asked for.\n\n"
        )
    elif published.rounds < rounds:
        unfinished = (
            f"**Unfinished**: this is the model after round {published.rounds} of "
            f"{rounds}. The ε above counts every round that was asked for, "
            f"{published.claimed_rounds} in all. If the run is resumed, its organisations spend "
            "more than this card says.\n\n"
        )
    return f"""\
## Training
{unfinished}{published.rounds} rounds of {config.training.local_steps} local steps, \
{config.server.strategy}, seed of the first weights {config.seed}.{about}

| | |
|---|---|
| parameters (SHA-256) | `{config.fingerprint}` |
| app bundle (SHA-256) | `{published.bundle}` |
| catalogue (SHA-256) | `{published.catalogue}` |
"""
