import asyncio
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from barreleye.config import Sampling
from barreleye.inference.chat import Chat
from barreleye.inference.generate import generate_tokens
from barreleye.lens.edits import edit, edited, zero
from barreleye.lens.subject import subject_of
from barreleye.lens.view import look
from barreleye.run import Run
from barreleye.studio import talking
from barreleye.studio.names import NoSuchRun, run_named
from barreleye.studio.opened import Opened, size_of

sys.path.insert(0, str(Path(__file__).parent))
from frame import decode

OFF = ["blocks.1.attn.hook_z[head=3]", "blocks.0.hook_mlp_out"]
HELLO = [{"role": "user", "content": "hello"}]
HOSTILE = [
    "..",
    ".",
    "../fish",
    "a/b",
    "/etc",
    "%2e%2e",
    "..%2ffish",
    "fish%00",
    "%00",
    "fish%2f",
    "~",
    "fish ",
    "FISH",
]


def asked(client, name, **request):
    answer = client.post(f"/api/runs/{name}/look", json=request)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    return decode(answer.content)


def said(client, name, **request):
    answer = client.post(f"/api/runs/{name}/talk", json={"turns": HELLO, "seed": 3} | request)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    *tokens, last = map(json.loads, answer.text.splitlines())
    assert last["done"] is True
    return tokens, last


