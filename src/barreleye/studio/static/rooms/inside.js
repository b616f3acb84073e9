/** What lies deeper than the heads, for the text that Look reads: the residual stream, the neurons, the map of tokens. */

import { define, make } from "../elements/define.js";
import { NeuronList } from "../elements/neuron-list.js";
import { ResidualGrid } from "../elements/residual-grid.js";
import { ScatterMap } from "../elements/scatter-map.js";
import { latest } from "../source.js";

define("be-neuron-list", NeuronList);
define("be-residual-grid", ResidualGrid);
define("be-scatter-map", ScatterMap);

const SHOWN = 5; // neurons of a layer

export class Inside {
  /** @param {import("../file-look.js").LookRoom} room whose text, position, step and switches are followed */
  constructor(studio, source, info, room) {
    Object.assign(this, { studio, source, info, room });
    this.grid = make("be-residual-grid");
    this.neurons = make("be-neuron-list");
    this.map = make("be-scatter-map");
    this.parts = [
      details("Residual stream: how long it is, and what is added", this.grid),
      details("Neurons: the most active ones, and what they make likelier", this.neurons),
      details("Map of the token embeddings", this.map),
    ];
    this.element = make("div", { class: "st-inside" }, ...this.parts);
    this.update = latest(() => this.#update());
    for (const part of this.parts) part.addEventListener("toggle", () => this.update());
    room.element.addEventListener("shown", () => this.update());
    this.grid.addEventListener("pick", (event) => room.choose(event.detail.index));
  }

  async #update() {
    const [grid, neurons, map] = this.parts.map((part) => part.open);
    const want = [...(grid ? ["residual"] : []), ...(neurons ? ["neurons"] : [])];
    if ((!want.length && !map) || !this.room.problem.hidden) return; // the room says what is wrong
    const { header, arrays, position } = await this.room.lookAlso(want, SHOWN);
    const { tokens } = header;
    if (grid) this.grid.data = { tokens, ...arrays, selected: position };
    if (neurons) this.neurons.data = { layers: header.neurons, token: tokens[position].text };
    if (map) await this.#drawMap(tokens);
  }

  async #drawMap(tokens) {
    const { step } = this.room;
    if (this.mapped?.step !== step) {
      const found = await this.studio.api.get(`${this.source.at}/embeddings?step=${step}`);
      this.mapped = { step, ...found };
    }
    this.map.data = { ...this.mapped, marked: new Set(tokens.map(({ id }) => id)) };
  }
}

function details(words, element) {
  return make("details", { class: "be-card" }, make("summary", {}, words), element);
}
