/** Talk: a conversation, of which every token that was said can be opened. */

import { ChatBox } from "./elements/chat-box.js";
import { define, make, tell } from "./elements/define.js";
import { LensGrid } from "./elements/lens-grid.js";
import { ProbabilityBars } from "./elements/probability-bars.js";
import { SignedBars } from "./elements/signed-bars.js";
import { TokenRow } from "./elements/token-row.js";

define("be-chat-box", ChatBox);
define("be-lens-grid", LensGrid);
define("be-probability-bars", ProbabilityBars);
define("be-signed-bars", SignedBars);
define("be-token-row", TokenRow);

const COLUMNS = 8; // of the logit lens, up to the token that was opened
const MOST_NAMED = 50; // tokens that could have come, whose texts are asked for

export class TalkRoom {
  /**
   * @param {object} source a Source
   * @param {object} info what its info() tells
   */
  constructor(source, info) {
    this.source = source;
    this.info = info;
    this.sampling = { ...info.sampling };
    this.step = info.steps.at(-1);
    this.turns = [];
    this.opened = null;
    this.asked = 0; // counts what was asked, so that an answer that comes late is let go
    this.busy = false;
    this.box = make("be-chat-box");
    this.panel = make("aside", { class: "be-panel", "aria-label": "the opened token" });
    this.element = make("div", { class: "be-two" }, this.box, this.panel);
    this.box.addEventListener("say", (event) => this.#say(event.detail.text));
    this.box.addEventListener("stop", () => this.#stop());
    this.box.addEventListener("forget", () => this.#forget());
    this.box.addEventListener("open", (event) => this.#open(event.detail));
    this.#build();
    this.#draw();
    this.#explain();
  }

  /** The room is seen. */
  show() {
    if (this.late) this.#again();
  }

  /** Another moment of the training: what was asked last is asked again, once the room is seen. */
  goTo(step) {
    this.step = step;
    this.late = true;
  }

  async #again() {
    this.late = false;
    const last = this.turns.findLastIndex((turn) => turn.role === "user");
    if (last < 0) return tell(this.element, "said");
    this.turns = this.turns.slice(0, last + 1);
    await this.#answer(1);
  }

  async #say(text) {
    this.turns.push({ role: "user", text });
    await this.#answer(-1);
  }

  async #answer(seed) {
    const asked = ++this.asked;
    const turns = this.turns.map(({ role, text }) => ({ role, content: text }));
    const reply = { role: "assistant", text: "", tokens: [], step: this.step };
    this.turns.push(reply);
    this.#close();
    this.busy = true;
    this.problem = "";
    this.talking = new AbortController();
    this.#draw();
    try {
      const { signal } = this.talking;
      const request = { turns, step: this.step, off: [], sampling: this.sampling, seed, signal };
      for await (const said of this.source.talk(request)) {
        if (asked !== this.asked) return;
        reply.text += said.text;
        if (!said.done) reply.tokens.push(said);
        this.#draw();
      }
    } catch (error) {
      if (asked !== this.asked) return;
      const [{ text }] = this.turns.splice(-2);
      this.box.giveBack(text);
      this.problem = error.message;
    }
    this.busy = false;
    this.#draw();
    tell(this.element, "said");
  }

  #stop() {
    this.asked++;
    this.talking?.abort();
    this.busy = false;
    this.#draw();
    tell(this.element, "said");
  }

  /** Nobody listens any more. */
  leave() {
    if (this.busy) this.#stop();
  }

  #forget() {
    this.#stop();
    this.turns = [];
    this.problem = "";
    this.#close();
    this.#draw();
  }

  #draw() {
    const isChat = this.info.kind === "chat";
    this.box.data = {
      turns: this.turns,
      busy: this.busy,
      says: isChat ? "say" : "go on",
      placeholder: isChat ? `say something to ${this.info.character}` : "a text to go on with",
      opened: this.opened,
      problem: this.problem,
    };
  }

  // The opened token -------------------------------------------------------------------------------------------------

  #build() {
    this.bars = make("be-probability-bars");
    this.bars.addEventListener("sampling", (event) => (this.sampling = event.detail.sampling));
    this.lens = make("be-lens-grid");
    this.looked = make("be-token-row");
    this.parts = make("be-signed-bars");
    this.title = make("h2");
    this.more = make("button", { type: "button", class: "be-plain", onclick: () => this.#toLook() }, "every head: Look");
    const part = (title, about, element) => {
      return make("section", {}, make("h3", {}, title), make("p", { class: "be-note" }, about), element);
    };
    this.details = make(
      "div",
      {},
      this.title,
      part("What could have come", "Outline: as the model learned it. Filled: as it is drawn, with these sliders.", this.bars),
      part("How it came about", "What the model would say if it ended after each block.", this.lens),
      part("What it looked at", "Attention from the place before it, the mean of all heads, strongest where it looked most.", this.looked),
      part("What pushed for it", "What each head and MLP adds to its logit.", this.parts),
      this.more,
    );
  }

  #explain() {
    const words = "Click any token of a reply to open it: what else could have come, and why it was this one.";
    this.panel.replaceChildren(make("p", { class: "be-empty" }, words));
  }

  #close() {
    this.opened = null;
    this.#explain();
  }

  async #open({ turn, index }) {
    const reply = this.turns[turn];
    const said = reply?.tokens?.[index];
    if (!said) return;
    const opened = { turn, index };
    this.opened = opened;
    this.#draw();
    this.panel.replaceChildren(make("p", { class: "be-empty" }, "One moment."));
    const ids = [...reply.tokens[0].prompt, ...reply.tokens.slice(0, index).map(({ id }) => id)];
    const read = ids.slice(-(said.read ?? this.info.config.context_length));
    const last = read.length - 1;
    const want = ["pattern", "lens", "attribution", "logits"];
    const request = { text: null, turns: null, ids: read, step: reply.step, off: [], want, position: last, token: said.id, k: MOST_NAMED };
    let glance;
    try {
      glance = await this.source.look(request);
    } catch (error) {
      if (opened === this.opened) this.panel.replaceChildren(make("p", { class: "be-problem" }, error.message));
      return;
    }
    if (opened !== this.opened) return;
    const { header, arrays } = glance;
    this.seen = { ids: read, turns: this.turns.slice(0, turn).map(({ role, text }) => ({ role, content: text })) };
    this.panel.replaceChildren(this.details);
    this.title.textContent = this.source.tokenText(said.id);
    const entries = Array.from(arrays.logits.data, (logit, id) => ({ id, logit, text: this.source.tokenText(id) }));
    this.bars.data = { entries, sampling: this.sampling, chosen: said.id };
    this.lens.data = {
      tokens: header.tokens,
      lens: header.lens,
      probability: arrays.lens_probability,
      first: Math.max(0, last + 1 - COLUMNS),
      last,
      selected: last,
    };
    const shares = meanAttention(arrays.pattern, last);
    this.looked.data = { tokens: header.tokens, shares, most: Math.max(...shares), selected: last };
    this.parts.data = { entries: header.attribution };
  }

  #toLook() {
    tell(this.element, "look", this.seen);
  }
}

/** From one query, over all heads of all layers. */
function meanAttention({ shape, data }, query) {
  const [layers, heads, n] = shape;
  return Array.from({ length: n }, (_, key) => {
    let sum = 0;
    for (let i = 0; i < layers * heads; i++) sum += data[(i * n + query) * n + key];
    return sum / (layers * heads);
  });
}
