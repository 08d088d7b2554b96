from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from client.data.object_store import ObjectStore
from shared.errors import SiteError
from tests.client.conftest import CANARY, private, store

ROWS = b"user_id,item_id,timestamp\nx,a,1\n"


@pytest.fixture(autouse=True)
def no_other_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def objects(s3_endpoint: str, request: pytest.FixtureRequest) -> str:
    """A prefix of the test's own, with tables and other things below it."""
    prefix = f"bucket/{abs(hash(request.node.name))}"
    names = (
        *("b.csv", "a.csv", "deep/c.CSV", "_SUCCESS", "notes.txt"),
        *("_temporary/d.csv", ".hidden.csv", "deep/x/e.csv"),
    )
    for name in names:
        with store(s3_endpoint).open_output_stream(f"{prefix}/{name}") as stream:
            stream.write(ROWS)
    return f"s3://{prefix}"


def names(source: ObjectStore, prefix: str) -> list[str]:
    return [table.source.removeprefix(f"{prefix}/") for table in source.tables()]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", ["a.csv", "b.csv", "deep/c.CSV", "deep/x/e.csv"]),
        ("/", ["a.csv", "b.csv", "deep/c.CSV", "deep/x/e.csv"]),
        ("/a.csv", ["a.csv"]),
        ("/deep", ["deep/c.CSV", "deep/x/e.csv"]),
        ("/*.csv", [".hidden.csv", "a.csv", "b.csv"]),
        ("/d*/?.CSV", ["deep/c.CSV"]),
        ("/[ab].csv", ["a.csv", "b.csv"]),
    ],
)
def test_a_prefix_or_a_pattern_finds_tables(
    s3_endpoint: str, objects: str, pattern: str, found: list[str]
) -> None:
    assert names(ObjectStore(objects + pattern, endpoint=s3_endpoint), objects) == found


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_may_come_from_the_environment(
    s3_endpoint: str, objects: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, s3_endpoint)
    assert names(ObjectStore(f"{objects}/a.csv"), objects) == ["a.csv"]


def test_copies_are_private_and_deleted_afterwards(
    s3_endpoint: str, objects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for _ in ObjectStore(objects, endpoint=s3_endpoint).tables():
        (folder,) = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o077 == 0
        assert len(list(folder.iterdir())) == 1
    assert not list(tmp_path.iterdir())


def test_the_version_changes_with_the_objects(s3_endpoint: str, objects: str) -> None:
    source = ObjectStore(objects, endpoint=s3_endpoint)
    first = source.version()
    assert source.version() == first
    with store(s3_endpoint).open_output_stream(f"{objects.removeprefix('s3://')}/a.csv") as stream:
        stream.write(ROWS + b"x,b,2\n")
    assert source.version() != first


@pytest.mark.parametrize("place", ["/nothing", "/*.parquet", "/notes*/x", "-none"])
def test_a_source_without_objects_is_an_error(s3_endpoint: str, objects: str, place: str) -> None:
    with pytest.raises(SiteError, match=r"data\.source = 's3://.*no .*object is there\. Check"):
        list(ObjectStore(objects + place, endpoint=s3_endpoint).tables())


@pytest.mark.parametrize("url", ["s3://", "s3:///key", "s3://buck*/key"])
def test_a_url_without_a_bucket_is_refused(url: str, s3_endpoint: str) -> None:
    if url == "s3:///key":  # the first part is taken for the bucket
        with pytest.raises(SiteError):
            list(ObjectStore(url, endpoint=s3_endpoint).tables())
        return
    with pytest.raises(SiteError, match="name a bucket"):
        ObjectStore(url)


def test_an_incomplete_key_is_refused(tmp_path: Path) -> None:
    file = Path(private(tmp_path / "c", f'secret_access_key = "{CANARY}"\n'))
    with pytest.raises(SiteError, match=r"must hold access_key_id and secret") as caught:
        ObjectStore("s3://bucket/x", credentials=file)
    assert "c4nary" not in str(caught.value)


def test_an_unreachable_store_is_an_error() -> None:
    source = ObjectStore("s3://bucket/x", endpoint="http://127.0.0.1:1")
    with pytest.raises(SiteError, match=r"at endpoint http://127.0.0.1:1.*data\.endpoint"):
        list(source.tables())


class Denying(BaseHTTPRequestHandler):
    """Refuses every request, and repeats the secret."""

    def do_GET(self) -> None:
        body = f"<Error><Code>AccessDenied</Code><Message>{CANARY}</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def denying() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Denying)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("place", ["x.csv", "x*.csv"])
def test_no_permission_is_an_error_without_secrets(
    denying: str, place: str, tmp_path: Path
) -> None:
    keys = f'access_key_id = "key"\nsecret_access_key = "{CANARY}"\n'
    credentials = Path(private(tmp_path / "c", keys))
    source = ObjectStore(f"s3://bucket/{place}", endpoint=denying, credentials=credentials)
    with pytest.raises(SiteError, match=r"ACCESS_DENIED.*credentials may list and read") as caught:
        list(source.tables())
    assert "c4nary" not in "".join(traceback.format_exception(caught.value))
