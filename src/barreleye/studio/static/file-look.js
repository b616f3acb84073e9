/** Look: any text, every head, and what changes when some are switched off. */

import { AttentionWall } from "./elements/attention-wall.js";
import { define, make, tell } from "./elements/define.js";
import { HeadView } from "./elements/head-view.js";
import { LensGrid } from "./elements/lens-grid.js";
import { ProbabilityBars } from "./elements/probability-bars.js";
import { TokenRow } from "./elements/token-row.js";
import { headAddress } from "./edits.js";
import { softmax } from "./engine.js";

define("be-attention-wall", AttentionWall);
define("be-head-view", HeadView);
define("be-lens-grid", LensGrid);
define("be-probability-bars", ProbabilityBars);
define("be-token-row", TokenRow);

const WAIT = 120; // milliseconds after a key, before the text is read
const CALM = 200; // milliseconds after a look, before it replies: a hand that goes on is answered first
const AS_LEARNED = { temperature: 1, top_k: 0, top_p: 1, repetition_penalty: 1 };
const GREEDY = { ...AS_LEARNED, temperature: 0 };

export class LookRoom {
  /**
   * @param {object} source a Source
   * @param {object} info what its info() tells, and an `example` to begin with
   */
  constructor(source, info) {
    this.source = source;
    this.info = info;
    this.isChat = info.kind === "chat";
    this.step = info.steps.at(-1);
    this.off = new Set();
    this.head = { layer: 0, head: 0 };
    this.position = null; // null: the last one
    this.ids = null;
    this.asked = 0;
    this.replies = new Map();
    this.#build();
  }

  show() {
    this.#update();
  }

  goTo(step) {
    this.step = step;
  }

  /** What was opened elsewhere is read here: the ids, and the turns that the last of them belong to. */
  take({ ids, turns }) {
    this.ids = ids;
    this.turns = turns;
    this.position = null;
    this.text.value = "";
    this.text.placeholder = "Below is what was said in Talk. Type to read something else.";
  }

  /** Nobody looks any more. */
  leave() {
    this.asked++;
    clearTimeout(this.timer);
    this.talking?.abort();
  }

  #build() {
    this.text = make("textarea", { rows: 2, class: "be-text", "aria-label": "the text that is read" });
    this.text.value = this.info.example;
    this.text.addEventListener("input", () => {
      this.text.placeholder = "";
      this.ids = null;
      this.position = null;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.#update(), WAIT);
    });
    this.asTurn = make("input", { type: "checkbox" });
    this.asTurn.checked = this.isChat;
    this.asTurn.addEventListener("change", () => {
      this.text.placeholder = "";
      this.ids = null;
      this.position = null;
      this.#update();
    });
    const asTurn = make("label", { class: "be-check" }, this.asTurn, `said to ${this.info.character}`);
    asTurn.hidden = !this.isChat;
    this.problem = make("p", { class: "be-problem", role: "alert", hidden: true });
    this.row = make("be-token-row");
    this.row.addEventListener("pick", (event) => this.choose(event.detail.index));
    this.after = make("h3");
    this.bars = make("be-probability-bars");
    this.reply = make("p", { class: "be-reply" });
    this.replyOff = make("p", { class: "be-reply be-changed" });
    this.wall = make("be-attention-wall");
    this.wall.addEventListener("open", (event) => this.#openHead(event.detail));
    this.wall.addEventListener("switch", (event) => this.#switch(event.detail));
    this.allOn = make("button", { type: "button", class: "be-plain", onclick: () => this.#switchOn() }, "all on");
    this.view = make("be-head-view");
    this.view.addEventListener("switch", (event) => this.#switch(event.detail));
    this.view.addEventListener("query", (event) => this.choose(event.detail.position));
    this.lens = make("be-lens-grid");
    this.lens.addEventListener("pick", (event) => this.choose(event.detail.index));
    this.lensBox = make("details", {}, make("summary", {}, "Logit lens: what it would say after each block"), this.lens);
    this.lensBox.addEventListener("toggle", () => this.#update());
    const wallTop = make("div", { class: "be-head-top" }, make("h3", {}, "Attention, layer.head"), this.allOn);
    const wallNote = "Each row is a token that looks, each column one that it may look at. The switch under a head takes it out.";
    this.element = make(
      "div",
      { class: "be-look" },
      make("div", { class: "be-card be-wide" }, this.text, asTurn, this.problem, this.row, this.#legend()),
      make("div", { class: "be-card" }, wallTop, make("p", { class: "be-note" }, wallNote), this.wall),
      make("div", { class: "be-card" }, this.after, this.bars, this.reply, this.replyOff),
      make("div", { class: "be-card be-wide" }, this.view),
      make("div", { class: "be-card be-wide" }, this.lensBox),
    );
  }

  /** More of what was looked at last, for views that stand beside the room. */
  async lookAlso(want, k) {
    const request = { ...this.#request(this.#switchedOff()), want, k, position: this.position ?? undefined };
    const glance = await this.source.look(request);
    return { ...glance, position: this.position ?? glance.header.tokens.length - 1 };
  }

  #legend() {
    return make("p", { class: "be-note" }, "The darker a token (in the dark: the brighter), the less the model expected it. Choose one to see what it expected after it.");
  }

  /** The token after which one looks. */
  choose(position) {
    this.position = position;
    this.#update();
  }

  #openHead(head) {
    this.head = head;
    this.#update();
  }

  #switch({ layer, head }) {
    const name = `${layer}.${head}`;
    if (!this.off.delete(name)) this.off.add(name);
    this.#update();
  }

  #switchedOff() {
    return [...this.off].map((name) => headAddress(...name.split(".").map(Number)));
  }

  #switchOn() {
    this.off.clear();
    this.#update();
  }

  /** What is asked of the Source. */
  #request(off) {
    const text = this.text.value;
    const said = this.isChat && this.asTurn.checked && !this.ids;
    return {
      text: said || this.ids ? null : text,
      turns: said ? [{ role: "user", content: text }] : null,
      ids: this.ids,
      step: this.step,
      off,
    };
  }

  async #update() {
    const asked = ++this.asked;
    const off = this.#switchedOff();
    this.talking?.abort();
    try {
      const plain = this.#request([]);
      const edited = this.#request(off);
      const position = this.position ?? undefined; // the last one
      const want = ["pattern", "stages", "logits", ...(this.lensBox.open ? ["lens"] : [])];
      // One request: each is a pass of its own where the source is a server.
      const [{ header, arrays }, before] = await Promise.all([
        this.source.look({ ...edited, want, position, ...this.head }),
        off.length ? this.#lookBefore({ ...plain, want: ["logits"], position }) : null,
      ]);
      if (asked !== this.asked) return;
      const { tokens, loss } = header;
      const chosen = position ?? tokens.length - 1;
      this.problem.hidden = true;
      this.row.data = { tokens, loss, selected: chosen };
      this.wall.data = { pattern: arrays.pattern, selected: this.head, off: this.off };
      this.#drawProbabilities(tokens[chosen], chosen, arrays.logits.data, before?.arrays.logits.data);
      this.allOn.hidden = off.length === 0;
      const isOff = this.off.has(`${this.head.layer}.${this.head.head}`);
      const pattern = patternOf(arrays.pattern, this.head);
      this.view.data = { tokens, ...this.head, ...arrays, pattern, off: isOff, query: chosen };
      if (this.lensBox.open) this.#drawLens(header, arrays, chosen);
      tell(this.element, "shown");
      await this.#drawReplies(asked, plain, off);
    } catch (error) {
      if (asked !== this.asked) return;
      this.problem.textContent = error.message;
      this.problem.hidden = false;
      tell(this.element, "shown");
      tell(this.element, "said");
    }
  }

