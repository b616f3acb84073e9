/** Look, in the studio: the heads as in the exported file, and the stream, the neurons and the map of tokens besides. */

import { LookRoom } from "../file-look.js";
import { Inside } from "./inside.js";
import { exampleOf, onLaterSteps, roomHead } from "./head.js";

export class LookHere extends HTMLElement {
  connectedCallback() {
    const { studio, source, info } = this;
    this.room = new LookRoom(source, { ...info, example: exampleOf(info) });
    const inside = new Inside(studio, source, info, this.room);
    const words = "Any text, as the model reads it: where every head looks, what it adds, and what it would say next.";
    this.append(roomHead(studio.run, info, "Look", words), this.room.element, inside.element);
    if (studio.carried?.run === info.name) this.room.take(studio.carried);
    studio.carried = null;
    this.ended = onLaterSteps(studio, source, (steps) => {
      this.room.goTo(steps.at(-1));
      this.room.show();
    });
    this.room.show();
  }

  disconnectedCallback() {
    this.ended();
    this.room.leave();
  }
}
