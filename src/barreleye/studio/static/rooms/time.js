/** Time: one slider over the weights that were kept while it learned; everything on the page follows. */

import { define, make } from "../elements/define.js";
import { TimeSlider } from "../elements/time-slider.js";
import { LookRoom } from "../file-look.js";
import { latest } from "../source.js";
import { exampleOf, onLaterSteps, roomHead } from "./head.js";
import { Inside } from "./inside.js";

define("be-time-slider", TimeSlider);

const LONGEST_REPLY = 6000; // milliseconds that it plays one moment

export class TimeHere extends HTMLElement {
  connectedCallback() {
    const { studio, source, info } = this;
    this.room = new LookRoom(source, { ...info, example: exampleOf(info) });
    const inside = new Inside(studio, source, info, this.room);
    const slider = make("be-time-slider");
    slider.data = { steps: info.steps, step: info.steps.at(-1) };
    const happens = (what) => new Promise((resolve) => this.room.element.addEventListener(what, resolve, { once: true }));
    const follow = latest(async (step) => {
      const [shown, said] = [happens("shown"), happens("said")];
      this.room.goTo(step);
      this.room.show();
      await shown; // a hand that drags on is not kept waiting for the reply; who plays would not see it otherwise
      Promise.race([said, new Promise((resolve) => setTimeout(resolve, LONGEST_REPLY))]).then(() => {
        if (slider.data.step === step) slider.played();
      });
    });
    slider.addEventListener("step", (event) => follow(event.detail.step));
    this.ended = onLaterSteps(studio, source, (steps) => {
      const before = slider.data.step;
      const step = steps.includes(before) ? before : steps.at(-1); // what was saved last is kept only until the next save
      slider.data = { steps, step };
      if (step !== before) follow(step);
    });
    const words = "Drag through the training, or play it: the same text, read and answered by the model as it was at each step.";
    const bar = make("div", { class: "be-time st-time" }, slider);
    this.append(roomHead(studio.run, info, "Time", words), bar, this.room.element, inside.element);
    this.room.show();
  }

  disconnectedCallback() {
    this.ended();
    this.room.leave();
  }
}
