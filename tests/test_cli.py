"""Every verb, on something tiny: what a person types, and what they get."""

import dataclasses
import io
import json
import sys
from types import SimpleNamespace

import pytest
import typer

from barreleye import Run, cli
from barreleye.config import SECTIONS, Sampling, TrainConfig
from barreleye.data.persona_check import check
from barreleye.files import read_tensors
from barreleye.inference.chat import Chat
from barreleye.inference.generate import generate
from barreleye.options import NOT_OPTIONS

SHEET = """\
name: Pip
description: a small crab
style: few words
slots:
  food: [kelp, plankton, snails]
topics:
  greeting:
    ask: [hello, hi there, good day, hey you, good morning]
    reply: [click., hello from the sand., i wave a claw.]
  hunger:
    ask: ["do you like {food}?", are you hungry, what is for dinner, when do you eat, feed me]
    reply: ["i like {food}.", "{food} is dinner."]
confused:
  ask: [what is tax, add two and two, tell me the news, who won the game]
  reply: [i only know sand., that is above the water.]
"""
TEXT = "".join(f"{n} fish swim by {m} crabs\n" for n in range(10, 20) for m in range(10))
CHATS = [{"prompt": f"say {n}", "response": f"{n}, {n}."} for n in range(30)]
TINY = (
    "--quiet --n-layers 1 --n-heads 2 --d-model 8 --d-ff 16 --context-length 64 --batch-tokens 128 "
    "--threads 1 --device cpu --precision float32 --steps 3"
).split()


