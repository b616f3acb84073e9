/**
 * The attention of every head, a thumbnail each: layers from top to bottom, a query a row, dark where it looks.
 *
 * data: {pattern: {shape: [L, H, T, T], data}, selected: {layer, head} | null, off: Set<string> of "layer.head"}
 * Tells "open" {layer, head} when a thumbnail is chosen, "switch" {layer, head} when its switch is.
 */

import { DataElement } from "./data-element.js";
import { define, make, rove, tell } from "./define.js";
import { hint, percent } from "./hint.js";
import { drawMatrix } from "./matrix.js";

export class AttentionWall extends DataElement {
  #cells = [];

  build() {
    rove(this, ".be-thumb");
    hint(this, (event) => this.#words(event.target.closest(".be-head")));
  }

  draw() {
    const { pattern, selected, off } = this.data;
    const [layers, heads, n] = pattern.shape;
    if (this.#cells.length !== layers * heads) this.#build(layers, heads);
    this.#cells.forEach(({ cell, thumb, canvas, toggle }, i) => {
      const [layer, head] = [Math.floor(i / heads), i % heads];
      const isOff = off.has(`${layer}.${head}`);
      const chosen = selected?.layer === layer && selected?.head === head;
      drawMatrix(canvas, this.#of(i), n, n, { most: 1, hidden: (row, column) => column > row });
      cell.classList.toggle("be-off", isOff);
      thumb.setAttribute("aria-pressed", String(chosen));
      thumb.tabIndex = chosen || (!selected && i === 0) ? 0 : -1;
      thumb.setAttribute("aria-label", `open layer ${layer}, head ${head}`);
      toggle.setAttribute("aria-checked", String(!isOff));
      toggle.setAttribute("aria-label", `layer ${layer}, head ${head}`);
    });
  }

  #build(layers, heads) {
    this.style.setProperty("--heads", heads);
    this.#cells = Array.from({ length: layers * heads }, (_, i) => {
      const [layer, head] = [Math.floor(i / heads), i % heads];
      const canvas = make("canvas", { "aria-hidden": "true" });
      const open = () => tell(this, "open", { layer, head });
      const thumb = make("button", { type: "button", class: "be-thumb", onclick: open }, canvas);
      const flip = () => tell(this, "switch", { layer, head });
      const name = `${layer}.${head}`;
      const toggle = make("button", { type: "button", class: "be-switch", role: "switch", onclick: flip }, name);
      const cell = make("div", { class: "be-head" }, thumb, toggle);
      cell.dataset.head = name;
      return { cell, thumb, canvas, toggle };
    });
    this.replaceChildren(...this.#cells.map(({ cell }) => cell));
  }

  #of(i) {
    const { shape, data } = this.data.pattern;
    const size = shape[2] * shape[3];
    return data.subarray(i * size, (i + 1) * size);
  }

  /** Where it looks, on the whole. */
  #words(cell) {
    if (!cell) return null;
    const i = this.#cells.findIndex((each) => each.cell === cell);
    const [, heads, n] = this.data.pattern.shape;
    const weights = this.#of(i);
    let [first, before, own] = [0, 0, 0];
    for (let t = 1; t < n; t++) {
      first += weights[t * n];
      before += weights[t * n + t - 1];
      own += weights[t * n + t];
    }
    const share = (sum) => percent(sum / Math.max(n - 1, 1));
    const off = this.data.off.has(cell.dataset.head) ? " (switched off)" : "";
    return [
      `layer ${Math.floor(i / heads)}, head ${i % heads}${off}`,
      `first token ${share(first)}, token before ${share(before)}, itself ${share(own)}`,
    ].join("\n");
  }
}

define("be-attention-wall", AttentionWall);
