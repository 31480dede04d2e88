"""Files: verified, downloaded atomically, errors that say what to do. Talks to 127.0.0.1 only."""

import hashlib
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from growdarts_study.data import files as datasets
from growdarts_study.data.files import DATA, fetch
from growdarts.settings import DataError

FILE = "g7_brics/TEST.csv"
GOOD = b"Date, Close\n" + b"01/04/10, 1234.50\n" * 5000
BAD = GOOD.replace(b"1234", b"4321")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A local host, a registry of one file that points to it, and an empty folder for the cache.

    The test sets what the host answers: `body`, `announced` (bytes the header promises), `failures`
    (answers of 503 before the first good one) and `halfway` (called between the body's two halves).
    """
    state = SimpleNamespace(body=GOOD, announced=None, failures=0, halfway=lambda: None, requests=0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.requests += 1
            if state.requests <= state.failures:
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(state.announced or len(state.body)))
            self.end_headers()
            half = len(state.body) // 2
            self.wfile.write(state.body[:half])
            self.wfile.flush()
            state.halfway()
            self.wfile.write(state.body[half:])

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    state.url = f"http://127.0.0.1:{server.server_port}/TEST.csv"
    state.folder = tmp_path / "cache"
    state.path = state.folder / FILE
    state.registry = tmp_path / "registry.txt"
    state.registry.write_text(f"{FILE} sha256:{digest(GOOD)} {state.url}\n")
    monkeypatch.setattr(datasets, "DATA", tmp_path)
    monkeypatch.setattr(datasets, "RETRIES", 0)
    monkeypatch.setenv("GROWDARTS_DATA", str(state.folder))
    monkeypatch.setenv("NO_PROXY", "*")
    yield state
    server.shutdown()
    server.server_close()


def files_in(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(data)


def assert_says(error, *parts):
    for part in parts:
        assert str(part) in str(error.value)


def test_download_is_verified_stored_and_shown(source, capsys):
    assert fetch(FILE) == source.path
    assert source.path.read_bytes() == GOOD
    assert [path.name for path in source.path.parent.iterdir()] == [
        "TEST.csv"
    ]  # no temporary file stays
    assert "100%" in capsys.readouterr().err


def test_filled_cache_is_used_as_it_is(source, monkeypatch):
    put(source.path, GOOD)
    for folder in (source.path.parent, source.folder):
        folder.chmod(0o555)
    # Permissions do not stop root, so compare the folder too.
    before = files_in(source.folder)
    try:
        assert fetch(FILE) == source.path
    finally:
        for folder in (source.folder, source.path.parent):
            folder.chmod(0o755)
    assert source.requests == 0
    assert files_in(source.folder) == before


def test_download_appears_at_once(source):
    seen = []
    source.halfway = lambda: seen.append(source.path.exists())
    fetch(FILE)
    assert seen == [False]
    assert source.path.read_bytes() == GOOD


def test_wrong_bytes_from_the_host(source):
    source.body = BAD
    with pytest.raises(DataError) as error:
        fetch(FILE)
    assert_says(error, FILE, source.url, digest(GOOD), digest(BAD), "GROWDARTS_DATA")
    assert not any(source.path.parent.iterdir())


@pytest.mark.parametrize(
    "announced", [len(GOOD), len(GOOD) // 2], ids=["connection lost", "short answer"]
)
def test_truncated_download_leaves_nothing(source, announced):
    source.body, source.announced = GOOD[: len(GOOD) // 2], announced
    with pytest.raises(DataError) as error:
        fetch(FILE)
    assert_says(error, FILE, source.url, "GROWDARTS_DATA")
    assert not any(source.path.parent.iterdir())


def test_unreachable_host(source):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/TEST.csv"
    source.registry.write_text(f"{FILE} sha256:{digest(GOOD)} {url}\n")
    with pytest.raises(DataError) as error:
        fetch(FILE)
    assert_says(error, FILE, url, "check the network", "GROWDARTS_DATA")


def test_failed_download_is_tried_again(source, monkeypatch):
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    monkeypatch.setattr(datasets, "RETRIES", 2)
    source.failures = 2
    assert fetch(FILE).read_bytes() == GOOD
    assert source.requests == 3


@pytest.mark.parametrize("data", [BAD, GOOD[:1000]], ids=["changed", "half-written"])
def test_damaged_file_in_a_given_folder_is_never_touched(source, data):
    put(source.path, data)
    before = files_in(source.folder)
    with pytest.raises(DataError) as error:
        fetch(FILE)
    assert_says(
        error,
        source.path,
        f"{len(data)} bytes",
        digest(GOOD),
        digest(data),
        source.url,
        "Delete it",
        "GROWDARTS_DATA",
    )
    assert source.requests == 0
    assert files_in(source.folder) == before


@pytest.fixture
def own_cache(source, monkeypatch):
    monkeypatch.delenv("GROWDARTS_DATA")
    monkeypatch.setattr(datasets.pooch, "os_cache", lambda project: source.folder)
    return source


def test_damaged_file_in_our_own_cache_is_replaced(own_cache, caplog):
    put(own_cache.path, GOOD[:1000])
    seen = []
    own_cache.halfway = lambda: seen.append(own_cache.path.read_bytes())
    assert fetch(FILE).read_bytes() == GOOD
    assert seen == [GOOD[:1000]]  # until its successor is complete
    assert str(own_cache.path) in caplog.text and digest(GOOD[:1000]) in caplog.text


def test_damaged_file_in_our_own_cache_and_a_bad_host(own_cache):
    put(own_cache.path, GOOD[:1000])
    own_cache.body = BAD
    with pytest.raises(DataError, match="nothing was stored"):
        fetch(FILE)
    assert own_cache.path.read_bytes() == GOOD[:1000]


def test_folder_that_cannot_be_written(source, tmp_path, monkeypatch):
    (tmp_path / "plain").write_text("not a folder")
    monkeypatch.setenv("GROWDARTS_DATA", str(tmp_path / "plain" / "cache"))
    with pytest.raises(DataError) as error:
        fetch(FILE)
    assert_says(error, FILE, tmp_path / "plain" / "cache", "cannot be stored", "GROWDARTS_DATA")


def test_relative_folder_starts_at_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GROWDARTS_DATA", "../somewhere")
    assert datasets.cache_folder() == (DATA.parent.parent / "somewhere", False)


def test_unknown_file_and_missing_registry(source, tmp_path, monkeypatch):
    with pytest.raises(DataError) as error:
        fetch("g7_brics/MOON.csv")
    assert_says(error, "g7_brics/MOON.csv", FILE)
    source.registry.unlink()
    with pytest.raises(DataError) as error:
        fetch(FILE)
    assert_says(error, source.registry, "full clone")


def test_registry_is_pinned():
    lines = [line.split() for line in (DATA / "registry.txt").read_text().splitlines()]
    names = [name for name, _, _ in lines]
    assert len(names) == len(set(names)) == 67
    for _, known, url in lines:
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", known)
        assert re.match(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/", url)
