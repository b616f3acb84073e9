/** Time: one slider over the weights that were kept while it learned; everything on the page follows. */

import { define, make } from "../elements/define.js";
import { TimeSlider } from "../elements/time-slider.js";
import { LookRoom } from "../file-look.js";
import { latest } from "../source.js";
import { exampleOf, roomHead } from "./head.js";
import { Inside } from "./inside.js";

define("be-time-slider", TimeSlider);

export class TimeHere extends HTMLElement {
  connectedCallback() {
    const { studio, source, info } = this;
    const room = new LookRoom(source, { ...info, example: exampleOf(info) });
    const inside = new Inside(studio, source, info, room);
    const slider = make("be-time-slider");
    slider.data = { steps: info.steps, step: info.steps.at(-1) };
    const follow = latest(async (step) => {
      const shown = new Promise((resolve) => room.element.addEventListener("shown", resolve, { once: true }));
      room.goTo(step);
      room.show();
      await shown;
      slider.played();
    });
    slider.addEventListener("step", (event) => follow(event.detail.step));
    const words = "Drag through the training, or play it: the same text, read and answered by the model as it was at each step.";
    const bar = make("div", { class: "be-time st-time" }, slider);
    this.append(roomHead(studio.run, info, "Time", words), bar, room.element, inside.element);
    room.show();
  }
}