  /** With all heads on: the same, whichever of them is switched. */
  #lookBefore(request) {
    const key = JSON.stringify(request);
    if (this.before?.key !== key) {
      const asked = { key, glance: this.source.look(request) };
      this.before = asked;
      asked.glance.catch(() => {
        if (this.before === asked) this.before = null; // is asked again
      });
    }
    return this.before.glance;
  }

  #drawProbabilities({ text }, position, logits, before) {
    this.after.textContent = `After ${text} (position ${position})`;
    const entries = Array.from(logits, (logit, id) => ({ id, logit, text: this.source.tokenText(id) }));
    const compared = before ? new Map([...softmax(before, before.length).entries()]) : undefined;
    this.bars.data = { entries, sampling: AS_LEARNED, sliders: false, before: compared };
  }

  #drawLens(header, arrays, position) {
    this.lens.data = {
      tokens: header.tokens,
      lens: header.lens,
      probability: arrays.lens_probability,
      selected: position,
    };
  }

  /** What it would reply, always taking the likeliest token: with all heads on, and with some off. */
  async #drawReplies(asked, { turns, text }, off) {
    const said = this.ids ? this.turns : (turns ?? (this.isChat || !text ? null : [{ role: "user", content: text }]));
    this.reply.hidden = !said;
    this.replyOff.hidden = !said || off.length === 0;
    const lines = said ? [[this.reply, []]] : [];
    if (said && off.length) lines.push([this.replyOff, off]);
    for (const [line, without] of lines) {
      const key = JSON.stringify([said, this.step, without]);
      const label = make("b", {}, without.length ? `with ${without.length} off: ` : this.isChat ? "it replies: " : "it goes on: ");
      const words = document.createTextNode(this.replies.get(key) ?? "");
      line.replaceChildren(label, words);
      if (this.replies.has(key)) continue;
      await new Promise((resolve) => setTimeout(resolve, CALM));
      if (asked !== this.asked) return;
      this.talking = new AbortController();
      const request = { turns: said, step: this.step, off: without, sampling: GREEDY, seed: 1 };
      for await (const piece of this.source.talk({ ...request, signal: this.talking.signal })) {
        if (asked !== this.asked) return;
        words.data += piece.text;
      }
      this.replies.set(key, words.data);
    }
    tell(this.element, "said");
  }
}

/** One head's, of those of all. */
function patternOf({ shape: [, heads, n], data }, { layer, head }) {
  const at = (layer * heads + head) * n * n;
  return { shape: [n, n], data: data.subarray(at, at + n * n) };
}
