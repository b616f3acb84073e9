/** The exported page: Talk and Look over the weights that are in it, and Time where there are several moments of them. */

import { penalize, probabilities, randomNumbers, sample } from "./sampling.js";
import { EmbeddedSource } from "./source-embedded.js";
import { TalkRoom } from "./file-talk.js";
import { LookRoom } from "./file-look.js";
import { TimeSlider } from "./elements/time-slider.js";
import { define, make, rove } from "./elements/define.js";

define("be-time-slider", TimeSlider);

/** The bytes of a step's weights, which stand in the page as base64. */
async function bytesOf(step) {
  const text = document.getElementById(`weights-${step}`).textContent;
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text).buffer;
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes.buffer;
}

function start() {
  const table = JSON.parse(document.getElementById("run").textContent);
  const source = new EmbeddedSource(table, bytesOf);
  const rooms = { talk: new TalkRoom(source, table), look: new LookRoom(source, table) };
  const slider = make("be-time-slider");
  let shown = "talk";

  const open = (name) => {
    shown = name;
    for (const each of Object.keys(rooms)) {
      const tab = document.getElementById(`tab-${each}`);
      tab.setAttribute("aria-selected", String(each === name));
      tab.tabIndex = each === name ? 0 : -1;
      document.getElementById(each).hidden = each !== name;
    }
    rooms[name].show();
  };
  for (const [name, room] of Object.entries(rooms)) {
    document.getElementById(name).append(room.element);
    document.getElementById(`tab-${name}`).addEventListener("click", () => open(name));
    room.element.addEventListener("shown", () => slider.played());
  }
  rove(document.querySelector(".be-tabs"), "[role=tab]");
  rooms.talk.element.addEventListener("look", (event) => {
    rooms.look.take(event.detail);
    open("look");
  });
  if (table.steps.length > 1) {
    document.getElementById("time").hidden = false;
    document.getElementById("time").append(make("span", { class: "be-label" }, "time"), slider);
    slider.data = { steps: table.steps, step: table.steps.at(-1) };
    slider.addEventListener("step", (event) => {
      for (const room of Object.values(rooms)) room.goTo(event.detail.step);
      rooms[shown].show();
    });
  }
  document.getElementById("theme").addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  });
  // For whoever reads this page's source: everything the rooms use, at the console.
  Object.assign(globalThis, { barreleye: { source, table, rooms, sampling: { penalize, probabilities, randomNumbers, sample } } });
  open("talk");
}

start();
