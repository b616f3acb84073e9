"""The rooms in a notebook's cell, as anywidget renders them."""

import base64
import sys
from pathlib import Path

import pytest

from barreleye.training.grow import grow

sys.path.insert(0, str(Path(__file__).parent))
import browser as browsers

pytest.importorskip("anywidget", reason="anywidget is not installed; pip install 'barreleye[widget]'")
from barreleye.export.widget import widget

# Two cells, as a notebook has them: each brings the module, and defines the elements again.
RENDER = """async ({ esm, css, table, weights }) => {
    const bytes = (text) => new DataView(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
    const sent = Object.fromEntries(Object.entries(weights).map(([step, text]) => [step, bytes(text)]));
    document.head.append(Object.assign(document.createElement("style"), { textContent: css }));
    for (let cell = 0; cell < 2; cell++) {
        const address = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
        const { default: module } = await import(address);
        const el = document.body.appendChild(document.createElement("div"));
        await module.render({ model: { get: (name) => ({ table, weights: sent })[name] }, el });
    }
}"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    knobs = dict(n_layers=2, n_heads=2, d_model=32, d_ff=64, context_length=64, steps=4, batch_tokens=256, quiet=True)
    return grow("fish", out=tmp_path_factory.mktemp("widget") / "small", conversations=200, vocab=400, **knobs)


def test_a_cell_talks_looks_and_travels(run):
    made = widget(run, snapshots=2)
    with browsers.chromium() as browser:
        page, failed = browser.new_page(), []
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.set_content("<p hidden>a notebook's own</p>")
        weights = {step: base64.b64encode(data).decode() for step, data in made.weights.items()}
        page.evaluate(RENDER, dict(esm=made._esm, css=made._css, table=made.table, weights=weights))
        assert page.locator(".be-cell").count() == 2
        second = page.locator(".be-cell").nth(1)
        second.locator("textarea").first.fill("hello")
        second.locator("textarea").first.press("Enter")
        second.locator(".be-assistant").wait_for()
        second.locator("[data-room=look]").click()
        second.locator(".be-thumb").first.wait_for()
        second.locator(".be-time input").press("Home")
        second.locator("output:has-text('step 0')").wait_for()
        assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgba(0, 0, 0, 0)"
        assert page.evaluate("() => getComputedStyle(document.querySelector('p')).boxSizing") == "content-box"
        assert failed == []


def test_what_cannot_be_shown_is_said(run):
    with pytest.raises(ValueError, match="moments before its newest"):
        widget(run, snapshots=99)
