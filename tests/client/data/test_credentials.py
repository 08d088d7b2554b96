from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.credentials import read_credentials, redact, refuse_secrets
from shared.errors import ConfigError, SiteError
from tests.client.conftest import CANARY, private

NAMES = {"user": "SOME_USER", "password": "SOME_PASSWORD"}


@pytest.mark.parametrize(
    "table",
    [
        {"password": CANARY},
        {"data": {"password": [CANARY]}},
        {"data": {"PGPASSWORD": CANARY}},
        {"other": {"secret_access_key": CANARY}},
        {"data": {"aws_session_token": CANARY}},
        {"data": {"source": f"postgresql://user:{CANARY}@host/db"}},
        {"data": {"source": f"postgresql://:{CANARY}@host/db"}},
        {"data": f"postgresql://user:{CANARY}@host/db"},
        {"data": {"source": f"postgresql://host/db?user=x&password={CANARY}"}},
        {"data": {"source": f"host=db user=x password = {CANARY}"}},
        {"data": {"endpoint": f"https://key:{CANARY}@host"}},
        {"data": {"source": f"s3://bucket/x?secret_key={CANARY}"}},
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"\(not shown\).*data\.credentials") as caught:
        refuse_secrets(table)
    assert "c4nary" not in str(caught.value)


@given(st.text(min_size=1))
def test_every_password_in_a_url_is_refused(password: str) -> None:
    with pytest.raises(ConfigError):
        refuse_secrets({"source": f"postgresql://user:{password}@host/db"})


@pytest.mark.parametrize(
    "source",
    [
        "postgresql://user@host:5432/db",
        "postgresql://host:5432/db?application_name=sotto",
        "postgresql:///db?host=/var/run/postgresql",
        "s3://bucket/a=1/b@2/part-*.parquet",
        "exports/me@home:1.csv",
        "sqlite:////data/x.db",
    ],
)
def test_values_without_a_secret_are_accepted(source: str) -> None:
    refuse_secrets({"data": {"source": source, "credentials": "db.toml", "user": "user_id"}})
    refuse_secrets({"data": {"source": source, "query": "SELECT 1 WHERE password = 'x'"}})


def test_a_file_takes_precedence_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_USER", "env")
    monkeypatch.setenv("SOME_PASSWORD", "")
    assert read_credentials(None, NAMES) == {"user": "env"}
    file = private(tmp_path / "c.toml", f'password = "{CANARY}"\n')
    assert read_credentials(Path(file), NAMES) == {"password": CANARY}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    file = Path(private(tmp_path / "c.toml", 'password = "x"\n'))
    file.chmod(mode)
    with pytest.raises(SiteError, match=r"data\.credentials = '.*c\.toml': others .*chmod 600"):
        read_credentials(file, NAMES)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (f"{CANARY}\n", "not valid TOML"),
        (f'password = "{CANARY}\n', "not valid TOML"),
        (f'pasword = "{CANARY}"\n', "unknown key 'pasword': known keys are user, password"),
        ("password = 1234567890\n", "password is not a text: put it in quotes"),
    ],
)
def test_a_wrong_file_is_refused_and_its_content_not_repeated(
    tmp_path: Path, content: str, problem: str
) -> None:
    file = Path(private(tmp_path / "c.toml", content))
    with pytest.raises(SiteError, match=problem) as caught:
        read_credentials(file, NAMES)
    assert "c4nary" not in str(caught.value)
    assert "1234567890" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"not readable .*Check the path"):
        read_credentials(tmp_path / "none", NAMES)


@pytest.mark.parametrize("form", [CANARY, "c4nary%2Fp%40ss%3Aw%25rd", "c4nary/p%40ss%3Aw%25rd"])
def test_a_secret_is_redacted_however_it_is_written(form: str) -> None:
    assert redact(f"no user\n\twith {form}!", [CANARY, ""]) == "no user with ***!"
