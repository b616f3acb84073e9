import asyncio
import sys

import pytest

from barreleye import cli, cli_studio
from barreleye.studio import pages, runs
from barreleye.studio.app import listening
from barreleye.studio.guard import TOKEN_HEADER


@pytest.fixture
def static(tmp_path, monkeypatch):
    """A page of our own, and what lies beside it."""
    folder = tmp_path / "static"
    (folder / "elements").mkdir(parents=True)
    for name in ("index.html", "studio.css", "studio.js", "elements/one.js", "secret.py", "note"):
        (folder / name).write_text(name)
    (tmp_path / "beside.js").write_text("beside")
    monkeypatch.setattr(pages, "STATIC", folder)
    return folder


def test_a_file_of_the_page_has_its_type(client, static):
    types = {"/": "text/html", "/studio.css": "text/css", "/elements/one.js": "text/javascript"}
    for path, kind in types.items():
        answer = client.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert answer.text == (path.removeprefix("/") or "index.html")
        assert client.head(path).status_code == 200


def test_an_update_of_the_page_is_seen_at_once(client, static):
    first = client.get("/studio.js")
    assert first.headers["cache-control"] == "no-cache"  # kept, and asked for each time
    again = client.get("/studio.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    (static / "studio.js").write_text("another")
    assert client.get("/studio.js", headers={"if-none-match": first.headers["etag"]}).text == "another"


async def status_of(app, path):
    """As the server hands a path on, with its escapes undone; a client would tidy it up first."""
    sent = []
    headers = [(b"host", b"127.0.0.1:8123"), (TOKEN_HEADER.encode(), b"k" * 43)]
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": b"", "query_string": b"", "headers": headers}
    scope |= {"server": ("127.0.0.1", 8123), "client": None, "scheme": "http", "http_version": "1.1", "root_path": ""}

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"]


STRAY = (
    "/../beside.js /elements/../../beside.js //beside.js /..\\beside.js /elements /elements/ /secret.py /note".split()
)
STRAY += "/index.html/ /./studio.js //etc/passwd /studio.js\0 /STUDIO.JS /elements//one.js /api /api/ /docs".split()
STRAY += "/api/runs/ /api/runs/../../beside.js /openapi.json \0 /elements/one.js/.. /C:/beside.js ../beside.js".split()


@pytest.mark.parametrize("path", STRAY)
def test_no_path_leads_elsewhere(client, static, path):
    assert asyncio.run(status_of(client.app, "/studio.js")) == 200
    assert asyncio.run(status_of(client.app, path)) == 404


@pytest.mark.skipif(not pages.STATIC.is_dir(), reason="the page is not here yet")
def test_the_page_itself_is_there(client):
    assert "<html" in client.get("/").text
    for file in pages.STATIC.rglob("*.js"):
        assert client.get(f"/{file.relative_to(pages.STATIC).as_posix()}").status_code == 200


def test_a_fault_of_the_studios_own_is_a_line_too(client, monkeypatch):
    monkeypatch.setattr(runs, "entries", lambda folder: 1 / 0)
    client._transport.raise_server_exceptions = False
    answer = client.get("/api/runs")
    assert answer.status_code == 500 and "ZeroDivisionError" in answer.json()["error"]


def test_a_port_that_is_taken_is_told():
    with listening(0) as door:
        port = door.getsockname()[1]
        assert door.getsockname()[0] == "127.0.0.1"
        with pytest.raises(ValueError, match=f"--port {port}: .*in use; choose another"), listening(port):
            pass


def printed(capsys, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["barreleye", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_verb_names_the_extra_that_it_needs(capsys, monkeypatch):
    monkeypatch.setattr(cli_studio, "find_spec", lambda name: None)
    assert printed(capsys, monkeypatch, "studio").endswith(
        "the studio needs fastapi and uvicorn: pip install 'barreleye[studio]'"
    )


def test_the_verb_wants_a_folder_and_a_port(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    assert "is no folder" in printed(capsys, monkeypatch, "studio", str(tmp_path / "file"))
    assert "--port" in printed(capsys, monkeypatch, "studio", "--port", "70000")
