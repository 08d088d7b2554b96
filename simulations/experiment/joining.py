"""What joining brought at home, in sentences that claim a gain only where a test shows one."""

from __future__ import annotations

from collections.abc import Sequence

from simulations.experiment.result_json import Joining

__all__ = ["describe_joining"]

_LUCK = 0.05
"""From which p on a gain may be luck."""
_LISTED = 8
"""Most organisations that are named one by one."""


def describe_joining(joining: Sequence[Joining]) -> list[str]:
    """Return a sentence on all organisations together, and one on each or on their spread.

    Args:
        joining: all of them together, then each.

    >>> alpha = Joining(name="Alpha", users=90, home=0.1, federated_home=0.117, p=0.0031)
    >>> describe_joining([Joining(name=None, users=90, home=0.1, federated_home=0.117, p=0.0031),
    ...                   alpha])[1]
    'Joining brings Alpha +17% (p = 0.0031); without it 0.1000, with it 0.1170.'
    """
    everybody, *each = joining
    figures = (
        f"NDCG@10 {everybody.federated_home:.4f} at home with it, and {everybody.home:.4f} without"
    )
    if _measurable(everybody):
        first = f"Joining brings {_gain(everybody)} ({figures}; {_chance(everybody)})."
    else:
        first = f"Joining brings nothing measurable ({figures}; {_chance(everybody)})."
    if len(each) > _LISTED:
        return [first, _spread(each)]
    return [first, *(_sentence(one) for one in each)]


def _sentence(one: Joining) -> str:
    """Return what joining brought one organisation."""
    if one.p is None:
        return f"Joining changes nothing for {one.name}: NDCG@10 is {one.home:.4f} either way."
    return (
        f"Joining brings {one.name} {_gain(one)} ({_chance(one)}); without it {one.home:.4f}, with "
        f"it {one.federated_home:.4f}."
    )


def _spread(each: Sequence[Joining]) -> str:
    gains = sum(_measurable(one) and one.federated_home > one.home for one in each)
    losses = sum(_measurable(one) and one.federated_home < one.home for one in each)
    changes = [one.federated_home - one.home for one in each]
    return (
        f"Of {len(each)} organisations, {sum(change > 0 for change in changes)} are better with it "
        f"({gains} of them with p < {_LUCK:g}), and {sum(change < 0 for change in changes)} are "
        f"worse ({losses}); NDCG@10 changes by {min(changes):+.4f} to {max(changes):+.4f}."
    )


def _measurable(one: Joining) -> bool:
    return one.p is not None and one.p < _LUCK


def _gain(one: Joining) -> str:
    change = one.federated_home - one.home
    return f"{change / one.home:+z.0%}" if one.home else f"{change:+.4f}"


def _chance(one: Joining) -> str:
    return "no user ranks otherwise" if one.p is None else f"p = {one.p:.2g}"
