"""An adapted model as one file: the organisation's counts, and how they are blended.

It holds counts of private data, exact ones unless it is private: then it holds noised ones alone,
and says under which (ε, δ). Either way it is readable by its owner alone, and stays at home.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.sparse import csr_array

from client.home.friends_part import FriendsPart
from client.home.home_model import (
    FixedPrior,
    HomeModel,
    Memory,
    SoftmaxPrior,
    TransitionCounts,
)
from client.home.local_attention import LocalAttention, MeanLogits
from client.home.private import Guarantee
from shared.data.friends import FriendTable
from shared.data.histories import Histories
from shared.errors import DataError
from shared.evaluation.ranking import Scorer
from shared.models.attention import AttentionRecommender
from shared.models.attention_config import AttentionConfig
from shared.system.files import PRIVATE, write_atomically

__all__ = ["HOME_FILE", "domains_of", "load_home", "save_home"]

HOME_FILE = "home.safetensors"
"""Its name in a site's folder."""

_FORM = "sotto-home-1"
_ATTENTION = "attention."
"""Begins the names of the own attention model's weights."""
_FRIENDS = "friends."
"""Begins the names of what is known of friends."""
_REMEDY = "Make it anew: sotto-node adapt."


def save_home(
    file: Path,
    home: HomeModel,
    catalogue: str,
    *,
    guarantee: Guarantee | None = None,
    domains: Sequence[str] = (),
) -> None:
    """Write a home model, durably and readable by the owner alone.

    Args:
        file: is replaced if it is there.
        home: the model, without the federated model's weights.
        catalogue: fingerprint of the catalogue that it ranks.
        guarantee: which the model keeps between the organisation's users; None where it is exact.
        domains: that the catalogue is cut to; none where it is whole.

    Raises:
        OSError: it cannot be written.
    """
    counts, memory = home.transitions.counts, home.transitions.memory
    arrays = {
        "data": counts.data.astype(np.float32),
        "indices": counts.indices.astype(np.int64),
        "indptr": counts.indptr.astype(np.int64),
        **_prior_arrays(home.prior),
    }
    about = {
        "form": _FORM,
        "catalogue": catalogue,
        "items": str(counts.shape[1]),
        "events": str(memory.events),
        "decay": repr(memory.decay),
        "strength": json.dumps(None if math.isinf(home.strength) else home.strength),
    }
    scorer = home.prior.scorer if isinstance(home.prior, SoftmaxPrior) else None
    own = scorer.own if isinstance(scorer, MeanLogits) else scorer
    if isinstance(own, LocalAttention):
        about["attention"] = json.dumps(asdict(own.model.config))
        about["mean"] = json.dumps(own is not scorer)
        arrays |= {
            f"{_ATTENTION}{name}": value.cpu().numpy()
            for name, value in own.model.state_dict().items()
        }
    if home.friends is not None:
        about["friends"] = json.dumps({"alpha": home.friends.alpha, "beta": home.friends.beta})
        arrays |= {f"{_FRIENDS}{name}": value for name, value in _of_friends(home.friends).items()}
    if domains:
        about["domains"] = json.dumps(list(domains))
    if guarantee is not None:
        about |= {"epsilon": repr(guarantee.epsilon), "delta": repr(guarantee.delta)}
    write_atomically(file, save(arrays, metadata=about), mode=PRIVATE)


