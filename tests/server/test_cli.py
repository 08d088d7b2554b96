"""sotto-server, as it is typed: what it prints, what it refuses, and its exit codes."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import server.cli
import server.commands.partners
from server.service.up import check_startup, lock_coordinator, service_programs
from server.settings import Settings
from server.state.audit_log import AuditLog
from server.state.partners import PartnerRegistry
from shared.errors import ServerError
from shared.secure_aggregation.signing import Identity, fingerprint, public_to_text
from tests.server.state.test_partners import line


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a coordinator would be that nothing listens for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOTTO_SERVER", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "c"


def types(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["sotto-server", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            server.cli.main()
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


ADDRESSES = ("--administrators", "127.0.0.1:1", "--superlink", "127.0.0.1:2")


@pytest.fixture
def made(folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    code, out, _ = types(capsys, "init", folder, "--address", "sotto.example:9092", *ADDRESSES)
    assert code == 0
    assert str(folder / "ca.crt") in out
    return folder


def test_init_writes_over_nothing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = types(capsys, "init", made, "--address", "other.example:9092")
    assert code == 2
    assert "holds a coordinator already" in err


def test_init_writes_the_addresses_that_it_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--listen", "127.0.0.1:4", "--metrics", "127.0.0.1:3", *ADDRESSES]
    code, *_ = types(capsys, "init", folder, "--address", "sotto.example:9092", *words)
    listen = Settings.load(folder).listen
    assert code == 0
    assert (listen.administrators, listen.superlink) == ("127.0.0.1:1", "127.0.0.1:2")
    assert (listen.metrics, listen.partners) == ("127.0.0.1:3", "127.0.0.1:4")


def test_a_certificate_needs_its_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["init", folder, "--address", "a.example:1", "--certificate", "x.crt"]
    code, _, err = types(capsys, *words)
    assert code == 2
    assert "Give --certificate and --key together" in err
    assert not folder.exists()


def test_an_invitation_holds_what_a_partner_needs(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = types(capsys, "invite", "Bücher & Co", "--server", made, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["address"] == "sotto.example:9092"
    assert "--organisation 'Bücher & Co' --superlink sotto.example:9092" in told["command"]
    assert "--root-certificates handout/ca.crt --catalogue handout/catalogue" in told["command"]
    assert (made / "ca.crt").is_file()
    assert len(told["authority_sha256"].split(":")) == 32
    code, _, err = types(capsys, "invite", "Bücher & Co", "--server", made)
    assert (code, "invited already" in err) == (2, True)
    entries = [dict(entry) for entry in AuditLog(made / "audit.jsonl").entries()]
    assert [(e["event"], e.get("name")) for e in entries][1:] == [("invited", "Bücher & Co")]


def test_a_fingerprint_is_printed_as_it_is_and_named(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rich takes `:CD:` and `:AB:` for emoji, and [red] for a colour."""
    digest = ":".join(["AB", "CD", "B2", "O2", "ID", "OK", "UP", "VS"] * 4)
    monkeypatch.setattr(server.commands.partners, "fingerprint", lambda _: digest)
    code, out, _ = types(capsys, "invite", "Alpha", "--server", made)
    assert code == 0
    assert f"SHA-256 of the certificate   {digest}\n" in out
    file = hashlib.sha256((made / "ca.crt").read_bytes()).hexdigest()
    assert f"SHA-256 of that file         {file}\n" in out


def test_nobody_is_accepted_where_no_coordinator_is_up(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    types(capsys, "invite", "A", "--server", made)
    code, _, err = types(capsys, "accept", line(), "--name", "A", "--server", made)
    assert code == 2
    assert "sotto-server up" in err
    _, out, _ = types(capsys, "list", "--server", made, "--json")
    assert [(p["name"], p["state"]) for p in json.loads(out)] == [("A", "invited")]


def test_the_key_that_a_partner_stated_is_shown_by_its_fingerprint(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    types(capsys, "invite", "A", "--server", made)
    public = Identity(name="A", key=ec.generate_private_key(ec.SECP384R1())).public
    PartnerRegistry(made).keep_aggregation_key("A", public_to_text(public))
    _, out, _ = types(capsys, "list", "--server", made, "--json")
    assert json.loads(out)[0]["aggregation_key_fingerprint"] == fingerprint(public)


def test_no_run_is_made_where_no_coordinator_is_up(
    made: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text("[privacy]\nepsilon = 1.0\ndelta = 1e-5\n")
    code, _, err = types(capsys, "run", tmp_path / "r.toml", "--server", made)
    assert code == 2
    assert "no coordinator answers" in err
    assert list((made / "runs").iterdir()) == []
    assert types(capsys, "ready", "--server", made)[0] == 1


def test_what_is_not_there_is_named(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("resume", "x"), ("stop", "x"), ("publish", "x", "--out", "o")):
        code, _, err = types(capsys, *words, "--server", made)
        assert (code, "there is no run 'x'" in err) == (2, True)
    code, _, err = types(capsys, "status", "--server", made / "none")
    assert (code, "sotto-server init" in err) == (2, True)


def test_a_changed_audit_log_is_noticed(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert types(capsys, "audit", "--server", made)[0] == 0
    file = made / "audit.jsonl"
    file.write_text(file.read_text().replace("sotto.example", "evil.example"))
    code, _, err = types(capsys, "audit", "--server", made)
    assert (code, "was changed" in err) == (2, True)


def test_no_argument_of_a_process_is_a_secret(made: Path) -> None:
    started = service_programs(Settings.load(made))
    assert [program.name for program in started] == ["superlink", "executor", "proxy", "supervisor"]
    words = " ".join(word for program in started for word in program.command)
    assert (made / "executor.secret").read_text() not in words
    assert str(made / "executor.secret") in words
    for program in started:
        assert program.variables["FLWR_TELEMETRY_ENABLED"] == "0"
        assert program.variables["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
        assert program.variables["FLWR_HOME"] == str(made / "flower")


def test_a_folder_has_one_coordinator(made: Path) -> None:
    with (
        lock_coordinator(made),
        pytest.raises(ServerError, match="is up already"),
        lock_coordinator(made),
    ):
        pass
    with lock_coordinator(made):
        pass


def test_keys_that_others_can_read_stop_it(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = made / "server.toml"
    text = settings.read_text().replace(':1"', ':47931"').replace(':2"', ':47932"')
    settings.write_text(text.replace("0.0.0.0:9092", "127.0.0.1:47933"))
    assert check_startup(Settings.load(made)) == []
    (made / "server.key").chmod(0o644)
    code, _, err = types(capsys, "up", "--server", made)
    assert code == 2
    assert f"chmod 600 {made / 'server.key'}" in err
    events = [entry["event"] for entry in AuditLog(made / "audit.jsonl").entries()]
    assert "service-started" not in events