class Here:
    """A folder of its own, and the command line in it."""

    def __init__(self, folder):
        self.folder, self.printed = folder, SimpleNamespace(out="", err="")

    def __call__(self, command, *words, stdin=b""):
        """Runs a command and returns what it printed; it must succeed."""
        code, out, err = self.ends(command, *words, stdin=stdin)
        assert (code, err) == (0, "")
        return out

    def ends(self, command, *words, stdin=b""):
        """Runs a command: its exit code, and what it printed on both streams."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["barreleye", *command.split(), *words])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as end:
                cli.main()
        printed = [stream.buffer.getvalue().decode() for stream in (out, err) if not stream.flush()]
        return end.value.code or 0, *printed

    def run(self, name):
        return Run(self.folder / "runs" / name)


@pytest.fixture(scope="module")
def barreleye(tmp_path_factory):
    here = Here(tmp_path_factory.mktemp("here"))
    (here.folder / "pip.yaml").write_text(SHEET)
    (here.folder / "fish.txt").write_text(TEXT)
    (here.folder / "counting.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHATS))
    here("train --text fish.txt", *TINY)
    here("train pip.yaml --vocab 300 --conversations 200", *TINY, "--context-length", "512")
    return here


# Options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "sections"),
    [
        ("train", list(SECTIONS.values())),
        ("chat", [Sampling]),
        ("generate", [Sampling]),
        ("count", [SECTIONS["model"]]),
    ],
)
def test_every_knob_of_a_verb_is_one_option(verb, sections):
    command = typer.main.get_command(cli.app).commands[verb]
    options = [option for parameter in command.params for option in parameter.opts]
    assert len(options) == len(set(options))
    for section in sections:
        for knob in dataclasses.fields(section):
            expected = 0 if knob.name in NOT_OPTIONS - ({"vocab_size"} if verb == "count" else set()) else 1
            assert options.count("--" + knob.name.replace("_", "-")) == expected, knob.name


def test_what_is_no_option_is_given_otherwise():
    known = {knob.name for section in SECTIONS.values() for knob in dataclasses.fields(section)}
    assert known >= NOT_OPTIONS


@pytest.mark.parametrize("command", ["", "--help", "train --help", "chat --help", "persona --help", "data --help"])
def test_help(barreleye, command):
    assert "Usage: barreleye" in barreleye(command)


def test_help_says_what_a_knob_is(barreleye, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    printed = barreleye("train --help")
    for knob in dataclasses.fields(TrainConfig):
        assert knob.metadata["help"] in printed, knob.name


# train ---------------------------------------------------------------------------------------------------------------


def test_a_text_is_learned_by_characters_with_the_preset_for_texts(barreleye):
    run = barreleye.run("fish")
    assert (run.config.data.kind, run.config.data.source, run.tokenizer.kind) == ("text", "fish.txt", "characters")
    assert (run.config.model.d_model, run.config.model.context_length, run.config.train.steps) == (8, 64, 3)
    assert run.config.model.vocab_size == run.tokenizer.vocab_size == len(set(TEXT))
    assert run.corpus().train + run.corpus().held_out == TEXT
    assert [line["step"] for line in run.metrics() if "loss" in line] == [1, 2, 3]
    assert run.step == 3


def test_a_character_is_learned_from_its_sheet(barreleye):
    run = barreleye.run("pip")
    assert (run.config.data.kind, run.config.data.source, run.tokenizer.kind) == ("persona", "pip.yaml", "bpe")
    assert len(run.corpus().train) == run.config.data.conversations == 200
    assert 258 < run.tokenizer.vocab_size <= 300


def test_chats_are_learned_and_a_second_run_gets_a_name_of_its_own(barreleye):
    for name in ("counting", "counting-2"):
        barreleye("train --chats counting.jsonl --tokenizer characters --held-out 0.2 --seed 7", *TINY)
        run = barreleye.run(name)
        assert (run.config.data.kind, run.config.train.seed, run.tokenizer.kind) == ("chats", 7, "characters")
        assert (len(run.corpus().train), len(run.corpus().held_out)) == (24, 6)


def test_several_files_of_chats_are_one_source_and_rows_left_out_are_told(barreleye):
    (barreleye.folder / "more.csv").write_text("prompt,response\nsay more,more\nbroken\n")
    printed = barreleye("train --chats counting.jsonl --chats more.csv --chat-format prompt", *TINY[1:])
    assert "reading chats counting.jsonl, more.csv\n1 of 32 rows left out: more.csv:3 (has no" in printed
    run = barreleye.run("counting-3")
    assert run.config.data.sources == ["counting.jsonl", "more.csv"]
    assert run.corpus().report["rows_left_out_count"] == 1
    assert len(run.corpus().train) + len(run.corpus().held_out) == 31


def test_switches_and_presets_reach_the_model(barreleye):
    barreleye("train --text fish.txt --preset modern --no-tie-embeddings --qk-norm --n-kv-heads 1 --out there/x", *TINY)
    model = Run(barreleye.folder / "there" / "x").config.model
    assert (model.positions, model.norm, model.n_kv_heads) == ("rope", "rmsnorm", 1)
    assert (model.tie_embeddings, model.qk_norm, model.bias) == (False, True, False)


def test_quiet_is_quiet_and_else_each_stage_is_told(barreleye):
    assert barreleye("train --text fish.txt --out runs/q", *TINY) == ""
    printed = barreleye("train --text fish.txt --out runs/loud", *TINY[1:])
    for told in ("reading text fish.txt", "characters to learn from", "step 3/3", "held-out text", "runs/loud"):
        assert told in printed


def test_a_name_that_looks_like_markup_is_a_name(barreleye):
    printed = barreleye("train --text fish.txt --out runs/[bold]x", *TINY[1:])
    assert "the run is in runs/[bold]x" in printed and "[bold]x: " in printed
    assert "[bold]x" in barreleye("runs")


def test_resume_goes_on_as_if_it_had_never_stopped(barreleye):
    for name, steps in (("parts", "2"), ("whole", "5")):
        options = f"--schedule constant --warmup-steps 1 --out runs/{name}"
        barreleye(f"train --text fish.txt {options}", *TINY, "--steps", steps)
    assert barreleye("train --resume parts --steps 5 --quiet") == ""
    parts, whole = barreleye.run("parts"), barreleye.run("whole")
    assert parts.step == parts.config.train.steps == 5
    assert [line["step"] for line in parts.metrics() if "loss" in line] == [1, 2, 3, 4, 5]
    weights = [(run.path / "model" / "model.safetensors").read_bytes() for run in (parts, whole)]
    assert weights[0] == weights[1]


def test_a_run_may_move_to_other_hardware_but_not_become_another_training(barreleye):
    barreleye("train --text fish.txt --out runs/moved", *TINY)
    config = barreleye.folder / "runs" / "moved" / "config.toml"
    config.write_text(config.read_text().replace("threads = 1", "threads = 2"))
    barreleye("train --resume moved --steps 5 --save-every 1 --quiet")
    assert barreleye.run("moved").step == 5
    config.write_text(config.read_text().replace("seed = 1", "seed = 2"))
    with pytest.raises(ValueError, match=r"state/\d was made with seed = 1, config.toml says 2; put it back"):
        barreleye.run("moved").load_state()


def test_what_an_interrupted_creation_left_is_made_anew(barreleye):
    left = barreleye.folder / "runs" / "left"
    (left / "data").mkdir(parents=True)
    (left / "data" / ".train.txt.partial").write_text("10 fi")
    (left / ".config.toml.partial").write_text("[da")
    barreleye("train --text fish.txt --out runs/left", *TINY)
    assert barreleye.run("left").step == 3


def test_from_starts_with_the_weights_and_tokenizer_of_another_run(barreleye):
    barreleye("train --text fish.txt --from fish --out runs/later --steps 0 --quiet --device cpu")
    before, after = barreleye.run("fish"), barreleye.run("later")
    assert after.config.model == before.config.model
    assert after.tokenizer == before.tokenizer
    weights = [read_tensors(run.path / "model" / "model.safetensors") for run in (before, after)]
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


# chat and generate ---------------------------------------------------------------------------------------------------


def test_two_prompts_are_one_conversation(barreleye):
    # With the penalty, what was said before changes what is said: so small a model hardly looks back by itself.
    printed = barreleye("chat pip --seed 3 --repetition-penalty 50 --prompt hello --prompt", "and you?")
    run, sampling = barreleye.run("pip"), Sampling(seed=3, repetition_penalty=50.0)
    talk, anew = (Chat(run.load_model(), run.tokenizer, sampling) for _ in range(2))
    first, second = talk.ask("hello"), talk.ask("and you?")
    assert printed == f"{first}\n{second}\n"
    assert second != anew.ask("and you?")


def test_a_system_turn_comes_first(barreleye):
    printed = barreleye("chat pip --seed 3 --temperature 2 --prompt hello --system", "be kind")
    run = barreleye.run("pip")
    talk = Chat(run.load_model(), run.tokenizer, Sampling(seed=3, temperature=2.0), system="be kind")
    assert printed == talk.ask("hello") + "\n"


def test_a_typo_is_mended_before_the_model_reads_and_that_is_told(barreleye):
    (barreleye.run("pip").path / "data" / "words.json").write_text('{"hello": 50}')
    meant = barreleye("chat pip --seed 3 --prompt HELLO")
    assert barreleye.ends("chat pip --seed 3 --prompt HELLLO") == (0, meant, "(read as: hello)\n")
    as_typed = barreleye("chat pip --seed 3 --as-typed --prompt HELLLO")
    talk = Chat(barreleye.run("pip").load_model(), barreleye.run("pip").tokenizer, Sampling(seed=3))
    assert as_typed == talk.ask("helllo") + "\n"


def test_the_words_of_the_training_are_kept_for_it(barreleye):
    barreleye("train pip.yaml --out runs/words --vocab 300 --conversations 200", *TINY, "--context-length", "512")
    spelling = barreleye.run("words").spelling()
    often = max((word for word in spelling.counts if len(word) > 3), key=spelling.counts.__getitem__)
    assert spelling(often[0] + often[2] + often[1] + often[3:]) == often


def test_any_device_that_is_there_can_talk(barreleye):
    said = {barreleye("chat pip --seed 3 --temperature 0 --prompt hello --device", where) for where in ("auto", "cpu")}
    assert len(said) == 1


@pytest.mark.parametrize("end", [b"", b"\nnot read\n", b"/quit\nnot read\n"])
def test_lines_of_standard_input_are_answered_until_an_empty_one(barreleye, end):
    printed = barreleye("chat pip --seed 3", stdin=b"hello\nand you?\n" + end)
    assert printed == barreleye("chat pip --seed 3 --prompt hello --prompt", "and you?")


def test_the_same_seed_gives_the_same_text(barreleye):
    texts = [barreleye("generate fish --max-tokens 40 --temperature 1 --seed", seed) for seed in ("5", "5", "6")]
    assert texts[0] == texts[1] != texts[2]
    assert all(text.startswith("\n") and text.endswith("\n") for text in texts)


def test_a_text_goes_on_from_the_prompt_for_so_many_tokens(barreleye):
    printed = barreleye("generate fish --seed 1 --max-tokens 25 --prompt", "10 fish")
    assert printed.startswith("10 fish") and len(printed) == len("10 fish") + 25 + 1


def test_a_text_ends_before_a_stop(barreleye):
    whole = barreleye("generate fish --seed 2 --temperature 1 --max-tokens 60 --prompt", "10 fish")[:-1]
    stop = whole[20:22]
    printed = barreleye("generate fish --seed 2 --temperature 1 --max-tokens 60 --prompt", "10 fish", "--stop", stop)
    assert printed[:-1] == whole[: whole.index(stop, 7)]
    run = barreleye.run("fish")
    sampling = Sampling(seed=2, temperature=1.0)
    pieces = generate(run.load_model(), run.tokenizer, "10 fish", 60, sampling, [stop, "never"])
    assert printed == "10 fish" + "".join(pieces) + "\n"


def test_a_text_without_a_line_end_goes_on_from_a_character_it_has(barreleye):
    (barreleye.folder / "line.txt").write_text("one line and no other " * 20)
    barreleye("train --text line.txt", *TINY)
    assert len(barreleye("generate line --max-tokens 9")) == 1 + 9 + 1


# count, runs, persona ------------------------------------------------------------------------------------------------


def test_count_counts_what_the_options_ask_for(barreleye):
    assert barreleye("count").startswith("fish: 8,769,792 parameters (gpt2)")
    printed = barreleye("count tiny --n-layers 2 --vocab-size 10 --no-bias --activation relu")
    assert printed.startswith("tiny: ") and "(barreleye)" in printed
    assert " 10 x 96 " in printed and "2" in printed


def test_runs_lists_the_runs_of_a_folder_the_newest_first(barreleye):
    barreleye("train --text fish.txt --out other/old", *TINY)
    barreleye("train --chats counting.jsonl --out other/new", *TINY)
    rows = [line.split() for line in barreleye("runs other").splitlines() if "/" in line]
    assert [row[:3] for row in rows] == [["new", "chats", "counting.jsonl"], ["old", "text", "fish.txt"]]
    assert all("3/3" in row and "stopped" not in row for row in rows)
    (barreleye.folder / "empty").mkdir()
    assert barreleye("runs empty") == "no runs here yet; `barreleye train` grows one\n"


def test_a_run_with_a_broken_config_does_not_hide_the_others(barreleye):
    barreleye("train --text fish.txt --out mixed/fine", *TINY)
    (barreleye.folder / "mixed" / "broken").mkdir()
    (barreleye.folder / "mixed" / "broken" / "config.toml").write_text("[")
    record = barreleye.folder / "mixed" / "fine" / "metrics.jsonl"
    record.write_text(record.read_text() + '5\n[1]\n\0\0\n{"step": 3, "lo')
    assert "fine" in barreleye("runs mixed")


def test_the_characters_are_listed_with_what_they_are_like(barreleye):
    lines = [line.split() for line in barreleye("persona list").splitlines()]
    assert "fish Barry is a barreleye,".split() in [line[:5] for line in lines]


def test_a_sample_has_so_many_conversations_and_each_seed_its_own(barreleye):
    samples = [barreleye(f"persona sample pip.yaml -n 7 --seed {seed}") for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]
    lines = samples[0].splitlines()
    assert sum(line.startswith("-- ") for line in lines) == 7
    assert {line[3:] for line in lines if line.startswith("-- ")} <= {"greeting", "hunger", "confused"}
    assert {line[:2] for line in lines} == {"--", "> ", "  "}


def test_check_counts_what_a_sheet_can_say_and_names_what_is_worth_another_look(barreleye):
    printed = barreleye("persona check pip.yaml")
    found = check(barreleye.folder / "pip.yaml")
    assert printed.startswith("Pip\n")
    assert f"{found.asks}, which make {found.prompts} prompts" in printed
    assert f"about {found.conversations} of one exchange" in printed
    lines = printed.splitlines()
    assert "pip.yaml:11: 'hunger' has few asks (5); write 8 or more that share their key words" in lines
    assert lines[-1] == "3 findings"
    assert sum(line.startswith("-- ") for line in lines) == len(found.samples)


def test_a_strict_check_takes_no_findings(barreleye):
    code, printed, error = barreleye.ends("persona check pip.yaml --strict")
    assert code == 2 and "3 findings" in printed
    assert error == "barreleye: pip.yaml: there are findings, see above; cure them, or leave out --strict\n"


def test_a_new_sheet_can_be_checked_sampled_and_trained_on(barreleye):
    assert barreleye("persona new Lou").startswith("lou.yaml: change it, then: ")
    assert "no finding: the sheet is in order" in barreleye("persona check lou.yaml --strict")
    assert "Lou" in barreleye("persona sample lou.yaml -n 100")
    barreleye("train lou.yaml --conversations 200", *TINY)
    assert barreleye.run("lou").config.data.source == "lou.yaml"
    code, _, error = barreleye.ends("persona new Lou")
    assert code == 2 and error == "barreleye: lou.yaml: is there already; remove it, or name another file with --out\n"
    assert barreleye("persona new Lou --out other.yaml").startswith("other.yaml: ")


@pytest.mark.parametrize("run", ["fish", "pip"])
def test_a_look_inside_is_printed_and_written(barreleye, run):
    printed = barreleye(f"look {run}", "10 fish")
    page = (barreleye.run(run).path / "reports" / "look.html").read_text()
    for shown in ("nats per token", "surprise", "previous token", "blocks.0.attn.hook_z[head=1]", "as last saved"):
        assert shown in printed and shown in page
    assert "look.html" in printed and "Logit lens, through time" in page and "When it learned" in page
    said = "<|im_start|>" in printed
    assert said == (run == "pip")  # a model of chats is asked as it would be in one
    assert "<|im_start|>" not in barreleye(f"look {run} --as-text", "10 fish")
    deaf = barreleye(f"look {run} --without blocks.0.attn.hook_z[head=1]", "10 fish")
    assert "edits" in deaf and "as last saved, without blocks.0.attn.hook_z[head=1]" in deaf
    now = (barreleye.run(run).path / "reports" / "look.html").read_text()
    assert now.split("addFrames")[-1] != page.split("addFrames")[-1]  # it was deaf at all times
    dark = barreleye(f"look {run} --without blocks.0.attn.hook_pattern", "10 fish")  # and so no head of any kind
    assert f"blocks.0.attn.hook_z[head=1] mixed {'0.00 ' * 5}".split() in [line.split() for line in dark.splitlines()]


@pytest.mark.parametrize("run", ["fish", "pip"])
def test_each_part_is_ablated_on_held_out_text_or_ones_own(barreleye, run):
    printed = barreleye(f"ablate {run}")
    parts = [f"blocks.0.attn.hook_z[head={head}]" for head in (0, 1)] + ["blocks.0.hook_mlp_out"]
    page = (barreleye.run(run).path / "reports" / "ablation.html").read_text()
    assert all(part in printed and part in page for part in parts)
    own = barreleye(f"ablate {run}", "10 fish")
    assert all(part in own for part in parts) and own != printed


def test_a_model_writes_without_a_part(barreleye):
    asked = "generate fish --prompt fish --max-tokens 20 --temperature 0"
    whole = barreleye(f"{asked} --engine torch")
    assert barreleye(f"{asked} --without blocks.0.hook_resid_post") != whole
    barreleye("chat pip --prompt hello --seed 1 --without blocks.0.attn.hook_z[head=1]")
    for options, says in (
        ("--without blocks.0.attn.hook_y", "did you mean 'blocks.0.attn.hook_"),
        ("--without blocks.0.hook_mlp_out --engine int8", "leave it out"),
    ):
        code, _, error = barreleye.ends(f"{asked} {options}")
        assert code == 2 and says in error


def test_a_data_report_is_printed_and_written(barreleye):
    printed = barreleye("data report pip")
    assert "200 conversations to learn from (persona pip.yaml)" in printed
    assert "Length of a conversation, in tokens" in printed and "greeting" in printed
    assert {page.suffix for page in (barreleye.run("pip").path / "reports").glob("data.*")} == {".json", ".html"}


def test_the_doctor_says_what_is_wrong_and_what_to_try(barreleye):
    assert barreleye("doctor pip").splitlines()[0].startswith("too little is recorded to judge its course: 3 of ")
    printed = barreleye("train --text fish.txt --embed-std 5 --out other/loud", *TINY[1:])
    told = barreleye("doctor other/loud")
    lines = told.splitlines()
    assert lines[0] == "initialization too large"
    assert lines[1].startswith("  seen  the first loss is ") and lines[2].startswith("  try   smaller --init-std")
    assert "doctor: initialization too large: the first loss is " in printed


# What goes wrong on the way (all else is in tests/e2e/test_bad_inputs.py) --------------------------------------------


def fails(error, monkeypatch, capsys):
    """The exit code and the lines of a command that ends with `error`."""

    def app(*args, **kwargs):
        raise error

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("one\ntwo\t three"), "barreleye: one two three\n"),
        (ValueError("red \x1b[31m and \u202e back"), "barreleye: red \\x1b[31m and \\u202e back\n"),
        (OSError(28, "No space left", "runs/x"), "barreleye: runs/x: No space left; make room there; nothing that was"),
        (PermissionError(13, "Permission denied", "runs/x"), "barreleye: runs/x: Permission denied; check that path"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(error, says, monkeypatch, capsys):
    code, err = fails(error, monkeypatch, capsys)
    assert code == 2
    assert err.startswith(says) and err.count("\n") == 1


def test_an_absurdly_long_message_keeps_its_ends(monkeypatch, capsys):
    _, err = fails(ValueError("x.yaml:3: " + "y" * 10**6 + "; do this"), monkeypatch, capsys)
    assert err.startswith("barreleye: x.yaml:3: yyy") and err.endswith("; do this\n") and len(err) < 1100


def test_ctrl_c_is_quiet(monkeypatch, capsys):
    assert fails(KeyboardInterrupt(), monkeypatch, capsys) == (130, "")


@pytest.mark.parametrize("bug", [KeyError("x"), RuntimeError("x"), AssertionError("x"), TypeError("x")])
def test_our_own_bugs_are_not_hidden(bug, monkeypatch, capsys):
    with pytest.raises(type(bug)):
        fails(bug, monkeypatch, capsys)


@pytest.mark.parametrize("where", ["weights", "training"])
def test_memory_that_runs_out_is_one_line(barreleye, where, monkeypatch):
    import torch

    from barreleye.training import grow

    words = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
    error = torch.OutOfMemoryError("CUDA out of memory.") if where == "weights" else RuntimeError(words)

    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(grow, "Transformer" if where == "weights" else "train", full)
    with pytest.raises(ValueError, match=r"out of memory; take smaller --batch-tokens"):
        grow.grow(text=barreleye.folder / "fish.txt", out=barreleye.folder / where, quiet=True)
