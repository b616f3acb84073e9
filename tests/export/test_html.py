"""The page in Chromium, opened from the disk and offline: it computes what torch does with the same weights."""

import itertools
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from barreleye.config import Sampling
from barreleye.data.chat_format import Message, encode_chat
from barreleye.export.check import PIECES
from barreleye.export.html import export_html, moments, pack, quantized
from barreleye.export.joined import static
from barreleye.inference.generate import probabilities
from barreleye.inference.plain_weights import load_weights
from barreleye.lens.attribution import attribute, logit_lens
from barreleye.lens.edits import edit, zero
from barreleye.lens.view import look
from barreleye.run import Run
from barreleye.training.grow import grow

sys.path.insert(0, str(Path(__file__).parent))
import browser as browsers
from conftest import LLAMA, SHAPE, TEXT

CLOSE = 1e-3
PARTS = dict(
    modern_qk=LLAMA | dict(qk_norm=True, n_kv_heads=2),
    sines=dict(positions="sinusoidal", activation="gelu_erf", tie_embeddings=False, bias=False),
    none=dict(positions="none", activation="relu", norm="rmsnorm"),
    squares=dict(activation="relu2", n_heads=2, head_dim=6, n_kv_heads=1, qk_norm=True, d_ff=50, d_model=30),
)


@pytest.fixture(scope="module")
def browser():
    with browsers.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A fish that learned long enough to be sure of something, and kept how it got there."""
    folder = tmp_path_factory.mktemp("learned")
    shape = SHAPE | dict(steps=150, d_model=64, snapshots=6)
    return grow("fish", out=folder / "fish", conversations=1000, vocab=400, **shape)


@pytest.fixture(scope="module")
def all_runs(runs, tmp_path_factory):
    """Every part that engine.js has is in one of them."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "text.txt").write_text(TEXT)
    made = {
        name: grow(out=folder / name, text=folder / "text.txt", **(SHAPE | dict(steps=10) | parts))
        for name, parts in PARTS.items()
    }
    return runs | made


@pytest.fixture(scope="module")
def pages(all_runs, learned, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("pages"), {}

    def of(name):
        if name not in made:
            run, snapshots = (learned, 3) if name == "learned" else (all_runs[name], 0)
            (made[name],) = export_html(run, folder / f"{name}.html", snapshots)
        return made[name]

    return of


def dequantized(run: Run, step: int | None = None):
    """The run's model with the weights that its page has."""
    model = run.load_model(step=step)
    weights = {}
    for name, array in load_weights(run.weights_file(step), run.config.model).items():
        if array.ndim == 2 and name != "positions.weight":
            rounded, scales = quantized(array)
            array = rounded.astype(np.float32) * scales[:, None]
        weights[name] = torch.from_numpy(array)
    if run.config.model.tie_embeddings:
        weights["unembed.weight"] = weights["embed.weight"]
    model.load_state_dict(weights)
    return model


def ask(page, request):
    """What the page's Source answers, its arrays as NumPy's."""
    answer = page.evaluate(
        """async (request) => {
            const { header, arrays } = await barreleye.source.look(request);
            const plain = ([name, { shape, data }]) => [name, { shape, data: [...data] }];
            return { header, arrays: Object.fromEntries(Object.entries(arrays).map(plain)) };
        }""",
        request,
    )
    arrays = {
        name: np.array([np.nan if x is None else x for x in each["data"]], float).reshape(each["shape"])
        for name, each in answer["arrays"].items()
    }
    return answer["header"], arrays


def some_ids(run, n=40):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(run.config.model.vocab_size, (n,), generator=generator).tolist()


@pytest.mark.parametrize("name", ["vanilla", "modern", "letters", "own", *PARTS])
def test_it_computes_what_torch_does_with_its_weights(browser, pages, all_runs, name):
    run, ids = all_runs[name], some_ids(all_runs[name])
    view = look((dequantized(run), run.tokenizer), ids)
    with browsers.opened(browser, pages(name)) as page:
        logits = page.evaluate(
            """async (ids) => {
                const { source } = barreleye;
                const told = [];
                for (let position = 0; position < ids.length; position++) {
                    const { arrays } = await source.look({ ids, want: ["logits"], position });
                    told.push([...arrays.logits.data]);
                }
                return told;
            }""",
            ids,
        )
        wanted = ["pattern", "lens", "residual", "attribution", "neurons"]
        header, arrays = ask(page, dict(ids=ids, want=wanted, position=20, k=3))
        _, stages = ask(page, dict(ids=ids, want=["stages"], layer=1, head=1))
        names = page.evaluate("() => [...[...barreleye.source.passes.values()].at(-1).seen.keys()]")
    assert np.abs(np.array(logits) - view.logits_TV.numpy()).max() < CLOSE
    assert names == list(view.shapes)
    np.testing.assert_allclose(arrays["pattern"], view["blocks.*.attn.hook_pattern"], atol=CLOSE)
    lens = logit_lens(view, k=1)
    assert [[cell["id"] for cell in row] for row in header["lens"]][-1] == lens.ids_NTK[-1, :, 0].tolist()
    np.testing.assert_allclose(arrays["lens_probability"][:, :-1], (-lens.loss_NT[:, :-1]).exp(), atol=CLOSE)
    ends = ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(2))]
    np.testing.assert_allclose(arrays["resid_norm"], torch.stack([view[n] for n in ends]).norm(dim=-1), atol=CLOSE)
    told = {part["part"]: part["value"] for part in header["attribution"]}
    expected = attribute(view, header["top"][20][0]["id"], position=20)
    assert told.keys() == set(expected.names)
    assert max(abs(told[n] - expected[n]) for n in expected.names) < CLOSE
    assert sum(told.values()) == pytest.approx(expected.logit, abs=CLOSE)
    assert np.array(header["loss"][1:]) == pytest.approx(view.loss_T[1:].numpy(), abs=CLOSE)
    np.testing.assert_allclose(stages["pattern"], view["blocks.1.attn.hook_pattern[head=1]"], atol=CLOSE)
    np.testing.assert_allclose(stages["z"], view["blocks.1.attn.hook_z[head=1]"], atol=CLOSE)
    scores = view["blocks.1.attn.hook_attn_scores[head=1]"]
    np.testing.assert_allclose(np.tril(stages["scores"]), scores.tril().nan_to_num(neginf=0), atol=CLOSE)
    np.testing.assert_allclose(stages["result"], view["blocks.1.attn.hook_result[head=1]"].norm(dim=-1), atol=CLOSE)
    assert len(header["neurons"]) == (2 if run.config.model.d_ff else 0)


