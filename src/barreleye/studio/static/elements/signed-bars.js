/**
 * Parts that pushed a logit up or down.
 *
 * data: {entries: {part, value}[], shown?: number (12)}
 */

import { define, make } from "./define.js";
import { hint } from "./hint.js";

const SHOWN = 12;

/** "blocks.1.attn.hook_z[head=3]" as one says it. */
function partName(part) {
  const head = /^blocks\.(\d+)\.attn\.hook_z\[head=(\d+)\]$/.exec(part);
  if (head) return `head ${head[1]}.${head[2]}`;
  const sublayer = /^blocks\.(\d+)\.hook_(attn|mlp)_out$/.exec(part);
  if (sublayer) return `${sublayer[2] === "mlp" ? "MLP" : "attention"} ${sublayer[1]}`;
  return { hook_embed: "embedding", hook_pos_embed: "position" }[part] ?? part;
}

export class SignedBars extends HTMLElement {
  #data = null;

  connectedCallback() {
    if (this.ready) return;
    this.ready = true;
    this.rows = make("ol", { class: "be-bars be-signed" });
    this.append(this.rows);
    hint(this.rows, (event) => event.target.closest("li")?.dataset.words ?? null);
    this.#draw();
  }

  set data(data) {
    this.#data = data;
    this.#draw();
  }

  get data() {
    return this.#data;
  }

  #draw() {
    if (!this.#data || !this.ready) return;
    const { entries, shown = SHOWN } = this.#data;
    const most = Math.max(...entries.map(({ value }) => Math.abs(value)), 1e-9);
    const lines = entries.slice(0, shown).map(({ part, value }) => {
      const bar = make("span", { class: "be-bar", "aria-hidden": "true" }, make("b"));
      const number = make("span", { class: "be-number" }, (value > 0 ? "+" : "−") + Math.abs(value).toFixed(2));
      const line = make("li", { tabindex: 0 }, make("span", { class: "be-name" }, partName(part)), bar, number);
      line.classList.toggle("be-down", value < 0);
      line.style.setProperty("--size", Math.abs(value) / most);
      line.dataset.words = `${part}\n${value > 0 ? "+" : "−"}${Math.abs(value).toFixed(3)} to the logit`;
      return line;
    });
    this.rows.replaceChildren(...lines);
  }
}

define("be-signed-bars", SignedBars);
