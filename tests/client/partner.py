"""A partner at the command line: data in a folder, and what the commands answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client.site.site import Site
from tests.client.bundles import bundle
from tests.conftest import some_catalogue, some_histories

USERS = 200


@dataclass(frozen=True)
class Partner:
    """Types commands.

    Attributes:
        folder: where all of it lies.
        patch: the test's own.
        capture: the test's own.
        typed: types a command; gives its exit code.
    """

    folder: Path
    patch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]
    typed: Callable[..., int]

    @property
    def site(self) -> Path:
        """The site's folder."""
        return self.folder / "site"

    @property
    def loaded(self) -> Site:
        """The site as it stands."""
        return Site.load(self.site)

    @property
    def events(self) -> Path:
        """The interactions."""
        return self.folder / "events.csv"

    def prepare(self) -> None:
        """Writes catalogue and interactions."""
        catalogue = some_catalogue()
        catalogue.save(self.folder / "catalogue")
        histories = some_histories(USERS)
        rows = [
            f"{user},{catalogue.item_ids[item - 1]},{1_600_000_000 + 3600 * place}"
            for user, items in zip(histories.users, histories, strict=True)
            for place, item in enumerate(items)
        ]
        self.events.write_text("\n".join(["user_id,item_id,timestamp", *rows, ""]))

    def types(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command."""
        code = self.typed(*arguments)
        printed = self.capture.readouterr()
        return code, printed.out, printed.err

    def options(self, changes: Mapping[str, object] | None = None) -> list[object]:
        """What `init` is given; None leaves a flag out."""
        flags: dict[str, object] = {
            "--organisation": "Alpha Books",
            "--user-base": "alpha-customers",
            "--population": USERS,
            "--source": self.events,
            "--catalogue": self.folder / "catalogue",
            "--max-epsilon": 8,
            "--delta": 1e-4,
        }
        flags |= changes or {}
        pairs = ((flag, value) for flag, value in flags.items() if value is not None)
        return [text for pair in pairs for text in pair]

    def init(self, changes: Mapping[str, object] | None = None) -> tuple[int, str, str]:
        """Sets the site up."""
        return self.types("init", self.site, *self.options(changes))

    def check(self, *options: object) -> tuple[int, dict[str, dict[str, Any]]]:
        """Exit code and findings by name."""
        code, out, _ = self.types("check", "--site", self.site, "--json", *options)
        return code, {finding["name"]: finding for finding in json.loads(out)}

    def edit(self, before: str, after: str) -> Path:
        """Replaces a piece of site.toml."""
        file = self.site / "site.toml"
        text = file.read_text()
        assert before in text
        file.write_text(text.replace(before, after))
        return file

    def install_app(self) -> None:
        """An app that the partner vetted."""
        file = self.folder / "app.fab"
        file.write_bytes(bundle())
        code, _, err = self.types("trust", file, "--site", self.site, "--yes")
        assert code == 0, err


def statuses(findings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Status by name."""
    return {name: finding["status"] for name, finding in findings.items()}
