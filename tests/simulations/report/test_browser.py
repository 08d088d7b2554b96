"""The page in a real browser: nothing overflows, nothing overlaps, nothing is fetched.

Fonts differ from machine to machine, so the text of the page is checked by its boxes, never by its
pixels. Letters in figures are paths, which look alike everywhere: those are compared with stored
screenshots, at a quarter of their size, where the smoothing of edges hardly counts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from simulations.report.command import report
from tests.simulations.report.folders import (
    HIT_RATES,
    RunSpec,
    audit_of,
    write_audit,
    write_run,
    write_sweep,
)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

REFERENCE = Path(__file__).parent / "reference"
RENEW = "SOTTO_NEW_SCREENSHOTS"
COMMAND = f"{RENEW}=1 python -m pytest tests/simulations/report/{Path(__file__).name}"
COLUMNS, FIGURE, SMALLER = 3, {"wide": 640, "narrow": 320}, 4
MOST_CHANGED = 0.004
"""Share of a figure's pixels, once small, that may differ visibly."""
VISIBLY = 48

LOOK = """
const width = document.documentElement.clientWidth;
const box = e => e.getBoundingClientRect();
const shown = e => { const b = box(e); return b.width > 0 && b.height > 0; };
const name = e => e.tagName + '#' + e.id + '.' + (e.getAttribute('class') || '');
const findings = {width, scroll: document.documentElement.scrollWidth, wide: [], overlaps: [],
  clipped: [], figures: [], texts: 0,
  columns: new Set([...document.querySelectorAll('.card')].map(e => Math.round(box(e).left))).size};
document.querySelectorAll('details').forEach(e => { e.open = true; });
for (const e of document.querySelectorAll('body *')) {
  if (e.closest('.scroll') && !e.matches('.scroll') || e.closest('svg') || !shown(e)) continue;
  if (box(e).right > width + 0.5 || box(e).left < -0.5) findings.wide.push(name(e));
}
for (const e of document.querySelectorAll('.card *, h1, h2, h3, dt, dd, figcaption, p, li')) {
  if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth) findings.clipped.push(name(e));
}
for (const svg of document.querySelectorAll('figure svg')) {
  if (!shown(svg)) continue;
  const outer = box(svg);
  findings.figures.push([svg.getAttribute('class'), outer.width, outer.height]);
  const texts = [...svg.querySelectorAll('g[id*="text_"]')].filter(shown);
  findings.texts += texts.length;
  texts.forEach((text, i) => {
    const a = box(text);
    if (a.left < outer.left - 1 || a.right > outer.right + 1 ||
        a.top < outer.top - 1 || a.bottom > outer.bottom + 1) findings.clipped.push(name(text));
    for (const other of texts.slice(i + 1)) {
      const b = box(other);
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 0.5 && y > 0.5) findings.overlaps.push([name(text), name(other)]);
    }
  });
}
document.body.dataset.findings = JSON.stringify(findings);
"""


def chromium(*options: str, folder: Path) -> bytes:
    """What the browser prints. It can reach no network at all, and keeps nothing."""
    assert BROWSER is not None
    profile = folder / "profile"
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", "--hide-scrollbars", "--force-device-scale-factor=1"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"),
    ]
    try:
        ended = subprocess.run([*command, *options], capture_output=True, timeout=120, check=False)
    finally:
        shutil.rmtree(profile, ignore_errors=True)
    assert ended.returncode == 0, ended.stderr.decode(errors="replace")[-2000:]
    return ended.stdout


FRAME = """<!DOCTYPE html><body><iframe style="border: 0; width: {width}px; height: 900px"
srcdoc="{page}"></iframe><script>
onload = () => {{
  const page = document.querySelector('iframe').contentDocument;
  document.body.textContent = page.body.dataset.findings;
}};
</script>"""
"""A window has a least width; a frame has none."""


