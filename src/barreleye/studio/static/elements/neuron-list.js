/**
 * The most active neurons of each layer at one token, and the tokens that each makes likelier.
 *
 * data: {layers: {neuron, activation, writes: string[]}[][], token: string}
 */

import { define, make } from "./define.js";
import { hint } from "./hint.js";

export class NeuronList extends HTMLElement {
  #data = null;

  connectedCallback() {
    if (this.ready) return;
    this.ready = true;
    hint(this, (event) => event.target.closest("li")?.dataset.words ?? null);
    this.#draw();
  }

  set data(data) {
    this.#data = data;
    this.#draw();
  }

  get data() {
    return this.#data;
  }

  #draw() {
    if (!this.#data || !this.ready) return;
    const { layers, token } = this.#data;
    const most = Math.max(1e-9, ...layers.flat().map(({ activation }) => Math.abs(activation)));
    const lists = layers.map((neurons, layer) => {
      const lines = neurons.map((each) => line(layer, each, most));
      return make("section", {}, make("h4", {}, `layer ${layer}`), make("ol", { class: "be-bars be-signed" }, ...lines));
    });
    const words = layers.length ? `At ${token}, the farthest from 0 of each layer:` : "This model has no MLPs.";
    this.replaceChildren(make("p", { class: "be-note" }, words), make("div", { class: "be-neurons" }, ...lists));
  }
}

function line(layer, { neuron, activation, writes }, most) {
  const bar = make("span", { class: "be-bar", "aria-hidden": "true" }, make("b"));
  const number = make("span", { class: "be-number" }, activation.toFixed(2));
  const name = make("span", { class: "be-name" }, `${neuron}  ${writes.join(" ")}`);
  const item = make("li", { tabindex: 0 }, name, bar, number);
  item.classList.toggle("be-down", activation < 0);
  item.style.setProperty("--size", Math.abs(activation) / most);
  item.dataset.words = `layer ${layer}, neuron ${neuron}: ${activation.toFixed(3)}\nmakes likelier: ${writes.join("  ")}`;
  return item;
}

define("be-neuron-list", NeuronList);
