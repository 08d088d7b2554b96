"""An adapted model as one file: the organisation's counts, and how they are blended.

It holds exact counts of private data: it is readable by its owner alone, and stays at home.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.sparse import csr_array
from torch import Tensor

from client.home.home_model import (
    FixedPrior,
    HomeModel,
    Memory,
    SoftmaxPrior,
    TransitionCounts,
)
from shared.errors import DataError
from shared.evaluation.ranking import Scorer
from shared.system.files import PRIVATE, write_atomically

__all__ = ["HOME_FILE", "load_home", "save_home"]

HOME_FILE = "home.safetensors"
"""Its name in a site's folder."""

_FORM = "sotto-home-1"


def save_home(
    file: Path, transitions: TransitionCounts, strength: float, popularity: Tensor | None, of: str
) -> None:
    """Write a home model, durably and readable by the owner alone.

    Args:
        file: is replaced if it is there.
        transitions: own counts.
        strength: of the prior, in transitions; may be infinite.
        popularity: prior probabilities [V]; None where the federated model is the prior.
        of: fingerprint of the catalogue.

    Raises:
        OSError: it cannot be written.
    """
    counts, memory = transitions.counts, transitions.memory
    arrays = {
        "data": counts.data.astype(np.float32),
        "indices": counts.indices.astype(np.int64),
        "indptr": counts.indptr.astype(np.int64),
    }
    if popularity is not None:
        arrays["popularity"] = popularity.double().numpy()
    about = {
        "form": _FORM,
        "catalogue": of,
        "items": str(counts.shape[1]),
        "events": str(memory.events),
        "decay": repr(memory.decay),
        "strength": json.dumps(None if math.isinf(strength) else strength),
    }
    write_atomically(file, save(arrays, metadata=about), mode=PRIVATE)


def load_home(file: Path, federated: Scorer, catalogue: str) -> HomeModel:
    """Read a home model.

    Args:
        file: that `save_home` wrote.
        federated: logits of the federated model.
        catalogue: fingerprint of the catalogue that it ranks.

    Raises:
        DataError: the file is missing, damaged, or was made for another catalogue.
    """
    remedy = "Make it anew: sotto-node adapt."
    try:
        with safe_open(file, "numpy") as opened:
            about = opened.metadata() or {}
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"not readable ({error})", file=file, remedy=remedy) from error
    if about.get("form") != _FORM:
        raise DataError("not a home model of this version", file=file, remedy=remedy)
    if about["catalogue"] != catalogue:
        raise DataError("made for another catalogue", file=file, remedy=remedy)
    items, memory = int(about["items"]), Memory(int(about["events"]), float(about["decay"]))
    counts = csr_array(
        (arrays["data"], arrays["indices"], arrays["indptr"]), shape=(items + 1, items)
    )
    strength = json.loads(about["strength"])
    shares = arrays.get("popularity")
    return HomeModel(
        TransitionCounts(memory, counts, np.asarray(counts.sum(1, dtype=np.float64)).ravel()),
        SoftmaxPrior(federated) if shares is None else FixedPrior(torch.from_numpy(shares)),
        math.inf if strength is None else float(strength),
    )
