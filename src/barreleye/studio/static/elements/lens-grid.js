/**
 * The logit lens: what would be said if the model ended after the embedding, or after each block; the last layer on top.
 *
 * data: {tokens, lens: {id, text, probability}[][] (places, positions), probability: {shape, data} of the token that came
 *        next, first?: number, last?: number (positions shown), selected?: number}
 * Tells "pick" {index}.
 */

import { heat } from "./colors.js";
import { DataElement } from "./data-element.js";
import { define, make, rove, tell } from "./define.js";
import { hintOf, percent } from "./hint.js";

export class LensGrid extends DataElement {
  build() {
    hintOf(this, "td");
  }

  draw() {
    const { tokens, lens, probability, first = 0, last = tokens.length - 1, selected } = this.data;
    const had = [...this.querySelectorAll("tfoot button")].indexOf(document.activeElement);
    const positions = Array.from({ length: last - first + 1 }, (_, i) => first + i);
    const lines = lens.map((row, place) => {
      const name = place ? `block ${place - 1}` : "embedding";
      const cells = positions.map((t) => this.#cell(row[t], t, name, probability.data[place * tokens.length + t]));
      return make("tr", {}, make("th", { scope: "row" }, name), ...cells);
    });
    const heads = positions.map((t) => {
      const pick = () => tell(this, "pick", { index: t });
      const pressed = String(t === selected);
      return make("th", { scope: "col" }, make("button", { type: "button", "aria-pressed": pressed, tabindex: t === (selected ?? last) ? 0 : -1, onclick: pick }, tokens[t].text));
    });
    const body = make("tbody", {}, ...lines.reverse());
    const foot = make("tfoot", {}, make("tr", {}, make("th", { scope: "row" }, "after"), ...heads));
    const table = make("table", { class: "be-lens" }, body, foot);
    const scroll = make("div", { class: "be-scroll", tabindex: 0, role: "region", "aria-label": "logit lens" }, table);
    rove(foot, "button");
    const kept = this.firstChild?.scrollLeft ?? 0;
    this.replaceChildren(scroll);
    if (had >= 0) foot.querySelectorAll("button")[had]?.focus();
    scroll.scrollLeft = kept;
    const column = foot.querySelector("[aria-pressed=true]")?.parentElement;
    if (!column) return;
    const right = column.offsetLeft + column.offsetWidth - scroll.clientWidth;
    if (right > scroll.scrollLeft) scroll.scrollLeft = right;
  }

  #cell({ text, probability }, t, name, next) {
    const cell = make("td", {}, text);
    heat(cell, probability);
    const { tokens } = this.data;
    const came = t + 1 < tokens.length ? [`${tokens[t + 1].text}, which came next: ${percent(next)}`] : [];
    cell.dataset.words = [`${name}, after ${tokens[t].text} (${t})`, `${text}: ${percent(probability)}`, ...came].join("\n");
    return cell;
  }
}

define("be-lens-grid", LensGrid);
