"""The studio in Chromium, as a newcomer goes through it: by mouse, by keyboard, and on a phone."""

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from barreleye.lens.attribution import logit_lens
from barreleye.lens.edits import edit, zero
from barreleye.lens.view import look
from barreleye.run import Run
from barreleye.training.grow import grow

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import browser as browsers
from studio import MEASURE, at, at_95, studio

pytest.importorskip("fastapi", reason="fastapi is not installed; pip install 'barreleye[studio]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed; pip install 'barreleye[studio]'")

SHAPE = dict(
    n_layers=2, n_heads=4, d_model=64, d_ff=96, context_length=64, steps=150, batch_tokens=512, eval_every=50,
    sample_every=50, record_every=50, snapshots=6, conversations=1000, vocab=400, quiet=True,
)  # fmt: skip
FORM = dict(
    steps=60, n_layers=2, n_heads=2, d_model=32, batch_tokens=512, warmup_steps=5,  # seen at once
    d_ff=96, context_length=64, conversations=300, vocab=400, eval_every=20, sample_every=20, record_every=20,
)  # fmt: skip
SEEN_AT_ONCE = ("steps", "n_layers", "n_heads", "d_model", "batch_tokens", "warmup_steps")
ROOMS = ("runs", "learning", "talk", "look", "time", "data", "tour")
CLOSE = 1e-3
CURVE_WITHIN = 3.0  # seconds from the first step
ANSWERS_WITHIN = 100.0  # milliseconds, at the 95th percentile
SAYINGS = ("how deep do you live", "hello", "what do you eat", "who is kevin", "do you like the dark?")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsers.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small fish that learned a little, and kept how it got there."""
    return grow("fish", out=tmp_path_factory.mktemp("learned") / "small", **SHAPE)


@contextlib.contextmanager
def opened(browser: Any, address: str, refused: int = 0, **options: Any) -> Iterator[Any]:
    """A page of the studio. In the end: nothing on the console, and no request to anywhere else. refused: requests that
    the studio refuses, which the browser itself writes there."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(browsers.PATIENCE)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("main h1")
    try:
        yield page
    finally:
        context.close()
    home = address.split("?")[0]
    assert [words for words in said if "status of 4" not in words] == []
    assert len(said) == refused
    assert [url for url in asked if not url.startswith((home, "data:"))] == []


