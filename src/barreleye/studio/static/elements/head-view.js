/**
 * One head opened: its four stages, and what a query looks at. Arrow keys go from query to query.
 *
 * data: {tokens, layer, head, scores: {shape: [T, T], data} before the mask, pattern: {shape: [T, T], data},
 *        z: {shape: [T, D], data}, result: {shape: [T], data}, off: boolean, query: number}
 * Tells "query" {position} and "switch" {layer, head}.
 */

import { DataElement } from "./data-element.js";
import { define, make, tell } from "./define.js";
import { hint, percent } from "./hint.js";
import { cellAt, drawMatrix } from "./matrix.js";
import { TokenRow } from "./token-row.js";

const STAGES = [
  { name: "Q Kᵀ", about: "how well each key answers each query" },
  { name: "scale and mask", about: "divided by √D; what is still to come is hidden" },
  { name: "softmax", about: "each row becomes shares of one" },
  { name: "times V", about: "what each query takes along, channel by channel" },
];

export class HeadView extends DataElement {
  build() {
    define("be-token-row", TokenRow);
    this.heading = make("h3");
    this.toggle = make("button", { type: "button", class: "be-plain", onclick: () => this.#flip() });
    this.canvases = STAGES.map(({ name }) => make("canvas", { class: "be-matrix", tabindex: 0, role: "img", "aria-label": name }));
    const figures = STAGES.map(({ name, about }, i) => {
      return make("figure", {}, make("figcaption", {}, make("b", {}, `${i + 1}  ${name}`), make("span", {}, about)), this.canvases[i]);
    });
    this.looked = make("p", { class: "be-note" });
    this.row = make("be-token-row");
    const top = make("div", { class: "be-head-top" }, this.heading, this.toggle);
    this.append(top, make("div", { class: "be-stages" }, ...figures), this.looked, this.row);
    this.canvases.forEach((canvas, stage) => {
      hint(canvas, (event) => this.#words(stage, cellAt(canvas, event)));
      canvas.addEventListener("click", (event) => this.#choose(cellAt(canvas, event)?.row));
      canvas.addEventListener("keydown", (event) => {
        const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
        if (!by) return;
        event.preventDefault();
        this.#choose(this.data.query + by);
      });
    });
    this.row.addEventListener("pick", (event) => {
      event.stopPropagation();
      this.#choose(event.detail.index);
    });
  }

  #choose(position) {
    if (position >= 0 && position < this.data.tokens.length) tell(this, "query", { position });
  }

  #flip() {
    const { layer, head } = this.data;
    tell(this, "switch", { layer, head });
  }

  draw() {
    const { tokens, layer, head, scores, pattern, z, result, off, query } = this.data;
    const n = tokens.length;
    const future = (row, column) => column > row;
    this.heading.textContent = `Layer ${layer}, head ${head}`;
    this.toggle.textContent = off ? "switch on" : "switch off";
    const [product, masked, softmax, values] = this.canvases;
    drawMatrix(product, scores.data, n, n, { signed: true });
    drawMatrix(masked, scores.data, n, n, { signed: true, hidden: future });
    drawMatrix(softmax, pattern.data, n, n, { most: 1, hidden: future });
    drawMatrix(values, z.data, n, z.shape[1], { signed: true });
    const from = tokens[query].text;
    this.looked.textContent =
      `${from} (position ${query}) looks at these; the head then adds a vector of length ${result.data[query].toFixed(2)}:`;
    const shares = [...pattern.data.subarray(query * n, (query + 1) * n)];
    this.row.data = { tokens, shares, selected: query };
  }

  #words(stage, cell) {
    if (!cell) return null;
    const { tokens, scores, pattern, z } = this.data;
    const { row, column } = cell;
    const from = `${tokens[row].text} (${row})`;
    if (stage === 3) return `${from}, channel ${column}: ${z.data[row * z.shape[1] + column].toFixed(3)}`;
    const pair = `${from} → ${tokens[column].text} (${column})`;
    const score = scores.data[row * tokens.length + column];
    if (stage === 0) return `${pair}: ${(score * Math.sqrt(z.shape[1])).toFixed(2)}`;
    if (column > row) return `${pair}: hidden, it comes later`;
    return `${pair}: ${stage === 1 ? score.toFixed(2) : percent(pattern.data[row * tokens.length + column])}`;
  }
}

define("be-head-view", HeadView);