@pytest.mark.parametrize("name", ["vanilla", "modern"])
def test_what_is_switched_off_is_off_as_in_the_lens(browser, pages, all_runs, name):
    run, ids = all_runs[name], some_ids(all_runs[name])
    off = ["blocks.1.attn.hook_z[head=3]", "blocks.0.hook_mlp_out", "blocks.*.mlp.hook_post[neuron=3:9, position=4]"]
    model = dequantized(run)
    view = edit((model, run.tokenizer), ids, dict.fromkeys(off, zero))
    plain = look((model, run.tokenizer), ids)
    with browsers.opened(browser, pages(name)) as page:
        header, arrays = ask(page, dict(ids=ids, off=off, want=["logits", "attribution"]))
        for wrong, says in (
            ("blocks.9.hook_mlp_out", "there is no activation"),
            ("blocks.0.hook_mlp_out[head=1]", 'has no axis "head"'),
            ("blocks.0.hook_mlp_out[x]", "is no axis with an index"),
        ):
            with pytest.raises(Exception, match=re.escape(says)):
                ask(page, dict(ids=ids, off=[wrong]))
    np.testing.assert_allclose(arrays["logits"], view.logits_TV[-1], atol=CLOSE)
    assert np.abs(arrays["logits"] - plain.logits_TV[-1].numpy()).max() > 0.01
    expected = attribute(view, header["top"][-1][0]["id"])
    assert max(abs(part["value"] - expected[part["part"]]) for part in header["attribution"]) < CLOSE


def test_it_says_what_the_run_says(browser, pages, learned):
    """Against the weights as they were learned, in float32, over a thousand tokens."""
    model, tokenizer = learned.load_model(), learned.tokenizer
    rows = [encode_chat(chat.messages, tokenizer)[0][:60] for chat in learned.corpus().held_out]
    rows = rows[: next(n for n in range(len(rows)) if sum(map(len, rows[:n])) >= 1000)]
    with browsers.opened(browser, pages("learned")) as page:
        told = page.evaluate(
            """async (rows) => {
                const found = [];
                for (const ids of rows) {
                    const { header } = await barreleye.source.look({ ids, k: 1 });
                    found.push(header.top.map(([{ id }]) => id));
                }
                return found;
            }""",
            rows,
        )
    with torch.inference_mode():
        best = [model(torch.tensor([ids]))[0].argmax(-1).tolist() for ids in rows]
    same = [a == b for here, there in zip(told, best, strict=True) for a, b in zip(here, there, strict=True)]
    assert len(same) >= 1000 and sum(same) / len(same) >= 0.99