def until(true: Any, patience: float = browsers.PATIENCE / 1000) -> float:
    """Seconds until something is so."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < patience, "it did not come to be"
        time.sleep(0.05)
    return time.monotonic() - began


def crowded() -> float:
    """How much longer things may take, where others use the machine too."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def fits(page: Any) -> bool:
    """Whether nothing stands out on the right."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# A newcomer's path ---------------------------------------------------------------------------------------------------


def test_a_newcomer_grows_talks_and_looks(browser: Any, tmp_path: Path) -> None:
    with studio(tmp_path / "runs") as address, opened(browser, address) as page:
        # No run yet: the form is open, and every other room says where to begin.
        at(page, "talk")
        assert "No run yet" in page.text_content("main h1")
        page.click("a.st-button")
        begin(page, "mine")
        watch(page, tmp_path / "runs" / "mine")
        talk_and_open(page)
        switch_a_head(page)
        travel(page)
        carry_away(page, tmp_path / "mine.html")
    chat_offline(browser, tmp_path / "mine.html")


def begin(page: Any, name: str) -> None:
    """By mouse and keyboard, in the form."""
    page.wait_for_selector(".st-form .be-main:enabled")
    page.select_option(".st-form [name=preset]", "tiny")
    page.click(".st-form details summary")
    for knob, value in FORM.items():
        page.fill(f".st-form [name={knob}]", str(value))
    page.fill(".st-form [name=name]", name)
    page.press(".st-form [name=name]", "Enter")
    page.wait_for_selector(".st-status")


def test_a_form_that_is_wrong_says_why(browser: Any, tmp_path: Path) -> None:
    with studio(tmp_path / "runs") as address, opened(browser, address, refused=2) as page:
        page.wait_for_selector(".st-form .be-main:enabled")
        for knob, value, words in (("name", "../elsewhere", "cannot be a folder's"), ("n_heads", "7", "d_model")):
            page.fill(f".st-form [name={knob}]", value)
            page.press(f".st-form [name={knob}]", "Enter")
            page.wait_for_selector(f".st-form .be-problem >> text={words}")
            page.fill(".st-form [name=name]", "")


def watch(page: Any, run: Path) -> None:
    """At once it is seen what the training is doing; then the curve moves as the steps come."""
    until(lambda: "learning" in page.text_content(".st-status"))
    until(lambda: (run / "metrics.jsonl").exists() and '"grad_norm"' in (run / "metrics.jsonl").read_text())
    points = "() => document.querySelector('.st-loss').data?.lines[0]?.points.length ?? 0"
    assert until(lambda: page.evaluate(points) > 0) < CURVE_WITHIN * crowded()
    until(lambda: "finished" in page.text_content(".st-status"))
    until(lambda: page.evaluate(points) == FORM["steps"])
    page.wait_for_selector(".st-samples .be-assistant")
    page.hover(".st-loss canvas", position={"x": 600, "y": 100})
    page.wait_for_selector(".be-hint:not([hidden]) >> text=training, smoothed")


def talk_and_open(page: Any) -> None:
    """With the keyboard alone: to Talk, say something, open a token, move a slider."""
    page.focus("#rooms [data-room=talk]")
    page.keyboard.press("Enter")
    page.wait_for_selector("be-chat-box textarea")
    page.focus("be-chat-box textarea")
    say(page)
    page.focus(".be-said")
    page.keyboard.press("Enter")
    page.wait_for_selector("be-signed-bars li")
    page.wait_for_selector("be-lens-grid td")
    before = page.text_content("be-probability-bars ol")
    page.focus("be-probability-bars [aria-label=temperature]")
    page.keyboard.press("End")
    assert page.text_content("be-probability-bars ol") != before


def switch_a_head(page: Any) -> None:
    at(page, "look")
    page.wait_for_selector("be-attention-wall .be-switch")
    page.wait_for_selector("be-probability-bars li")
    assert not page.query_selector(".be-compared")
    page.click(".be-switch >> nth=1")
    page.wait_for_selector(".be-compared")
    assert "→" in page.text_content("be-probability-bars ol")
    page.click("text=all on")
    page.wait_for_selector("be-probability-bars li:not(.be-compared)")


def travel(page: Any) -> None:
    """The slider to the first moment, and the play button."""
    at(page, "time")
    page.wait_for_selector("be-probability-bars li")
    wall = "() => document.querySelector('be-attention-wall').data.pattern.data.join()"
    last = page.evaluate(wall)
    page.focus("be-time-slider input")
    page.keyboard.press("Home")
    until(lambda: page.evaluate(wall) != last)
    assert "step 0" in page.text_content("be-time-slider output")
    page.click("be-time-slider button")
    until(lambda: f"step {FORM['steps']}" in page.text_content("be-time-slider output"))


def carry_away(page: Any, file: Path) -> None:
    """By the link of the run, as a person saves a file."""
    at(page, "runs")
    with page.expect_download() as download:
        page.click("[data-run=mine] >> text=as a file")
    download.value.save_as(file)
    assert download.value.suggested_filename == "mine.html"


def chat_offline(browser: Any, file: Path) -> None:
    """The same fish, from the disk."""
    with browsers.opened(browser, file) as page:
        page.fill("be-chat-box textarea", SAYINGS[0])
        page.press("be-chat-box textarea", "Enter")
        page.wait_for_selector(".be-assistant")


# The rooms ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(learned: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in each state that a room has to have words for."""
    folder = tmp_path_factory.mktemp("states") / "runs"
    shutil.copytree(learned.path, folder / "small")
    shutil.copytree(learned.path, folder / "bare", ignore=shutil.ignore_patterns("snapshots"))
    shutil.copytree(learned.path, folder / "torn")
    weights = folder / "torn" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    text = folder.parent / "sea.txt"
    text.write_text("the sea is deep, the fish is small.\n" * 300)
    grow(text=text, out=folder / "letters", **SHAPE | dict(steps=20))
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with studio(folder) as found:
        yield found


