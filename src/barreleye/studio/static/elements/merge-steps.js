/**
 * How a text becomes tokens: the pieces that it begins as, and each merge that was learned, one by one.
 *
 * data: {kind: "characters" | ..., start: string[], moves: {left, right, rank, pieces: string[]}[], tokens: {id, text}[]}
 */

import { DataElement } from "./data-element.js";
import { define, make } from "./define.js";
import { hintOf } from "./hint.js";

export class MergeSteps extends DataElement {
  #at = 0; // merges done
  #seen = null; // the data that they are of

  build() {
    const button = (words, by) => make("button", { type: "button", class: "be-plain", onclick: () => this.#go(by) }, words);
    this.slider = make("input", { type: "range", min: 0, step: 1, "aria-label": "merges done" });
    this.slider.addEventListener("input", () => this.#go(Number(this.slider.value) - this.#at));
    this.tools = make("div", { class: "be-tools be-merge-tools" }, button("back", -1), button("merge", 1), this.slider);
    this.said = make("p", { class: "be-note", "aria-live": "polite" });
    this.row = make("div", { class: "be-pieces" });
    this.append(this.row, this.said, this.tools);
    hintOf(this.row, "span");
  }

  #go(by) {
    this.#at = Math.min(Math.max(this.#at + by, 0), this.data.moves.length);
    this.redraw();
  }

  draw() {
    const { kind, start, moves, tokens } = this.data;
    if (this.data !== this.#seen) this.#at = moves.length; // a new text is shown as its tokens, all merges done
    this.#seen = this.data;
    const move = moves[this.#at - 1];
    const done = this.#at === moves.length;
    const pieces = done ? tokens.map(({ text }) => text) : move ? move.pieces : start;
    this.row.replaceChildren(...pieces.map((text, i) => piece(text, done ? tokens[i].id : null, !done && move && text === move.left + move.right)));
    this.slider.max = moves.length;
    this.slider.value = this.#at;
    this.tools.hidden = moves.length === 0;
    this.said.textContent = words(kind, this.#at, moves.length, move, pieces.length);
  }
}

function words(kind, at, all, move, pieces) {
  if (kind === "characters") return `Every character is a token: ${pieces}.`;
  const so = `${at} of ${all} merges, ${pieces} ${pieces === 1 ? "piece" : "pieces"}`;
  if (!move) return `${so}: the bytes of the text, each for itself.`;
  const became = `${move.left} and ${move.right} became one: the ${ordinal(move.rank + 1)} merge that was learned`;
  return `${so}. ${became}${at === all ? "; no other pair is known, so these are the tokens" : ""}.`;
}

function ordinal(n) {
  const ending = n % 100 > 10 && n % 100 < 14 ? "th" : ({ 1: "st", 2: "nd", 3: "rd" }[n % 10] ?? "th");
  return `${n.toLocaleString("en")}${ending}`;
}

function piece(text, id, fresh) {
  const span = make("span", { class: fresh ? "be-piece be-fresh" : "be-piece" }, text);
  span.dataset.words = id === null ? text : `${text}  token ${id}`;
  return span;
}

define("be-merge-steps", MergeSteps);
