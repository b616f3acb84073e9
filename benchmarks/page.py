"""The page of a run: how large it is, how soon it is there, how fast it talks, and whether it says what the run says.

python benchmarks/page.py [RUN]

In headless Chromium, offline, all of it on one core. Seconds are those of the clock, and those that the page's thread
computed: on a machine that does other things too, only the second kind says what the page needs.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from machine import name, tell

from barreleye.data.chat_format import encode_chat
from barreleye.export.html import export_html
from barreleye.run import Run

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "export"))
import browser as browsers

ROUNDS, TOKENS, COMPARED = 5, 120, 1000
DECODE = """async (tokens) => {
    const { source, table } = barreleye;
    const turns = [{ role: "user", content: table.example }];
    const sampling = { temperature: 1, top_p: 1, top_k: 0 };
    source.tokenizer.stopIds = new Set(); // replies of full length, so that it is decoding that is timed
    let said = 0;
    const began = performance.now();
    for (let seed = 1; said < tokens; seed++)
        for await (const piece of source.talk({ turns, sampling, seed })) said += piece.done ? 0 : 1;
    return [said, (performance.now() - began) / 1000];
}"""
SWITCH = """async () => {
    const { source, table } = barreleye;
    const turns = [{ role: "user", content: table.example }];
    const times = [];
    for (let i = 0; i < table.config.n_layers * table.config.n_heads; i++) {
        const [layer, head] = [Math.floor(i / table.config.n_heads), i % table.config.n_heads];
        const began = performance.now();
        await source.look({ turns, off: [`blocks.${layer}.attn.hook_z[head=${head}]`], want: ["pattern"] });
        times.push(performance.now() - began);
    }
    return times;
}"""
SAID = """async (rows) => {
    const found = [];
    for (const ids of rows) {
        const { header } = await barreleye.source.look({ ids, k: 1 });
        found.push(...header.top.map(([{ id }]) => id));
    }
    return found;
}"""


def main() -> None:
    run = Run(sys.argv[1] if len(sys.argv) > 1 else "fish")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # Chromium's processes inherit it
    print(f"{name()}; one core, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder, browsers.chromium() as browser:
        (page_file,) = export_html(run, Path(folder) / "page.html")
        tell("page, MB", page_file.stat().st_size / 1e6, 13, "MB", at_most=True)
        paints = []
        for _ in range(ROUNDS):
            with browsers.opened(browser, page_file) as page:
                paints.append(page.evaluate("() => performance.getEntriesByType('paint').at(-1).startTime") / 1000)
        tell("first contentful paint, median", statistics.median(paints), 1, "s", at_most=True)
        with browsers.opened(browser, page_file) as page:
            measure(run, page)


def measure(run: Run, page: Any) -> None:
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def computed() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))

    page.evaluate(DECODE, TOKENS)  # until the code is compiled
    by_clock, by_thread = [], []
    for _ in range(ROUNDS):
        before = computed()
        said, seconds = page.evaluate(DECODE, TOKENS)
        by_clock.append(said / seconds)
        by_thread.append(said / (computed() - before))
    print(f"tokens/s by the clock: {', '.join(f'{each:.0f}' for each in by_clock)}")
    tell("tokens/s of the page's own time, median", statistics.median(by_thread), 40, "tokens/s")
    before, times = computed(), sorted(page.evaluate(SWITCH))
    print(f"head switched, 95th percentile by the clock: {times[int(0.95 * len(times))]:.0f} ms")
    tell(
        "head switched, mean of the page's own time", 1000 * (computed() - before) / len(times), 100, "ms", at_most=True
    )
    model, rows, total = run.load_model(), [], 0
    for chat in run.corpus().held_out:
        rows.append(encode_chat(chat.messages, run.tokenizer)[0][: run.config.model.context_length])
        total += len(rows[-1])
        if total >= COMPARED:
            break
    with torch.inference_mode():
        best = [token for ids in rows for token in model(torch.tensor([ids]))[0].argmax(-1).tolist()]
    same = sum(a == b for a, b in zip(page.evaluate(SAID, rows), best, strict=True))
    tell(f"same likeliest token as torch in float32, of {len(best)}", 100 * same / len(best), 99, "%")


if __name__ == "__main__":
    main()
