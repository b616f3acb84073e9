/** To pause, go on with, and stop a training. */

import { part } from "../api.js";
import { make } from "../elements/define.js";

export class RunButtons {
  constructor(studio, name) {
    this.studio = studio;
    this.name = name;
    this.buttons = ["pause", "resume", "stop"].map((what) => {
      const act = () => this.#tell(what);
      return make("button", { type: "button", class: "be-plain", "aria-label": `${what} ${name}`, "data-what": what, onclick: act }, what);
    });
    this.element = make("div", { class: "be-tools" }, ...this.buttons);
  }

  /** Those that there is something to do with. */
  draw({ ways, asked }) {
    for (const button of this.buttons) {
      button.hidden = !ways.includes(button.dataset.what);
      button.disabled = Boolean(asked);
    }
  }

  async #tell(what) {
    for (const button of this.buttons) button.disabled = true;
    try {
      await this.studio.api.post(`/runs/${part(this.name)}/${what}`);
    } catch (error) {
      this.studio.fail(error);
    }
    await this.studio.refresh();
  }
}
