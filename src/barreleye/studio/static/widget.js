/** A notebook's cell (Jupyter, Colab, marimo; by anywidget): the rooms, over the weights that the kernel sends. */

import { make } from "./elements/define.js";
import { fileRooms } from "./file-rooms.js";

export const widget = {
  /** @param {{model: {get: (name: string) => any}, el: HTMLElement}} cell */
  render({ model, el }) {
    const weights = model.get("weights");
    const bytesOf = async (step) => {
      const { buffer, byteOffset, byteLength } = weights[step]; // a view into the message that it came in
      return buffer.slice(byteOffset, byteOffset + byteLength);
    };
    const { tabs, element } = fileRooms(model.get("table"), bytesOf);
    el.classList.add("be-page", "be-cell");
    el.append(make("header", { class: "be-top" }, tabs), element);
  },
};
