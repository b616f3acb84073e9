"""The routes of the head: look into it, and talk to it, at any recorded step and with any part switched off."""

import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from barreleye.config import Sampling
from barreleye.data.chat_format import Message
from barreleye.lens.subject import Subject
from barreleye.studio import answers, talking
from barreleye.studio.answers import Question
from barreleye.studio.frames import Frame, to_line
from barreleye.studio.names import run_named
from barreleye.studio.opened import OPENED

LONGEST_TEXT = 100_000  # characters: more than any context of ours
MOST_TURNS, MOST_OFF, MOST_K = 1000, 1000, 100

router = APIRouter()
computing = threading.Lock()  # one pass at a time: two at once would each take twice as long


class Request_(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Turn(Request_):
    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=LONGEST_TEXT)]

    def message(self) -> Message:
        return Message(self.role, self.content)


Turns = Annotated[list[Turn], Field(min_length=1, max_length=MOST_TURNS)]
Step = Annotated[int, Field(ge=0)] | None
Off = Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=MOST_OFF)]
Want = Literal["pattern", "lens", "stages", "residual", "neurons", "attribution", "logits"]


class LookRequest(Request_):
    """What is asked of a look: exactly one of text, turns and ids is read.

    text: for a model that learned chats, what a person says to it; as it stands, if `as_text`.
    """

    text: Annotated[str, Field(max_length=LONGEST_TEXT)] | None = None
    turns: Turns | None = None
    ids: Annotated[list[int], Field(min_length=1, max_length=LONGEST_TEXT)] | None = None
    step: Step = None
    off: Off = []
    want: Annotated[list[Want], Field(max_length=len(answers.WANTS))] = []
    layer: int | None = None
    head: int | None = None
    position: int | None = None
    token: int | None = None
    k: Annotated[int, Field(ge=1, le=MOST_K)] | None = None
    as_text: bool = False

    @model_validator(mode="after")
    def one_thing_to_read(self) -> "LookRequest":
        if sum(each is not None for each in (self.text, self.turns, self.ids)) != 1:
            raise ValueError("give exactly one of text, turns and ids")
        return self

    def read(self) -> Any:
        if self.turns is not None:
            return [turn.message() for turn in self.turns]
        return self.ids if self.text is None else self.text

    def question(self) -> Question:
        given = {name: getattr(self, name) for name in ("layer", "head", "position", "token", "k")}
        return Question(self.want, **{name: value for name, value in given.items() if value is not None})


class SamplingRequest(Request_):
    """As `Sampling`, which says what each may be."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None


class TalkRequest(Request_):
    turns: Turns
    step: Step = None
    off: Off = []
    sampling: SamplingRequest | None = None
    seed: int | None = None

    def drawn(self) -> Sampling:
        given = (self.sampling or SamplingRequest()).model_dump(exclude_none=True)
        return Sampling(**given, seed=-1 if self.seed is None else self.seed)


def subject_at(request: Request, name: str, step: int | None) -> Subject:
    """The model of a run at a step. Where an earlier one is asked for, others will be."""
    run = run_named(request.app.state.folder, name)
    subject = OPENED.subject(run, step)
    if step not in (None, run.step):
        OPENED.ahead(run)
    return subject


@router.post("/api/runs/{name}/look")
def look(name: str, asked: LookRequest, request: Request) -> Response:
    """A frame (studio/frames.py) of what the model made of a text."""
    began = time.perf_counter()
    subject = subject_at(request, name, asked.step)
    with computing:
        frame = answers.look(subject, asked.read(), asked.off, asked.question(), False if asked.as_text else None)
    frame = Frame({**frame.header, "seconds": time.perf_counter() - began}, frame.arrays)
    return Response(frame.encode(), media_type="application/octet-stream")


@router.post("/api/runs/{name}/talk")
def talk(name: str, asked: TalkRequest, request: Request) -> StreamingResponse:
    """A line of JSON for each token of the reply, as it is drawn."""
    subject = subject_at(request, name, asked.step)
    with computing:
        said = talking.talk(subject, [turn.message() for turn in asked.turns], asked.drawn(), asked.off)
    return StreamingResponse(_lines(said), media_type="application/x-ndjson")


async def _lines(said: Iterator[talking.Said]) -> AsyncIterator[bytes]:
    """Each token is computed only when the last one was taken: nobody listening, nothing computed."""
    while (line := await run_in_threadpool(_next_line, said)) is not None:
        yield line


def _next_line(said: Iterator[talking.Said]) -> bytes | None:
    with computing:
        found = next(said, None)
    return None if found is None else to_line(found) + b"\n"
