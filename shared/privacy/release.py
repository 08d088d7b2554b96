"""A release: the parameters of noised sums that an accountant needs, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from shared.privacy.distributed_noise import sum_noise

__all__ = ["Release", "ReleaseKind", "merge"]


class ReleaseKind(StrEnum):
    """Purpose of a noised sum."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    STATISTICS = "statistics"
    HOME = "home"
    """Never leaves: the private home model of an organisation, which its own users are shown."""
    WRITTEN_OFF = "written-off"
    """Charged when the record of past releases is lost; no sum of this kind is ever released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """`steps` noised sums over Poisson samples of one site's users, with equal parameters.

    Unit of privacy: one user's whole history. Neighbours: add or remove one user.

    Attributes:
        kind: purpose of the sums; does not affect the cost.
        noise_multiplier: standard deviation of the noise over the clip norm, >= 0; 0 means no
            noise, which costs an infinite ε.
        sample_rate: chance that a given user is in a sum, in (0, 1].
        steps: number of sums, >= 1.
        shares: how many organisations' equal shares make up this noise, >= 1: those on whose noise
            the claim rests under secure aggregation (`shared.privacy.distributed_noise`). 1 is the
            organisation's own alone.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: ReleaseKind
    noise_multiplier: float
    sample_rate: float
    steps: int
    shares: int = 1

    def __post_init__(self) -> None:
        # NaN fails every comparison: each range is stated as what must hold.
        if not 0 <= self.noise_multiplier < float("inf"):
            raise ValueError(f"noise_multiplier must be finite and >= 0, not {self!r}")
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate must be in (0, 1], not {self!r}")
        if not 1 <= self.steps < float("inf"):
            raise ValueError(f"steps must be >= 1, not {self!r}")
        if not 1 <= self.shares < float("inf"):
            raise ValueError(f"shares must be >= 1, not {self!r}")

    @property
    def fields(self) -> dict[str, str | float | int]:
        """The attributes by name, as a ledger stores them; `shares` where it is not 1."""
        fields: dict[str, str | float | int] = {
            "kind": str(self.kind),
            "noise_multiplier": self.noise_multiplier,
            "sample_rate": self.sample_rate,
            "steps": self.steps,
        }
        return fields | ({"shares": self.shares} if self.shares > 1 else {})

    def with_shares(self, shares: int) -> Release:
        """Return the release whose noise is so many shares, each as large as this one's noise.

        The noise is a little less than that of the sum: `distributed_noise.sum_noise`.
        """
        noise = sum_noise(self.noise_multiplier, shares)
        return replace(self, noise_multiplier=noise, shares=shares)

    @property
    def alone(self) -> Release:
        """What the same sums are with the organisation's own noise alone."""
        return replace(self, noise_multiplier=self.noise_multiplier / self.shares**0.5, shares=1)

    @property
    def private(self) -> bool:
        """Whether any noise was added."""
        return self.noise_multiplier > 0


def merge(releases: tuple[Release, ...] | list[Release]) -> list[Release]:
    """Merge releases that differ in `steps` only, in order of first appearance.

    Composition does not depend on the order. An accountant's time grows with the number of distinct
    parameters, so 200 equal rounds take it no longer than one.

    >>> r = Release(kind=ReleaseKind.TRAIN, noise_multiplier=1.0, sample_rate=0.1, steps=3)
    >>> [m.steps for m in merge([r, r])]
    [6]
    """
    steps: dict[Release, int] = {}
    for release in releases:
        form = replace(release, steps=1)
        steps[form] = steps.get(form, 0) + release.steps
    return [replace(form, steps=count) for form, count in steps.items()]