@pytest.mark.parametrize(
    "look", [dict(color_scheme="light"), dict(color_scheme="dark", viewport={"width": 400, "height": 800})], ids=str
)
def test_every_room_opens_and_fits(browser: Any, address: str, look: dict[str, Any]) -> None:
    with opened(browser, address, **look) as page:
        for room in ROOMS:
            at(page, f"{room}/small")
            page.wait_for_timeout(300)
            assert room == "runs" or page.text_content("main h1").lower() == room
            assert fits(page), room
        for stop in range(10):
            page.click(f".st-stops button >> nth={stop}")
            page.wait_for_selector(f"text=stop {stop + 1} of 10")
            page.wait_for_timeout(300)
            assert fits(page), f"stop {stop + 1}"
            assert page.query_selector(".be-problem:visible") is None


@pytest.mark.parametrize(
    ("route", "title"),
    [
        ("look/%", "There is no run %"),
        ("toString/small", "Runs"),
        ("talk/torn", "torn is damaged"),
        ("time/bare", "bare kept no snapshots"),
        ("look/nowhere", "There is no run nowhere"),
    ],
)
def test_a_run_that_cannot_be_shown_says_why(browser: Any, address: str, route: str, title: str) -> None:
    with opened(browser, address) as page:
        at(page, route)
        assert page.text_content("main h1") == title


