"""Style of the figures, and their output as SVG and PNG.

Each figure is drawn for a wide and for a narrow screen, since text that is scaled down to a phone
is not legible. Colours are of Okabe and Ito's palette ("Color Universal Design", 2008), darkened
until each has a contrast of 4.5 on white (WCAG 2.2, 1.4.3); markers and line styles distinguish
series too. Letters are paths, so a figure does not depend on installed fonts.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "GREEN",
    "GRID",
    "INK",
    "MUTED",
    "PAPER",
    "PURPLE",
    "VERMILION",
    "Picture",
    "frame",
    "inline_svg",
    "legend",
    "shortened",
    "write_files",
]

INK, MUTED, GRID, PAPER = "#1c2128", "#59626e", "#d4d9e0", "#ffffff"
BLUE, VERMILION, GREEN, PURPLE = "#0066a6", "#b84a00", "#00765a", "#8b3d7f"

VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        INK: "ink",
        MUTED: "muted",
        GRID: "grid",
        PAPER: "paper",
        BLUE: "blue",
        VERMILION: "vermilion",
        GREEN: "green",
        PURPLE: "purple",
    }
)
"""The page's name of each colour, which a dark screen replaces."""

WIDE, NARROW = 7.6, 3.35
"""Inches."""
PIXELS = 1200
"""Width of a PNG."""

_STYLE: Any = MappingProxyType(  # the names that matplotlib knows are a type of its own
    {
        "svg.fonttype": "path",
        "svg.hashsalt": "sotto",
        "text.parse_math": False,  # an organisation may be called $x$
        "font.family": ["DejaVu Sans"],
        "font.size": 9.5,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": MUTED,
        "axes.linewidth": 0.8,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.unicode_minus": True,
        "legend.frameon": False,
        "legend.handlelength": 2.4,
        "legend.columnspacing": 1.6,
        "legend.borderaxespad": 0.2,
    }
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure that can be drawn.

    Attributes:
        name: of its files, and prefix of its ids on the page.
        draw: fills an empty figure; its second argument is whether it is narrow.
        height: of the wide figure, in inches.
        narrow_height: of the narrow one.
    """

    name: str
    draw: Callable[[Figure, bool], None]
    height: float
    narrow_height: float


def inline_svg(picture: Picture, *, narrow: bool, label: str) -> str:
    """Return the figure as an SVG element for a page.

    Args:
        picture: the figure.
        narrow: whether for a narrow screen.
        label: description for a screen reader; escaped HTML.
    """
    with _drawn(picture, narrow) as figure:
        buffer = StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=_no_metadata())
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    width, height = re.findall(r'(?:width|height)="([\d.]+)pt"', svg)[:2]
    head = (
        f'<svg class="{"narrow" if narrow else "wide"}" role="img" aria-label="{label}" '
        f'viewBox="0 0 {width} {height}" preserveAspectRatio="xMidYMid meet">'
    )
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index(">") + 1 :], flags=re.DOTALL)
    return head + _own_ids(_variables(body), f"{picture.name}-{'n' if narrow else 'w'}-")


def write_files(picture: Picture, folder: Path) -> list[Path]:
    """Write the wide figure as NAME.svg and NAME.png, and return the paths."""
    files = [folder / f"{picture.name}.{suffix}" for suffix in ("svg", "png")]
    with _drawn(picture, narrow=False) as figure:
        for file in files:
            buffer = BytesIO()
            metadata = _no_metadata() if file.suffix == ".svg" else {"Software": None}
            figure.savefig(
                buffer,
                format=file.suffix[1:],
                dpi=PIXELS / WIDE,
                facecolor=PAPER,
                metadata=metadata,
            )
            file.write_bytes(buffer.getvalue())
    return files


def frame(axes: Axes, *, grid: Literal["x", "y", "both"]) -> None:
    """Remove the frame's top and right, and add a light grid along `grid`."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis=grid, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, width=0.8)


def legend(figure: Figure, axes: Axes, *, narrow: bool, columns: int = 2) -> None:
    """Add a legend above the axes, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=1 if narrow else columns, alignment="left"
    )


def shortened(text: str, most: int) -> str:
    """Return a name, shortened to at most `most` letters.

    >>> shortened("a long name", 8)
    'a long…'
    """
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


@contextmanager
def _drawn(picture: Picture, narrow: bool) -> Iterator[Figure]:
    import matplotlib as mpl  # noqa: PLC0415 it takes half a second to import
    from matplotlib.figure import Figure  # noqa: PLC0415 as above

    size = (NARROW, picture.narrow_height) if narrow else (WIDE, picture.height)
    with mpl.rc_context({**_STYLE}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks
        figure = Figure(figsize=size, layout="constrained")
        picture.draw(figure, narrow)
        yield figure


def _no_metadata() -> dict[str, None]:
    """Return metadata without a date, so that the same numbers give the same bytes."""
    return dict.fromkeys(("Date", "Creator", "Format", "Type"))


def _variables(svg: str) -> str:
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def _own_ids(svg: str, prefix: str) -> str:
    """Return the SVG with ids that are unique on the page."""
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = svg.replace('href="#', f'href="#{prefix}')
    return svg.replace("url(#", f"url(#{prefix}")
