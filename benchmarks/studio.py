"""The studio, as a hand meets it: first paint, page weight, and how soon the page answers a hover, a head's switch and
the slider of time.

    python benchmarks/studio.py [RUN] [--pictures FOLDER]    # the second writes the guide's pictures too

In headless Chromium, the studio in a process of its own, on the cores that both share. An answer is counted from the
input until the frame that shows it; a reply that is written anew streams after it.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from machine import name, tell

from barreleye.run import Run

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "export"))
import browser as browsers

ROUNDS = 5
LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone-light": {"color_scheme": "light", "viewport": {"width": 400, "height": 800}},
    "phone-dark": {"color_scheme": "dark", "viewport": {"width": 400, "height": 800}},
}
ROOMS = ("runs", "learning", "talk", "look", "time", "data", "tour")

# Each answers with milliseconds, one for each time that it was done.
MEASURE = """() => {
    const frame = () => new Promise((go) => requestAnimationFrame(() => setTimeout(go)));
    const room = document.querySelector(".be-look");
    const answered = () => new Promise((go) => room.addEventListener("shown", go, { once: true }));
    const rest = () => new Promise((go) => setTimeout(go, 60));
    const timed = async (things, act) => {
        const times = [];
        for (const thing of things) {
            await rest();
            const began = performance.now();
            await act(thing);
            await frame();
            times.push(performance.now() - began);
        }
        return times;
    };
    const move = (element) => {
        const { left, top, width, height } = element.getBoundingClientRect();
        const place = { clientX: left + width / 2, clientY: top + height / 2, bubbles: true };
        element.dispatchEvent(new PointerEvent("pointermove", place));
        if (document.querySelector("body > .be-hint").hidden) throw new Error("nothing is said on hover");
    };
    window.measure = {
        hover: () => timed([...document.querySelectorAll(".be-thumb, .be-look .be-bars li, .be-matrix")], move),
        head: () => timed([...document.querySelectorAll(".be-switch"), ...document.querySelectorAll(".be-switch")],
            (toggle) => { const done = answered(); toggle.click(); return done; }),
        slider: async () => {
            const input = document.querySelector("be-time-slider input");
            const places = Array.from({ length: 3 * input.max }, (_, i) => (7 * i) % (Number(input.max) + 1));
            return timed(places, (place) => {
                const done = answered();
                input.value = place;
                input.dispatchEvent(new Event("input", { bubbles: true }));
                return done;
            });
        },
    };
}"""


@contextlib.contextmanager
def studio(folder: Path) -> Iterator[str]:
    """The studio over a folder, in a process of its own: the address that it prints."""
    command = [sys.executable, "-m", "barreleye", "studio", "--no-open", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


@contextlib.contextmanager
def page_of(browser: Any, address: str, **look: Any) -> Iterator[Any]:
    context = browser.new_context(**look)
    context.set_default_timeout(browsers.PATIENCE)
    page = context.new_page()
    page.on("pageerror", lambda error: sys.exit(f"the page failed: {error}"))
    page.goto(address)
    page.wait_for_selector("main h1")
    yield page
    context.close()


def at(page: Any, route: str) -> None:
    """A room, by its address."""
    page.evaluate("route => { location.hash = `#/${route}`; }", route)
    page.locator("main:not([aria-busy]) h1").wait_for()


def at_95(times: list[float]) -> float:
    """The 95th percentile."""
    return sorted(times)[int(0.95 * (len(times) - 1))]


def measure(browser: Any, address: str, run: str) -> None:
    paints = []
    for _ in range(ROUNDS):
        with page_of(browser, address, **LOOKS["light"]) as page:
            paints.append(page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    tell("studio: first contentful paint, slowest of five", max(paints) / 1000, 1, "s", at_most=True)
    with page_of(browser, address, **LOOKS["light"]) as page:
        sizes = page.evaluate("() => performance.getEntriesByType('resource').map((each) => each.decodedBodySize)")
        print(f"page weight: {sum(sizes) / 1e3:,.0f} kB in {len(sizes)} files, of which nothing is from elsewhere")
        at(page, f"time/{quote(run)}")
        page.wait_for_timeout(2000)
        page.evaluate(MEASURE)
        page.evaluate("measure.slider()")  # until the snapshots are in memory
        for what, words in (("hover", "numbers on hover"), ("head", "a head switched"), ("slider", "the slider moved")):
            times = page.evaluate(f"measure.{what}()")
            print(f"{words}: median {sorted(times)[len(times) // 2]:.0f} ms, most {max(times):.0f}, of {len(times)}")
            tell(f"studio: {words}, 95th percentile", at_95(times), 100, "ms", at_most=True)


def photograph(browser: Any, address: str, run: str, folder: Path) -> None:
    """Each room in each look, the whole page."""
    for look, options in LOOKS.items():
        with page_of(browser, address, **options) as page:
            for room in ROOMS:
                at(page, f"{room}/{quote(run)}")
                if room == "talk":
                    talk(page)
                if room == "look":
                    page.click(".be-switch >> nth=8")
                    page.click("text=Logit lens")
                if room == "tour":
                    page.click(".st-stops button >> nth=3")
                page.mouse.move(0, 0)
                page.wait_for_timeout(4000)  # until what streams is there
                page.screenshot(path=folder / f"{room}-{look}.png", full_page=True)


def talk(page: Any) -> None:
    for number, words in enumerate(("hello", "are you afraid of the dark?"), 1):
        page.fill("be-chat-box textarea", words)
        page.press("be-chat-box textarea", "Enter")
        page.wait_for_selector(f".be-log[aria-busy=false] .be-turn:nth-child({2 * number})", state="attached")
    page.click(".be-said >> nth=-4")
    page.wait_for_selector("be-signed-bars li")


def photograph_states(browser: Any, folder: Path, run: Run, pictures: Path) -> None:
    """What is said where there is little to show: no run yet; one that still learns, has no snapshots, is damaged."""

    def picture(name: str) -> None:
        page.wait_for_timeout(500)
        page.screenshot(path=pictures / f"state-{name}.png", full_page=True)

    with studio(folder) as address, page_of(browser, address, **LOOKS["light"]) as page:
        page.wait_for_selector(".st-form .be-main:enabled")
        picture("no-run")
        page.select_option(".st-form [name=preset]", "tiny")
        page.fill(".st-form [name=name]", "young")
        page.press(".st-form [name=name]", "Enter")
        page.wait_for_selector(".st-status >> text=step")
        page.wait_for_function("() => document.querySelector('.st-loss').data?.lines[0]?.points.length > 60")
        picture("learning")
        shutil.copytree(run.path, folder / "bare", ignore=shutil.ignore_patterns("snapshots"))
        shutil.copytree(run.path, folder / "torn", ignore=shutil.ignore_patterns("snapshots"))
        weights = folder / "torn" / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        page.reload()
        page.wait_for_selector("main h1")
        for route, name in (("runs", "runs"), ("time/bare", "no-snapshots"), ("talk/torn", "damaged")):
            at(page, route)
            picture(name)
        at(page, "learning/young")
        page.click("button >> text=stop")
        page.wait_for_selector(".st-status >> text=/^(stopped|finished)/")


def shrink(pictures: Path) -> None:
    """A palette of 128 colors: a third of the bytes, and none of it is a photograph."""
    from PIL import Image

    for file in pictures.glob("*.png"):
        Image.open(file).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="runs/fish", help="a run with snapshots")
    parser.add_argument("--pictures", type=Path, help="write the guide's pictures into this folder")
    arguments = parser.parse_args()
    run = Run(arguments.run)
    print(f"{name()}; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as empty, browsers.chromium() as browser:
        with studio(run.path.parent) as address:
            measure(browser, address, run.path.name)
            if arguments.pictures:
                arguments.pictures.mkdir(parents=True, exist_ok=True)
                photograph(browser, address, run.path.name, arguments.pictures)
        if arguments.pictures:
            photograph_states(browser, Path(empty) / "runs", run, arguments.pictures)
            shrink(arguments.pictures)


if __name__ == "__main__":
    main()
