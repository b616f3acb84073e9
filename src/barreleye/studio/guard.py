"""Who may talk to the studio: this machine's own browser, on the page that holds the key of this launch.

A page from elsewhere can send requests to 127.0.0.1 too. What it cannot do is send them with our Host and our Origin
(or none), know the key, or read what is answered. All of that is asked before any route is.
"""

import hmac
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from barreleye.studio.refusals import refused

TOKEN_HEADER = "x-barreleye-token"
LARGEST_BODY = 4 * 2**20  # bytes: a conversation that fills any context of ours
SAFE = ("GET", "HEAD")
FROM_HERE = ("same-origin", "none")  # the page itself; an address that was typed or opened by another program

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
OPEN_IT = "open the address that `barreleye studio` printed: it holds the key of this launch"


class Guard:
    """ASGI middleware around everything. `token` is the key."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            answer = self.refusal(scope) or self.entrance(scope)
            await (answer or self._limited)(scope, receive, with_headers(send))

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, limited(receive), send)

    def refusal(self, scope: Scope) -> Response | None:
        """What is wrong with a request, but for its key."""
        headers = Headers(scope=scope)
        hosts = hosts_of(scope)
        if len(headers.getlist("host")) != 1 or headers["host"] not in hosts:
            return refused(403, f"this is no address of the studio; {OPEN_IT}")
        origins = headers.getlist("origin")
        if origins and origins != [f"http://{headers['host']}"]:
            return refused(403, "another page may not ask the studio")
        if any(site not in FROM_HERE for site in headers.getlist("sec-fetch-site")):
            return refused(403, f"another page may not ask the studio; {OPEN_IT}")
        if "upgrade" in headers:
            return refused(400, "the studio speaks plain HTTP")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return refused(400, "content-length is no number")
        if int(length[:20]) > LARGEST_BODY:
            return refused(413, TOO_LARGE)
        return None

    def entrance(self, scope: Scope) -> Response | None:
        """None for who has the key. Who comes with it in the address is given a cookie, and sent to the address without
        it, which may be seen, kept and shared."""
        headers = Headers(scope=scope)
        if scope["path"] == "/" and scope["method"] in SAFE and (said := token_in(scope["query_string"])) is not None:
            if not self.is_key(said):
                return refused(403, f"this key is not of this launch; {OPEN_IT}")
            answer = Response(status_code=303, headers={"location": "/"})
            answer.set_cookie(cookie_name(scope), self.token, path="/", httponly=True, samesite="strict")
            return answer
        if self.is_key(headers.get(TOKEN_HEADER, "")):
            return None
        if not self.is_key(cookie_of(headers, cookie_name(scope))):
            return refused(403, OPEN_IT)
        if scope["method"] not in SAFE and "origin" not in headers:
            return refused(403, "what changes anything has to come with its Origin, or with the key in a header")
        return None

    def is_key(self, said: str) -> bool:
        return hmac.compare_digest(said.encode("utf-8", "replace"), self.token.encode())


TOO_LARGE = f"this is too large: at most {LARGEST_BODY // 2**20} MiB can be sent"


def hosts_of(scope: Scope) -> list[str]:
    """The names of the socket that was reached, as a browser writes them."""
    port = scope["server"][1]
    names = ("127.0.0.1", "localhost")
    return [f"{name}:{port}" for name in names] + (list(names) if port == 80 else [])


def cookie_name(scope: Scope) -> str:
    """A browser keeps cookies by host, not by port: two studios beside each other have one each."""
    return f"barreleye-{scope['server'][1]}"


def cookie_of(headers: Headers, name: str) -> str:
    """As a browser reads them: others of this host, which may be of any form, are passed over."""
    return cookie_parser("; ".join(headers.getlist("cookie"))).get(name, "")


def token_in(query: bytes) -> str | None:
    found = parse_qs(query.decode("latin-1")).get("token")
    return found[0] if found else None


def with_headers(send: Send) -> Send:
    """Everything that is answered says what a page may do with it; nothing is kept but what says so itself."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending


def limited(receive: Receive) -> Receive:
    """A body that does not say its length may not be longer either."""
    taken = 0

    async def receiving() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > LARGEST_BODY:
            raise HTTPException(413, TOO_LARGE)
        return message

    return receiving
