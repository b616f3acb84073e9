import pytest

from barreleye.studio.guard import HEADERS, LARGEST_BODY, TOKEN_HEADER

TOKEN = "k" * 43
ADDRESS = "http://127.0.0.1:8123"
COOKIE = {"cookie": f"barreleye-8123={TOKEN}"}


def test_the_key_in_the_address_becomes_a_cookie_that_no_script_and_no_other_page_has(stranger):
    answer = stranger.get(f"/?token={TOKEN}")
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"barreleye-8123={TOKEN};")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert stranger.get("/api/runs").json() == []  # which the client sends now


@pytest.mark.parametrize("path", ["/", "/api/runs", "/studio.js", "/nothing", "/api/runs/a/events"])
@pytest.mark.parametrize("key", [{}, {TOKEN_HEADER: "wrong"}, {TOKEN_HEADER: "é" * 43}, {"cookie": "barreleye-8123=x"}])
def test_nothing_is_told_without_the_key(stranger, path, key):
    headers = {name: value.encode("latin-1") for name, value in key.items()}
    answer = stranger.get(path, headers=headers)
    assert answer.status_code == 403 and "`barreleye studio` printed" in answer.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [{TOKEN_HEADER: TOKEN}, COOKIE, COOKIE | {"origin": ADDRESS, "sec-fetch-site": "same-origin"}],
)
def test_who_has_the_key_is_let_in(stranger, headers):
    assert stranger.get("/api/runs", headers=headers).status_code == 200


@pytest.mark.parametrize("said", [TOKEN[:-1], TOKEN + "k", "", "é", "%00", TOKEN.upper()])
def test_another_key_in_the_address_opens_nothing(stranger, said):
    answer = stranger.get(f"/?token={said}")
    assert answer.status_code == 403 and "set-cookie" not in answer.headers


def test_the_key_in_the_address_opens_the_page_alone(stranger):
    assert stranger.get(f"/api/runs?token={TOKEN}").status_code == 403
    assert stranger.post(f"/?token={TOKEN}").status_code == 403


def test_a_cookie_of_another_studio_is_none_of_ours(stranger):
    assert stranger.get("/api/runs", headers={"cookie": f"barreleye-9999={TOKEN}"}).status_code == 403
    assert stranger.get("/api/runs", headers={"cookie": 'barreleye-8123="; =;;'}).status_code == 403


@pytest.mark.parametrize(
    "other", ['theme={"a":1}', "a[b]=1", "x@y=1", "a=b c", "flag", "name=José", "barreleye-9999=x", 'q="unclosed']
)
def test_a_cookie_of_any_other_program_is_in_nobodys_way(stranger, other):
    headers = {"cookie": f"{other}; barreleye-8123={TOKEN}".encode("latin-1")}
    assert stranger.get("/api/runs", headers=headers).status_code == 200


def test_what_asks_for_another_protocol_is_refused(client):
    answer = client.get("/api/runs", headers={"upgrade": "websocket", "connection": "upgrade"})
    assert answer.status_code == 400 and "plain HTTP" in answer.json()["error"]


HOSTS = "evil.example evil.example:8123 127.0.0.1 127.0.0.1:80 127.0.0.1:8124 localhost [::1]:8123 127.1:8123"
HOSTS += " 127.0.0.1:8123.evil.example 0.0.0.0:8123 2130706433:8123 x@localhost:8123 LOCALHOST:8123 localhost.:8123"


@pytest.mark.parametrize("host", [*HOSTS.split(), "", "localhost:8123 "])
def test_another_host_is_refused_with_the_key_too(client, host):
    """As after DNS rebinding, where a name of the attacker's leads here, and the browser takes us for its server."""
    answer = client.get("/api/runs", headers={"host": host} | COOKIE)
    assert answer.status_code == 403 and "no address of the studio" in answer.json()["error"]


def test_two_hosts_are_none(client):
    answer = client.get("/api/runs", headers=[("host", "127.0.0.1:8123"), ("host", "evil.example")])
    assert answer.status_code == 403


def test_localhost_is_a_name_of_this_machine(client):
    assert client.get("/api/runs", headers={"host": "localhost:8123"}).status_code == 200
    mixed = {"host": "localhost:8123", "origin": ADDRESS}
    assert client.get("/api/runs", headers=mixed).status_code == 403  # which is another origin to a browser


ORIGINS = f"https://evil.example null http://127.0.0.1 http://127.0.0.1:8124 https://127.0.0.1:8123 file:// {ADDRESS}/"


@pytest.mark.parametrize(
    "origin", [*ORIGINS.split(), "", f"{ADDRESS}.evil.example", f"{ADDRESS}, https://evil.example", ADDRESS.upper()]
)
def test_another_origin_is_refused_with_the_key_too(client, origin):
    for ask in (client.get, client.post):
        answer = ask("/api/runs", headers={"origin": origin} | COOKIE)
        assert answer.status_code == 403 and "another page" in answer.json()["error"]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything", ""])
def test_a_request_that_another_page_began_is_refused(client, site):
    """same-site is what another server on this machine is: its port makes no difference there."""
    assert client.get("/", headers={"sec-fetch-site": site}).status_code == 403


def test_what_changes_anything_comes_with_its_origin_or_the_key_itself(stranger):
    assert stranger.post("/api/runs", headers=COOKIE, json={}).status_code == 403
    wrong = {"steps": -1}  # let in, and refused there
    assert stranger.post("/api/runs", headers=COOKIE | {"origin": ADDRESS}, json=wrong).status_code == 422
    assert stranger.post("/api/runs", headers={TOKEN_HEADER: TOKEN}, json=wrong).status_code == 422


def test_a_preflight_is_answered_with_no(stranger):
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = stranger.options("/api/runs", headers=asked)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/api/runs", "/nothing", "/api/runs/none/learning"])
def test_every_answer_says_what_a_page_may_do_with_it(client, stranger, path):
    for answer in (client.get(path), stranger.get(path), client.get(path, headers={"host": "evil.example"})):
        assert HEADERS.items() <= {name.title(): value for name, value in answer.headers.items()}.items()
        assert answer.headers["cache-control"] == "no-store"
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy and "*" not in policy and policy.startswith("default-src 'none';")


def test_a_huge_body_is_not_read(client):
    answer = client.post("/api/runs", content=b" " * (LARGEST_BODY + 1))
    assert answer.status_code == 413 and "too large" in answer.json()["error"]
    claimed = client.post("/api/runs", content=b"{}", headers={"content-length": str(10**30)})
    assert claimed.status_code == 413


def test_a_huge_body_that_does_not_say_its_length_is_cut_off(client):
    taken = 0

    def body():
        nonlocal taken
        for _ in range(64):
            taken += 2**20
            yield b" " * 2**20

    answer = client.post("/api/runs", content=body())
    assert answer.status_code == 413 and "too large" in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "1e9", "٣"])
def test_a_length_that_is_none(client, length):
    answer = client.post("/api/runs", content=b"{}", headers={"content-length": length.encode()})
    assert answer.status_code == 400


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"{", b"", b"[]", b'"x"', b"1e999"])
def test_a_body_that_is_no_form(client, body):
    answer = client.post("/api/runs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422) and "\n" not in answer.json()["error"]


def test_there_are_no_web_sockets(client):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/runs"):
        pass
