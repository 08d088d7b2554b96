"""Each page shows its data, whole and escaped, to a screen reader as well."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import client.console
from client.console.app import VIEWS, PartnerConsole
from client.console.templates import ASSETS, asset
from client.site.site import Site
from client.site.statement import shown
from shared.outcomes import Refusal
from tests.client.console.desks import (
    ORGANISATION,
    SCRIPT,
    USER,
    Visitor,
    console_of,
    hostile_site,
)
from tests.client.ledger.spending import FIRST, SECOND

if TYPE_CHECKING:
    from tests.conftest import Sites

PATHS = [path for path, _ in VIEWS]
VOID = {"meta", "link", "input", "br", "img"}


@pytest.fixture(scope="module")
def console(
    tmp_path_factory: pytest.TempPathFactory, make_sites: Callable[[Path], Sites]
) -> Iterator[PartnerConsole]:
    site, published = hostile_site(make_sites(tmp_path_factory.mktemp("pages")))
    made = console_of(site, published, before=published)
    made.quality.start()
    made.quality.join(120)
    assert made.quality.progress.problem == ""
    yield made
    made.close()


@pytest.fixture(scope="module")
def pages(console: PartnerConsole) -> dict[str, str]:
    visitor = Visitor(console)
    own = {path: visitor.get(path) for path in [*PATHS, "/left/3", "/left/22"]}
    recommended = visitor.post("/api/recommend", {"user": USER, "k": 20, "seen": True}).text
    marked = '<p class="empty">Nothing is chosen yet.</p>'
    assert marked in own["/try"]
    own["/tried"] = own["/try"].replace(marked, recommended)
    return own


class Page(HTMLParser):
    """What a screen reader finds: elements with their attributes, text and ancestors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.texts: list[str] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {n: v or "" for n, v in attrs}, self.ancestors))
        self.texts.append("")
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {n: v or "" for n, v in attrs}, self.ancestors))
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag, tag
        if tag in ("td", "th", "dt", "dd"):
            self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        for number in self._open:
            self.texts[number] += data

    @property
    def ancestors(self) -> list[str]:
        return [self.elements[number][0] for number in self._open]

    def all(self, *tags: str) -> list[tuple[dict[str, str], str]]:
        return [
            (attributes, " ".join(text.split()))
            for (tag, attributes, _), text in zip(self.elements, self.texts, strict=True)
            if tag in tags
        ]


def test_pages_have_landmarks_and_one_outline(pages: dict[str, str]) -> None:
    for path, text in pages.items():
        page = Page(text)
        assert page.all("html")[0][0]["lang"] == "en"
        assert page.all("title")[0][1].startswith(page.all("h1")[0][1])
        for landmark in ("header", "nav", "main", "footer", "h1"):
            assert len(page.all(landmark)) == 1, (path, landmark)
        assert page.all("nav")[0][0]["aria-label"]
        levels = [int(tag[1]) for tag, *_ in page.elements if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels)), path
        assert page.all("a")[0][0]["href"] == "#main"
        current = [words for given, words in page.all("a") if "aria-current" in given]
        assert current == [dict(VIEWS)["/" + path.replace("tried", "try").split("/")[1]]], path
        assert "Nothing on these pages leaves your building." in page.all("footer")[0][1]


def test_controls_pictures_and_tables_have_names(pages: dict[str, str]) -> None:
    for path, text in pages.items():
        page = Page(text)
        ids = [given["id"] for _, given, _ in page.elements if "id" in given]
        assert len(ids) == len(set(ids)), path
        for _, given, _ in page.elements:
            for name in ("aria-labelledby", "aria-describedby"):
                assert set(given.get(name, "").split()) <= set(ids), (path, given)
        labelled = {given["for"] for given, _ in page.all("label") if "for" in given}
        for tag, given, ancestors in page.elements:
            if tag in ("input", "select", "progress"):
                assert given["id"] in labelled or "label" in ancestors, (path, given)
        for given, words in page.all("button", "a", "summary", "th", "legend", "caption"):
            assert words or given.get("aria-label") or given.get("scope"), (path, given)
        for given, _ in page.all("svg"):
            named = given.get("role") == "img" and given.get("aria-labelledby")
            assert named or given.get("aria-hidden") == "true", (path, given)
        for given, _ in page.all("th"):
            assert given["scope"] in ("col", "row")
        for _, given, _ in page.elements:
            if "scroll" in given.get("class", "").split():
                assert (given["tabindex"], given["role"]) == ("0", "region")
                assert given["aria-labelledby"]
    assert [given["role"] for given, _ in Page(pages["/try"]).all("p") if "role" in given] == [
        "status"
    ] * 3