def test_the_cache_changes_nothing(browser, pages, all_runs):
    run = all_runs["modern"]
    turns = [dict(role="user", content="Hello  FISH")]
    with browsers.opened(browser, pages("modern")) as page:
        said = page.evaluate(
            """async (turns) => {
                const told = [];
                const off = ["blocks.0.attn.hook_z[head=1]"];
                const request = { turns, off, sampling: { temperature: 0 } };
                for await (const said of barreleye.source.talk(request)) told.push(said);
                return told;
            }""",
            turns,
        )
    ids = encode_chat([Message("user", "Hello  FISH")], run.tokenizer, add_generation_prompt=True)[0]
    *pieces, last = said
    assert last["done"] and last["ids"][: len(ids)] == ids and len(pieces) > 1
    assert last["ids"][len(ids) :] == [piece["id"] for piece in pieces]
    assert [piece["position"] for piece in pieces] == list(range(len(ids), len(last["ids"])))
    view = edit((dequantized(run), run.tokenizer), last["ids"], {"blocks.0.attn.hook_z[head=1]": zero})
    for piece in pieces:
        logits_V = view.logits_TV[piece["position"] - 1]
        assert piece["top"][0]["logit"] == pytest.approx(float(logits_V.max()), abs=CLOSE)
        assert len(piece["top"]) == 50 and piece["id"] == piece["top"][0]["id"]
    assert "".join(piece["text"] for piece in said) == run.tokenizer.decode([piece["id"] for piece in pieces])


@pytest.mark.parametrize("name", ["vanilla", "letters"])
def test_the_tokenizer_is_ours(browser, pages, all_runs, name):
    tokenizer = all_runs[name].tokenizer
    odd = "\x85 \ufeff \x1c \x00 \u180e ǅ İ ΑΣ 's 'S 1a ½½ 🐟👩‍🚀 日本語 a\r\nb <|im_end|> é e\u0301".split(" ")
    seen = "the sea, the fish: café “naïve” über 日本 two 🐟 blub!\n"
    numbers = np.random.default_rng(1)
    mixed = ["".join(numbers.choice([*PIECES, *odd], numbers.integers(1, 7))) for _ in range(400)]
    texts = [seen, *seen.split(), *([] if name == "letters" else [*PIECES, *odd, *mixed])]
    rows = [some_ids(all_runs[name], 6) for _ in range(50)]
    said = itertools.pairwise(odd)
    chats = [[dict(role="user", content=f" {a}\x85"), dict(role="assistant", content=b)] for a, b in said]
    chats += [chat[:1] for chat in chats]
    with browsers.opened(browser, pages(name)) as page:
        told = page.evaluate(
            """({ texts, rows, size, chats }) => {
                const { tokenizer } = barreleye.source;
                return {
                    ids: texts.map((text) => tokenizer.encode(text)),
                    decoded: rows.map((ids) => tokenizer.decode(ids)),
                    words: [...Array(size).keys()].map((id) => tokenizer.tokenText(id)),
                    chats: tokenizer.chat ? chats.map((turns) => tokenizer.encodeChat(turns)) : [],
                };
            }""",
            dict(texts=texts, rows=rows, size=tokenizer.vocab_size, chats=chats),
        )
        for refused in ["ж"] * (name == "letters") + ["\ud800"]:
            with pytest.raises(Exception, match=r"has not seen|half a character"):
                page.evaluate("(text) => barreleye.source.tokenizer.encode(text)", refused)
    assert told["ids"] == tokenizer.encode_batch(texts)
    assert not tokenizer.special_ids & {i for ids in told["ids"] for i in ids}
    assert told["decoded"] == [tokenizer.decode(ids) for ids in rows]
    assert told["words"] == [tokenizer.token_text(i) for i in range(tokenizer.vocab_size)]
    for turns, ids in zip(chats, told["chats"], strict=bool(told["chats"])):
        messages = [Message(**turn) for turn in turns]
        assert ids == encode_chat(messages, tokenizer, add_generation_prompt=len(turns) == 1)[0]


