"""Build a model for the shapes of its weights alone: without memory, and without first values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ["shapes_alone"]

_NORMAL = (nn.init.normal_, torch.Tensor.normal_)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Make weights on the "meta" device for a while, where a tensor has a shape and no numbers.

    Normal values and identities are left out: the first there would import the compiler of torch,
    which takes about a second in every process.

    >>> with shapes_alone():
    ...     table = nn.Embedding(1000, 8)
    >>> table.weight.device.type, tuple(table.weight.shape)
    ('meta', (1000, 8))
    """
    with torch.device("meta"), _WithoutValues():
        yield


class _WithoutValues(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 as torch's
        given = kwargs or {}
        if func in _NORMAL:
            return args[0] if args else given["tensor"]
        if func is torch.eye and "out" in given:
            return given["out"]
        return func(*args, **given)
