/** A form that starts a training: a character, a preset, and the handful of knobs that teach. */

import { make } from "../elements/define.js";

/** Names as in `config.py`; what stays as the preset has it is not sent. */
const KNOBS = [
  { name: "steps", label: "steps", step: 1, about: "how long it learns" },
  { name: "learning_rate", label: "learning rate", step: "any", about: "how far each step goes" },
  { name: "warmup_steps", label: "warm-up steps", step: 1, about: "over which the rate rises from zero" },
  { name: "batch_tokens", label: "batch, in tokens", step: 1, about: "what one step learns from" },
  { name: "accumulate", label: "accumulation", step: 1, about: "batches summed into one step" },
  { name: "n_layers", label: "layers", step: 1, about: "blocks, one after the other" },
  { name: "n_heads", label: "heads", step: 1, about: "of each layer; they share the width" },
  { name: "d_model", label: "width", step: 1, about: "numbers that stand for a token" },
  { name: "init_std", label: "init scale", step: "any", about: "spread of the first weights; 0: 1 / √width" },
  { name: "positions", label: "positions", choices: ["learned", "sinusoidal", "rope", "none"], about: "how it knows the order" },
];

export class TrainingForm {
  /** @param {object} studio */
  constructor(studio) {
    this.studio = studio;
    this.defaults = {}; // of what no preset sets
    this.persona = make("select", { name: "persona", "aria-label": "character" });
    this.preset = make("select", { name: "preset", "aria-label": "preset" });
    this.about = make("p", { class: "be-note st-all" });
    this.name = make("input", { name: "name", placeholder: "as the studio names it", autocomplete: "off", spellcheck: "false" });
    this.inputs = new Map(KNOBS.map((knob) => [knob.name, inputOf(knob)]));
    this.problem = make("p", { class: "be-problem st-all", role: "alert", hidden: true });
    this.others = make("div", { class: "st-form" });
    const more = make("details", { class: "st-all" }, make("summary", {}, "All other knobs"), this.others);
    this.start = make("button", { type: "submit", class: "be-main", disabled: true }, "start");
    const knobs = KNOBS.map(({ name, label, about }) => field(label, this.inputs.get(name), about));
    this.element = make(
      "form",
      { class: "st-form", novalidate: true },
      field("character", this.persona, "what it learns to be"),
      field("preset", this.preset, "its size and how it is built"),
      field("name", this.name, "of the run, and its folder"),
      this.about,
      ...knobs,
      more,
      this.problem,
      make("div", { class: "st-all" }, this.start),
    );
    this.preset.addEventListener("change", () => this.#fill());
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  /** The characters, the presets and the knobs that there are. */
  async prepare() {
    if (this.presets) return;
    this.about.textContent = "One moment: reading which characters and presets there are.";
    try {
      const { personas, presets, folder, knobs } = await this.studio.api.get("/choices");
      this.presets = presets;
      this.#addOthers(knobs);
      const option = ({ name, description }) => make("option", { value: name, title: description }, name);
      this.persona.replaceChildren(...personas.map(option));
      this.name.title = `a folder in ${folder}`;
      this.persona.value = Object.keys(presets)[0]; // the house's own character is called as its preset
      this.preset.replaceChildren(...Object.keys(presets).map((name) => make("option", { value: name }, name)));
      this.#fill();
      this.start.disabled = false;
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Every knob that there is. */
  #addOthers(knobs) {
    for (const [name, knob] of Object.entries(knobs)) {
      if (this.inputs.has(name)) continue;
      const input = inputOf({ name, ...knob, step: { int: 1, float: "any" }[knob.type], choices: choicesOf(knob) });
      this.inputs.set(name, input);
      this.defaults[name] = knob.default;
      this.others.append(field(name.replaceAll("_", " "), input, knob.help));
    }
  }

  /** The preset's own values. */
  #values() {
    return { ...this.defaults, ...this.presets[this.preset.value].knobs };
  }

  #fill() {
    const { about } = this.presets[this.preset.value];
    const knobs = this.#values();
    this.about.textContent = `${this.preset.value}: ${about}`;
    for (const [name, input] of this.inputs) input.value = String(knobs[name]);
  }

  async #submit() {
    if (!this.presets) return;
    const knobs = this.#values();
    const body = { persona: this.persona.value, preset: this.preset.value };
    if (this.name.value.trim()) body.name = this.name.value.trim();
    for (const [name, input] of this.inputs) {
      if (input.validity.badInput) return this.#fail(new Error(`${name}: that is no number`));
      if (input.value !== "" && input.value !== String(knobs[name])) body[name] = valueOf(input, knobs[name]);
    }
    this.start.disabled = true;
    this.problem.hidden = true;
    try {
      const { name } = await this.studio.api.post("/runs", body);
      await this.studio.refresh();
      this.studio.go("learning", [name]);
    } catch (error) {
      this.#fail(error);
    }
    this.start.disabled = false;
  }

  #fail(error) {
    this.problem.textContent = error.message;
    this.problem.hidden = false;
  }
}

function choicesOf({ type, choices }) {
  return type === "bool" ? ["true", "false"] : choices?.length ? choices : null;
}

function valueOf({ type, value }, known) {
  return typeof known === "boolean" ? value === "true" : type === "number" ? Number(value) : value;
}

function inputOf({ name, step, choices }) {
  if (choices) return make("select", { name }, ...choices.map((choice) => make("option", { value: choice }, choice)));
  return step ? make("input", { name, type: "number", step, inputmode: "decimal" }) : make("input", { name, autocomplete: "off" });
}

function field(label, input, about) {
  return make("label", { class: "st-field" }, make("span", {}, label), input, make("small", { class: "be-note" }, about));
}
