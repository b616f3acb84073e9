/** What it said on the way to the same prompts: a slider over the steps, which follows the newest until it is moved. */

import { make } from "../elements/define.js";

export class Samples {
  constructor() {
    this.slider = make("input", { type: "range", min: 0, step: 1, "aria-label": "step of the samples" });
    this.slider.addEventListener("input", () => {
      this.at = Number(this.slider.value) === this.sets.length - 1 ? null : Number(this.slider.value);
      this.#draw();
    });
    this.step = make("output", { class: "st-number" });
    this.list = make("div", { class: "st-samples", "aria-live": "off" });
    const tools = make("div", { class: "be-tools be-merge-tools" }, this.slider, this.step);
    this.element = make("section", { class: "be-card", hidden: true }, make("h2", { class: "st-title" }, "What it says, as it learns"), tools, this.list);
    this.sets = [];
    this.at = null; // null: the newest
  }

  /** @param {import("./course.js").Course[]} courses */
  show(courses) {
    this.courses = courses;
    this.sets = courses[0].found.samples;
    this.element.hidden = this.sets.length === 0;
    if (this.sets.length) this.#draw();
  }

  #draw() {
    const at = Math.min(this.at ?? Infinity, this.sets.length - 1);
    const { step, samples } = this.sets[at];
    this.slider.max = this.sets.length - 1;
    this.slider.value = at;
    this.step.textContent = `step ${step.toLocaleString("en")}`;
    const said = samples.map(({ prompt, reply }) => {
      const others = this.courses.slice(1).map(({ name, found }) => [name, replyAt(found.samples, step, prompt)]);
      const lines = [[this.courses[0].name, reply], ...others].map(([name, words]) => {
        const turn = make("div", { class: "be-turn be-assistant" }, (words ?? "").trim() || "(nothing that can be seen)");
        return others.length ? make("div", { class: "st-by" }, make("span", { class: "be-note" }, name), turn) : turn;
      });
      return make("article", { class: "st-conversation" }, make("div", { class: "be-turn be-user" }, prompt), ...lines);
    });
    this.list.replaceChildren(...said);
  }
}

/** What another run said to a prompt then, or the last time before. */
function replyAt(sets, step, prompt) {
  const set = sets.findLast((each) => each.step <= step);
  return set?.samples.find((each) => each.prompt === prompt)?.reply ?? "was not asked this";
}
