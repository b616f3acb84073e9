/**
 * The most active neurons of each layer at one token, and the tokens that each makes likelier.
 *
 * data: {layers: {neuron, activation, writes: string[]}[][], token: string}
 */

import { DataElement } from "./data-element.js";
import { define, make } from "./define.js";
import { hintOf } from "./hint.js";
import { signedBar } from "./signed-bars.js";

export class NeuronList extends DataElement {
  build() {
    hintOf(this, "li");
  }

  draw() {
    const { layers, token } = this.data;
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
  const words = `layer ${layer}, neuron ${neuron}: ${activation.toFixed(3)}\nmakes likelier: ${writes.join("  ")}`;
  return signedBar(`${neuron}  ${writes.join(" ")}`, activation / most, activation.toFixed(2), words);
}

define("be-neuron-list", NeuronList);
