/** Talk, in the studio: the conversation of the exported file, over a run on this machine. */

import { TalkRoom } from "../file-talk.js";
import { roomHead } from "./head.js";

export class TalkHere extends HTMLElement {
  connectedCallback() {
    const { studio, source, info } = this;
    const room = new TalkRoom(source, info);
    room.element.addEventListener("look", ({ detail }) => {
      studio.carried = { run: info.name, ids: detail.ids };
      studio.go("look");
    });
    const words =
      info.kind === "chat"
        ? `Say something to ${info.character || info.name}. Every token it says can be opened.`
        : "Type how a text begins; the model goes on. Every token it writes can be opened.";
    this.append(roomHead(studio.run, info, "Talk", words), room.element);
    room.show();
  }
}
