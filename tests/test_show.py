"""What the command line prints: it fits a terminal of 80 columns, and a pipe gets every line whole."""

import io
import json
import sys
from functools import cache

import pytest
from rich.console import Console

from barreleye import show
from barreleye.config import PRESETS, Config, DataConfig, ModelConfig, TrainConfig
from barreleye.data.chat_format import Conversation, Message
from barreleye.data.corpus import Corpus
from barreleye.data.persona_check import PersonaCheck, check
from barreleye.data.sheet_file import load_persona, persona_names
from barreleye.data.tokenizer import learn_characters
from barreleye.model.count import count
from barreleye.run import create
from barreleye.training.record import Finding


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of so many columns; what was printed on it is in `.text()`."""

    def open_terminal(width=80):
        console = Console(
            width=width, file=io.StringIO(), force_terminal=True, color_system=None,
            highlight=False, markup=False, emoji=False,
        )  # fmt: skip
        monkeypatch.setattr(show, "screen", lambda: console)
        return lambda: console.file.getvalue()

    return open_terminal


@pytest.fixture
def run(tmp_path):
    """Makes a run folder without training: its record and its states are what the test says."""

    def make(name="fish", source="fish", kind="persona", steps=100, state=None, lines=()):
        config = Config(DataConfig(kind, source), ModelConfig(vocab_size=2), TrainConfig(steps=steps))
        made = create(tmp_path / name, config, learn_characters("ab"), Corpus("ab", "ab", {}))
        (made.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if state is not None:
            (made.path / "state" / str(state)).mkdir(parents=True)
        return made

    return make


def score(loss):
    return {"loss": loss, "bits_per_byte": 1.0, "tokens": 9}


def rows(text):
    return [line.split() for line in text.splitlines() if line.strip()]


def conversation(*texts, topic="food"):
    return Conversation(tuple(Message("user" if i % 2 == 0 else "assistant", t) for i, t in enumerate(texts)), topic)


check_of = cache(check)


def checked(*findings):
    samples = (conversation("hello?", "click."),)
    return PersonaCheck("Pip", 3, 12, 3456, 78, 9000, 1234567, findings, samples)


# Fitting -------------------------------------------------------------------------------------------------------------


def print_everything(run):
    for name, preset in PRESETS.items():
        model = ModelConfig(**{**vars(preset.model), "vocab_size": preset.usual_vocab})
        show.count_table(name, model, preset.train, count(model, preset.train.batch_tokens))
    lines = [{"step": 9, "loss": 10.5}, {"step": 9, "held_out": {"all": score(10.5), "replies": score(10.25)}}]
    show.runs_table([run("barreleye-with-rope", "a/way/to/somebodys-chats.jsonl", "chats", 100_000, 99_999, lines)])
    show.personas_table((name, load_persona(name)) for name in persona_names())
    show.persona_report(check_of("fish"))
    show.persona_report(
        checked(*(f"a_folder/a_sheet.yaml:{n}: something is wrong here; do this " * 3 for n in range(9)))
    )
    show.show_conversations([conversation("why " * 60, "so " * 200)])
    show.show_findings([Finding("too long", "because " * 40, "try [less] " * 30)], ["not looked at: " * 9], "usual")


def test_nothing_is_wider_than_80_columns_and_nothing_is_cut(terminal, run):
    text = terminal(80)
    print_everything(run)
    assert max(map(len, text().splitlines())) <= 80
    assert "…" not in text()
    assert "99999/100000" in text(), "a name may be folded, a number may not"


def test_a_wide_terminal_wraps_nothing(terminal, run):
    text = terminal(2000)
    print_everything(run)
    description = load_persona("fish").description
    assert any(description in line for line in text().splitlines())
    assert "…" not in text()


def test_a_pipe_gets_every_line_whole(capsys, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_everything(run)
    out = capsys.readouterr().out
    assert "\x1b" not in out and "…" not in out
    description = load_persona("fish").description
    assert any(description in line for line in out.splitlines())
    assert any(("so " * 200).strip() in line for line in out.splitlines())
    assert max(map(len, out.splitlines())) < 1000, "no line is filled up with spaces"


def test_what_looks_like_markup_is_printed_as_it_is(capsys, run):
    show.runs_table([run("[red]fish", source="[b]:fish:.txt", kind="text")])
    show.show_conversations([conversation("[bold]hi[/x] :fish:", "[/] :smile:", topic="[/i]")])
    out = capsys.readouterr().out
    for text in ("[red]fish", "text [b]:fish:.txt", "> [bold]hi[/x] :fish:", "  [/] :smile:", "-- [/i]"):
        assert text in out


def test_an_ascii_terminal_can_show_tables(monkeypatch, run):
    ascii_out = io.TextIOWrapper(io.BytesIO(), "ascii", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", ascii_out)
    show.runs_table([run("fish")])
    ascii_out.flush()
    assert b"fish" in ascii_out.buffer.getvalue()


# What stands there ---------------------------------------------------------------------------------------------------


def test_a_count_shows_every_component_and_what_they_sum_to(capsys):
    model = ModelConfig(n_layers=3, vocab_size=1000)
    counted = count(model, 2048, "muon")
    show.count_table("mine", model, TrainConfig(), counted)
    out = capsys.readouterr().out
    assert out.startswith(f"mine: {counted.parameters:,} parameters (gpt2)")
    for part in counted.components:
        line = next(line for line in out.splitlines() if line.strip().startswith(part.name))
        assert " x ".join(f"{n:,}" for n in part.shape) in line
        assert line.split()[-2:] == [f"{part.parameters:,}", f"{part.parameters / counted.parameters:.1%}"]
        assert line.split()[-3] == str(part.copies)
    for line in (
        "vocabulary                     1,000",
        f"{counted.flops_forward / 1e6:,.1f} million forward, {counted.flops_training / 1e6:,.1f} million to train",
        f"optimizer, muon              {counted.optimizer_bytes / 2**20:,.1f} MiB",
        f"activations of 2,048 tokens  {counted.activation_bytes / 2**20:,.1f} MiB",
    ):
        assert line in out


def test_runs_show_how_far_each_has_come(capsys, run):
    lines = [
        {"step": 1, "loss": 5.0},
        {"step": 1, "held_out": {"all": score(4.75), "replies": score(4.5)}},
        {"step": 2, "loss": 3.25},
        {"step": 2, "held_out": {"all": score(3.75), "replies": score(3.25)}},
        {"step": 2, "held_out_whole": {"all": score(3.75), "replies": score(3.5)}},
        {"step": 2, "samples": []},
    ]
    text_lines = [{"step": 9, "loss": 2.0}, {"step": 9, "held_out": {"all": score(1.5), "replies": None}}]
    live = run("live", state=50)
    with live.lock():
        show.runs_table(
            [run("done", state=100, lines=lines), run("half", "a/b.txt", "text", state=9, lines=text_lines),
             run("fresh"), live]
        )  # fmt: skip
    assert rows(capsys.readouterr().out)[2:] == [
        "done persona fish 4 x 384 100/100 3.250 3.500".split(),
        "half text b.txt 4 x 384 9/100 2.000 1.500 stopped".split(),
        "fresh persona fish 4 x 384 0/100 stopped".split(),
        "live persona fish 4 x 384 50/100 learning".split(),
    ]


def test_no_runs_yet(capsys):
    show.runs_table([])
    assert capsys.readouterr().out == "no runs here yet; `barreleye train` grows one\n"


def test_a_note_alone_is_no_fault(capsys):
    note = Finding("small", "seen", "more", is_note=True)
    show.show_findings([note], [], "as usual")
    assert capsys.readouterr().out == (
        "note: small\n  seen  seen\n  try   more\nnothing is wrong, as far as the record shows\nas usual\n"
    )
    show.show_findings([], ["too short"], "as usual")
    assert capsys.readouterr().out == "too short\nas usual\n"
    show.show_findings([Finding("large", "seen", "less"), note], [], "as usual")
    printed = capsys.readouterr().out
    assert printed.startswith("large\n  seen  seen\n  try   less\nnote: small\n") and "nothing is wrong" not in printed


def test_a_conversation_goes_on_below_its_own_beginning(terminal):
    text = terminal(20)
    show.show_conversations([conversation("hello?", "i am a small fish, and hungry", "why?", "because")])
    lines = [line.rstrip() for line in text().splitlines()]
    assert lines == ["-- food", "> hello?", "  i am a small fish,", "  and hungry", "> why?", "  because"]


def test_a_report_on_a_sheet_in_order_is_short(capsys):
    show.persona_report(checked())
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "Pip",
        "  topics         3",
        "  asks           12, which make 3,456 prompts",
        "  replies        78, which make 9,000 texts",
        "  conversations  about 1,234,567 of one exchange, and those of several",
        "",
        "-- food",
        "> hello?",
        "  click.",
        "",
        "no finding: the sheet is in order",
    ]


def test_a_report_ends_with_the_findings_as_they_are(capsys):
    show.persona_report(checked("pip.yaml:3: [b]eta[/b] is wrong; mend it"))
    assert capsys.readouterr().out.endswith("\n\npip.yaml:3: [b]eta[/b] is wrong; mend it\n1 finding\n")
    show.persona_report(checked("pip.yaml:3: a; b", "pip.yaml:4: c; d"))
    assert capsys.readouterr().out.endswith("\n2 findings\n")
