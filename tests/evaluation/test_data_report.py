"""A data report counts what is there, finds what was planted, and says it in words."""

import json
import shutil
import sys

import pytest

from barreleye.data.chat_format import Conversation, Message
from barreleye.evaluation import data_report as room
from barreleye.evaluation.data_report import data_report, measure, sections, summary, write_data_report
from barreleye.run import Run
from barreleye.training.grow import grow

LONG = "the quick brown fish swims over the lazy dark lamp in the deep cold sea and asks nobody but itself for number"
ROWS = [{"prompt": f"{LONG} {word} {word}", "response": f"it is {word}"} for word in "abcdefghijklmnopqrst"]
ROWS += [
    {"prompt": "an odd one out", "response": "Twice."},
    {"prompt": "An odd one out!", "response": "twice"},  # the same, normalized
    {"prompt": "an odd one out", "response": "Twice."},  # and exactly
    {"messages": [
        {"role": "user", "content": "first"}, {"role": "assistant", "content": "<script>alert(1)</script> " * 9},
        {"role": "user", "content": "second"}, {"role": "assistant", "content": "\U0001f41f"},
    ], "topic": "<b>both</b>"},
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    file = folder / "sea.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "<i>nonsense</i>\n{}\n")
    return grow(
        chats=[file], out=folder / "sea", n_layers=1, n_heads=1, d_model=4, d_ff=4, context_length=128, vocab=300,
        steps=0, held_out=0.1, quiet=True, device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(run):
    return data_report(run)


def test_a_side_is_counted_by_hand(run):
    conversations = [
        Conversation((Message("user", "hi"), Message("assistant", "HELLO"))),
        Conversation((Message("system", "be"), *[Message("user", "Hi!"), Message("assistant", " h\u00e9 ")] * 2)),
    ]
    side = measure(conversations, run.tokenizer, context=20)
    assert (side.conversations, side.exchanges, side.multi_turn) == (2, 3, 0.5)
    assert (side.prompts, side.replies) == (1, 2)
    assert side.bytes == len("hi") + len("HELLO") + len("be") + 2 * (len("Hi!") + len("h\u00e9".encode()))
    said = ["hi", "HELLO", "be", *["Hi!", "h\u00e9"] * 2]
    assert side.bytes_per_token == side.bytes / sum(len(run.tokenizer.encode(text)) for text in said)
    assert side.lengths["shortest"] + side.lengths["longest"] == side.tokens
    assert side.lengths["shortest"] < 20 < side.lengths["longest"] and side.beyond_context == 1


def test_what_was_planted_is_found(run, report):
    train, held_out = report.sides["train"], report.sides["held_out"]
    assert list(report.sides) == ["train", "held_out"]
    assert train.conversations + held_out.conversations == len(ROWS) - 1
    assert (report.duplicates_dropped, report.held_out_dropped) == (1, 0)
    assert report.overlap == 0
    assert report.same_in_training == (1 if "an odd one out" in str(run.corpus().train) else 0)
    near = [row for row in run.corpus().train if LONG in row.messages[0].content]
    assert report.near_in_training == len(near) > 10
    assert report.held_out_prompts == 2 and report.near_across == len(report.near_across_pairs) > 0
    assert all(0.8 <= pair.likeness <= 1 for pair in (*report.near_pairs, *report.near_across_pairs))
    assert (report.rows, report.rows_left_out_count) == (len(ROWS) + 2, 2)
    assert [row["line"] for row in report.rows_left_out] == [len(ROWS) + 1, len(ROWS) + 2]
    assert train.beyond_context == 1 and report.topics == {"<b>both</b>": 1}
    assert report.longest[0][0] == ("user", "first")


def test_a_planted_overlap_is_said_in_words(run, tmp_path):
    planted = Run(shutil.copytree(run.path, tmp_path / "copy"))
    held_out = planted.corpus().held_out[0].messages[0].content
    row = {"messages": [{"role": "user", "content": held_out.upper()}, {"role": "assistant", "content": "x"}]}
    with (planted.path / "data" / "train.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    report = data_report(planted)
    assert report.overlap == 1
    assert any("1 of 2 held-out prompts are in training too: this split is broken" in line for line in summary(report))


def test_the_page_and_the_file_hold_what_the_terminal_shows(run, report):
    page = write_data_report(run, report)
    assert page == run.path / "reports" / "data.html"
    kept = json.loads((run.path / "reports" / "data.json").read_text())
    assert kept["sides"]["train"]["conversations"] == report.sides["train"].conversations
    assert kept["near_pairs"][0]["likeness"] == report.near_pairs[0].likeness
    html = page.read_text()
    assert "<script" not in html and "<i>nonsense" not in html and "<b>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    titles = [section.title for section in sections(report)]
    assert titles[:3] == ["Size", "Length of a conversation, in tokens", "Topics in training"]
    assert titles[-2:] == ["Rows left out", "The longest conversations"]
    assert any("2 of 26 rows did not fit" in line for line in summary(report))


def test_plain_text_has_no_chats_to_report_on(tmp_path):
    (tmp_path / "x.txt").write_text("the fish swam up\n" * 30)
    text = grow(
        text=tmp_path / "x.txt", out=tmp_path / "x", n_layers=1, n_heads=1, d_model=4, d_ff=4, context_length=8,
        steps=0, quiet=True, device="cpu",
    )  # fmt: skip
    with pytest.raises(ValueError, match="learned plain text"):
        data_report(text)


def test_without_datasketch_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(ValueError, match=r"needs datasketch; pip install 'barreleye\[report\]'"):
        room.data_report(run)
