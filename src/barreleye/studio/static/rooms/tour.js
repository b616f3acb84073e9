/** Tour: from a text to a model that learned, in ten stops; each shows what this run makes of the reader's own text. */

import { make } from "../elements/define.js";
import { latest } from "../source.js";
import { exampleOf, onLaterSteps, roomHead } from "./head.js";
import { STOPS } from "./tour-stops.js";

export class TourRoom extends HTMLElement {
  connectedCallback() {
    const { studio, info } = this;
    this.at = 0;
    this.step = info.steps.at(-1);
    this.text = make("input", { class: "st-tour-text", "aria-label": "your text", maxlength: 200, value: exampleOf(info) });
    this.text.addEventListener("input", () => this.update());
    this.problem = make("p", { class: "be-problem", role: "alert", hidden: true });
    this.links = STOPS.map(({ title }, at) => make("button", { type: "button", onclick: () => this.#go(at) }, title));
    this.heading = make("h2", { tabindex: -1 });
    this.words = make("p", { class: "st-tour-words" });
    this.shown = make("div", { class: "st-tour-shown" });
    this.back = make("button", { type: "button", class: "be-plain", onclick: () => this.#go(this.at - 1) }, "back");
    this.on = make("button", { type: "button", class: "be-main", onclick: () => this.#go(this.at + 1) }, "on");
    this.place = make("span", { class: "be-note" });
    const said = make("label", { class: "st-field" }, make("span", {}, "Your text, which every stop works on"), this.text);
    this.append(
      roomHead(studio.run, info, "Tour", "From text to a model that answers, on the model itself."),
      make("nav", { class: "st-stops", "aria-label": "stops" }, ...this.links),
      make("div", { class: "be-card" }, said, this.problem),
      make("section", { class: "be-card st-stop" }, this.heading, this.words, this.shown),
      make("div", { class: "be-tools" }, this.back, this.on, this.place),
    );
    this.stops = STOPS.map(({ build }) => ({ build }));
    this.update = latest(() => this.#update());
    this.ended = onLaterSteps(studio, this.source, (steps) => {
      this.step = steps.at(-1);
      this.info = { ...info, steps };
      for (const { view } of this.stops) view?.renew?.(this);
      this.update();
    });
    this.#go(0, false);
  }

  disconnectedCallback() {
    this.ended();
  }

  /** What is asked of the Source: a chat model is told the text, another reads it. */
  get asked() {
    const content = this.text.value;
    return this.info.kind === "chat" ? { turns: [{ role: "user", content }] } : { text: content };
  }

  #go(at, focus = true) {
    if (at < 0 || at >= STOPS.length) return;
    this.at = at;
    const stop = this.stops[at];
    stop.view ??= stop.build(this);
    this.heading.textContent = `${at + 1}. ${STOPS[at].title}`;
    this.words.textContent = STOPS[at].words;
    this.shown.replaceChildren(stop.view.element);
    this.back.disabled = at === 0;
    this.on.disabled = at === STOPS.length - 1;
    this.place.textContent = `stop ${at + 1} of ${STOPS.length}`;
    this.links.forEach((link, i) => {
      if (i === at) link.setAttribute("aria-current", "step");
      else link.removeAttribute("aria-current");
    });
    if (focus) this.heading.focus();
    this.update();
  }

  async #update() {
    const { view } = this.stops[this.at];
    try {
      if (this.text.value.trim()) await view.update?.(this);
      this.problem.hidden = true;
    } catch (error) {
      this.problem.textContent = error.message;
      this.problem.hidden = false;
    }
  }

  /** What the model made of the text, asked once for each text, step and set of things that are wanted. */
  async look(want, more = {}) {
    const request = { ...this.asked, step: this.step, want, ...more };
    const key = JSON.stringify(request);
    if (this.seen?.key !== key) this.seen = { key, glance: await this.source.look(request) };
    return this.seen.glance;
  }
}