def test_the_sampler_is_ours(browser, pages):
    logits_V = torch.randn(200, generator=torch.Generator().manual_seed(1)) * 3
    logits_V[17] = logits_V[3]
    knobs = [
        dict(temperature=t, top_k=k, top_p=p)
        for t in (0.3, 1.0, 1.7)
        for k in (0, 1, 7, 500)
        for p in (0.0, 0.4, 0.9, 1.0)
    ]
    with browsers.opened(browser, pages("vanilla")) as page:
        told = page.evaluate(
            """([logits, knobs]) => {
                const { probabilities } = barreleye.sampling;
                return knobs.map((each) => [...probabilities(Float32Array.from(logits), each)]);
            }""",
            [logits_V.tolist(), knobs],
        )
        lower = page.evaluate("() => [...barreleye.sampling.penalize(Float32Array.of(2, -2, 1), [0, 1, 1], 2)]")
        draws = page.evaluate(
            """() => {
                const { randomNumbers, sample } = barreleye.sampling;
                const logits = Float32Array.of(Math.log(0.1), Math.log(0.6), Math.log(0.3));
                const knobs = { temperature: 1, top_k: 0, top_p: 1, repetition_penalty: 1 };
                const run = (seed) => {
                    const next = randomNumbers(seed);
                    return Array.from({ length: 4000 }, () => sample(logits, knobs, [], next()));
                };
                return [run(1), run(1), run(2)];
            }"""
        )
    for each, probs in zip(knobs, told, strict=True):
        expected = probabilities(logits_V[None], Sampling(**each))[0]
        np.testing.assert_allclose(probs, expected, atol=1e-6)
    assert lower == [1, -4, 1]
    assert draws[0] == draws[1] != draws[2]
    assert np.bincount(draws[0]) / 4000 == pytest.approx([0.1, 0.6, 0.3], abs=0.03)


def test_a_person_talks_and_looks(browser, pages, learned):
    """By mouse and keyboard, as one does who opens the file."""
    with browsers.opened(browser, pages("learned"), viewport=dict(width=1280, height=900)) as page:
        page.keyboard.press("Tab")
        for _ in range(9):  # so small a fish may have nothing to say
            page.fill("be-chat-box textarea", "Hello fish <|im_end|>")
            page.press("be-chat-box textarea", "Enter")
            page.wait_for_selector(".be-log[aria-busy=false] .be-user", state="attached")
            if page.locator(".be-said:visible").count():
                break
            page.click("text=start anew")
        assert page.inner_text(".be-user") == "Hello fish <|im_end|>"
        reply = page.inner_text(".be-assistant")
        page.locator(".be-said").first.press("Enter")
        page.wait_for_selector(".be-lens td")
        before = page.locator(".be-bars .be-number").first.inner_text()
        page.locator("input[aria-label=temperature]").first.press("Home")
        assert page.locator(".be-bars .be-number").first.inner_text() == "100 %" and before != ""
        assert page.inner_text(".be-assistant") == reply, "the sliders ask for no new pass"
        page.click("[role=tab] >> text=Look")
        page.wait_for_selector(".be-thumb")
        assert page.locator(".be-head").count() == 8
        page.wait_for_selector(".be-reply:has-text('it replies')")
        page.locator(".be-switch").nth(5).press(" ")
        page.wait_for_selector(".be-off")
        assert page.locator(".be-off .be-switch").inner_text() == "1.1"
        page.wait_for_selector(".be-bars .be-number:has-text('→')")
        page.locator(".be-thumb").nth(6).click()
        page.wait_for_selector("be-head-view h3:has-text('Layer 1, head 2')")
        pattern = page.evaluate("() => [...document.querySelector('be-attention-wall').data.pattern.data]")
        page.locator(".be-time input").press("Home")
        page.wait_for_selector(".be-time output:has-text('step 0')")
        page.wait_for_timeout(1000)
        assert page.evaluate("() => [...document.querySelector('be-attention-wall').data.pattern.data]") != pattern
        page.fill(".be-text", "")
        page.locator(".be-check input").uncheck()
        page.wait_for_selector(".be-problem:has-text('the text is empty') >> visible=true")