def looked_at(html: str, width: int, folder: Path) -> dict[str, Any]:
    """What the script above finds in a frame so wide."""
    # The page itself allows no script: that is taken out of the copy which is looked at.
    copy = re.sub(r"<meta http-equiv=.Content-Security-Policy.[^>]*>", "", html)
    assert copy != html
    copy = copy.replace("</body>", f"<script>{LOOK}</script></body>")
    file = folder / "frame.html"
    file.write_text(FRAME.format(width=width, page=escape(copy)), encoding="utf-8")
    dumped = chromium("--window-size=1400,1000", "--dump-dom", file.as_uri(), folder=folder)
    [found] = re.findall("<body>(.*?)</body>", dumped.decode(), flags=re.DOTALL)
    findings: dict[str, Any] = json.loads(unescape(found))
    return findings


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A sweep with all that a page can show; many long names; a run that shows little."""
    folder = tmp_path_factory.mktemp("browser")
    specs = [
        RunSpec(epsilon=e, seed=s, rates=HIT_RATES | {"federated": rate})
        for e, rate in ((1, 0.06), (2, 0.1), (4, 0.13), (8, 0.15), (None, 0.25))
        for s in (0, 1, 2)
    ]
    write_sweep(folder / "sweep", specs, ["epsilon=1,seed=9"])
    write_audit(folder / "audit", RunSpec(), audit_of())
    long = "Ärzte & Söhne Gesellschaft mit beschränkter Haftung"
    grid = [
        RunSpec(
            data="data-set-with-a-name-that-is-longer-than-a-phone-is-wide",
            organisations=[long, *(f"org-{number}" for number in range(24))],
            groups={f"a_grouping_called_{'x' * 40}": (f"a_group_called_{'y' * 40}", "b")},
            steps=60,
            epsilon=epsilon,
            settings={"model.recency": recency, "warm_start.own_items": own},
        )
        for epsilon in (0.5, 1, 1.1, 8)
        for recency in (0.5, 0.75, 0.9)
        for own in (0, 200)
    ]
    write_sweep(folder / "long", grid)
    rates = {"federated": 0.0, "popularity": 1.0}
    write_run(folder / "bare", RunSpec(epsilon=None, groups={}, rates=rates))
    report(folder / "sweep", folder / "sweep.html", audits=[folder / "audit"])
    for name in ("long", "bare"):
        report(folder / name, folder / f"{name}.html", audits=[])
    return {
        name: (folder / f"{name}.html").read_text(encoding="utf-8")
        for name in ("sweep", "long", "bare")
    }


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["sweep", "long", "bare"])
def test_nothing_overflows_or_overlaps(
    pages: dict[str, str], name: str, width: int, tmp_path: Path
) -> None:
    found = looked_at(pages[name], width, tmp_path)
    assert found["width"] == found["scroll"] == width
    assert found["wide"] == []
    assert found["clipped"] == []
    assert found["overlaps"] == []
    assert found["columns"] == (2 if width == 360 else 3)
    assert len(found["figures"]) == pages[name].count("<figure>")
    assert {figure[0] for figure in found["figures"]} == {"narrow" if width == 360 else "wide"}
    assert found["texts"] > 5 * len(found["figures"])


def test_the_script_finds_what_is_wrong(pages: dict[str, str], tmp_path: Path) -> None:
    style = (
        "h1 { width: 500px } .card .value { width: 5px }"
        "svg g[id='budget-n-xtick_1'] { transform: translate(900px, 0) }"
        "svg g[id='gain-n-ytick_1'] { transform: translate(0, 22px) }"
    )
    found = looked_at(pages["sweep"].replace("</style>", style + "</style>"), 360, tmp_path)
    assert found["scroll"] > found["width"] == 360
    assert "H1#." in found["wide"]
    assert any(name.startswith("SPAN") for name in found["clipped"])
    assert any(name.startswith("g#budget-n") for name in found["clipped"])
    assert any(name.startswith("g#gain-n") for pair in found["overlaps"] for name in pair)


# --- screenshots ---------------------------------------------------------------------------------


def sheet(html: str, kind: str, folder: Path, extra: str = "") -> NDArray[np.uint8]:
    """All figures of a page side by side, small."""
    figures = re.findall(rf'<svg class="{kind}".*?</svg>', html, flags=re.DOTALL)
    [style] = re.findall(r"<style>.*?</style>", html, flags=re.DOTALL)
    size = FIGURE[kind]
    rows = -(-len(figures) // COLUMNS)
    cells = "".join(f"<div>{figure}</div>" for figure in figures)
    own = (
        f"body {{ display: grid; grid-template-columns: repeat({COLUMNS}, {size}px); "
        f"grid-auto-rows: {size}px; }} body > div {{ overflow: hidden; }} "
        f"svg.narrow, svg.wide {{ display: block; width: {size}px; }} {extra}"
    )
    file, picture = folder / "sheet.html", folder / "sheet.png"
    file.write_text(
        f"<!DOCTYPE html><meta charset=utf-8>{style}<style>{own}</style><body>{cells}</body>",
        encoding="utf-8",
    )
    window = f"--window-size={COLUMNS * size},{rows * size}"
    chromium(window, f"--screenshot={picture}", file.as_uri(), folder=folder)
    with Image.open(picture) as image:
        assert image.size == (COLUMNS * size, rows * size)
        small = image.convert("RGB").reduce(SMALLER)
    return np.asarray(small, np.uint8)


def changes(first: NDArray[np.uint8], second: NDArray[np.uint8], kind: str) -> NDArray[np.float64]:
    """Share of each figure's pixels that differ visibly, row by row; 1 for sheets of two sizes."""
    if first.shape != second.shape:
        return np.ones(1)
    size = FIGURE[kind] // SMALLER
    differs = np.abs(first.astype(int) - second.astype(int)).max(2) > VISIBLY
    return differs.reshape(-1, size, COLUMNS, size).mean((1, 3)).flatten()


