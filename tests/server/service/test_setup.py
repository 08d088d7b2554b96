"""A new coordinator's folder: whole, its owner's alone, and never written over."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from server.service.certificates import Authority, names_of
from server.service.setup import NewServer, OwnCertificate, make_server, renew
from server.settings import Settings
from server.state.audit_log import AuditLog
from shared.errors import ServerError

NEW = NewServer(address="sotto.example:443", names=("192.0.2.7",))


def test_everything_is_there_and_private(tmp_path: Path) -> None:
    settings = make_server(tmp_path / "c", NEW)
    folder = tmp_path / "c"
    assert folder.stat().st_mode & 0o777 == 0o700
    private = {file.name for file in folder.iterdir() if file.stat().st_mode & 0o077 == 0}
    assert {"ca.key", "server.key", "internal.key", "executor.secret", "server.toml"} <= private
    assert settings == Settings.load(folder)
    assert str(settings.partners) == "0.0.0.0:443"
    assert names_of(folder / "server.crt") == ["sotto.example", "192.0.2.7"]
    assert "127.0.0.1" in names_of(settings.internal_certificate[0])
    assert [e["event"] for e in AuditLog(folder / "audit.jsonl").entries()] == ["initialised"]
    assert len((folder / "executor.secret").read_bytes()) == 64
    assert make_server(tmp_path / "d", NEW).executor_secret.read_bytes() != (
        settings.executor_secret.read_bytes()
    )


def test_what_is_there_stays(tmp_path: Path) -> None:
    settings = make_server(tmp_path / "c", NEW)
    before = {file: file.read_bytes() for file in (tmp_path / "c").iterdir() if file.is_file()}
    with pytest.raises(ServerError, match="holds a coordinator already"):
        make_server(tmp_path / "c", NEW)
    (tmp_path / "c" / "server.toml").unlink()
    with pytest.raises(ServerError, match=r"holds ca\.key, server\.key"):
        make_server(tmp_path / "c", NEW)
    kept = {file: file.read_bytes() for file in (tmp_path / "c").iterdir() if file.is_file()}
    assert kept.items() <= before.items()
    assert settings.internal_authority in kept


def test_a_folder_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir(mode=0o755)
    with pytest.raises(ServerError, match="chmod 700"):
        make_server(tmp_path / "c", NEW)
    assert list((tmp_path / "c").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"address": "sotto.example"}, "address = 'sotto.example': give host:port"),
        ({"partners": "x"}, "listen.partners = 'x'"),
        ({"administrators": "0.0.0.0:9093"}, "listen.administrators = '0.0.0.0:9093'"),
        ({"superlink": "192.0.2.1:9091"}, "must be on 127.0.0.1"),
        ({"metrics": "9465"}, "listen.metrics = '9465': give host:port"),
        ({"metrics": "127.0.0.1:443"}, "listen.partners = '0.0.0.0:443' and listen.metrics"),
        ({"superlink": "127.0.0.1:9093"}, "are one port: give each"),
    ],
)
def test_values_without_sense_make_nothing(
    tmp_path: Path, change: dict[str, str], said: str
) -> None:
    with pytest.raises(ServerError, match=said):
        make_server(tmp_path / "c", replace(NEW, **change))  # type: ignore[arg-type]
    assert not (tmp_path / "c").exists()


def test_paths_are_quoted_as_toml_wants_it(tmp_path: Path) -> None:
    settings = make_server(tmp_path / "c", replace(NEW, app=str(tmp_path / 'a"b\\c')))
    assert settings.app == str(tmp_path / 'a"b\\c')
    text = settings.path("server.toml").read_text()
    assert "# Settings of the coordinator." in text
    stored = Path(__file__).parents[1] / "state" / "stored" / "server.toml"
    assert tomllib.loads(text).keys() == tomllib.loads(stored.read_text()).keys()


@pytest.fixture
def own(tmp_path: Path) -> OwnCertificate:
    authority = Authority(tmp_path / "own-ca.crt", tmp_path / "own-ca.key")
    authority.create("The operator's")
    authority.sign(["*.example"], tmp_path / "own.crt", tmp_path / "own.key")
    return OwnCertificate(
        certificate=tmp_path / "own.crt", key=tmp_path / "own.key", authority=authority.certificate
    )


def test_an_operators_own_certificate_is_used_where_it_lies(
    tmp_path: Path, own: OwnCertificate
) -> None:
    settings = make_server(tmp_path / "c", replace(NEW, own=own))
    assert settings.authority == own.authority
    assert settings.path(settings.tls.key) == own.key
    assert not (tmp_path / "c" / "server.key").exists()
    trusted = make_server(tmp_path / "d", replace(NEW, own=replace(own, authority=None)))
    assert trusted.authority is None


def test_a_certificate_for_another_name_is_refused(tmp_path: Path, own: OwnCertificate) -> None:
    with pytest.raises(ServerError, match=r"not for sotto\.test"):
        make_server(tmp_path / "c", replace(NEW, address="sotto.test:443", own=own))


def test_renewing_keeps_names_and_authority(tmp_path: Path, own: OwnCertificate) -> None:
    settings = make_server(tmp_path / "c", NEW)
    authority, before = settings.internal_authority.read_bytes(), settings.path("server.crt")
    old = before.read_bytes()
    assert renew(settings) == ["sotto.example", "192.0.2.7"]
    assert before.read_bytes() != old
    assert settings.internal_authority.read_bytes() == authority
    theirs = make_server(tmp_path / "d", replace(NEW, own=own))
    kept = own.certificate.read_bytes()
    assert renew(theirs) == []
    assert own.certificate.read_bytes() == kept


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("adress = 'a:1'", "did you mean 'address'"),
        ("address = 7", "takes a text"),
        ("folder = 'x'", "is no key of this file"),
        ("address = ", "not valid TOML"),
        ("", "'address' is not set"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "server.toml").write_text(line)
    with pytest.raises(ServerError, match=said):
        Settings.load(tmp_path)


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="sotto-server init"):
        Settings.load(tmp_path)
