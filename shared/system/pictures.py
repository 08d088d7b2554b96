"""Pictures that a command draws with `--plot`: their names, and how they are written."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Protocol

from shared.errors import ConfigError

__all__ = ["check_picture", "save_picture"]


class Figure(Protocol):
    """A figure of matplotlib, which not everybody has who reads this module."""

    def savefig(self, fname: Path, /, *, dpi: int) -> object:
        """Write it."""


_SUFFIXES = (".png", ".svg", ".pdf")


def check_picture(file: Path) -> None:
    """Refuse a picture that cannot be drawn, before anything is computed.

    Raises:
        ConfigError: the file's suffix names no known form.
    """
    if file.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"--plot {file}: choose a name that ends in {', '.join(_SUFFIXES)}.")


def save_picture(figure: Figure, file: Path) -> None:
    """Write a picture in the form that its name says.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters of a name that the font lacks
            figure.savefig(file, dpi=150)
    except OSError as error:
        raise ConfigError(f"--plot {file}: cannot be written ({error.strerror}).") from error