def test_several_runs_lie_on_one_axis(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        at(page, "learning/small")
        page.wait_for_selector("text=Put other runs")
        page.check("input[value=bare]")
        until(lambda: len(page.query_selector_all(".st-loss .be-entry")) == 2)
        assert page.evaluate("location.hash") == "#/learning/small,bare"
        page.wait_for_selector(".st-differences >> text=the same")


def test_the_theme_follows_the_system_and_the_switch(browser: Any, address: str) -> None:
    paper = "() => getComputedStyle(document.body).backgroundColor"
    with opened(browser, address, color_scheme="dark") as page:
        dark = page.evaluate(paper)
        page.click("#theme")
        assert page.evaluate(paper) != dark
        page.reload()
        page.wait_for_selector("main h1")
        assert page.evaluate(paper) != dark


# What is shown is what Python computes -------------------------------------------------------------------------------


def test_probabilities_attention_and_lens_are_those_of_the_lens(browser: Any, address: str, folder: Path) -> None:
    off = "blocks.1.attn.hook_z[head=2]"
    with opened(browser, address) as page:
        at(page, "look/small")
        page.fill(".be-text", "how deep")
        page.click("be-attention-wall .be-switch >> nth=6")  # layer 1, head 2
        page.wait_for_selector(".be-compared")
        page.click("text=Logit lens")
        page.wait_for_selector("be-lens-grid td")
        page.wait_for_timeout(500)
        shown = json.loads(page.evaluate(SHOWN))
    subject = Run(folder / "small")
    said = [{"role": "user", "content": "how deep"}]
    whole, without = look(subject, said), edit(subject, said, {off: zero})
    assert shown["tokens"] == without.ids
    pattern = without["blocks.*.attn.hook_pattern"].flatten().tolist()
    assert shown["pattern"] == pytest.approx(pattern, abs=CLOSE)
    lens = logit_lens(without)
    assert shown["lens"] == lens.ids_NTK[..., 0].tolist()
    assert shown["certain"] == [pytest.approx(row, abs=CLOSE) for row in lens.probs_NTK[..., 0].tolist()]
    for token, percents in shown["bars"]:
        before, after = (100 * float(view.probs_TV[-1, token]) for view in (whole, without))
        assert percents == pytest.approx([before, after], abs=0.6)  # as they are rounded


def test_an_opened_token_shows_what_it_was_drawn_from(browser: Any, address: str, folder: Path) -> None:
    """Of the whole vocabulary, and not of the likeliest alone."""
    with opened(browser, address) as page:
        at(page, "talk/small")
        page.focus("be-chat-box textarea")
        said = say(page)
        page.press(f".be-said >> nth={said - 1}", "Enter")
        page.wait_for_selector("be-signed-bars li")
        entries = "() => document.querySelector('be-probability-bars').data.entries.map(({logit}) => logit)"
        found, tokens = page.evaluate(entries), page.evaluate(LOOKED)
        view = look(Run(folder / "small"), tokens)
        assert found == pytest.approx(view.logits_TV[-1].tolist(), abs=CLOSE)
        assert page.text_content(".be-panel h2") in page.text_content(".be-chosen .be-name")


def say(page: Any) -> int:
    """Into the line that has the focus. How many tokens it said; so small a fish may have nothing to say to some."""
    turns = page.locator(".be-turn").count()
    for number, saying in enumerate(SAYINGS, 1):
        page.keyboard.type(saying)
        page.keyboard.press("Enter")
        page.wait_for_selector(f".be-log[aria-busy=false] .be-turn:nth-child({turns + 2 * number})", state="attached")
        if said := page.locator(".be-said").count():
            return int(said)
    raise AssertionError("it has nothing to say")


def test_a_conversation_is_there_when_one_comes_back(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        at(page, "talk/small")
        page.focus("be-chat-box textarea")
        said = say(page)
        page.press(".be-said >> nth=0", "Enter")
        page.click("text=every head: Look")
        page.wait_for_selector("be-attention-wall .be-switch")
        page.wait_for_selector("text=it replies")
        at(page, "talk/small")
        assert page.locator(".be-said").count() == said


def test_a_text_is_read_as_it_stands_where_one_asks(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        at(page, "look/small")
        page.wait_for_selector("be-probability-bars li")
        page.click(".be-look be-token-row button >> nth=-1")
        page.uncheck(".be-check input")
        tokens = "() => document.querySelector('.be-look be-token-row').data.tokens.map(({text}) => text).join('')"
        until(lambda: page.evaluate(tokens).replace("␣", " ") == "do you like living in the dark?")
        assert not page.is_visible(".be-look .be-problem")


def test_a_model_of_text_begins_with_what_it_can_read(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        for room in ("look", "time", "tour"):
            at(page, f"{room}/letters")
            page.wait_for_timeout(500)
            assert page.query_selector(".be-problem:visible") is None, room
        assert page.input_value(".st-tour-text").startswith("the sea is deep")


def test_a_room_opens_by_itself_when_there_is_something_to_show(browser: Any, address: str, folder: Path) -> None:
    with opened(browser, address) as page:
        at(page, "talk/late")
        assert page.text_content("main h1") == "There is no run late"
        shutil.copytree(folder / "small", folder / "late")
        page.wait_for_selector("be-chat-box textarea")
        shutil.rmtree(folder / "late")


def test_rooms_that_were_left_are_forgotten(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        session = page.context.new_cdp_session(page)

        def listeners() -> int:
            session.send("HeapProfiler.collectGarbage")
            return int(session.send("Memory.getDOMCounters")["jsEventListeners"])

        counts = []
        for _ in range(3):
            for _ in range(4):
                at(page, "look/small")
                page.locator("be-probability-bars li").first.wait_for()  # a handle would keep the room
                at(page, "data/small")
            counts.append(listeners())
        assert counts[2] - counts[1] < 400, (
            counts
        )  # a room has about two hundred, and one or two may not be collected yet


LOOKED = "() => document.querySelector('.be-panel be-token-row').data.tokens.map(({id}) => id)"
SHOWN = """() => {
  const wall = document.querySelector("be-attention-wall").data;
  const { lens } = document.querySelector("be-lens-grid").data;
  const each = (what) => lens.map((row) => row.map((cell) => cell[what]));
  const tokens = document.querySelector(".be-look be-token-row").data.tokens.map(({id}) => id);
  const bars = [...document.querySelectorAll("be-probability-bars li")].map((line) => {
    const id = Number(/token (\\d+)/.exec(line.dataset.words)[1]);
    return [id, line.querySelector(".be-number").textContent.split("→").map((x) => parseFloat(x.replace("<", "")))];
  });
  return JSON.stringify({tokens, pattern: [...wall.pattern.data], bars,
    lens: each("id"), certain: each("probability")});
}"""


# The interface is quick enough for a hand ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["hover", "head", "slider"])
def test_a_hand_is_answered_at_once(browser: Any, address: str, what: str) -> None:
    """The short form of benchmarks/studio.py, which measures the default fish."""
    with opened(browser, address) as page:
        at(page, "time/small")
        page.wait_for_selector("be-probability-bars li")
        page.evaluate(MEASURE)
        page.evaluate("measure.slider()")  # until the snapshots are in memory
        times = page.evaluate(f"measure.{what}()")
        assert len(times) > 5 and at_95(times) < ANSWERS_WITHIN * crowded()


def test_the_page_is_light(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        sizes = page.evaluate(
            "() => performance.getEntriesByType('resource').map((each) => [each.name, each.decodedBodySize])"
        )
        weight = sum(size for name, size in sizes if re.search(r"\.(js|css)$", name))
        assert 0 < weight < 400_000
