"""The folder in a process that has Python and NumPy, and nothing else."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from barreleye.config import Sampling
from barreleye.data.chat_format import Message, encode_chat
from barreleye.export.plain import PAGES, export_plain
from barreleye.inference.chat import Chat
from barreleye.inference.generate import generate
from barreleye.inference.plain_chat import ENDED_BY_PIPE, SAMPLING, fit, load, read_config
from barreleye.inference.plain_text import PlainTokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))
import mutations


@pytest.fixture(scope="module")
def folders(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return {name: export_plain(run, folder / name)[0].parent for name, run in runs.items()}


@pytest.fixture(scope="module")
def only_numpy(tmp_path_factory):
    """A place to import from that holds NumPy alone."""
    place, home = tmp_path_factory.mktemp("packages"), Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        if (home / name).exists():
            (place / name).symlink_to(home / name)
    return place


@pytest.fixture
def command(folders, only_numpy):
    def of(name, *arguments):
        code = "import sys, runpy; sys.path.append(sys.argv.pop(1)); runpy.run_path(sys.argv[0], run_name='__main__')"
        code = f"import sys; sys.argv.pop(0); {code.replace('import sys, ', 'import ').replace('pop(1)', 'pop(0)')}"
        words = [sys.executable, "-S", "-c", code, str(only_numpy), str(folders[name] / "chat.py"), *arguments]
        return {"args": words, "cwd": folders[name]}

    return of


@pytest.fixture
def talk(command):
    def run(name, *arguments, stdin=None):
        how = dict(capture_output=True, text=True, input=stdin, encoding="utf-8")
        return subprocess.run(**command(name, *arguments), **how)

    return run


@pytest.mark.parametrize("name", ["vanilla", "modern"])
def test_it_replies_as_the_run_does(runs, talk, name):
    chat = Chat(runs[name].load_model(), runs[name].tokenizer, Sampling(temperature=0))
    expected = [chat.ask("Hello fish"), chat.ask("what do you eat?")]
    done = talk(name, "--temperature", "0", "--prompt", "Hello fish", "--prompt", "what do you eat?")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(reply + "\n" for reply in expected)


@pytest.mark.parametrize("name", ["letters", "own"])
def test_it_goes_on_with_a_text_as_the_run_does(runs, talk, name):
    run = runs[name]
    expected = "".join(generate(run.load_model(), run.tokenizer, "the sea", 80, Sampling(temperature=0)))
    done = talk(name, "--temperature", "0", "--max-tokens", "80", "--prompt", "the sea")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"the sea{expected}\n")


def test_a_person_types(talk):
    done = talk("vanilla", "--seed", "1", stdin="hello\nwho are you?\n\n")
    assert done.returncode == 0 and done.stdout.count("> ") == 3


def test_what_is_wrong_is_one_line(talk, folders, runs, tmp_path):
    done = talk("letters", "--prompt", "ж")
    assert done.returncode == 2 and re.fullmatch(r"chat.py: this tokenizer has not seen 'ж'.*\n", done.stderr)
    assert talk("vanilla", "--prompt", "blub " * 200).stderr.startswith("chat.py: that is ")
    with pytest.raises(ValueError, match="is there already; remove it, or choose another --out"):
        export_plain(runs["vanilla"], folders["vanilla"])


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--repetition-penalty", "0", "must be at least 0.01, not 0.0"),
        ("--temperature", "nan", "must be at least 0, not nan"),
        ("--temperature", "inf", "must be at most 100, not inf"),
        ("--top-p", "1.5", "must be at most 1, not 1.5"),
        ("--top-k", "-1", "must be at least 0, not -1"),
    ],
)
def test_an_option_that_nothing_could_be_drawn_by(talk, option, value, says):
    done = talk("vanilla", "--prompt", "hello", option, value)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"chat.py: {option} {says}\n")


def test_options_are_bounded_as_those_of_the_package():
    knobs = {knob.name: knob.metadata for knob in dataclasses.fields(Sampling) if knob.name != "seed"}
    assert {name: (about["least"], about["most"] or math.inf) for name, about in knobs.items()} == SAMPLING


def test_a_reader_that_leaves(command):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen(**command("vanilla", "--prompt", "hello"), **pipes) as talking:
        talking.stdout.close()
        assert (talking.stderr.read(), talking.wait()) == (b"", ENDED_BY_PIPE)


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_a_closed_standard_input(command, closed):
    asked = command("vanilla")
    asked["args"] = ["sh", "-c", f'"$@" {closed}', "sh", *asked["args"]]
    done = subprocess.run(**asked, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "chat.py: standard input or output is closed; give --prompt TEXT\n"


def test_the_pages_are_those_of_the_package(folders):
    for name, page in PAGES.items():
        ours, theirs = Path(page.__file__).read_text(), (folders["vanilla"] / f"{name}.py").read_text()
        assert "barreleye." not in re.sub('""".*?"""', "", theirs, flags=re.DOTALL)
        assert len(ours.splitlines()) == len(theirs.splitlines())
    assert not {*folders["vanilla"].rglob("*.partial")}


def test_a_conversation_is_trimmed_as_ours_is(runs, folders):
    tokenizer, plain = runs["vanilla"].tokenizer, PlainTokenizer(folders["vanilla"] / "tokenizer.json")
    turns = [(role, f"word {n} ") for n in range(9) for role in ("user", "assistant")][:-1]
    kept, ids = fit(plain, turns, "the sea", read_config(folders["vanilla"] / "config.json"))
    assert 0 < len(kept) < len(turns) and kept == turns[-len(kept) :] and kept[0][0] == "user"
    messages = [Message("system", "the sea"), *(Message(*turn) for turn in kept)]
    assert ids == encode_chat(messages, tokenizer, add_generation_prompt=True)[0]


def test_a_configuration_that_cannot_be(folders, tmp_path):
    good = json.loads((folders["modern"] / "config.json").read_text())
    file = tmp_path / "config.json"
    for change, says in (
        ({"n_layers": -1}, "n_layers must be a whole number"),
        ({"n_layers": 10**9}, "n_layers must be a whole number of at most 1000"),
        ({"d_model": True}, "d_model must be a whole number"),
        ({"n_heads": 3}, "n_heads must divide d_model"),
        ({"d_model": 4, "n_heads": 4}, "must be even"),
        ({"norm": 1}, "norm must be a str"),
        ({"head_dim": -1}, "head_dim must be a whole number"),
        ({"head_dim": 5}, "must be even"),
        ({"rope_theta": 0.0}, "rope_theta must be 1"),
        ({"norm_eps": float("nan")}, "norm_eps 0 to 1"),
        ({"chat": {"tidy": True}}, "chat must be null"),
    ):
        file.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=says):
            read_config(file)


def mutate_knobs(data, rng):
    """A configuration of other knobs that each could be."""
    table = json.loads(data)
    for name in rng.sample([*table], rng.randint(1, 2)):
        match table[name]:
            case bool():
                table[name] = not table[name]
            case int(value):
                table[name] = rng.choice([0, 1, 2, value + 1, value - 1, 2 * value, value // 2, 1000])
            case float(value):
                table[name] = rng.choice([0.0, 1.0, 2 * value, value / 2])
            case str():
                table[name] = rng.choice(["learned", "sinusoidal", "rope", "none", "rmsnorm", "swiglu", "relu", "x"])
            case _:
                table[name] = rng.choice([None, {"tidy": True, "system": "fish"}])
    return json.dumps(table).encode()


@pytest.mark.parametrize("name", ["vanilla", "modern", "own"])
@pytest.mark.parametrize("mutate", [mutations.mutate_bytes, mutations.mutate_json, mutate_knobs])
def test_a_mutated_configuration_beside_the_weights(folders, tmp_path, name, mutate):
    for file in ("model.safetensors", "tokenizer.json"):
        (tmp_path / file).symlink_to(folders[name] / file)

    def parse(file):
        read_config(file)
        return file.parent

    def judge(folder):
        model, tokenizer = load(folder)
        assert len(tokenizer.bytes_of) == len(model.weights["embed.weight"])

    data, file = (folders[name] / "config.json").read_bytes(), tmp_path / "config.json"
    file.write_bytes(data)
    judge(parse(file))
    counted = mutations.read_mutated(data, file, parse, judge, mutate)
    assert counted.parsed < mutations.N
    assert mutate is not mutate_knobs or mutations.N * 0.2 < counted.parsed > counted.read > 0
