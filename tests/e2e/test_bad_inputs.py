"""Whatever a person gives wrong: one line that says what and where, exit code 2, and nothing lost."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("the cases use devices, limits and locks of Unix", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent))  # the table stands beside this file

import bad_data
import bad_exports
import bad_inputs
import bad_options
import bad_runs
from bad_inputs import COMMAND, ENVIRONMENT, TEXT, TINY, Case

CASES = [*bad_data.CASES, *bad_runs.CASES, *bad_options.CASES, *bad_exports.CASES]
NAMES = [f"{i} {case.command[:50]!a}" for i, case in enumerate(CASES)]
SMALLEST = "--d-model 2 --n-heads 1 --d-ff 2 --steps 100 --save-every 10"  # the record outgrows the states
GROW = ["train", "--text", "text.txt", "--quiet", *TINY.split(), *SMALLEST.split()]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    bad_inputs.build_world(folder)
    return folder


@pytest.fixture
def copy(world, tmp_path):
    return Path(shutil.copytree(world, tmp_path / "world"))


def barreleye(*argv, cwd, **how):
    return subprocess.run([*COMMAND, *argv], cwd=cwd, env=ENVIRONMENT, timeout=120, stderr=subprocess.PIPE, **how)


def test_there_are_at_least_two_hundred_cases_and_no_two_are_the_same():
    assert len(CASES) >= 200
    assert len({(case.command, case.prepare, case.says) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_bad_input(copy, case):
    assert list(bad_inputs.problems(case, copy)) == []


@pytest.mark.parametrize("case", CASES[::20], ids=NAMES[::20])
def test_bad_input_in_a_process_of_its_own(copy, case):
    assert list(bad_inputs.problems(case, copy, bad_inputs.run_apart)) == []


def test_the_judge_sees_what_is_not_as_promised(copy):
    fine = Case("count fish", "nothing")
    assert [problem.split(" ")[0] for problem in bad_inputs.problems(fine, copy)] == ["the", "0"]
    leaves = Case(f"train --text text.txt --quiet {TINY}", "")
    assert any("left behind" in problem for problem in bad_inputs.problems(leaves, copy))
    changes = Case("train --resume stopped --quiet", "")
    assert any("files changed" in problem for problem in bad_inputs.problems(changes, copy))


# What a machine may refuse ------------------------------------------------------------------------------------------


def limited(size):
    """The command line with a disk on which no file may pass `size` bytes: writing more fails, as on a full one."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); {COMMAND[-1]}"
    return [sys.executable, "-c", code]


def only_line(stderr):
    line, rest = stderr.decode().split("\n", 1)
    assert rest == "" and line.startswith("barreleye: ")
    return line


def test_a_disk_that_fills_up_costs_only_the_steps_since_the_last_save(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    how = dict(cwd=tmp_path, env=ENVIRONMENT, capture_output=True, timeout=120)
    full = subprocess.run([*limited(13_000), *GROW, "--out", "run"], **how)
    assert full.returncode == 2
    line = only_line(full.stderr)
    assert "File too large" in line and "make room there; nothing that was saved before is lost" in line
    saved = [int(state.name) for state in (tmp_path / "run" / "state").iterdir()]
    assert 10 <= max(saved) < 100
    assert not list(tmp_path.rglob("*.partial"))

    assert barreleye("train", "--resume", "run", "--quiet", cwd=tmp_path).returncode == 0
    assert barreleye(*GROW, "--out", "whole", cwd=tmp_path).returncode == 0
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("size", [100, 5000])
def test_a_disk_that_is_full_from_the_start(copy, size):
    before = bad_inputs.files_of(copy)
    full = subprocess.run([*limited(size), *GROW, "--out", "new"], cwd=copy, env=ENVIRONMENT, capture_output=True)
    assert full.returncode == 2
    assert "make room there" in only_line(full.stderr)
    assert bad_inputs.files_of(copy).items() >= before.items()


def test_a_reader_that_leaves_is_no_error(copy):
    for argv in (["runs"], ["count"], ["persona", "list"], ["persona", "sample", "fish", "-n", "2000"], ["--help"]):
        program = subprocess.Popen(
            [*COMMAND, *argv], cwd=copy, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        program.stdout.close()  # before a word is read, as `head -0` does
        assert program.communicate(timeout=120)[1] == b""
        assert program.returncode in (1, 128 + 13)


def test_output_that_cannot_be_written_is_one_line(copy):
    with Path("/dev/full").open("w") as full:
        for argv in (["runs"], ["generate", "text", "--max-tokens", "3"], ["persona", "sample", "fish"]):
            done = barreleye(*argv, cwd=copy, stdout=full)
            assert done.returncode == 2
            assert "No space left on device" in only_line(done.stderr)


def test_closed_streams(copy):
    def close(stream, *argv):
        script = f'exec "$0" "$@" {stream}&-'
        return subprocess.run(["sh", "-c", script, *COMMAND, *argv], cwd=copy, env=ENVIRONMENT, capture_output=True)

    closed = close("<", "chat", "chat")
    assert (closed.returncode, only_line(closed.stderr)[:40]) == (2, "barreleye: standard input is closed; giv")
    assert close(">", "runs").returncode == 0
    assert close("2>", "runs", "nowhere").returncode == 2


def test_a_terminal_that_lacks_a_character_stops_nothing(copy):
    sheet = (copy / "sheet.yaml").read_text().replace("a small crab", "a small \U0001f980")
    (copy / "sheet.yaml").write_text(sheet.replace("click.", "click \U0001f980."))
    done = subprocess.run(
        [*COMMAND, "persona", "sample", "sheet.yaml", "-n", "40"],
        cwd=copy,
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"click \U0001f980." in done.stdout


def test_bytes_in_an_argument_that_are_no_text(copy):
    for argv in ([b"chat", b"\xff"], [b"train", b"--text", b"\xff.txt"], [b"\xff"]):
        done = subprocess.run([*COMMAND, *argv], cwd=copy, env=ENVIRONMENT, capture_output=True)
        assert done.returncode == 2
        assert r"\udcff" in only_line(done.stderr)
