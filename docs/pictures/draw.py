"""Draws architecture.svg and round.svg beside this file: python docs/pictures/draw.py.

Plain SVG without fonts or files of others. Each picture has a background of its own, so it can be
read on light and on dark pages, and follows the reader's colour scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

__all__ = ["architecture", "round_sequence", "write"]

_STYLE = """\
svg { --paper: #ffffff; --ink: #1f2933; --soft: #5f6c7b; --box: #f1f4f8; --line: #b8c2cc;
  --partner: #e3f1ec; --partner-line: #2f8f6b; --server: #e6ecfa; --server-line: #3f62c4;
  --wall: #c2410c; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #161b22; --ink: #e6edf3; --soft: #9aa7b4; --box: #222a33; --line: #46525f;
    --partner: #17302a; --partner-line: #4cc19a; --server: #1b2747; --server-line: #8aa7ff;
    --wall: #fb923c; }
}
text { font: 14px system-ui, sans-serif; fill: var(--ink); }
.title { font-weight: 600; font-size: 16px; }
.code { font: 12.5px ui-monospace, monospace; fill: var(--soft); }
.small { font-size: 12.5px; fill: var(--soft); }
.wall { fill: var(--wall); font-weight: 600; font-size: 13px; }
.paper { fill: var(--paper); stroke: var(--line); }
.box { fill: var(--box); stroke: var(--line); }
.partner { fill: var(--partner); stroke: var(--partner-line); }
.server { fill: var(--server); stroke: var(--server-line); }
.arrow { stroke: var(--ink); stroke-width: 1.5; fill: none; marker-end: url(#head); }
.life { stroke: var(--line); stroke-dasharray: 3 4; }
.barrier { stroke: var(--wall); stroke-width: 2.5; stroke-dasharray: 7 5; }
.head { fill: var(--ink); }
"""


def architecture() -> str:
    """Return the picture of who holds what, and what travels, as SVG."""
    parts = [
        *(_box(24 + 9 * back, 38 + 9 * back, 372, 338, "partner") for back in (2, 1)),
        _box(24, 38, 372, 338, "partner"),
        _text(44, 66, "A partner's node", "title"),
        _text(376, 66, "client/", "code", "end"),
        *_labelled(44, 84, 332, "Interactions: files, S3, PostgreSQL", "never leave"),
        *_labelled(44, 156, 332, "Compute", "clip each user, sum, add noise"),
        *_labelled(44, 228, 332, "Guard and ledger", "check the policy, charge ε, or refuse"),
        *_labelled(44, 300, 332, "Vetted app bundle, policy, key", "the partner's own files"),
        _box(664, 38, 332, 338, "server"),
        _text(684, 66, "The coordinator", "title"),
        _text(976, 66, "server/", "code", "end"),
        *_labelled(684, 84, 292, "Rounds", "ask, check every reply, count"),
        *_labelled(684, 156, 292, "Warm start, aggregation", "model from sums; robust rules"),
        *_labelled(684, 228, 292, "State", "checkpoint, status, audit log"),
        *_labelled(684, 300, 292, "Published model", "with a card that states the claim"),
        _arrow(664, 118, 418, 118),
        _text(541, 106, "weights, σ, rate", "small", "middle"),
        _arrow(418, 256, 662, 256),
        _text(541, 244, "noised sums only", "small", "middle"),
        _text(541, 186, "Flower over TLS", "small", "middle"),
        *_barrier(462, "wall 1", "the guard"),
        *_barrier(614, "wall 2", "reply checks"),
        _text(
            510,
            410,
            "shared/ is what both sides agree on: messages, model, privacy. "
            "simulations/ runs all of it on one machine.",
            "small",
            "middle",
        ),
    ]
    title = "Partners hold data, policy and ledger; the coordinator gets noised sums only"
    return _svg(1020, 432, title, parts)


_COLUMNS = (
    ("server/state,", "aggregation", 90),
    ("server/rounds", "", 240),
    ("Flower", "TLS, keys", 385),
    ("client/app", "", 520),
    ("client/guard", "", 650),
    ("client/ledger", "", 785),
    ("client/compute", "", 915),
)
_STEPS = (
    (1, 2, "ask: weights, σ, q, C, steps"),
    (2, 3, "if the bundle is the vetted one"),
    (3, 4, "decoded request"),
    (4, 5, "ε afterwards? charge, on disk"),
    (4, 6, "compute: clip each user, sum, add noise"),
    (6, 4, "noised sums"),
    (4, 5, "keep the answer (outbox)"),
    (3, 2, "reply"),
    (2, 1, "match by message id"),
    (1, 0, "valid replies"),
    (0, 1, "new weights, once saved"),
)
_WALLS = {
    2: (650, "wall 1: form, catalogue, policy, budget; else a code"),
    8: (240, "wall 2: form, shape, finite, length, not a replay; else an outcome"),
}


def round_sequence() -> str:
    """Return the sequence of one round, as SVG."""
    parts, top = [], 78
    bottom = top + 46 * len(_STEPS) + 34 * len(_WALLS) + 10
    for first, second, x in _COLUMNS:
        kind = "server" if first.startswith("server") else "partner"
        kind = "box" if first == "Flower" else kind
        parts += [
            f'<line class="life" x1="{x}" y1="72" x2="{x}" y2="{bottom}"/>',
            _box(x - 60, 24, 120, 48, kind),
            _text(x, 53 if not second else 44, first, "code", "middle"),
            _text(x, 62, second, "code" if first.startswith("server") else "small", "middle"),
        ]
    y = top
    for step, (start, end, label) in enumerate(_STEPS):
        y += 46
        a, b = _COLUMNS[start][2], _COLUMNS[end][2]
        parts += [_arrow(a, y, b + (7 if b < a else -7), y), *_tag((a + b) / 2, y - 9, label)]
        if step in _WALLS:
            x, text = _WALLS[step]
            y += 34
            width = 7.7 * len(text) + 20
            left = min(max(x - width / 2, 12), 978 - width)
            parts += [_box(left, y - 18, width, 24, "paper"), _text(left + 10, y - 1, text, "wall")]
    title = "One round: the request passes the guard and the ledger before anything is computed"
    return _svg(990, bottom + 24, title, parts)


def write(folder: Path) -> None:
    """Write both pictures into a folder."""
    (folder / "architecture.svg").write_text(architecture(), encoding="utf-8")
    (folder / "round.svg").write_text(round_sequence(), encoding="utf-8")


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    head = (
        '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path class="head" d="M0 0L10 5L0 10z"/></marker>'
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'role="img" aria-label="{escape(title)}">\n<title>{escape(title)}</title>\n'
        f"<style>\n{_STYLE}</style>\n<defs>{head}</defs>\n"
        f"{_box(0.5, 0.5, width - 1, height - 1, 'paper')}\n{body}\n</svg>\n"
    )


def _box(x: float, y: float, width: float, height: float, kind: str) -> str:
    return (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8"/>'
    )


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _barrier(x: float, name: str, what: str) -> list[str]:
    return [
        f'<line class="barrier" x1="{x:g}" y1="84" x2="{x:g}" y2="318"/>',
        _text(x, 338, name, "wall", "middle"),
        _text(x, 356, what, "small", "middle"),
    ]


def _labelled(x: float, y: float, width: float, name: str, what: str) -> list[str]:
    return [
        _box(x, y, width, 60, "box"),
        _text(x + 14, y + 26, name),
        _text(x + 14, y + 46, what, "small"),
    ]


def _tag(x: float, y: float, text: str) -> list[str]:
    """Text on a strip of paper, so that lines behind it do not cross it."""
    width = 6.6 * len(text) + 8
    left = min(max(x - width / 2, 8), 982 - width)
    strip = (
        f'<rect x="{left:g}" y="{y - 12:g}" width="{width:g}" height="16" '
        'style="fill: var(--paper)"/>'
    )
    return [strip, _text(left + width / 2, y, text, "small", "middle")]


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="arrow" d="M{x1:g} {y1:g}L{x2:g} {y2:g}"/>'


if __name__ == "__main__":
    write(Path(__file__).parent)
