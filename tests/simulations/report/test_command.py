"""sotto-lab report as a user types it: what is written, and what a page is made of."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from simulations.cli import main
from tests.simulations.report.folders import (
    HIT_RATES,
    RunSpec,
    audit_of,
    write_audit,
    write_run,
    write_sweep,
)

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Elements(HTMLParser):
    """What a browser would make of a page, roughly: elements, attributes, text by element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.found if tag in tags]


def lab(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sotto-lab", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders")
    write_audit(folder / "audit", RunSpec(), audit_of())
    evil = RunSpec(data=EVIL, organisations=(EVIL, "$x$ & Söhne", "a"), groups={EVIL: (EVIL, "b")})
    write_run(folder / "evil", evil)
    rates = {name: rate for name, rate in HIT_RATES.items() if "home" not in name}
    write_run(folder / "open", RunSpec(epsilon=None, groups={}, rates=rates))
    specs = [RunSpec(epsilon=e, seed=s) for e in (1, 4, None) for s in (0, 1)]
    write_sweep(folder / "sweep", specs, ["epsilon=1,seed=9"])
    return folder


@pytest.fixture(scope="module")
def pages(folders: Path) -> dict[str, str]:
    """One page of each kind, as text."""
    from simulations.report.command import report  # noqa: PLC0415 a second, and only here

    for name in ("audit", "evil", "open"):
        report(folders / name, folders / f"{name}.html", audits=[])
    report(folders / "sweep", folders / "sweep.html", audits=[folders / "audit"])
    return {
        name: (folders / f"{name}.html").read_text(encoding="utf-8")
        for name in ("audit", "evil", "open", "sweep")
    }


every_page = pytest.mark.parametrize("name", ["audit", "evil", "open", "sweep"])


@every_page
def test_a_page_is_whole_and_loads_nothing(pages: dict[str, str], name: str) -> None:
    html = pages[name]
    page = Elements(html)
    assert page.open == []
    assert not page.all("script", "link", "img", "iframe", "object", "embed", "image", "base", "a")
    sources = [
        value
        for _, attributes in page.found
        for key, value in attributes.items()
        if key in ("src", "href", "xlink:href", "action", "data", "srcset", "poster")
    ]
    assert sources
    assert all(source.startswith("#") for source in sources)
    assert not re.search(r"@import|@font-face|https?://(?!www\.w3\.org/)|//cdn", html)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert not [key for _, attributes in page.found for key in attributes if key.startswith("on")]


@every_page
def test_a_page_can_be_read_aloud(pages: dict[str, str], name: str) -> None:
    page = Elements(pages[name])
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
    levels = [int(tag[1]) for tag, _ in page.found if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.found:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
        for key in ("href", "xlink:href"):
            if attributes.get(key, "").startswith("#"):
                assert attributes[key][1:] in ids
    for figure in page.all("svg"):
        assert figure["role"] == "img"
        assert len(figure["aria-label"]) > 40
    assert len(page.all("svg")) == 2 * len(page.all("figure"))
    assert len(page.all("table")) >= len(page.all("figure"))


def test_names_from_files_stay_text(pages: dict[str, str]) -> None:
    html, page = pages["evil"], Elements(pages["evil"])
    assert EVIL not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    cells = [text for tag in ("th", "td") for text in page.texts[tag]]
    assert EVIL in cells
    assert "$x$ & Söhne" in cells


def test_words_stand_where_they_first_occur(pages: dict[str, str]) -> None:
    for html in pages.values():
        text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL)
        explained = text.index("NDCG@10 (normalised discounted cumulative gain)")
        assert explained < text.index("The numbers")
        assert text.index("HR@10 (hit rate)") < text.index("The numbers")
    claim = pages["audit"]
    assert claim.index("a partner that keeps its own users") < claim.index("<figure")
    assert claim.index("how much an observer may learn") < claim.index("<figure")


def test_a_run_without_privacy_says_so_before_anything_else(pages: dict[str, str]) -> None:
    html = pages["open"]
    assert "NO PRIVACY" in html
    assert html.index("NO PRIVACY") < html.index("In short")
    assert "Nothing is claimed" in html
    assert "No attack has tested this claim" in html
    assert "did not measure what an organisation gets" in html
    assert "no public groups of users" in html
    assert "NO PRIVACY" not in pages["audit"]


def test_a_sweep_says_which_runs_are_missing_and_which_is_shown(pages: dict[str, str]) -> None:
    html = pages["sweep"]
    assert "epsilon=1,seed=9 (failed)" in html
    assert "Figures of the run epsilon=4,seed=0" in html  # that of the audit
    assert "sotto-lab sweep --out FOLDER" in html
    assert "No violation was found" in html


def test_the_table_of_a_figure_has_the_numbers_of_the_run(
    pages: dict[str, str], folders: Path
) -> None:
    result = json.loads((folders / "audit" / "result.json").read_text())
    cells = Elements(pages["audit"]).texts["td"]
    for figures in result["evaluation"]["models"].values():
        for value in figures.values():
            assert f"{value:.4f}" in cells


def test_figures_are_written_as_svg_and_png(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folders: Path,
    tmp_path: Path,
) -> None:
    out, figures = tmp_path / "new" / "page.html", tmp_path / "figures"
    options = ["--audit", folders / "audit", "--out", out, "--figures", figures, "--json"]
    assert lab(monkeypatch, "report", folders / "sweep", *options) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["page"] == str(out)
    assert sorted(written["figures"]) == sorted(str(file) for file in figures.iterdir())
    names = {Path(file).stem for file in written["figures"]}
    assert {"utility", "budget", "audit", "membership-1", "gain", "activity"} <= names
    assert {"group-1", "group-2", "exposure"} <= names
    for file in map(Path, written["figures"]):
        if file.suffix == ".png":
            with Image.open(file) as image:
                assert image.width == 1200
            assert file.stat().st_size < 100_000
        else:
            root = ElementTree.parse(file).getroot()
            assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_the_same_folder_gives_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, folders: Path, pages: dict[str, str], tmp_path: Path
) -> None:
    assert lab(monkeypatch, "report", folders / "open", "--out", tmp_path / "page.html") == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == pages["open"]


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("nowhere", [], "nowhere holds neither result.json nor audit.json nor sweep.parquet"),
        ("open", ["--detail", "x"], "--detail x: "),
        ("sweep", ["--detail", "x"], "--detail x: there is no such finished run."),
        ("open", ["--audit", "nowhere"], "audit.json cannot be read"),
        ("open", ["--out", "/proc/none/page.html"], "cannot be written"),
    ],
)
def test_a_mistake_is_explained(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folders: Path,
    tmp_path: Path,
    path: str,
    options: list[str],
    message: str,
) -> None:
    out = tmp_path / "page.html"
    assert lab(monkeypatch, "report", folders / path, "--out", out, *options) == 2
    printed = capsys.readouterr()
    assert message in " ".join(printed.err.split())
    assert "Traceback" not in printed.err
    assert not out.exists()
