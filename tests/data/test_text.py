"""Plain text from a file or from the network, and what is said of what is no text."""

import hashlib
import http.server
import threading

import pytest

from barreleye.config import DataConfig
from barreleye.data import text as texts
from barreleye.data.corpus import prepare, split_text
from barreleye.data.text import cache_folder, read_shakespeare, read_text


def test_a_text_is_read_without_its_bom_and_with_plain_line_ends(tmp_path):
    file = tmp_path / "x.txt"
    file.write_bytes("\ufeffone\r\ntwo\rthree\ntwo \ufeff marks\r\n\u2028four".encode())
    assert read_text(file) == "one\ntwo\rthree\ntwo \ufeff marks\n\u2028four"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "x.txt: is empty; name a file with text in it"),
        (b" \n\t\n", "x.txt: is empty"),
        (b"a\nb\n\xff\n", "x.txt:3: is not UTF-8 (byte 0xff); save it as UTF-8"),
        (b"a\r\n\0", "x.txt:2: has a NUL byte; this is not a text file"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(tmp_path, data, says):
    (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(ValueError) as error:
        read_text(tmp_path / "x.txt")
    assert str(error.value).startswith(f"{tmp_path}/{says}")


def test_a_line_and_a_file_may_be_so_long_and_no_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "MAX_LINE_BYTES", 8)
    file = tmp_path / "x.txt"
    file.write_bytes(b"one\n1234567\n")
    assert read_text(file) == "one\n1234567\n"
    file.write_bytes(b"one\n123456789\n")
    with pytest.raises(ValueError, match=r"x.txt:2: a line of 10 bytes"):
        read_text(file)
    monkeypatch.setattr(texts, "MAX_BYTES", 13)
    with pytest.raises(ValueError, match=r"x.txt: is larger than"):
        read_text(file)


# Tiny Shakespeare ----------------------------------------------------------------------------------------------------

TEXT = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 9


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and a `tiny Shakespeare` that is TEXT."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(texts, "SHAKESPEARE_SHA256", hashlib.sha256(TEXT).hexdigest())
    return tmp_path / "cache" / "barreleye"


@pytest.fixture
def server(monkeypatch):
    """A web server on this machine that answers with `server.answer`; `server.asked` counts."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked += 1
            self.wfile.write(self.server.answer)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.answer = 0, b""
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(texts, "SHAKESPEARE_URL", f"http://127.0.0.1:{server.server_port}/input.txt")
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def http_answer(body, status="200 OK"):
    return f"HTTP/1.0 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_shakespeare_is_fetched_once(cache, server):
    server.answer = http_answer(TEXT)
    assert read_shakespeare() == TEXT.decode()
    assert [file.name for file in cache.iterdir()] == ["tinyshakespeare.txt"]
    assert prepare(DataConfig("text", "shakespeare"), 1).train == split_text(TEXT.decode()).train
    assert server.asked == 1


def test_a_damaged_copy_is_fetched_again(cache, server):
    server.answer = http_answer(TEXT)
    cache.mkdir(parents=True)
    (cache / "tinyshakespeare.txt").write_bytes(TEXT[:100])
    assert read_shakespeare() == TEXT.decode()
    assert (cache / "tinyshakespeare.txt").read_bytes() == TEXT


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (http_answer(TEXT + b"and more"), "is not tiny Shakespeare (its SHA-256 differs)"),
        (http_answer(TEXT)[:-50], "is not tiny Shakespeare"),  # cut short on the way
        (http_answer(b""), "is not tiny Shakespeare"),
        (http_answer(b"gone", "404 Not Found"), "could not be fetched (Not Found)"),
        (b"this is no web server\r\n\r\n", "could not be fetched"),
    ],
)
def test_what_is_not_shakespeare_is_refused_and_not_kept(cache, server, answer, says):
    server.answer = answer
    with pytest.raises(ValueError) as error:
        read_shakespeare()
    assert says in str(error.value)
    assert str(error.value).endswith("--text FILE") and "\n" not in str(error.value)
    assert not cache.exists()


@pytest.mark.parametrize("error", [OSError("no route"), TimeoutError("timed out"), ConnectionResetError("reset")])
def test_without_a_network_the_way_out_is_named(cache, error):
    def fetch(url):
        raise error

    with pytest.raises(ValueError, match=rf"could not be fetched \({error}\); name a file of your own: --text FILE"):
        read_shakespeare(fetch)


def test_the_cache_is_where_this_user_keeps_what_can_be_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "barreleye"
    for unset in (lambda: monkeypatch.setenv("XDG_CACHE_HOME", ""), lambda: monkeypatch.delenv("XDG_CACHE_HOME")):
        unset()
        assert cache_folder() == tmp_path / ".cache" / "barreleye"
