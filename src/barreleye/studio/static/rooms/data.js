/** Data: what a run learned from, and how text becomes tokens. */

import { define, make } from "../elements/define.js";
import { MergeSteps } from "../elements/merge-steps.js";
import { ScatterMap } from "../elements/scatter-map.js";
import { part } from "../api.js";
import { latest } from "../source.js";
import { exampleOf, roomHead } from "./head.js";

define("be-merge-steps", MergeSteps);
define("be-scatter-map", ScatterMap);

const SIZE = 10; // conversations on a page

export class DataRoom extends HTMLElement {
  async connectedCallback() {
    const words = "The character, the conversations it learned from and those kept back, and how its tokenizer cuts a text.";
    this.pages = make("div");
    this.sheet = make("div");
    this.report = make("div");
    this.append(
      roomHead(this.studio.run, this.info, "Data", words),
      this.#tokenizer(),
      make("div", { class: "be-two" }, card("Character sheet", this.sheet), card("Splits and duplicates", this.report)),
      card("What it read", this.pages),
      this.#map(),
    );
    this.read = latest((side, page) => this.#read(side, page));
    await this.read("", 0).catch((error) => this.studio.fail(error));
  }

  #get(path) {
    return this.studio.api.get(this.source.at + path);
  }

  // What it read -----------------------------------------------------------------------------------------------------

  async #read(side, page) {
    const found = await this.#get(`/data?size=${SIZE}&page=${page}${side ? `&side=${part(side)}` : ""}`);
    if (found.note) {
      for (const place of [this.pages, this.sheet, this.report]) place.replaceChildren(note(found.note));
      return;
    }
    this.#drawSheets(found);
    this.#drawReport(found);
    this.#drawPage(found);
  }

  #drawSheets({ sheets, kind, sources }) {
    const all = Object.entries(sheets ?? {}).map(([name, text]) => {
      return make("details", { open: true }, make("summary", {}, name), make("pre", { class: "st-sheet", tabindex: 0 }, text));
    });
    const none = note(`It learned from ${kind === "text" ? "a text" : "chats"}: ${sources.join(", ")}. There is no character sheet.`);
    this.sheet.replaceChildren(...(all.length ? all : [none]));
  }

  #drawReport({ sides, counted, split, duplicates }) {
    const most = Math.max(...sides.map(({ count }) => count), 1);
    const bars = sides.map(({ name, count }) => {
      const bar = make("span", { class: "be-bar", "aria-hidden": "true" }, make("b"));
      const number = make("span", { class: "be-number" }, count.toLocaleString("en"));
      const line = make("li", {}, make("span", { class: "be-name" }, spoken(name)), bar, number);
      line.style.setProperty("--drawn", count / most);
      return line;
    });
    const facts = [
      ["dropped as duplicates", duplicates.duplicates_dropped],
      ["kept out of the held-out side", duplicates.held_out_dropped],
      ["still in both", duplicates.overlap],
    ];
    const rows = facts.map(([words, value]) => make("div", {}, make("dt", {}, words), make("dd", {}, shown(value))));
    this.report.replaceChildren(
      note(`${split ? `Split ${split}. ` : ""}Counted in ${counted}.`),
      make("ol", { class: "be-bars st-sides" }, ...bars),
      make("dl", { class: "st-facts" }, ...rows),
    );
  }

  #drawPage({ side, sides, page, pages, conversations, text }) {
    const sideOf = make("select", { "aria-label": "side" });
    sideOf.append(...sides.map(({ name }) => make("option", { value: name }, spoken(name))));
    sideOf.value = side;
    const go = (where, at) => this.read(where, at).catch((error) => this.studio.fail(error));
    sideOf.addEventListener("change", () => go(sideOf.value, 0));
    const turn = (words, at) => {
      const off = at < 0 || at >= pages;
      return make("button", { type: "button", class: "be-plain", disabled: off, onclick: () => go(side, at) }, words);
    };
    const where = make("span", { class: "be-note" }, `page ${page + 1} of ${Math.max(pages, 1).toLocaleString("en")}`);
    const tools = make("div", { class: "be-tools" }, sideOf, turn("back", page - 1), turn("on", page + 1), turn("anywhere", anywhere(pages)), where);
    const shown = conversations ? conversations.map(conversation) : [make("pre", { class: "st-sheet", tabindex: 0 }, text)];
    this.pages.replaceChildren(tools, make("div", { class: "st-conversations" }, ...shown));
  }

  // The tokenizer ----------------------------------------------------------------------------------------------------

  #tokenizer() {
    const steps = make("be-merge-steps");
    const text = make("textarea", { rows: 2, class: "be-text", maxlength: 400, "aria-label": "a text to cut into tokens" });
    const problem = make("p", { class: "be-problem", role: "alert", hidden: true });
    text.value = exampleOf(this.info);
    const cut = latest(async () => {
      try {
        if (text.value) steps.data = await this.#get(`/merges?text=${part(text.value)}`);
        problem.hidden = true;
      } catch (error) {
        problem.textContent = error.message;
        problem.hidden = false;
      }
    });
    text.addEventListener("input", cut);
    cut();
    return card("Tokenizer: type, and step through the merges", text, problem, steps);
  }

  // The map ----------------------------------------------------------------------------------------------------------

  #map() {
    const map = make("be-scatter-map");
    const words = "Every token is a vector; here are the two directions in which they differ most. Tokens that are used alike lie together.";
    const box = make("details", { class: "be-card" }, make("summary", {}, "Map of the token embeddings"), note(words), map);
    box.addEventListener("toggle", async () => {
      if (!box.open || map.data || !this.info.steps.length) return;
      try {
        map.data = await this.#get("/embeddings");
      } catch (error) {
        this.studio.fail(error);
      }
    });
    return box;
  }
}

function card(title, ...children) {
  return make("section", { class: "be-card" }, make("h2", { class: "st-title" }, title), ...children);
}

function note(words) {
  return make("p", { class: "be-note" }, words);
}

function spoken(name) {
  return name.replaceAll("_", " ");
}

function shown(value) {
  return typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 4 }) : String(value);
}

function anywhere(pages) {
  return pages > 1 ? Math.floor(Math.random() * pages) : -1;
}

function conversation({ topic, turns }) {
  const said = turns.map(({ role, content }) => make("div", { class: `be-turn be-${role}` }, content));
  const about = topic ? [make("p", { class: "be-note" }, topic)] : [];
  return make("article", { class: "st-conversation" }, ...about, ...said);
}
