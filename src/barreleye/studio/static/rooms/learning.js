/** Learning: the record of one run as it is written, or of several on one axis. */

import { part } from "../api.js";
import { define, make } from "../elements/define.js";
import { LineChart } from "../elements/line-chart.js";
import { Course } from "./course.js";
import { CHARTS, linesOf, lossChart } from "./curves.js";
import { roomHead } from "./head.js";
import { Samples } from "./samples.js";
import { RunButtons } from "./run-buttons.js";

define("be-line-chart", LineChart);

const MOST = 6; // runs on one axis

export class LearningRoom extends HTMLElement {
  connectedCallback() {
    const { studio, info } = this;
    this.courses = [];
    this.status = make("p", { class: "st-status", role: "status" });
    this.buttons = new RunButtons(studio, info.name);
    this.progress = make("progress", { max: 1, "aria-label": "steps done" });
    this.against = make("div", { class: "be-tools", role: "group", "aria-label": "runs that are shown" });
    this.words = make("ul", { class: "st-differences" });
    this.notes = make("ol", { class: "st-notes" });
    this.samples = new Samples();
    const words = "Loss is surprise: how little of its belief the model had put on what came next. Lower is better.";
    this.append(
      roomHead(null, info, "Learning", words),
      make("div", { class: "be-card st-doing" }, make("div", { class: "st-run-going" }, this.progress, this.status), this.buttons.element),
      this.#compared(),
      this.#loss(),
      this.#inside(),
      this.samples.element,
    );
    this.follow = () => this.#follow();
    studio.addEventListener("runs", this.follow);
    this.#show(studio.names.slice(0, MOST));
  }

  disconnectedCallback() {
    this.studio.removeEventListener("runs", this.follow);
    for (const course of this.courses) course.close();
  }

  // Which runs -----------------------------------------------------------------------------------------------------------

