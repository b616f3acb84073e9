"""The studio: one small web server for one person, on this machine alone."""

import contextlib
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FrameType

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from barreleye.studio import carry, data, head, learning, pages, runs
from barreleye.studio.guard import HEADERS, Guard
from barreleye.studio.opened import OPENED
from barreleye.studio.refusals import add_refusals, refused
from barreleye.studio.trainings import WrongState

HOST = "127.0.0.1"
PATIENCE = 2  # seconds that a request has to end when the studio does


def make_app(folder: Path, token: str) -> FastAPI:
    """The studio over the runs of a folder, for who knows the token."""
    app = FastAPI(
        title="Barreleye", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, lifespan=lifespan
    )
    app.state.folder = folder.absolute()
    app.state.leaving = threading.Event()
    for room in (runs, learning, head, data, carry, pages):  # the pages last: theirs is whatever no other is asked for
        app.include_router(room.router)
    add_refusals(app)
    app.add_exception_handler(WrongState, _wrong_state)
    app.add_exception_handler(Exception, _own_fault)
    app.add_middleware(Guard, token=token)
    return app


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Whoever listens is let go when it ends; the trainings stay."""
    app.state.leaving.clear()
    OPENED.leaving.clear()
    yield
    app.state.leaving.set()
    OPENED.leaving.set()


async def _wrong_state(request: Request, error: Exception) -> JSONResponse:
    return refused(409, str(error))


async def _own_fault(request: Request, error: Exception) -> JSONResponse:
    """Not the person's: the terminal has the rest."""
    answer = refused(500, f"the studio failed at this ({type(error).__name__}); what it said stands in its terminal")
    answer.headers.update(HEADERS)  # it is sent past the guard
    return answer


def serve(folder: Path, port: int = 0, open_page: bool = True) -> None:
    """Serve until Ctrl-C, on a free port unless one is given. Raises ValueError for one that is taken."""
    token = secrets.token_urlsafe(32)
    app = make_app(folder, token)
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))  # the browser draws meanwhile, and a training may run
    with listening(port) as door:
        address = f"http://{HOST}:{door.getsockname()[1]}/?token={token}"
        print(f"the studio is open at {address}", flush=True)
        print("Ctrl-C closes it; trainings go on without it", file=sys.stderr, flush=True)
        # No log of requests: the first one has the token in it.
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, ws="none", proxy_headers=False, server_header=False,
            timeout_graceful_shutdown=PATIENCE,
        )  # fmt: skip
        server = Server(config, app.state.leaving, address if open_page else None)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[door])


@contextlib.contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    # Named as TCP, so that asyncio sends each answer at once; else a body waits 40 ms until its head is acknowledged.
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":  # where it would let another program have the same port
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((HOST, port))
            door.listen()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "is no port"
            raise ValueError(f"--port {port}: {reason}; choose another, or leave it out for a free one") from None
        yield door
    finally:
        door.close()


class Server(uvicorn.Server):
    """Opens the page once it answers; lets go who listens for events when it is to end."""

    def __init__(self, config: uvicorn.Config, leaving: threading.Event, address: str | None) -> None:
        super().__init__(config)
        self.leaving, self.address = leaving, address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.address and self.started:
            # Some browsers end only when they are closed.
            threading.Thread(target=webbrowser.open, args=[self.address], daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.leaving.set()
        super().handle_exit(sig, frame)
