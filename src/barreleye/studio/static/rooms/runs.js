/** Runs: all of them, live ones on top; and a form to start another. */

import { part } from "../api.js";
import { make } from "../elements/define.js";
import { count } from "./head.js";
import { RunButtons } from "./run-buttons.js";
import { TrainingForm } from "./training-form.js";

const CARRIED = ["finished", "imported", "paused", "stopped"];
const ROOMS = ["learning", "talk", "look", "time", "data"];

export class RunsRoom extends HTMLElement {
  connectedCallback() {
    const form = new TrainingForm(this.studio);
    const words = "Grow a small language model, and watch it learn. A training goes on when this page is closed.";
    this.list = make("div", { class: "st-runs" });
    this.rows = new Map();
    const begin = make("details", { class: "be-card st-begin" }, make("summary", {}, "Start a training"), form.element);
    begin.open = this.studio.runs.length === 0;
    this.append(make("header", { class: "st-head" }, make("h1", {}, "Runs"), make("p", {}, words)), begin, this.list);
    form.prepare(); // before it is opened: characters take a moment to read
    this.draw = () => this.#draw();
    this.studio.addEventListener("runs", this.draw);
    this.#draw();
  }

  disconnectedCallback() {
    this.studio.removeEventListener("runs", this.draw);
  }

  #draw() {
    const { runs } = this.studio;
    for (const [name, row] of this.rows) {
      if (runs.some((run) => run.name === name)) continue;
      row.element.remove();
      this.rows.delete(name);
    }
    runs.forEach((run, place) => {
      if (!this.rows.has(run.name)) this.rows.set(run.name, new Row(this.studio, run.name));
      const row = this.rows.get(run.name);
      row.draw(run);
      if (this.list.children[place] !== row.element) this.list.insertBefore(row.element, this.list.children[place] ?? null);
    });
    this.empty ??= make("p", { class: "be-card" }, "There is no run yet. The form above starts one; the values it has are good ones.");
    if (runs.length) this.empty.remove();
    else this.list.append(this.empty);
  }
}

/** One run: changed in place, so that what has the focus keeps it. */
class Row {
  constructor(studio, name) {
    this.studio = studio;
    this.name = name;
    this.state = make("span", { class: "st-state" });
    this.about = make("p", { class: "be-note" });
    this.bar = make("progress", { max: 1, "aria-label": `steps of ${name}` });
    this.step = make("span", { class: "st-number" });
    this.loss = make("span", { class: "st-number" });
    this.problem = make("p", { class: "be-problem", hidden: true });
    this.buttons = new RunButtons(studio, name);
    this.links = ROOMS.map((room) => make("a", { href: `#/${room}/${part(name)}` }, room));
    // The name is the browser's to make safe; the address is encoded.
    this.file = make("a", { href: `/api/runs/${part(name)}/file`, download: `${name}.html`, title: "the model and its rooms as one page, which needs no studio and no network" }, "as a file");
    const top = make("div", { class: "st-run-top" }, make("h2", { class: "st-title" }, name), this.state);
    const going = make("div", { class: "st-run-going" }, this.bar, this.step, this.loss);
    const ways = make("div", { class: "be-tools" }, ...this.links, this.file, this.buttons.element);
    this.element = make("article", { class: "be-card st-run" }, top, this.about, going, this.problem, ways);
    this.element.dataset.run = name;
  }

  draw(run) {
    const { state, step, steps, kind, source, parameters, loss, problem, doing } = run;
    write(this.state, doing && doing !== state ? `${state}: ${doing}` : state);
    this.state.dataset.state = state;
    const corrupt = state === "corrupt";
    write(this.about, [source && `${kind === "chat" ? "" : `${kind}: `}${source}`, parameters && `${count(parameters)} parameters`].filter(Boolean).join(" · "));
    this.bar.parentElement.hidden = corrupt || !steps;
    this.bar.value = steps ? Math.min(step / steps, 1) : 0;
    write(this.step, steps ? `step ${(step ?? 0).toLocaleString("en")} of ${steps.toLocaleString("en")}` : "");
    write(this.loss, Number.isFinite(loss) ? `loss ${loss.toFixed(3)}` : "");
    write(this.problem, problem ?? "");
    this.problem.hidden = !problem;
    for (const link of this.links) link.hidden = corrupt;
    this.file.hidden = !CARRIED.includes(state) || parameters === null; // there are no weights yet
    this.buttons.draw(run);
  }
}

function write(element, words) {
  if (element.textContent !== words) element.textContent = words;
}