  #compared() {
    this.compared = make("div", { class: "be-card" }, make("p", { class: "be-note" }, "Put other runs on the same axis:"), this.against, this.words);
    return this.compared;
  }

  /** The runs of these names, those that are there already as they are. */
  async #show(names) {
    const kept = new Map(this.courses.map((course) => [course.name, course]));
    for (const [name, course] of kept) if (!names.includes(name)) course.close();
    this.courses = names.map((name) => kept.get(name) ?? new Course(this.studio.api, name, () => this.#draw()));
    this.studio.names = names;
    history.replaceState(null, "", `#/learning/${names.map(part).join(",")}`); // the room stays as it is
    this.#follow();
    const fresh = this.courses.filter(({ name }) => !kept.has(name));
    const done = await Promise.allSettled(fresh.map((course) => course.load()));
    done.filter(({ reason }) => reason).forEach(({ reason }) => this.studio.fail(reason));
    this.#draw();
    await this.#sayDifferences(names);
  }

  async #sayDifferences(names) {
    if (names.length < 2) return this.words.replaceChildren();
    try {
      const { words } = await this.studio.api.get(`/compare?runs=${names.map(part).join(",")}`);
      this.words.replaceChildren(...words.map((line) => make("li", {}, line)));
    } catch (error) {
      this.studio.fail(error);
    }
  }

  /** The list of runs was read anew: others may be there, and one may learn again. */
  #follow() {
    const { runs } = this.studio;
    for (const course of this.courses) {
      const state = runs.find(({ name }) => name === course.name)?.state;
      if (state && [state, course.found?.state].includes("learning")) course.follow(state);
    }
    const others = runs.filter(({ name, state }) => state !== "corrupt" && name !== this.info.name);
    const shown = this.courses.map(({ name }) => name);
    const boxes = [...this.against.querySelectorAll("input")];
    this.compared.hidden = others.length === 0;
    if (boxes.map(({ value }) => value).join("\n") !== others.map(({ name }) => name).join("\n")) {
      this.against.replaceChildren(...others.map(({ name }) => this.#box(name)));
    }
    for (const box of this.against.querySelectorAll("input")) {
      box.checked = shown.includes(box.value);
      box.disabled = !box.checked && shown.length >= MOST;
    }
    this.#sayState();
  }

  #box(name) {
    const input = make("input", { type: "checkbox", value: name });
    input.addEventListener("change", () => {
      const names = this.courses.map((course) => course.name);
      this.#show(input.checked ? [...names, name] : names.filter((each) => each !== name));
    });
    return make("label", { class: "st-box" }, input, name);
  }

  // What is drawn --------------------------------------------------------------------------------------------------------

  #loss() {
    this.unit = make("select", { "aria-label": "unit of the loss" });
    this.unit.append(make("option", { value: "nats" }, "nats per token"), make("option", { value: "bits" }, "bits per byte"));
    this.unit.addEventListener("change", () => this.#draw());
    this.log = make("input", { type: "checkbox" });
    this.log.addEventListener("change", () => this.#draw());
    this.whole = make("button", { type: "button", class: "be-plain", onclick: () => this.#zoom(null), hidden: true }, "all steps");
    this.chart = make("be-line-chart", { class: "st-loss" });
    this.chart.addEventListener("note", ({ detail }) => this.#showNote(detail.index));
    const tools = make("div", { class: "be-tools" }, this.unit, make("label", { class: "st-box" }, this.log, "logarithmic"), this.whole);
    const title = make("h2", { class: "st-title" }, "Loss");
    const how = make("p", { class: "be-note" }, "Drag over the curve to look closer. Dotted: what a model would lose that knows only so much.");
    this.nothing = make("p", { class: "be-empty", hidden: true });
    return make("section", { class: "be-card" }, title, tools, this.nothing, this.chart, how, this.notes);
  }

  #inside() {
    this.charts = CHARTS.map((kind) => ({ ...kind, chart: make("be-line-chart") }));
    const all = [this.chart, ...this.charts.map(({ chart }) => chart)];
    for (const chart of all) {
      chart.addEventListener("range", ({ detail }) => this.#zoom(detail.range));
    }
    const grid = make("div", { class: "st-charts" }, ...this.charts.map(({ chart }) => chart));
    const note = "Of a fixed batch, now and then. Dashed lines are MLPs; a click on a name hides it.";
    this.insides = make("section", { class: "be-card" }, make("h2", { class: "st-title" }, "Inside"), make("p", { class: "be-note" }, note), grid);
    return this.insides;
  }

  /** All charts look at the same steps. */
  #zoom(range) {
    this.range = range;
    this.whole.hidden = !range;
    this.#draw();
  }

  #draw() {
    const courses = this.courses.filter(({ found }) => found);
    if (!courses.length || !this.isConnected) return;
    const [{ found }] = courses;
    const { range = null } = this;
    const bits = this.unit.value === "bits";
    const notes = found.notes.map(({ step, words }) => ({ step, words }));
    const loss = lossChart(courses, bits);
    const none = loss.lines.length === 0;
    this.nothing.hidden = !none;
    this.chart.hidden = none;
    this.nothing.textContent = bits && found.series.loss?.length
      ? "Bits per byte are known once the held-out side was looked at."
      : found.state === "learning" ? `The first step is to come: ${found.doing}.` : "No step was recorded.";
    this.chart.data = { label: bits ? "bits per byte" : "nats per token", ...loss, notes, range, log: this.log.checked };
    for (const { chart, label, pick, log } of this.charts) {
      const lines = linesOf(courses, pick);
      chart.hidden = lines.every(({ points }) => points.length === 0);
      chart.data = { label, lines, range, log };
    }
    this.insides.hidden = this.charts.every(({ chart }) => chart.hidden);
    this.#drawNotes(found.notes);
    this.samples.show(courses);
    this.#sayState();
  }

  #drawNotes(notes) {
    const keys = notes.map(({ step, words }) => `${step} ${words}`).join("\n");
    if (keys === this.noted) return;
    this.noted = keys;
    const items = notes.map(({ step, name, evidence, advice, is_note }) => {
      const item = make(
        "li",
        { tabindex: -1 },
        make("b", {}, `${is_note ? "" : "▲ "}${name}`),
        ` at step ${step.toLocaleString("en")}: ${evidence}. `,
        make("i", {}, `Try: ${advice}.`),
      );
      item.classList.toggle("st-warning", !is_note);
      return item;
    });
    this.notes.replaceChildren(...items);
    this.notes.hidden = notes.length === 0;
  }

  #showNote(index) {
    const item = this.notes.children[index];
    item?.focus();
    item?.scrollIntoView({ block: "nearest" });
  }

  #sayState() {
    const run = this.studio.run;
    const found = this.courses[0]?.found;
    if (!run) {
      this.status.textContent = "This run is no longer there.";
      return this.buttons.draw({ ways: [] });
    }
    const { state, doing, problem } = found?.state === "learning" && run.state === "learning" ? found : run;
    const step = Math.max(run.step ?? 0, found?.step ?? 0);
    const loss = found?.series.loss?.at(-1)?.[1] ?? run.loss;
    const steps = run.steps ?? 0;
    this.progress.value = steps ? Math.min(step / steps, 1) : 0;
    this.progress.hidden = !steps;
    const said = [
      state === "learning" && doing && doing !== "learning" ? `${state}: ${doing}` : state,
      ...(steps ? [`step ${step.toLocaleString("en")} of ${steps.toLocaleString("en")}`] : []),
      ...(Number.isFinite(loss) ? [`loss ${loss.toFixed(3)}`] : []),
      ...(problem ? [problem] : []),
    ].join(" · ");
    if (this.status.textContent !== said) this.status.textContent = said;
    this.buttons.draw(run);
  }
}
