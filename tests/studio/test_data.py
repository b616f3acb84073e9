import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from barreleye.data.chats import read_chat_lines
from barreleye.lens.weights import pca

sys.path.insert(0, str(Path(__file__).parent))
from test_head import refused


def got(client, path, **params):
    answer = client.get(f"/api/runs/{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("name", "text"), [("fish", "hello, little fish 🐟"), ("letters", "the sea, 日本"), ("fish", "")]
)
def test_a_text_is_shown_as_its_tokens(runs, head_client, name, text):
    tokenizer = runs[name].tokenizer
    tokens = got(head_client, f"{name}/tokens", text=text)
    assert [token["id"] for token in tokens] == tokenizer.encode(text)
    assert [token["text"] for token in tokens] == [tokenizer.token_text(token["id"]) for token in tokens]


def test_the_merges_lead_from_bytes_to_tokens(runs, head_client):
    found = got(head_client, "fish/merges", text="hello there, fish")
    assert found["start"] == [*"hello␣there,␣fish"] and found["kind"] == "bpe"
    assert found["moves"][-1]["pieces"] == [token["text"] for token in found["tokens"]]
    sizes = [len(found["start"]), *(len(move["pieces"]) for move in found["moves"])]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    assert all(move["left"] + move["right"] in move["pieces"] for move in found["moves"])
    found = got(head_client, "letters/merges", text="sea")
    assert (found["kind"], found["start"], found["moves"]) == ("characters", [*"sea"], [])


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("fish/tokens", "text: Field required"),
        ("fish/tokens?text=" + "a" * 10_001, "text: String should have at most 10000 characters"),
        ("fish/merges?text=" + "a" * 401, "text: String should have at most 400 characters"),
        ("letters/tokens?text=QQ", "has not seen 'Q'"),
        ("letters/merges?text=QQ", "has not seen 'Q'"),
        ("fish/data?side=../model", "there is no '../model'; there are train, held_out"),
        ("fish/data?page=-1", "page: Input should be greater than or equal to 0"),
        ("fish/data?size=101", "size: Input should be less than or equal to 100"),
        ("fish/data?page=many", "page: Input should be a valid integer"),
        ("fish/embeddings?step=5", "no snapshot of step 5"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(head_client, path, line):
    assert line in refused(head_client.get(f"/api/runs/{path}"), 400)


def test_the_data_are_the_sheet_the_split_and_a_page_of_conversations(runs, head_client):
    run = runs["fish"]
    found = got(head_client, "fish/data", size=7, page=2)
    every = read_chat_lines(run.path / "data" / "train.jsonl")
    assert [conversation["topic"] for conversation in found["conversations"]] == [each.topic for each in every[14:21]]
    assert found["conversations"][0]["turns"] == [{"role": m.role, "content": m.content} for m in every[14].messages]
    assert found["pages"] == -(-len(every) // 7)
    assert found["sides"][0] == {"name": "train", "count": len(every)}
    assert found["sheets"]["fish"] == (run.path / "data" / "personas" / "fish.yaml").read_text()
    report = json.loads((run.path / "data" / "report.json").read_text())
    assert (found["split"], found["report"]) == (report["split"], report)
    assert found["duplicates"] == {"duplicates_dropped": 0, "held_out_dropped": 0, "overlap": 0}
    assert got(head_client, "fish/data", page=10**6)["conversations"] == []
    for side in found["sides"]:
        there = got(head_client, "fish/data", side=side["name"])["conversations"]
        assert len(there) == min(20, side["count"])


def test_the_data_of_a_text_are_its_text(runs, head_client):
    found = got(head_client, "letters/data", size=1)
    text = runs["letters"].corpus().train
    assert found["text"] == text.encode()[:2000].decode("utf-8", "ignore")
    pages = [got(head_client, "letters/data", size=1, page=page)["text"] for page in range(found["pages"])]
    assert 0 <= len(text) - len("".join(pages)) <= len(pages)
    assert (found["sheets"], found["counted"]) == ({}, "bytes")


def test_damaged_data_are_refused_with_their_line(runs, head_client, elsewhere):
    shutil.copytree(runs["fish"].path, elsewhere / "fish")
    file = elsewhere / "fish" / "data" / "train.jsonl"
    file.write_text(file.read_text().replace('"role"', '"rule"', 1))
    assert "train.jsonl:1: " in refused(head_client.get("/api/runs/fish/data"), 400)
    file.write_text("[" * 10_000 + "\n")
    assert "train.jsonl:1: " in refused(head_client.get("/api/runs/fish/data"), 400)
    (elsewhere / "fish" / "data" / "report.json").write_text("[" * 100_000)
    assert "report.json" in refused(head_client.get("/api/runs/fish/data"), 400)
    file.unlink()
    assert "there is no such file" in refused(head_client.get("/api/runs/fish/data"), 400)


def test_an_imported_model_brought_no_data(runs, head_client, elsewhere):
    shutil.copytree(runs["fish"].path, elsewhere / "fish")
    config = elsewhere / "fish" / "config.toml"
    config.write_text(config.read_text().replace('kind = "persona"', 'kind = "import"', 1))
    shutil.rmtree(elsewhere / "fish" / "data")
    assert "did not come with it" in got(head_client, "fish/data")["note"]


@pytest.mark.parametrize("step", [None, 0])
def test_the_map_is_the_lens_pca_of_the_embeddings(runs, head_client, step):
    found = got(head_client, "fish/embeddings", **({} if step is None else {"step": step}))
    expected = pca(runs["fish"].load_model(step=step).embed.weight.detach(), 2)
    torch.testing.assert_close(torch.tensor(found["points"]), expected.coordinates_NK)
    assert found["share"] == pytest.approx(expected.share_K.tolist())
    assert len(found["tokens"]) == found["of"] == runs["fish"].tokenizer.vocab_size
