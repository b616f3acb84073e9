/** Talk, in the studio: the conversation of the exported file, over a run on this machine. It stays when one goes away. */

import { TalkRoom } from "../file-talk.js";
import { onLaterSteps, roomHead } from "./head.js";

const rooms = new Map(); // of the runs that were talked to

export class TalkHere extends HTMLElement {
  connectedCallback() {
    const { studio, source, info } = this;
    const { name } = info;
    const model = JSON.stringify([info.kind, info.character, info.config]); // another may have taken the name
    if (rooms.get(name)?.model !== model) rooms.set(name, { model, room: new TalkRoom(source, info) });
    this.room = rooms.get(name).room;
    this.room.step = info.steps.at(-1); // talks as the newest
    this.ended = onLaterSteps(studio, source, (steps) => (this.room.step = steps.at(-1)));
    this.open = ({ detail }) => {
      studio.carried = { run: name, ...detail };
      studio.go("look");
    };
    this.room.element.addEventListener("look", this.open);
    const words =
      info.kind === "chat"
        ? `Say something to ${info.character}. Every token it says can be opened.`
        : "Type how a text begins; the model goes on. Every token it writes can be opened.";
    this.append(roomHead(studio.run, info, "Talk", words), this.room.element);
    this.room.show();
  }

  disconnectedCallback() {
    this.ended();
    this.room.element.removeEventListener("look", this.open);
    this.room.leave();
  }
}
