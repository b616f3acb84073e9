import shutil

import pytest

pytest.importorskip("fastapi")
from fastapi import FastAPI
from fastapi.testclient import TestClient

from barreleye.run import Run
from barreleye.studio import data, head
from barreleye.studio.app import make_app
from barreleye.studio.guard import TOKEN_HEADER
from barreleye.studio.refusals import add_refusals
from barreleye.training.grow import grow

SHAPE = dict(
    n_layers=2, n_heads=4, d_model=32, d_ff=96, context_length=64, steps=24, batch_tokens=512, eval_every=1000,
    sample_every=1000, record_every=0, snapshots=4, quiet=True,
)  # fmt: skip
TEXT = "the sea, the fish: café “naïve” über 日本 two 🐟 blub!\n" * 200


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Small ones of each kind, trained a little, so that no weight is what it began as; all in one folder."""
    folder = tmp_path_factory.mktemp("home") / "runs"
    (folder.parent / "text.txt").write_text(TEXT)
    chats, text = dict(conversations=100, vocab=400), dict(text=folder.parent / "text.txt")
    modern = dict(preset="modern", n_kv_heads=2)
    return {
        "fish": grow("fish", out=folder / "fish", **chats, **SHAPE),
        "modern": grow("fish", out=folder / "modern", **chats, **(SHAPE | modern)),
        "letters": grow(out=folder / "letters", **text, **SHAPE),
        "own": grow(out=folder / "own", **text, **(SHAPE | dict(qk_norm=True, d_ff=0))),
    }


@pytest.fixture(scope="session")
def head_client(runs):
    """The routes of the head and of the data alone, as app.py will hang them up."""
    app = FastAPI()
    app.state.folder = runs["fish"].path.parent
    app.include_router(head.router)
    app.include_router(data.router)
    add_refusals(app)
    with TestClient(app) as client:
        yield client


@pytest.fixture
def elsewhere(head_client, tmp_path):
    """A folder of runs that the routes look into for one test."""
    there = head_client.app.state.folder
    head_client.app.state.folder = tmp_path
    yield tmp_path
    head_client.app.state.folder = there


TOKEN = "k" * 43
ADDRESS = "http://127.0.0.1:8123"


@pytest.fixture
def folder(tmp_path):
    """An empty one for runs."""
    return tmp_path / "runs"


@pytest.fixture
def client(folder):
    """The whole studio over that folder, for who has the key."""
    with TestClient(make_app(folder, TOKEN), base_url=ADDRESS, headers={TOKEN_HEADER: TOKEN}) as client:
        yield client


@pytest.fixture
def stranger(folder):
    """The same without the key."""
    with TestClient(make_app(folder, TOKEN), base_url=ADDRESS, follow_redirects=False) as client:
        yield client


@pytest.fixture
def letters(folder, runs):
    """A run of one's own to damage: a finished one of text."""
    shutil.copytree(runs["letters"].path, folder / "letters")
    return Run(folder / "letters")
