"""The routes of what a run learned from: its tokenizer, sheet and documents; and a map of its embeddings."""

import dataclasses
import itertools
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from barreleye.data.chats import parse_chat_line
from barreleye.data.merging import merge_moves
from barreleye.data.text import check_file
from barreleye.data.tokenizer import Tokenizer
from barreleye.lens.subject import Subject, files_of
from barreleye.lens.weights import pca
from barreleye.run import Run
from barreleye.studio.frames import finite
from barreleye.studio.names import run_named
from barreleye.studio.opened import OPENED

LONGEST_TEXT, LONGEST_MERGED = 10_000, 400  # characters; of what is merged, each move is the whole text again
MOST_ON_PAGE, LAST_PAGE = 100, 10**6
TEXT_PAGE = 2000  # bytes of a text for each document that a page would have
MOST_MAPPED = 8192  # tokens on a map

router = APIRouter()


@router.get("/api/runs/{name}/tokens")
def tokens(name: str, text: Annotated[str, Query(max_length=LONGEST_TEXT)], request: Request) -> list[dict[str, Any]]:
    """The tokens that a text becomes, as it stands."""
    tokenizer = OPENED.tokenizer(run_named(request.app.state.folder, name))
    return shown(tokenizer, tokenizer.encode(text))


@router.get("/api/runs/{name}/merges")
def merges(name: str, text: Annotated[str, Query(max_length=LONGEST_MERGED)], request: Request) -> dict[str, Any]:
    """How it becomes them: what it begins as, and each move."""
    tokenizer = OPENED.tokenizer(run_named(request.app.state.folder, name))
    first, moves = merge_moves(tokenizer, text)
    return {
        "kind": tokenizer.kind,
        "start": first,
        "moves": [dataclasses.asdict(move) for move in moves],
        "tokens": shown(tokenizer, tokenizer.encode(text)),
    }


@router.get("/api/runs/{name}/data")
def data(
    name: str,
    request: Request,
    side: str = "train",
    page: Annotated[int, Query(ge=0, le=LAST_PAGE)] = 0,
    size: Annotated[int, Query(ge=1, le=MOST_ON_PAGE)] = 20,
) -> dict[str, Any]:
    """The sheets, the split, what was dropped, and a page of the documents of one side."""
    run = run_named(request.app.state.folder, name)
    kind = run.config.data.kind
    about = {"kind": kind, "sources": run.config.data.sources}
    if kind == "import":
        return about | {"note": "this model was imported; what it learned from did not come with it", "sides": []}
    files = run.documents()
    if side not in files:
        raise ValueError(f"side: there is no {side!r}; there are {', '.join(files)}")
    for file in files.values():
        check_file(file)
    read = text_page if kind == "text" else chat_page
    report = run.split_report()
    count_of = {each: (file.stat().st_size if kind == "text" else lines_in(file)) for each, file in files.items()}
    per_page = size * TEXT_PAGE if kind == "text" else size
    return about | {
        "sheets": run.sheets(),
        "split": report.get("split", ""),
        "report": report,
        "duplicates": {key: report.get(key, 0) for key in ("duplicates_dropped", "held_out_dropped", "overlap")},
        "sides": [{"name": each, "count": count} for each, count in count_of.items()],
        "counted": "bytes" if kind == "text" else "conversations",
        "side": side,
        "page": page,
        "pages": -(-count_of[side] // per_page),
        **read(files[side], page * per_page, per_page),
    }


@router.get("/api/runs/{name}/embeddings")
def embeddings(name: str, request: Request, step: Annotated[int | None, Query(ge=0)] = None) -> dict[str, Any]:
    """The tokens on the two axes along which their embeddings differ most."""
    run = run_named(request.app.state.folder, name)
    return embeddings_map(run.path, step, files_of(run, step))


@lru_cache(32)
def embeddings_map(path: Path, step: int | None, files: tuple[int, ...]) -> dict[str, Any]:
    """Of a run's weights as they were saved then: of the first 8,192 tokens, where there are more."""
    subject: Subject = OPENED.subject(Run(path), step)
    vectors_NC = subject.model.embed.weight.detach()[:MOST_MAPPED]
    found = pca(vectors_NC, 2)
    return {
        "tokens": shown(subject.tokenizer, range(len(vectors_NC))),
        "points": [[finite(x) for x in point] for point in found.coordinates_NK.tolist()],
        "share": [finite(share) for share in found.share_K.tolist()],
        "of": subject.tokenizer.vocab_size,
    }


def shown(tokenizer: Tokenizer, ids: Any) -> list[dict[str, Any]]:
    return [{"id": i, "text": tokenizer.token_text(i)} for i in ids]


def lines_in(file: Path) -> int:
    with file.open("rb") as lines:
        return sum(block.count(b"\n") for block in iter(lambda: lines.read(2**20), b""))


def chat_page(file: Path, first: int, count: int) -> dict[str, Any]:
    """Some conversations of a file, without reading what comes after. Raises ValueError, with the line, for a damaged
    one."""
    conversations = []
    with file.open("rb") as lines:
        for number, line in enumerate(itertools.islice(lines, first, first + count), first + 1):
            try:
                conversation = parse_chat_line(line)
            except ValueError as error:
                raise ValueError(f"{file}:{number}: {error}") from None
            turns = [{"role": turn.role, "content": turn.content} for turn in conversation.messages]
            conversations.append({"topic": conversation.topic, "turns": turns})
    return {"conversations": conversations}


def text_page(file: Path, first: int, count: int) -> dict[str, Any]:
    """Some bytes of a text; a character that is cut at either end is left out."""
    with file.open("rb") as text:
        text.seek(first)
        return {"text": text.read(count).decode("utf-8", "ignore")}