def test_nothing_is_loaded_from_elsewhere_or_runs_inline(pages: dict[str, str]) -> None:
    for path, text in pages.items():
        page = Page(text)
        for tag, given, _ in page.elements:
            assert not any(name.startswith("on") or name == "style" for name in given), path
            for name in ("src", "href", "action"):
                assert given.get(name, "/").startswith(("/", "#")), (path, tag, given)
            assert not given.get("href", "").startswith("//")
        assert [given for given, _ in page.all("script")] == [
            {"src": "/assets/console.js", "defer": ""}
        ]
        assert page.all("style", "iframe", "object", "embed", "base") == []
    for name in ASSETS:
        content = asset(name).decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|@import|url\(|innerHTML|eval\(", content), name


def test_what_pages_are_made_of_is_installed() -> None:
    folder = Path(client.console.__file__).parent
    project = tomllib.loads((folder.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["client.console"]
    installed = {file for pattern in patterns for file in folder.glob(pattern)}
    there = {
        file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in str(file)
    }
    assert {file for file in there if file.suffix != ".py"} == installed
    assert {file.name for file in (folder / "assets").iterdir()} == set(ASSETS)


def test_hostile_names_stay_text(pages: dict[str, str]) -> None:
    for path, text in pages.items():
        assert "<b>Sons" not in text, path
        assert SCRIPT not in text, path
        assert "<img" not in text, path
        assert ORGANISATION in Page(text).all("header")[0][1]


def test_what_left_is_shown_with_its_cost(console: PartnerConsole, pages: dict[str, str]) -> None:
    books = console.accounts.read()
    text = Page(pages["/left"]).all("main")[0][1]
    for run in (FIRST, SECOND):
        assert f"Run {run}" in text
    for one in books.sent:
        answer = one.answer
        assert one.alone is not None
        assert one.so_far is not None
        what = f"{answer.kind}, round {answer.round}"
        assert f"{what} ε {shown(one.alone)} {shown(one.so_far)} so far" in text
        assert f"{answer.bytes:,} bytes · what is in answer {answer.number}" in text
    assert f"ε {shown(books.statement.spent)} all of them together" in text
    steps = [given for given, _ in Page(pages["/left"]).all("rect") if "step" in given["class"]]
    assert len(steps) == 2 * len(books.sent), "for wide and for narrow pages"
    kinds = [one.answer.kind for one in reversed(books.sent)]
    assert [given["class"].split()[1] for given in steps] == kinds * 2
    tall = [float(given["height"]) for given in steps[: len(kinds)]]
    costs = [one.so_far or 0.0 for one in reversed(books.sent)]
    added = [after - before for before, after in pairwise([0.0, *costs])]
    scale = tall[0] / added[0]
    assert tall == pytest.approx([max(scale * one, 3.0) for one in added], abs=0.2)


def test_one_answer_is_shown_with_its_values(
    console: PartnerConsole, pages: dict[str, str]
) -> None:
    sent = {one.answer.number: one for one in console.accounts.read().sent}
    kept, gone = (Page(pages[path]).all("main")[0][1] for path in ("/left/22", "/left/3"))
    assert sent[22].answer.sha256 in kept
    assert f"ε by itself {shown(sent[22].alone or 0)}" in kept
    assert "blocks.0.query F32 4×3" in kept
    assert "no longer kept" not in kept
    assert "no longer kept" in gone
    missing = Visitor(console).client.get("/left/999")
    assert missing.status_code == 404
    assert "no answer has the number 999" in missing.text.lower()


def test_what_is_left_is_shown(console: PartnerConsole, pages: dict[str, str]) -> None:
    books = console.accounts.read()
    statement, coming = books.statement, books.forecast
    assert coming is not None
    text = Page(pages["/budget"]).all("main")[0][1]
    assert f"ε {shown(statement.spent)} of 2 is spent, {shown(statement.left)} is left" in text
    assert f"{coming.refreshes} more refreshes like the last one fit." in text
    for every, date in coming.dates[-4:]:
        assert date is not None
        assert f"{every} {date.day} {date:%B %Y}" in text
    for code in (Refusal.BUDGET, Refusal.POLICY):
        assert f"{statement.refusals[code]} {code.sentence} {code}" in text
    for run in statement.runs:
        assert f"{shown(run.epsilon)} {shown(run.cumulative)}" in text


def test_how_good_is_shown_as_measured(console: PartnerConsole, pages: dict[str, str]) -> None:
    measured = console.quality.progress.result
    assert measured is not None
    text = Page(pages["/quality"]).all("main")[0][1]
    assert measured.joining.sentence("Joining", "your own data alone") in text
    assert measured.renewing is not None
    for name, one in measured.models.items():
        figures = one.metrics
        row = (figures.hr, figures.ndcg, one.half_width, figures.mrr, figures.coverage)
        assert " ".join(f"{value:.4f}" for value in row) in text, name
    assert len(Page(pages["/quality"]).all("svg")) == 4
    assert "Last events of 40 users." in text


def test_older_answers_are_on_pages_of_their_own(
    console: PartnerConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.console.app.ANSWERS_SHOWN", 4)
    visitor, path, seen = Visitor(console), "/left", []
    while path:
        text = visitor.get(path)
        seen += re.findall(r"what is in answer (\d+)", text)
        older = re.search(r'href="(/left\?before=\d+)#timeline"', text)
        path = older[1] if older else ""
    assert seen == [str(one.answer.number) for one in console.accounts.read().sent]


def test_a_ledger_that_does_not_open_is_said_with_what_to_do(sites: Sites) -> None:
    site, published = hostile_site(sites)
    console = console_of(site, published)
    Site.load(site).ledger_file.write_bytes(b"no ledger")
    visitor = Visitor(console)
    for path in ("/left", "/budget"):
        answer = visitor.client.get(path)
        assert answer.status_code == 400
        assert 'role="alert"' in answer.text
    assert "ledger" in visitor.get("/")
    health = Page(visitor.get("/health")).all("main")[0][1]
    assert "Wrong Ledger." in health
    assert "sotto-node budget restore" in health
    assert "Model." in health
    console.close()
