/**
 * Parts that pushed a logit up or down.
 *
 * data: {entries: {part, value}[], shown?: number (12)}
 */

import { DataElement } from "./data-element.js";
import { define, make } from "./define.js";
import { hintOf } from "./hint.js";

const SHOWN = 12;

/** "blocks.1.attn.hook_z[head=3]" as one says it. */
function partName(part) {
  const head = /^blocks\.(\d+)\.attn\.hook_z\[head=(\d+)\]$/.exec(part);
  if (head) return `head ${head[1]}.${head[2]}`;
  const sublayer = /^blocks\.(\d+)\.hook_(attn|mlp)_out$/.exec(part);
  if (sublayer) return `${sublayer[2] === "mlp" ? "MLP" : "attention"} ${sublayer[1]}`;
  return { hook_embed: "embedding", hook_pos_embed: "position" }[part] ?? part;
}

/**
 * A line with a bar to one side of zero or the other.
 * @param {number} size from -1 to 1
 * @param {string} words on hover
 */
export function signedBar(name, size, number, words) {
  const bar = make("span", { class: "be-bar", "aria-hidden": "true" }, make("b"));
  const line = make("li", { tabindex: 0 }, make("span", { class: "be-name" }, name), bar, make("span", { class: "be-number" }, number));
  line.classList.toggle("be-down", size < 0);
  line.style.setProperty("--size", Math.abs(size));
  line.dataset.words = words;
  return line;
}

export class SignedBars extends DataElement {
  build() {
    this.rows = make("ol", { class: "be-bars be-signed" });
    this.append(this.rows);
    hintOf(this.rows, "li");
  }

  draw() {
    const { entries, shown = SHOWN } = this.data;
    const most = Math.max(...entries.map(({ value }) => Math.abs(value)), 1e-9);
    const lines = entries.slice(0, shown).map(({ part, value }) => {
      const signed = (digits) => (value > 0 ? "+" : "−") + Math.abs(value).toFixed(digits);
      return signedBar(partName(part), value / most, signed(2), `${part}\n${signed(3)} to the logit`);
    });
    this.rows.replaceChildren(...lines);
  }
}

define("be-signed-bars", SignedBars);
