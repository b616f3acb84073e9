"""The route of what one takes away: a run as one page that needs no studio."""

import threading
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from barreleye.export.html import embedded, page
from barreleye.studio.names import run_named

MOST_SNAPSHOTS = 20

router = APIRouter()
exporting = threading.Lock()  # one page at a time: each may take a gigabyte


@router.get("/api/runs/{name}/file")
def file(name: str, request: Request, snapshots: Annotated[int, Query(ge=0, le=MOST_SNAPSHOTS)] = 0) -> Response:
    """What `barreleye export html` writes, to be kept as NAME.html."""
    run = run_named(request.app.state.folder, name)
    with exporting:
        text = page(*embedded(run, snapshots))
    # The page may not be opened from here: it brings scripts of its own, which this address does not allow.
    return Response(text, media_type="text/html", headers={"Content-Disposition": "attachment"})
