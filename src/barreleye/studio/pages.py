"""The files of the page."""

import hashlib
from email.utils import formatdate
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, Response

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
"""What is served, and as what: what the system's own table says of an ending differs from machine to machine."""

router = APIRouter()


@router.api_route("/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
def page(path: str, request: Request) -> Response:
    """A file of the page: one of those that are there, by its name. A path is compared, never followed."""
    if path.startswith("api/"):  # a question that no room answers in this way
        if request.method == "HEAD":
            raise HTTPException(405, "ask with GET")
        raise HTTPException(404, f"there is no {path[:100]!r} here")
    wanted = path or "index.html"
    for file in STATIC.rglob("*"):
        if file.relative_to(STATIC).as_posix() == wanted and file.suffix in TYPES and file.is_file():
            return whole(file, request)
    raise HTTPException(404, f"there is no {path[:100]!r} here")


def whole(file: Path, request: Request) -> Response:
    """Kept by the browser, which asks each time whether it is still the same: an update is seen at once."""
    status = file.stat()
    mark = hashlib.sha256(f"{status.st_mtime_ns} {status.st_size}".encode()).hexdigest()[:32]
    headers = {
        "ETag": f'"{mark}"',
        "Cache-Control": "no-cache",
        "Last-Modified": formatdate(status.st_mtime, usegmt=True),
    }
    if f'"{mark}"' in [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    return FileResponse(file, headers=headers, media_type=TYPES[file.suffix])
