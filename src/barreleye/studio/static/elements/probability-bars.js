/**
 * What could come next: the likeliest tokens, before and after temperature, top-k and top-p, which its sliders move. The
 * same logits are sampled anew, with no new pass.
 *
 * data: {entries: {id, text, logit}[] (all tokens, or the likeliest), sampling, chosen?: id,
 *        before?: Map<id, probability> to compare with, sliders?: boolean (true)}
 * Tells "sampling" {sampling}.
 */

import { probabilities } from "../sampling.js";
import { DataElement } from "./data-element.js";
import { define, make, tell } from "./define.js";
import { hintOf, percent } from "./hint.js";

const SHOWN = 10;
const SLIDERS = [
  { knob: "temperature", label: "temperature", min: 0, max: 2, step: 0.05 },
  { knob: "top_k", label: "top-k", min: 0, max: 50, step: 1 },
  { knob: "top_p", label: "top-p", min: 0, max: 1, step: 0.01 },
];

export class ProbabilityBars extends DataElement {
  build() {
    this.sliders = SLIDERS.map(({ knob, label, min, max, step }) => {
      const input = make("input", { type: "range", min, max, step, "aria-label": label });
      const value = make("output");
      input.addEventListener("input", () => this.#move(knob, Number(input.value)));
      return { knob, input, value, line: make("label", { class: "be-slider" }, make("span", {}, label), input, value) };
    });
    this.panel = make("div", { class: "be-sliders" }, ...this.sliders.map(({ line }) => line));
    this.rows = make("ol", { class: "be-bars" });
    this.append(this.panel, this.rows);
    hintOf(this.rows, "li");
  }

  #move(knob, value) {
    const sampling = { ...this.data.sampling, [knob]: value };
    this.data = { ...this.data, sampling };
    tell(this, "sampling", { sampling });
  }

  draw() {
    const { entries, sampling, chosen, before, sliders = true } = this.data;
    this.panel.hidden = !sliders;
    for (const { knob, input, value } of this.sliders) {
      input.value = sampling[knob];
      value.textContent = knob === "top_k" ? sampling[knob] || "all" : sampling[knob].toFixed(2);
    }
    const logits = Float32Array.from(entries, ({ logit }) => logit);
    const learned = probabilities(logits, { temperature: 1, top_k: 0, top_p: 1 });
    const drawn = sampled(logits, sampling);
    const order = [...entries.keys()].sort((a, b) => learned[b] - learned[a]).slice(0, SHOWN);
    const at = entries.findIndex(({ id }) => id === chosen);
    if (at >= 0 && !order.includes(at)) order.push(at);
    while (this.rows.children.length > order.length) this.rows.lastChild.remove();
    while (this.rows.children.length < order.length) this.rows.append(row());
    order.forEach((i, place) => {
      const { id, text, logit } = entries[i];
      const line = this.rows.children[place];
      const was = before?.get(id);
      line.classList.toggle("be-chosen", id === chosen);
      line.classList.toggle("be-out", drawn[i] === 0);
      line.style.setProperty("--learned", learned[i]);
      line.style.setProperty("--drawn", drawn[i]);
      line.style.setProperty("--before", was ?? 0);
      line.classList.toggle("be-compared", was !== undefined);
      const [name, , number] = line.children;
      name.textContent = text;
      number.textContent = was === undefined ? percent(drawn[i]) : `${percent(was)} → ${percent(learned[i])}`;
      line.dataset.words = [
        `${text}  token ${id}, logit ${logit.toFixed(3)}`,
        `as learned ${percent(learned[i])}, as drawn ${percent(drawn[i])}`,
        ...(was === undefined ? [] : [`with all heads on ${percent(was)}`]),
      ].join("\n");
    });
  }
}

/** What the draw uses; at temperature 0 the likeliest token alone. */
function sampled(logits, sampling) {
  if (sampling.temperature > 0) return probabilities(logits, sampling);
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const first = logits.indexOf(most);
  return Float64Array.from(logits, (_, i) => (i === first ? 1 : 0));
}

function row() {
  const bar = make("span", { class: "be-bar", "aria-hidden": "true" }, make("i"), make("b"), make("u"));
  return make("li", { tabindex: 0 }, make("span", { class: "be-name" }), bar, make("span", { class: "be-number" }));
}

define("be-probability-bars", ProbabilityBars);