def test_a_snapshot_is_what_it_was(browser, pages, learned):
    ids = some_ids(learned)
    steps = moments(learned, 3)
    assert steps[0] == 0 and len(steps) == 3 and max(steps) < learned.step
    with browsers.opened(browser, pages("learned")) as page:
        assert page.evaluate("() => barreleye.table.steps") == [*steps, learned.step]
        for step in [*steps, None]:
            _, arrays = ask(page, dict(ids=ids, want=["logits"], step=step))
            view = look((dequantized(learned, step), learned.tokenizer), ids)
            np.testing.assert_allclose(arrays["logits"], view.logits_TV[-1], atol=CLOSE)
        with pytest.raises(Exception, match="there is no step 7; there are 0"):
            ask(page, dict(ids=ids, step=7))


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser, pages, width, scheme):
    options = dict(viewport=dict(width=width, height=850), color_scheme=scheme)
    with browsers.opened(browser, pages("vanilla"), **options) as page:
        for room in ("talk", "look"):
            page.click(f"[role=tab][data-room={room}]")
            if room == "look":
                page.wait_for_selector(".be-thumb")
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_a_model_of_text_goes_on_with_it(browser, pages, all_runs):
    with browsers.opened(browser, pages("letters")) as page:
        page.fill("be-chat-box textarea", "the sea")
        page.click("be-chat-box .be-main")
        page.wait_for_selector(".be-log[aria-busy=false] .be-said")
        assert page.locator(".be-said").count() == 200  # more than its context holds
        page.locator(".be-said").last.click()
        page.wait_for_selector(".be-lens td")
        page.fill("be-chat-box textarea", "ж")
        page.click("be-chat-box .be-main")
        page.wait_for_selector(".be-problem:has-text('has not seen')")


# Without a browser ---------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_names_its_own_code(pages, all_runs):
    text = pages("vanilla").read_text()
    assert "default-src 'none'; script-src 'sha256-" in text and "unsafe" not in text.split("</head>")[0]
    assert not re.search(r"\b(?:src|href)=|url\(|@import|https?://(?!www\.w3\.org)", text)
    assert all_runs["vanilla"].name in text and not [*pages("vanilla").parent.glob(".*")]


def test_the_engine_is_short_enough_to_read():
    source = re.sub(r"/\*.*?\*/", "", (static() / "engine.js").read_text(), flags=re.DOTALL)
    lines = [line for line in source.split("\n") if line.strip() and not line.strip().startswith("//")]
    assert len(lines) <= 300 and max(map(len, lines)) <= 120


def test_packing_loses_half_a_step_at_most():
    matrix = np.array([[1.0, -0.5, 0.3], [0, 0, 0], [1e-8, 2e-8, -3e-8]], np.float32)
    rounded, scales = quantized(matrix)
    assert (np.abs(rounded * scales[:, None] - matrix).max(1) <= scales / 2 * 1.0001).all()
    shapes, data = pack({"a.weight": matrix, "a.bias": np.ones(2, np.float32), "positions.weight": matrix})
    assert [each["int8"] for each in shapes.values()] == [True, False, False]
    assert len(data) == 4 * (3 + 2 + 9) + 9
    with pytest.raises(ValueError, match="not all finite"):
        quantized(matrix * np.nan)


def test_what_cannot_be_is_one_line(pages, all_runs, learned, tmp_path):
    with pytest.raises(ValueError, match="is there already; remove it, or choose another --out"):
        export_html(all_runs["vanilla"], pages("vanilla"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="is there already"):
        export_html(all_runs["vanilla"], tmp_path / "folder")
    with pytest.raises(ValueError, match="kept 0 moments before its newest weights, not 2"):
        export_html(all_runs["vanilla"], tmp_path / "page.html", 2)
    with pytest.raises(ValueError, match="must be at least 0"):
        moments(learned, -1)
    assert moments(learned, 0) == [] and moments(learned, 1) == [0]
    assert [*tmp_path.iterdir()] == [tmp_path / "folder"]


def test_the_command_writes_it(learned, tmp_path):
    command = [sys.executable, "-m", "barreleye", "export", str(learned.path), "html"]
    done = subprocess.run([*command, "--snapshots", "1"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "fish.html\n"), done.stderr
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 2 and "fish.html is there already" in again.stderr
    text = (tmp_path / "fish.html").read_text()
    assert len(re.findall('id="weights-', text)) == 2
    table = json.loads(re.search('id="run">(.*?)</script>', text)[1])
    assert table["kind"] == "chat" and table["steps"] == [0, learned.step]


def test_the_wheel_holds_the_page(tmp_path):
    pytest.importorskip("hatchling")
    root = Path(__file__).parents[2]
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if "/static/" in name}
    there = {
        f"barreleye/studio/static/{p.relative_to(Path(str(static()))).as_posix()}"
        for p in Path(str(static())).rglob("*.*")
    }
    assert inside == there and "barreleye/studio/static/engine.js" in inside
