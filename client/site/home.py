"""Whether the home model is private between the partner's own users: the [home] table of site.toml.

What the partner computes for itself never leaves, so no coordinator learns from it. But with exact
counts, what one user is shown may depend on another one. A private home model limits that, and has
a budget of its own, kept in the same ledger as what leaves.
"""

from __future__ import annotations

from shared.errors import ConfigError
from shared.sections import OptionalOf, PositiveNumber, section

__all__ = ["HomeConfig"]


@section("home")
class HomeConfig:
    """The [home] table. Its δ is that of the policy.

    Attributes:
        private: whether `sotto-node adapt` makes a private home model, and no other is used.
        epsilon: ε of one private home model; each `sotto-node adapt` spends it anew. Without a
            default, as every number that protects users.
        max_epsilon: limit on the ε of all private home models together, for ever; likewise.

    Raises:
        ConfigError: `private` is set without both numbers, or one model would exceed the limit.
    """

    private: bool = False
    epsilon: OptionalOf[PositiveNumber] = None
    max_epsilon: OptionalOf[PositiveNumber] = None

    def __post_init__(self) -> None:
        if self.private:
            for name in ("epsilon", "max_epsilon"):
                if getattr(self, name) is None:
                    raise ConfigError(
                        f"home.private = true needs home.{name}, which has no default: state the "
                        "ε of one private home model (home.epsilon) and the limit of all together "
                        "(home.max_epsilon)."
                    )
        one, limit = self.epsilon, self.max_epsilon
        if one is not None and limit is not None and one > limit:
            raise ConfigError(
                f"home.epsilon = {one:g} is above home.max_epsilon = {limit:g}: not even one "
                "private home model would fit."
            )