def load_home(file: Path, federated: Scorer, catalogue: str, *, private: bool = False) -> HomeModel:
    """Read a home model.

    Args:
        file: that `save_home` wrote.
        federated: logits of the federated model.
        catalogue: fingerprint of the catalogue that it ranks.
        private: whether one of exact counts is refused.

    Raises:
        DataError: the file is missing, damaged, was made for another catalogue, or is not private.
    """
    about, arrays = _read(file)
    if about["catalogue"] != catalogue:
        raise DataError("made for another catalogue", file=file, remedy=_REMEDY)
    if private and "epsilon" not in about:
        raise DataError("it holds exact counts, and home.private = true", file=file, remedy=_REMEDY)
    items, memory = int(about["items"]), Memory(int(about["events"]), float(about["decay"]))
    counts = csr_array(
        (arrays["data"], arrays["indices"], arrays["indptr"]), shape=(items + 1, items)
    )
    strength = json.loads(about["strength"])
    return HomeModel(
        TransitionCounts(memory, counts, np.asarray(counts.sum(1, dtype=np.float64)).ravel()),
        _prior(file, about, arrays, federated),
        math.inf if strength is None else float(strength),
        _friends(file, about, arrays),
    )


def _prior_arrays(prior: Scorer) -> dict[str, NDArray[Any]]:
    """Return a fixed prior's shares, or what is added to a softmax prior's logits."""
    if isinstance(prior, FixedPrior):
        return {"popularity": prior.shares.double().numpy()}
    if isinstance(prior, SoftmaxPrior) and prior.shift is not None:
        return {"shift": prior.shift.float().numpy()}
    return {}


def _of_friends(friends: FriendsPart) -> dict[str, NDArray[Any]]:
    table = friends.table
    names = "\n".join(table.users).encode()  # no canonical id holds a line's end
    return {
        "users": np.frombuffer(names, np.uint8),
        "offsets": table.offsets,
        "friends": table.friends,
        "weights": table.weights,
        "attention": friends.attention,
        "items": friends.items.items,
        "item_offsets": friends.items.offsets,
    }


def _friends(
    file: Path, about: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]
) -> FriendsPart | None:
    if "friends" not in about:
        return None
    try:
        of = {
            name.removeprefix(_FRIENDS): value
            for name, value in arrays.items()
            if name.startswith(_FRIENDS)
        }
        users = tuple(of["users"].tobytes().decode().split("\n"))
        table = FriendTable(users, of["offsets"], of["friends"], of["weights"])
        items = Histories(users, of["items"], of["item_offsets"])
        numbers = json.loads(about["friends"])
        alpha, beta = float(numbers["alpha"]), float(numbers["beta"])
        return FriendsPart(table, of["attention"], items, alpha, beta)
    except (KeyError, ValueError) as error:
        raise DataError(
            f"what it says of friends is damaged ({error})", file=file, remedy=_REMEDY
        ) from error


def _prior(
    file: Path, about: Mapping[str, str], arrays: Mapping[str, NDArray[Any]], federated: Scorer
) -> Scorer:
    if "popularity" in arrays:
        return FixedPrior(torch.from_numpy(arrays["popularity"]))
    if "attention" not in about:
        shift = arrays.get("shift")
        return SoftmaxPrior(federated, None if shift is None else torch.from_numpy(shift))
    weights = {
        name.removeprefix(_ATTENTION): torch.from_numpy(value)
        for name, value in arrays.items()
        if name.startswith(_ATTENTION)
    }
    try:
        model = AttentionRecommender(AttentionConfig.from_json(about["attention"].encode()))
        model.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"its attention model is damaged ({error})", file=file, remedy=_REMEDY
        ) from error
    model.train(mode=False).requires_grad_(requires_grad=False)
    own = LocalAttention(model)
    return own.prior_with(federated) if json.loads(about["mean"]) else own.prior


def domains_of(file: Path) -> tuple[str, ...]:
    """Return the domains of the catalogue that a home model ranks; none for all of it.

    Raises:
        DataError: the file is missing or damaged.
    """
    return tuple(json.loads(_read(file)[0].get("domains", "[]")))


def _read(file: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    try:
        with safe_open(file, "numpy") as opened:
            about = opened.metadata() or {}
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"not readable ({error})", file=file, remedy=_REMEDY) from error
    if about.get("form") != _FORM:
        raise DataError("not a home model of this version", file=file, remedy=_REMEDY)
    return about, arrays
