"""The pages as a site, their pictures, and what other files say of them."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, blocks

EXAMPLES = {
    "console.md",
    "cross-domain.md",
    "attacks.md",
    "experiments/no-privacy.md",
    "experiments/rounds.md",
    "experiments/secure-aggregation.md",
    "experiments/speed.md",
    "fairness.md",
    "home.md",
    "items.md",
    "modalities.md",
    "lab.md",
    "lstm.md",
    "node-reference.md",
    "over-use.md",
    "privacy.md",
    "query.md",
    "rerank.md",
    "results.md",
    "run.md",
    "secure-aggregation.md",
    "serve.md",
    "social.md",
    "text.md",
    "utility.md",
    "wellbeing.md",
}
"""Pages with `bash` blocks, which no test runs: other data, a GPU, systemd, Docker or root."""
EXECUTED = {"join.md", "recommend.md", "run.md", "tutorial.md"}
PAGES = sorted(DOCS.rglob("*.md"))


class Resources(HTMLParser):
    """Collects what a browser would fetch to show a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses = set[str]()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.addresses.add(given.get("href") or "")
        elif tag in ("script", "img", "iframe", "source", "object"):
            self.addresses.add(given.get("src") or given.get("data") or "")


@pytest.mark.skipif(find_spec("material") is None, reason="pip install '.[docs]'")
def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}
    done = subprocess.run(build, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = [page.relative_to(DOCS).with_suffix(".html") for page in PAGES]
    assert all((tmp_path / page).is_file() for page in pages)
    for page in pages:
        foreign = {a for a in Resources(tmp_path / page).addresses if "//" in a}
        assert not foreign, page
    styles = "".join(file.read_text() for file in tmp_path.rglob("*.css"))
    assert not re.findall(r"url\(['\"]?https?:", styles)


def test_pictures_are_what_their_script_draws(tmp_path: Path) -> None:
    script = runpy.run_path(str(DOCS / "pictures" / "draw.py"))
    script["write"](tmp_path)
    for picture in tmp_path.iterdir():
        assert picture.read_text() == (DOCS / "pictures" / picture.name).read_text()
        assert "http://" not in picture.read_text().replace("http://www.w3.org/2000/svg", "")


def test_the_readme_is_short_and_leads_to_what_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 115
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "//" not in link]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_readme_has_no_figure_that_the_results_lack() -> None:
    figures = re.compile(r"(?<=[ *])\.\d{3,4}\b")
    stated = set(figures.findall((DOCS / "results.md").read_text(encoding="utf-8")))
    shown = set(figures.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    assert shown
    assert shown <= stated


def test_every_page_that_other_files_name_is_there() -> None:
    named = dict[str, set[str]]()
    for top in ("client", "server", "shared", "simulations", "tests"):
        for file in (ROOT / top).rglob("*"):
            if file.suffix in (".py", ".toml", ".yaml", ".service", ".timer", ".conf"):
                for page in re.findall(r"docs/[\w/-]+\.md", file.read_text(encoding="utf-8")):
                    named.setdefault(page, set()).add(str(file.relative_to(ROOT)))
    assert named
    assert {page: files for page, files in named.items() if not (ROOT / page).is_file()} == {}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem
)
def test_every_file_of_the_source_that_a_page_names_is_there(page: Path) -> None:
    path = r"(?<![\w/-])(?:client|server|shared|simulations|tests|docs)/[\w/.-]*[\w/]"
    named = re.findall(path, page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_architecture_names_every_room() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rooms = {
        f"`{top}/{folder.name}/`"
        for top in ("client", "server", "shared")
        for folder in (ROOT / top).iterdir()
        if (folder / "__init__.py").is_file()
    }
    assert len(rooms) > 15
    assert {room for room in rooms if room not in text} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_blocks_are_of_a_known_kind(page: Path) -> None:
    """A command is either executed by a test (`sh`) or stands where it cannot be (`bash`)."""
    name = str(page.relative_to(DOCS))
    kinds = {block.language for block in blocks(page)}
    assert kinds <= {"sh", "bash", "text", "toml", "python", "yaml", "json"}
    assert ("sh" in kinds) == (name in EXECUTED)
    assert ("bash" in kinds) == (name in EXAMPLES)
