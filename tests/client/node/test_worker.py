"""Whose app answers a request: the partner's own copy of the vetted bundle, or none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from client.bundle.fab import Bundle
from client.ledger.balance import EntryType
from client.ledger.ledger import Record
from client.site.site import Site
from shared.outcomes import Refusal
from tests.client.bundles import bundle

if TYPE_CHECKING:
    from tests.client.partner import Partner

ROOT = Path(__file__).parents[3]
# Leaves a mark when it is as much as imported, and says where its code was loaded from.
ECHO = """
import sys
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from client.helper import WORD
Path({mark!r}).touch()
app = ClientApp()

@app.query("echo")
def echo(message, context):
    {does}
    names = ",".join(sorted(n for n in sys.modules if n.split(".")[0] == "client"))
    record = ConfigRecord({{"word": WORD, "file": __file__, "modules": names}})
    return Message(RecordDict({{"echo": record}}), reply_to=message)
"""
REFUSED = ("changed", "spoiled", "tampered", "untrusted")


def app(mark: Path, *, word: str = "vetted", does: str = "pass") -> bytes:
    code = ECHO.format(mark=str(mark), does=does)
    return bundle({"client/app.py": code, "client/helper.py": f"WORD = {word!r}\n"})


@dataclass(frozen=True)
class Answered:
    """What came of each case, by its name.

    Attributes:
        folder: holds a site and a mark for each.
        replies: to each.
        log: of all.
        installed: file of the package that is not to answer.
    """

    folder: Path
    replies: Mapping[str, Any]
    log: str
    installed: Path

    def executed(self, name: str) -> bool:
        """Whether any of a bundle's code was."""
        return (self.folder / f"{name}.mark").exists()

    def app(self, name: str) -> Path:
        """Where the partner's own copy lies."""
        [found] = (self.folder / name / "flower" / "apps").iterdir()
        return found

    def refusals(self, name: str) -> list[Record]:
        """What the ledger has of them."""
        history = Site.load(self.folder / name).open_ledger().history()
        return [record for record in history if record.type is EntryType.REFUSAL]


def site(partner: Partner, name: str) -> Path:
    """A site of its own for a case; gives what the coordinator sends it."""
    folder, mark = partner.folder / name, partner.folder / f"{name}.mark"
    does = "raise ValueError('c4nary of a row')" if name == "raising" else "pass"
    vetted, sent = app(mark, does=does), partner.folder / f"{name}.fab"
    assert partner.types("init", folder, *partner.options({"--user-base": name}))[0] == 0
    sent.write_bytes(vetted)
    if name != "untrusted":
        assert partner.types("trust", sent, "--site", folder, "--yes")[0] == 0
    if name == "changed":
        sent.write_bytes(app(mark, word="vetteD"))
        assert Bundle.load(sent).fingerprint != Bundle.parse(vetted).fingerprint
    if name == "spoiled":
        sent.write_bytes(vetted.replace(b"pass", b"past"))
    if name == "tampered":
        [code] = (folder / "flower" / "apps").glob("*/client/helper.py")
        code.chmod(0o600)
        code.write_text("WORD = 'tampered'\n")
    return sent


@pytest.fixture
def answered(partner: Partner) -> Answered:
    names = ("right", *REFUSED, "raising")
    asked = [{"site": str(partner.folder / n), "fab": str(site(partner, n))} for n in names]
    done = subprocess.run(
        [sys.executable, "-m", "tests.client.node.worker_driver"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    told = json.loads(done.stdout)
    replies = dict(zip(names, told["replies"], strict=True))
    return Answered(partner.folder, replies, done.stderr, Path(told["installed"]))


def test_the_vetted_app_answers_and_no_other(answered: Answered) -> None:
    """All cases in one test: the libraries are loaded once for them."""
    # The partner's own copy, although a package of the same name is installed and loaded.
    echo = answered.replies["right"]["content"]["echo"]
    assert echo["word"] == "vetted"
    assert echo["file"] == str(answered.app("right") / "client" / "app.py")
    assert not echo["file"].startswith(str(answered.installed.parent))
    assert set(echo["modules"].split(",")) == {"client", "client.app", "client.helper"}
    assert answered.executed("right")
    # Nothing that a later check would take for a change.
    assert not list(answered.app("right").rglob("__pycache__"))

    for name in REFUSED:
        assert answered.replies[name]["refusal"] == Refusal.BUNDLE, name
        assert answered.replies[name]["said"] == f"bundle: {Refusal.BUNDLE.sentence}"
        assert not answered.executed(name), name
        [refusal] = answered.refusals(name)
        assert refusal.fields["code"] == "bundle"
        assert len(refusal.fields["bundle"]) == 64
    assert answered.refusals("right") == []

    # What an app says of its error stays here.
    assert answered.replies["raising"]["refusal"] == Refusal.FAILED
    assert answered.executed("raising")
    assert "c4nary" not in json.dumps(answered.replies) + answered.log