def refused(answer, status):
    """The one line that says why."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    line = answer.json()["error"]
    assert line and "\n" not in line and "Traceback" not in line
    return line


# Look ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "read", [{"text": "who are you"}, {"turns": HELLO}, {"ids": [5, 6, 7]}], ids=["text", "turns", "ids"]
)
@pytest.mark.parametrize("step", [None, 0, 24])
def test_a_look_is_what_the_lens_computes(runs, head_client, read, step):
    header, arrays = asked(head_client, "fish", **read, step=step, want=["pattern", "logits"])
    view = look(runs["fish"], next(iter(read.values())), step=step)
    assert [token["id"] for token in header["tokens"]] == view.ids
    np.testing.assert_array_equal(arrays["logits"], view.logits_TV[-1])
    np.testing.assert_array_equal(arrays["pattern"], view["blocks.*.attn.hook_pattern"])
    assert 0 < header["seconds"] < 60


def test_a_text_may_be_read_as_it_stands(runs, head_client):
    header, _ = asked(head_client, "fish", text="Hello", as_text=True)
    assert [token["id"] for token in header["tokens"]] == runs["fish"].tokenizer.encode("Hello")


def test_a_head_switched_off_is_an_edit(runs, head_client):
    _, arrays = asked(head_client, "fish", text="hi", off=OFF, want=["logits"])
    np.testing.assert_array_equal(arrays["logits"], edit(runs["fish"], "hi", dict.fromkeys(OFF, zero)).logits_TV[-1])
    assert not np.allclose(arrays["logits"], look(runs["fish"], "hi").logits_TV[-1], atol=1e-4)


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        ({}, "give exactly one of text, turns and ids"),
        ({"text": "a", "ids": [1]}, "give exactly one of text, turns and ids"),
        ({"text": " "}, "the text is empty"),
        ({"text": "fish " * 100}, "the model sees 64 at a time; shorten it"),
        ({"text": "a" * 100_001}, "text: String should have at most 100000 characters"),
        ({"text": "\ud800"}, ""),
        ({"text": 5}, "text: Input should be a valid string"),
        ({"ids": [10**9]}, "token ids must be 0 to"),
        ({"ids": [-1]}, "token ids must be 0 to"),
        ({"ids": [10**30]}, ""),
        ({"ids": []}, "ids: List should have at least 1 item"),
        (
            {"turns": [{"role": "wizard", "content": "x"}]},
            "turns.0.role: Input should be 'system', 'user' or 'assistant'",
        ),
        ({"turns": [{"role": "user"}]}, "turns.0.content: Field required"),
        ({"text": "a", "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"text": "a", "k": 101}, "k: Input should be less than or equal to 100"),
        ({"text": "a", "k": "3"}, "k: Input should be a valid integer"),
        ({"text": "a", "step": 7}, "no snapshot of step 7; choose one of those kept"),
        ({"text": "a", "step": -1}, "step: Input should be greater than or equal to 0"),
        ({"text": "a", "want": ["weights"]}, "want.0: Input should be 'pattern'"),
        ({"text": "a", "want": ["stages"], "layer": 9}, "there is no layer 9"),
        ({"text": "a", "want": ["logits"], "position": 9**9}, "there is no position"),
        ({"text": "a", "off": ["blocks.9.hook_attn_out"]}, "there is no activation 'blocks.9.hook_attn_out'"),
        ({"text": "a", "off": ["blocks.0.attn.hook_z[head=99]"]}, "has head 0 to 3, not 99"),
        ({"text": "a", "off": ["; rm"]}, "is no address"),
        ({"text": "a", "off": ["x" * 201]}, "off.0: String should have at most 200 characters"),
        ({"text": "a", "colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_a_look_that_cannot_be_is_refused_in_one_line(head_client, request_, line):
    body = json.dumps(request_).encode()  # as it is: half a character too
    answer = head_client.post("/api/runs/fish/look", content=body, headers={"content-type": "application/json"})
    assert line in refused(answer, 400)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"null", b"[" * 100_000])
def test_a_body_that_is_no_request_is_refused_in_one_line(head_client, body):
    answer = head_client.post("/api/runs/fish/look", content=body, headers={"content-type": "application/json"})
    refused(answer, 400)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "true", "1" * 5000])
def test_a_number_that_is_none_is_refused_in_one_line(head_client, number):
    body = json.dumps({"turns": HELLO, "sampling": {"temperature": "#"}}).replace('"#"', number)
    answer = head_client.post("/api/runs/fish/talk", content=body, headers={"content-type": "application/json"})
    refused(answer, 400)


# Talk ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fish", "modern"])
@pytest.mark.parametrize("off", [[], OFF], ids=["whole", "off"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "top_k": 7, "top_p": 1.0, "repetition_penalty": 1.2}])
def test_a_talk_says_what_a_chat_does(runs, head_client, name, off, sampling):
    turns = [*HELLO, {"role": "assistant", "content": "blub"}, {"role": "user", "content": "Who ARE you?"}]
    tokens, last = said(head_client, name, turns=turns, off=off, sampling=sampling)
    model, tokenizer, _ = subject_of(runs[name])
    decoder = edited((model, tokenizer), dict.fromkeys(off, zero)) if off else model
    chat = Chat(decoder, tokenizer, Sampling(**sampling, seed=3))
    chat.ask("hello")
    chat.messages[1:] = [type(chat.messages[0])("assistant", "blub")]
    _, prompt, most = chat.fit("Who ARE you?")
    ids = list(generate_tokens(decoder, prompt, most, chat.sampling, chat.stop_ids))
    assert [token["id"] for token in tokens] == ids and last["ids"] == [*prompt, *ids]
    assert "".join(token["text"] for token in tokens) + last["text"] == chat.ask("Who ARE you?")


def test_each_token_comes_with_the_logits_that_it_was_drawn_from(runs, head_client):
    tokens, last = said(head_client, "fish", off=OFF, sampling={"temperature": 0.0})
    view = edit(runs["fish"], last["ids"], dict.fromkeys(OFF, zero))
    assert tokens
    for token in tokens:
        assert last["ids"][token["position"]] == token["id"]
        top = view.logits_TV[token["position"] - 1].topk(50)
        assert len(token["top"]) == 50
        assert token["top"][0]["id"] == token["id"]  # at temperature 0
        np.testing.assert_allclose([each["logit"] for each in token["top"]], top.values, atol=1e-4)
        assert {each["id"] for each in token["top"][:10]} <= set(top.indices[:12].tolist())
        assert all(each["text"] == runs["fish"].tokenizer.token_text(each["id"]) for each in token["top"])


def test_any_token_of_a_talk_can_be_opened(runs, head_client):
    tokens, last = said(head_client, "fish")
    header, _ = asked(head_client, "fish", ids=last["ids"])
    assert [header["tokens"][token["position"]]["id"] for token in tokens] == [token["id"] for token in tokens]


def test_a_talk_at_a_step_is_with_the_model_as_it_was(runs, head_client):
    tokens, last = said(head_client, "fish", step=0, sampling={"temperature": 0.0})
    top = look(runs["fish"], last["ids"], step=0).logits_TV[tokens[0]["position"] - 1]
    assert tokens[0]["top"][0]["logit"] == pytest.approx(float(top.max()), abs=1e-4)


def test_a_long_talk_forgets_its_first_turns_and_fits(runs, head_client):
    turns = [*HELLO, {"role": "assistant", "content": "a small fish in the deep sea"}] * 20 + HELLO
    _, last = said(head_client, "fish", turns=turns)
    assert len(last["ids"]) <= 64


def test_a_model_of_plain_text_goes_on_from_what_was_said(runs, head_client):
    tokens, last = said(head_client, "letters", turns=[{"role": "user", "content": "the sea, 日"}], seed=5)
    tokenizer = runs["letters"].tokenizer
    assert tokenizer.decode(last["ids"][: -len(tokens)]) == "the sea, 日"
    assert len(tokens) == 32 and len(last["ids"]) <= 64
    _, last = said(head_client, "letters", turns=[{"role": "user", "content": "the sea, " * 50}])
    assert len(last["ids"]) == 64


def test_the_bytes_of_a_character_are_held_back_until_it_is_whole(runs, monkeypatch):
    subject = subject_of(runs["fish"])
    fish = subject.tokenizer.encode("🐟!")
    monkeypatch.setattr(talking, "generate_tokens", lambda decoder, ids, *_: _after_start(decoder, ids, fish))
    *tokens, last = talking.talk(subject, [talking.Message("user", "hi")], Sampling())
    assert [token["text"] for token in tokens] == ["", "", "", "🐟", "!"]
    assert last["ids"][-5:] == fish


def _after_start(decoder, ids, tokens):
    decoder.stream().start(ids)
    yield from tokens


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        ({"turns": []}, "turns: List should have at least 1 item"),
        ({"turns": [{"role": "user", "content": " "}]}, "the last turn is empty"),
        ({"turns": [{"role": "assistant", "content": "x"}]}, "with the user last"),
        ({"turns": [*HELLO, {"role": "assistant", "content": "x"}]}, "with the user last"),
        ({"turns": HELLO * 3}, "user, assistant, user"),
        ({"turns": [*HELLO, {"role": "system", "content": "x"}]}, "user, assistant, user"),
        ({"turns": [{"role": "system", "content": "x"}]}, "with the user last"),
        ({"turns": [{"role": "user", "content": "fish " * 100}]}, "the model sees 64 at a time; say it shorter"),
        ({"turns": HELLO, "sampling": {"temperature": -1.0}}, "temperature"),
        ({"turns": HELLO, "sampling": {"top_p": 2.0}}, "top_p"),
        ({"turns": HELLO, "sampling": {"temperature": "hot"}}, "sampling.temperature: Input should be a valid number"),
        ({"turns": HELLO, "seed": 2**40}, "seed"),
        ({"turns": HELLO, "step": 5}, "no snapshot of step 5"),
        ({"turns": HELLO, "off": ["blocks.0.hook_nothing"]}, "there is no activation"),
        ({"turns": HELLO, "off": ["blocks.0.hook_attn_out[position=-1]"]}, "count positions from 0"),
    ],
)
def test_a_talk_that_cannot_be_is_refused_before_it_begins(head_client, request_, line):
    assert line in refused(head_client.post("/api/runs/fish/talk", json=request_), 400)


def test_a_talk_stops_when_the_page_goes_away(head_client, monkeypatch):
    """As a server drives it: after two tokens were sent, the other side has hung up."""
    drawn = []
    real = talking.generate_tokens

    def endless(*given):
        for token in real(*given[:2], 10**6, Sampling(seed=1)):
            drawn.append(token)
            yield token

    monkeypatch.setattr(talking, "generate_tokens", endless)
    body = json.dumps({"turns": HELLO}).encode()
    sent = []

    async def visit():
        gone, asked_for = asyncio.Event(), iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive():
            for message in asked_for:
                return message
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if len([each for each in sent if each.get("body")]) == 2:
                gone.set()

        headers = [(b"content-type", b"application/json"), (b"host", b"testserver")]
        scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1"}
        scope |= {"method": "POST", "path": "/api/runs/fish/talk", "query_string": b"", "headers": headers}
        await asyncio.wait_for(head_client.app(scope | {"root_path": "", "scheme": "http"}, receive, send), 20)
        count = len(drawn)
        await asyncio.sleep(0.2)
        assert len(drawn) == count, "it talks on, to nobody"

    asyncio.run(visit())
    assert 2 <= len(drawn) < 20
    assert not any(b'"done"' in each.get("body", b"") for each in sent)


# Which run, and how often it is opened ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("verb", ["look", "talk", "tokens", "merges", "data", "embeddings"])
def test_a_hostile_name_is_no_run_and_touches_no_path(head_client, monkeypatch, name, verb):
    for method in ("subject", "tokenizer"):
        monkeypatch.setattr(Opened, method, None)
    monkeypatch.setattr("barreleye.studio.names.Run", None)
    if verb in ("look", "talk"):
        request = {"text": "a"} if verb == "look" else {"turns": HELLO}
        answer = head_client.post(f"/api/runs/{name}/{verb}", json=request)
    else:
        answer = head_client.get(f"/api/runs/{name}/{verb}", params={"text": "a"})
    # What a client makes of dots in an address leads to no route, or to one that answers to another verb.
    refused(answer, 405 if answer.status_code == 405 else 404)


def test_only_what_lies_in_the_folder_is_a_run(runs, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(runs["fish"].path, folder / "fish")
    shutil.copytree(runs["fish"].path, tmp_path / "secret")
    (folder / "empty").mkdir()
    (folder / "bad").mkdir()
    (folder / "bad" / "config.toml").write_text("[")
    assert run_named(folder, "fish").path == folder / "fish"
    for name in ("../secret", str(tmp_path / "secret"), "fish/", "./fish", "", "\0", "fish\0", "empty", "a" * 10_000):
        with pytest.raises(NoSuchRun, match="there is no run"):
            run_named(folder, name)
    with pytest.raises(NoSuchRun):
        run_named(tmp_path / "nowhere", "fish")
    with pytest.raises(ValueError, match=r"config\.toml"):
        run_named(folder, "bad")


def test_a_damaged_run_is_refused_in_one_line(runs, head_client, elsewhere):
    shutil.copytree(runs["fish"].path, elsewhere / "fish")
    (elsewhere / "fish" / "snapshots" / "0" / "model.safetensors").write_bytes(b"no")
    assert "damaged" in refused(head_client.post("/api/runs/fish/look", json={"text": "a", "step": 0}), 400)
    (elsewhere / "fish" / "model" / "model.safetensors").unlink()
    assert "there is no such file" in refused(head_client.post("/api/runs/fish/look", json={"text": "a"}), 400)


def test_a_model_is_opened_once_until_it_is_saved_again(runs, tmp_path, monkeypatch):
    shutil.copytree(runs["fish"].path, tmp_path / "fish")
    run, opened, loads = Run(tmp_path / "fish"), Opened(), []
    real = Run.load_weights
    monkeypatch.setattr(Run, "load_weights", lambda self, step=None: loads.append(step) or real(self, step))
    first = opened.subject(run)
    assert opened.subject(Run(tmp_path / "fish")).model is first.model and loads == [None]
    then = opened.subject(run, 0)
    assert loads == [None, 0]
    for name, weight in run.load_model(step=0).state_dict().items():
        torch.testing.assert_close(then.model.state_dict()[name], weight, atol=0, rtol=0)
    assert not torch.equal(first.model.embed.weight, then.model.embed.weight)
    loads.clear()
    run.save_model({name: torch.zeros_like(weight) for name, weight in first.model.state_dict().items()})
    assert not opened.subject(run).model.embed.weight.any() and loads == [None]
    assert opened.bytes == 2 * size_of(first), "what it was before is forgotten"


def test_no_more_is_kept_than_there_is_room_for(runs):
    run = runs["fish"]
    steps, size = run.snapshots(), size_of(Opened().subject(run))
    opened = Opened(most_bytes=3 * size)
    for step in steps:
        opened.subject(run, step)
    assert opened.bytes == 3 * size
    assert Opened(most_bytes=0).subject(run) is not None


def test_the_other_snapshots_are_opened_meanwhile(runs):
    run, opened = runs["fish"], Opened()
    opened.subject(run, 0)
    opened._open_snapshots(run, run.snapshots())
    assert opened.bytes == len(run.snapshots()) * size_of(opened.subject(run, 0))
    few = Opened(most_bytes=2 * size_of(opened.subject(run, 0)))
    kept = few.subject(run, 24)
    few._open_snapshots(run, run.snapshots())
    assert few.subject(run, 24).model is kept.model, "what is looked at makes no room for what may be"
    ending = Opened()
    ending.leaving.set()
    ending._open_snapshots(run, run.snapshots())
    assert ending.bytes == 0, "who leaves is not waited for"


def test_snapshots_are_opened_ahead_once(runs, monkeypatch):
    run, opened, asked = runs["fish"], Opened(), []
    monkeypatch.setattr(opened, "_open_snapshots", lambda run, steps: asked.append(steps))
    for _ in range(3):
        opened.ahead(run)
    assert asked == [run.snapshots()]


def test_each_step_is_answered_with_the_weights_of_that_step(client, runs):
    """A training that was killed after a snapshot, and before it saved; and one that is between two snapshots."""
    there = client.app.state.folder / "killed"
    shutil.copytree(runs["fish"].path, there)
    killed = Run(there)
    newest, *_ = sorted(killed.snapshots(), reverse=True)
    shutil.rmtree(there / "state" / str(newest))
    (there / "state" / "17").mkdir(parents=True)
    assert killed.steps()[-1] == newest and 17 in killed.steps() and 17 not in killed.snapshots()
    assert client.get("/api/runs/killed").json()["steps"] == killed.steps()
    for step, subject in ((17, killed), (newest, (killed.load_model(step=newest), killed.tokenizer))):
        answer = client.post("/api/runs/killed/look", json=dict(ids=[1, 2, 3], want=["logits"], step=step))
        found = decode(answer.content)[1]["logits"]
        assert found.flatten().tolist() == pytest.approx(look(subject, [1, 2, 3]).logits_TV[-1].tolist(), abs=1e-4)


def test_a_run_without_states_is_shown_as_it_was_saved(runs, tmp_path):
    """As one that was passed on without them."""
    for kept in ("0", "none"):
        there = shutil.copytree(runs["fish"].path, tmp_path / kept, ignore=shutil.ignore_patterns("state"))
        for snapshot in (there / "snapshots").iterdir():
            if snapshot.name != kept:
                shutil.rmtree(snapshot)
        passed_on = Run(there)
        *_, newest = passed_on.steps()
        assert passed_on.weights_file(newest) == passed_on.weights_file()
