/**
 * The moments of a training that were kept: a slider over them, and a button that plays them.
 *
 * data: {steps: number[], step: number}
 * Tells "step" {step}; while it plays, the next one comes when `played()` is called, so that no view is left behind.
 */

import { DataElement } from "./data-element.js";
import { define, make, tell } from "./define.js";

const SHORTEST = 450; // milliseconds that a moment stays

export class TimeSlider extends DataElement {
  #timer = 0;

  build() {
    this.play = make("button", { type: "button", class: "be-plain", onclick: () => this.#toggle() });
    this.input = make("input", { type: "range", min: 0, step: 1, "aria-label": "step of the training" });
    this.value = make("output");
    this.input.addEventListener("input", () => {
      const index = Number(this.input.value); // before it is drawn again
      this.#stop();
      this.#go(index);
    });
    this.append(this.play, this.input, this.value);
  }

  disconnectedCallback() {
    this.#stop();
  }

  get playing() {
    return this.#timer !== 0;
  }

  /** What was asked for at this step is shown: go on with the next. */
  played() {
    if (!this.playing) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const next = this.data.steps.indexOf(this.data.step) + 1;
      if (next < this.data.steps.length) this.#go(next);
      else this.#stop();
    }, SHORTEST);
  }

  #toggle() {
    if (this.playing) return this.#stop();
    const atEnd = this.data.step === this.data.steps.at(-1);
    this.#timer = setTimeout(() => {}, 0);
    this.redraw();
    if (atEnd) this.#go(0);
    else this.played();
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.redraw();
  }

  #go(index) {
    const step = this.data.steps[index];
    this.data = { ...this.data, step };
    tell(this, "step", { step });
  }

  draw() {
    const { steps, step } = this.data;
    this.input.max = steps.length - 1;
    this.input.value = steps.indexOf(step);
    this.input.setAttribute("aria-valuetext", `step ${step}`);
    this.value.textContent = `step ${step}`;
    this.play.textContent = this.playing ? "pause" : "play";
    this.play.setAttribute("aria-pressed", String(this.playing));
  }
}

define("be-time-slider", TimeSlider);
