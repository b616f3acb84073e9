/** What the elements that show something share. */

import { onTheme } from "./colors.js";

/**
 * Shows what is set as its `data`. `build` makes its parts, once, when it first comes into a page; `draw` shows the data, as
 * soon as there are both, and again whenever the data or the theme is another.
 */
export class DataElement extends HTMLElement {
  #data = null;

  connectedCallback() {
    if (this.ready) return; // it was moved
    this.ready = true;
    this.build();
    onTheme(this);
    this.redraw();
  }

  build() {}

  set data(data) {
    this.#data = data;
    this.redraw();
  }

  get data() {
    return this.#data;
  }

  redraw() {
    if (this.ready && this.#data) this.draw();
  }
}
