/** Talk and Look over weights that are at hand, and Time where there are several moments of them: what the exported page
 * shows, and a notebook's cell. */

import { define, make, rove } from "./elements/define.js";
import { TimeSlider } from "./elements/time-slider.js";
import { LookRoom } from "./file-look.js";
import { TalkRoom } from "./file-talk.js";
import { EmbeddedSource } from "./source-embedded.js";

define("be-time-slider", TimeSlider);

/**
 * @param {import("./source-embedded.js").Table} table
 * @param {(step: number) => Promise<ArrayBuffer>} bytesOf the weights of a step, as they were packed
 */
export function fileRooms(table, bytesOf) {
  const source = new EmbeddedSource(table, bytesOf);
  const rooms = { talk: new TalkRoom(source, table), look: new LookRoom(source, table) };
  const slider = make("be-time-slider");
  const time = make("div", { class: "be-time", hidden: table.steps.length < 2 }, make("span", { class: "be-label" }, "time"), slider);
  const tabs = make("nav", { class: "be-tabs", role: "tablist", "aria-label": "rooms" });
  const places = {};
  let shown = "talk";

  const open = (name) => {
    shown = name;
    for (const tab of tabs.children) {
      tab.setAttribute("aria-selected", String(tab.dataset.room === name));
      tab.tabIndex = tab.dataset.room === name ? 0 : -1;
      places[tab.dataset.room].hidden = tab.dataset.room !== name;
    }
    rooms[name].show();
  };
  for (const [name, label] of [["talk", "Talk"], ["look", "Look"]]) {
    const room = rooms[name].element;
    places[name] = make("section", { role: "tabpanel", "aria-label": label }, room);
    tabs.append(make("button", { type: "button", role: "tab", "data-room": name, onclick: () => open(name) }, label));
    room.addEventListener("said", () => slider.played());
  }
  rove(tabs, "[role=tab]");
  rooms.talk.element.addEventListener("look", (event) => {
    rooms.look.take(event.detail);
    open("look");
  });
  slider.data = { steps: table.steps, step: table.steps.at(-1) };
  slider.addEventListener("step", (event) => {
    for (const room of Object.values(rooms)) room.goTo(event.detail.step);
    rooms[shown].show();
  });
  open("talk");
  return { source, rooms, tabs, element: make("div", {}, time, make("main", {}, ...Object.values(places))) };
}
