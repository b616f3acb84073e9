/**
 * The residual stream at every token: how long it is after each block, and how long what attention and the MLPs add to it.
 *
 * data: {tokens, resid_norm: {shape: [L + 1, T], data}, attn_norm: {shape: [L, T], data}, mlp_norm, selected: number}
 * Tells "pick" {index}.
 */

import { DataElement } from "./data-element.js";
import { define, make, tell } from "./define.js";
import { hint } from "./hint.js";
import { cellAt, drawMatrix } from "./matrix.js";

const GRIDS = [
  { key: "resid_norm", title: "the stream", row: (i) => (i ? `after block ${i - 1}` : "embedding") },
  { key: "attn_norm", title: "added by attention", row: (i) => `block ${i}` },
  { key: "mlp_norm", title: "added by the MLPs", row: (i) => `block ${i}` },
];

export class ResidualGrid extends DataElement {
  build() {
    this.canvases = GRIDS.map(({ title }) => make("canvas", { class: "be-strip", tabindex: 0, role: "img", "aria-label": title }));
    this.said = make("p", { class: "be-note", role: "status" });
    GRIDS.forEach(({ title }, i) => {
      const canvas = this.canvases[i];
      this.append(make("figure", { class: "be-residual" }, make("figcaption", {}, title), canvas));
      hint(canvas, (event) => this.#words(i, cellAt(canvas, event)));
      canvas.addEventListener("click", (event) => this.#pick(cellAt(canvas, event)?.column));
      canvas.addEventListener("keydown", (event) => {
        const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!by) return;
        event.preventDefault();
        this.#pick(this.data.selected + by);
      });
    });
    this.append(this.said);
  }

  #pick(index) {
    if (index >= 0 && index < this.data.tokens.length) tell(this, "pick", { index });
  }

  draw() {
    const { tokens, selected } = this.data;
    GRIDS.forEach(({ key }, i) => {
      const { shape, data } = this.data[key];
      drawMatrix(this.canvases[i], upsideDown(data, ...shape), ...shape);
      this.canvases[i].style.setProperty("--rows", shape[0]);
    });
    const { shape, data } = this.data.resid_norm;
    const lengths = Array.from({ length: shape[0] }, (_, row) => data[row * shape[1] + selected].toFixed(1));
    this.said.textContent = `At ${tokens[selected].text} (${selected}) its length goes ${lengths.join(" → ")}. The last block is on top.`;
  }

  #words(grid, cell) {
    if (!cell) return null;
    const { key, title, row } = GRIDS[grid];
    const { shape, data } = this.data[key];
    const layer = shape[0] - 1 - cell.row;
    const length = data[layer * shape[1] + cell.column];
    return `${title}, ${row(layer)}\nat ${this.data.tokens[cell.column].text} (${cell.column}): length ${length.toFixed(2)}`;
  }
}

/** The last row on top. */
function upsideDown(data, rows, columns) {
  return data.map((_, i) => data[(rows - 1 - Math.floor(i / columns)) * columns + (i % columns)]);
}

define("be-residual-grid", ResidualGrid);
