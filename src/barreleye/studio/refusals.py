"""Whatever is refused, in one line: `{"error": "..."}`."""

import errno
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from barreleye.studio.names import NoSuchRun

LONGEST = 1000  # characters of a line


def add_refusals(app: FastAPI) -> None:
    """400 for what a caller gave (a ValueError says what is wrong), 404 for a run that is not there, 409 and 507
    for files that are in the way, or do not fit on the disk."""
    app.add_exception_handler(ValueError, _wrong)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(NoSuchRun, _missing)
    app.add_exception_handler(HTTPException, _other)
    app.add_exception_handler(OSError, _of_the_disk)


def refused(status: int, error: str) -> JSONResponse:
    # Half a character (a lone surrogate) cannot be sent; it is spelled out.
    line = " ".join(error.split()).encode("utf-8", "backslashreplace").decode()
    return JSONResponse({"error": line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."}, status)


async def _wrong(request: Request, error: Exception) -> JSONResponse:
    return refused(400, str(error))


async def _missing(request: Request, error: Exception) -> JSONResponse:
    return refused(404, str(error))


async def _of_the_disk(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    where = Path(error.filename).name if isinstance(error.filename, str) else "the disk"
    return refused(507 if error.errno == errno.ENOSPC else 409, f"{where}: {error.strerror or error}")


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"][1:])) or "request"
    return refused(400, f"{where}: {first['msg'].removeprefix('Value error, ')}")


async def _other(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return refused(error.status_code, error.detail)
