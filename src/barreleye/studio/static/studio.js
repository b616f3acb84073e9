/** The shell: which room is open on which run, the runs on top, the theme, and what went wrong. */

import { Api } from "./api.js";
import { define, make } from "./elements/define.js";
import { hideHint } from "./elements/hint.js";
import { DataRoom } from "./rooms/data.js";
import { emptyRoom, whyEmpty } from "./rooms/empty.js";
import { LearningRoom } from "./rooms/learning.js";
import { LookHere } from "./rooms/look.js";
import { RunsRoom } from "./rooms/runs.js";
import { TalkHere } from "./rooms/talk.js";
import { TimeHere } from "./rooms/time.js";
import { TourRoom } from "./rooms/tour.js";
import { LiveSource } from "./source-live.js";
import { startTheme } from "./theme.js";

const ROOMS = {
  runs: { label: "Runs", element: RunsRoom, needs: [] },
  learning: { label: "Learning", element: LearningRoom, needs: ["run"] },
  talk: { label: "Talk", element: TalkHere, needs: ["run", "weights"] },
  look: { label: "Look", element: LookHere, needs: ["run", "weights"] },
  time: { label: "Time", element: TimeHere, needs: ["run", "weights", "snapshots"] },
  data: { label: "Data", element: DataRoom, needs: ["run"] },
  tour: { label: "Tour", element: TourRoom, needs: ["run", "weights"] },
};
const LIVE = new Set(["learning", "paused"]);
const EVERY = 2000; // milliseconds between looks at the runs

for (const [name, { element }] of Object.entries(ROOMS)) define(`st-${name}`, element);

/**
 * What a room knows of the page around it. Tells "runs" when the list has been read anew.
 * @typedef {{name: string, state: string, step: number, steps: number, kind: string, source: string, parameters: number,
 *     loss: number | null, problem: string | null, asked: string, doing: string, ways: string[]}} RunEntry
 */
class Studio extends EventTarget {
  constructor() {
    super();
    this.api = new Api();
    /** @type {RunEntry[]} */
    this.runs = [];
    /** @type {string[]} the runs that are shown: one, but for Learning, which compares */
    this.names = [];
    this.room = "runs";
    this.opened = 0; // counts the rooms that were opened, so that a slow one does not come over a later one
    this.problem = document.getElementById("problem");
    this.place = document.getElementById("room");
    this.choice = document.getElementById("run");
  }

  /** @returns {RunEntry | undefined} */
  get run() {
    return this.runs.find(({ name }) => name === this.names[0]);
  }

  async start() {
    startTheme(document.getElementById("theme"));
    const links = Object.entries(ROOMS).map(([name, { label }]) => make("a", { "data-room": name }, label));
    document.getElementById("rooms").append(...links);
    this.choice.addEventListener("change", () => this.go(this.room === "runs" ? "learning" : this.room, [this.choice.value]));
    addEventListener("unhandledrejection", ({ reason }) => this.fail(reason));
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
    document.querySelector(".st-skip").addEventListener("click", (event) => {
      event.preventDefault(); // the hash is the route
      this.place.focus();
    });
    setInterval(() => document.hidden || this.refresh(), EVERY);
    addEventListener("hashchange", () => this.open());
    await this.refresh();
    await this.open();
  }

  /** @param {string} room @param {string[]} names */
  go(room, names = this.names) {
    location.hash = `#/${room}${names.length ? `/${names.map(encodeURIComponent).join(",")}` : ""}`;
  }

  async refresh() {
    try {
      this.runs = (await this.api.get("/runs")).sort((a, b) => LIVE.has(b.state) - LIVE.has(a.state));
    } catch (error) {
      return this.fail(error, "runs");
    }
    this.#well("runs");
    this.#drawTop();
    this.dispatchEvent(new Event("runs"));
    const isOpening = this.place.hasAttribute("aria-busy");
    if (!isOpening && this.place.firstChild?.classList.contains("st-empty")) await this.open(); // perhaps there is something by now
  }

  /** The room of the address. */
  async open() {
    const turn = ++this.opened;
    const [, room = "", names = ""] = location.hash.split("/");
    this.room = Object.hasOwn(ROOMS, room) ? room : "runs";
    const before = this.run?.name; // stays the chosen one where the address names none
    this.names = [...new Set(names.split(",").filter(Boolean).map(decoded))];
    if (!this.names.length && this.runs.length) this.names = [before ?? this.#usual()];
    this.#well();
    this.#drawTop();
    document.title = `${ROOMS[this.room].label}${this.names.length ? ` · ${this.names.join(", ")}` : ""} · Barreleye`;
    let shown;
    this.place.setAttribute("aria-busy", "true"); // what is there fades until the next room comes
    try {
      shown = await this.#roomOrWhyNot();
    } catch (error) {
      shown = emptyRoom("This run cannot be opened", error.message);
    }
    if (turn !== this.opened) return;
    this.place.removeAttribute("aria-busy");
    if (shown.classList.contains("st-empty") && shown.isEqualNode(this.place.firstChild)) return; // keeps the focus
    hideHint();
    this.place.replaceChildren(shown);
    scrollTo(0, 0);
  }

  /** The one that can be shown most of. */
  #usual() {
    const of = (states) => this.runs.find(({ state }) => states.includes(state));
    return (of(["learning"]) ?? of(["finished", "imported"]) ?? of(["paused", "stopped"]) ?? this.runs[0]).name;
  }

  async #roomOrWhyNot() {
    const { needs, label } = ROOMS[this.room];
    const why = whyEmpty(this.run, this.names[0], needs, label);
    if (why) return why;
    const room = make(`st-${this.room}`);
    room.studio = this;
    if (needs.length) {
      room.source = new LiveSource(this.api, this.run.name);
      room.info = await room.source.open();
      const empty = whyEmpty(this.run, this.names[0], needs, label, room.info);
      if (empty) return empty;
    }
    return room;
  }

  #drawTop() {
    for (const link of document.querySelectorAll("#rooms a")) {
      const name = link.dataset.room;
      link.href = `#/${name}${name !== "runs" && this.names.length ? `/${encodeURIComponent(this.names[0])}` : ""}`;
      if (name === this.room) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const words = this.runs.map(({ name, state }) => (state === "finished" ? name : `${name} (${state})`));
    const same = [...this.choice.options].map((option) => option.textContent).join("\n") === words.join("\n");
    if (!same) {
      this.choice.replaceChildren(...this.runs.map(({ name }, i) => make("option", { value: name }, words[i])));
    }
    this.choice.value = this.names[0] ?? "";
    this.choice.parentElement.hidden = this.runs.length === 0;
  }

  /**
   * Says what went wrong, in one line, until it is put away, another room is opened, or what went wrong goes well.
   * @param {Error} error @param {string} what
   */
  fail(error, what = "room") {
    if (error?.name === "AbortError") return;
    this.problem.dataset.what = what;
    const close = make("button", { type: "button", class: "be-plain", onclick: () => this.#well(what) }, "close");
    this.problem.replaceChildren(make("span", {}, error?.message ?? String(error)), close);
    this.problem.hidden = false;
  }

  #well(what = "room") {
    if (this.problem.dataset.what === what) this.problem.hidden = true;
  }
}

/** A name out of an address, which may be of any form. */
function decoded(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

new Studio().start();
