"""What cannot be clipped exactly is refused by name, with the remedy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared.errors import ClippingError
from shared.privacy.clipping.clipping import PerUserClipping


def refused(layer: nn.Module) -> str:
    with pytest.raises(ClippingError) as found:
        PerUserClipping(nn.ModuleDict({"odd": layer}), 1.0)
    return str(found.value)


def test_layers_that_are_not_known_are_refused_by_name_with_the_remedy() -> None:
    class Own(nn.Linear):
        pass

    for layer in (nn.Conv1d(2, 2, 1), nn.GRU(2, 2), nn.BatchNorm1d(2), Own(2, 2)):
        message = refused(layer)
        assert message.startswith("layer 'odd'")
        assert f"{type(layer).__name__} are not known" in message
        assert "requires_grad_(False)" in message


def test_options_that_couple_users_are_refused() -> None:
    assert "leave it None" in refused(nn.Embedding(3, 2, max_norm=1.0))
    assert "leave it False" in refused(nn.Embedding(3, 2, scale_grad_by_freq=True))
    assert "leave sparse False" in refused(nn.Embedding(3, 2, sparse=True))


def test_a_reparametrised_layer_is_refused() -> None:
    with pytest.warns(FutureWarning):
        old = torch.nn.utils.weight_norm(nn.Linear(3, 3))
    assert "remove what re-parametrises it" in refused(old)
    assert "are not known" in refused(torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