@pytest.mark.parametrize("kind", ["wide", "narrow"])
def test_figures_look_as_they_did(pages: dict[str, str], kind: str, tmp_path: Path) -> None:
    found, file = sheet(pages["sweep"], kind, tmp_path), REFERENCE / f"{kind}.png"
    if os.environ.get(RENEW):
        Image.fromarray(found).save(file, optimize=True)
    assert file.is_file(), f"there is no {file.name} to compare with: make it with\n  {COMMAND}"
    with Image.open(file) as image:
        wanted = np.asarray(image.convert("RGB"), np.uint8)
    share = changes(found, wanted, kind).max()
    if share > MOST_CHANGED:
        Image.fromarray(found).save(tmp_path / f"{kind}-now.png")
    assert share <= MOST_CHANGED, (
        f"{share:.1%} of a figure differs from {file.name}; now it looks like "
        f"{tmp_path}/{kind}-now.png. If that is how it should look:\n  {COMMAND}"
    )


def test_a_changed_figure_would_be_seen(pages: dict[str, str], tmp_path: Path) -> None:
    change = (
        "div:nth-child(1) g[id$='legend_1'] { display: none }"
        "div:nth-child(2) svg { translate: 12px 0 }"
        "div:nth-child(4) svg { --blue: #b84a00 }"
    )
    before = sheet(pages["sweep"], "wide", tmp_path)
    found = changes(before, sheet(pages["sweep"], "wide", tmp_path, change), "wide")
    assert np.flatnonzero(found > MOST_CHANGED).tolist() == [0, 1, 3]
    assert found[[2, *range(4, 9)]].tolist() == [0] * 6
    assert changes(before, before[:-1], "wide").max() == 1


def test_stored_screenshots_are_small() -> None:
    assert sum(file.stat().st_size for file in REFERENCE.iterdir()) < 200_000


def test_the_page_prints(pages: dict[str, str], tmp_path: Path) -> None:
    file, pdf = tmp_path / "page.html", tmp_path / "page.pdf"
    file.write_text(pages["sweep"], encoding="utf-8")
    chromium("--no-pdf-header-footer", f"--print-to-pdf={pdf}", file.as_uri(), folder=tmp_path)
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert 5 < len(re.findall(rb"/Type\s*/Page\b", content)) < 30
