"""Several characters in one model, and what a run keeps of its characters."""

from pathlib import Path

import pytest

from barreleye.cli_talk import cast
from barreleye.config import DataConfig
from barreleye.data.corpus import Corpus, parse_mix, prepare
from barreleye.data.dress import normalize
from barreleye.inference.chat import Chat
from barreleye.run import Run
from barreleye.training.grow import grow, resume

TINY = dict(n_layers=1, n_heads=2, d_model=16, d_ff=16, steps=2, batch_tokens=256, vocab=300, quiet=True, threads=1)
NAMES = ", ".join(f"x{i}" for i in "abcdefghijklmnopqrstuvwxyz")
SHEET = """\
name: {name}
description: a test
style: short
slots:
  person: [{names}]
topics:
  greeting: {{ask: [hello, hi there, hey you, good day, morning], reply: [{noise}., {noise} {noise}.]}}
  telling:
    ask: ["my name is {{person}}", "call me {{person}}", "i am {{person}}"]
    reply: ["{noise}, {{person}}."]
    follow_ups: [{{later: true, ask: [who am i?, what is my name?], reply: ["{{person}}, {noise}."]}}]
  food: {{ask: [are you hungry, do you eat, what is lunch], reply: [{noise} for lunch.]}}
  moon: {{ask: [what is the moon, is the moon far], reply: [{noise} moon.]}}
confused: {{ask: [qwe, rty, uio, pas], reply: [{noise}?]}}
unseen: [moon]
"""


@pytest.fixture
def sheets(tmp_path: Path) -> list[Path]:
    files = []
    for name, noise in (("pip", "blub"), ("tom", "meow")):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(SHEET.format(name=name.title(), noise=noise, names=NAMES), encoding="utf-8")
    return files


@pytest.fixture
def mixed(sheets: list[Path], tmp_path: Path) -> Run:
    return grow(mix=f"{sheets[0]}:3,{sheets[1]}:1", out=tmp_path / "run", conversations=400, **TINY)


def prompts(corpus: Corpus, side: str) -> set[str]:
    return {
        normalize(m.content) for c in getattr(corpus, side) for m in c.messages if m.role == "user" and not m.shared
    }


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("fish", "a mix is written fish:0.5,cat:0.5"),
        ("fish:1", "two characters or more"),
        ("fish:1,cat", "a mix is written"),
        ("fish:1,cat:x", "a mix is written"),
        ("fish:1,cat:-1", "a mix is written"),
        ("fish:1,cat:nan", "a mix is written"),
        ("fish:1,cat:inf", "a mix is written"),
        ("fish:1,fish:2", "in the mix twice"),
        ("", "a mix is written"),
    ],
)
def test_a_mix_is_characters_and_shares(mix: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_mix(mix)


def test_shares_sum_to_one() -> None:
    assert parse_mix("fish:3, cat:1") == {"fish": 0.75, "cat": 0.25}


def test_each_conversation_names_its_character_and_no_prompt_is_on_both_sides(sheets: list[Path]) -> None:
    corpus = prepare(DataConfig(kind="mix", source=f"{sheets[0]}:3,{sheets[1]}:1", conversations=400), seed=1)
    called = [c.messages[0].content for c in corpus.train]
    assert called.count("pip") == 300 and called.count("tom") == 100 and called != sorted(called)
    for conversation in corpus.train:
        noise = {"pip": "blub", "tom": "meow"}[conversation.messages[0].content]
        assert all(noise in m.content for m in conversation.messages if m.role == "assistant")
    for side in ("held_out", "unseen_topics"):
        assert prompts(corpus, side) and prompts(corpus, side).isdisjoint(prompts(corpus, "train"))
    rows = {tuple(normalize(m.content) for m in c.messages) for c in corpus.unseen_rows}
    assert rows.isdisjoint(tuple(normalize(m.content) for m in c.messages) for c in corpus.train)
    assert corpus.report["unseen_topics"] == {"pip": ["moon"], "tom": ["moon"]}
    for held in corpus.report["unseen_fillers"].values():
        told = " ".join(m.content.lower() for c in corpus.train for m in c.messages)
        assert len(held["person"]) == 2 and not any(name in told.split() for name in held["person"])


def test_two_sheets_of_one_name_are_refused(sheets: list[Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "pip.yaml"
    twin.write_bytes(sheets[0].read_bytes())
    with pytest.raises(ValueError, match="two characters are called 'pip'"):
        prepare(DataConfig(kind="mix", source=f"{sheets[0]}:1,{twin}:1", conversations=50), seed=1)


def test_a_run_keeps_its_characters_as_they_were(mixed: Run, sheets: list[Path]) -> None:
    sheets[0].write_text("name: changed since", encoding="utf-8")
    run = Run(mixed.path)
    assert run.characters == ["pip", "tom"]
    assert {name: persona.name for name, persona in run.personas().items()} == {"pip": "Pip", "tom": "Tom"}
    corpus = run.corpus()
    assert corpus.unseen_topics and corpus.unseen_rows and corpus.report["unseen_fillers"]["tom"]["person"]
    assert resume(run, steps=3, quiet=True).step == 3


def test_one_of_them_talks(mixed: Run) -> None:
    assert cast(mixed, None) == "pip" and cast(mixed, "tom") == "tom"
    with pytest.raises(ValueError, match="no such character; it has pip, tom"):
        cast(mixed, "cat")
    replies = Chat(mixed.load_model(), mixed.tokenizer, system="tom").ask("hello")
    assert isinstance(replies, str)
    samples = [line["samples"] for line in mixed.metrics() if "samples" in line]
    assert samples and all(sample["prompt"] for sample in samples[-1])


def test_one_character_has_no_part_to_play(sheets: list[Path], tmp_path: Path) -> None:
    run = grow(str(sheets[0]), out=tmp_path / "one", conversations=200, **TINY)
    assert run.characters == [] and list(run.personas()) == ["pip"]
    assert cast(run, None) == ""
    with pytest.raises(ValueError, match="it has one character; leave out --as"):
        cast(run, "pip")
    assert all(c.messages[0].role == "user" for c in run.corpus().train)
