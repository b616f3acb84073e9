/**
 * A conversation, and a line to say something in. Each token of a reply can be opened.
 *
 * data: {turns: {role, text?: string, tokens?: {id, text}[]}[], busy: boolean, says: string (what the button does),
 *        placeholder: string, opened: {turn, index} | null, problem?: string}
 * Tells "say" {text}, "stop", "forget" and "open" {turn, index}.
 */

import { DataElement } from "./data-element.js";
import { define, make, rove, tell } from "./define.js";

export class ChatBox extends DataElement {
  build() {
    this.log = make("div", { class: "be-log", role: "log", "aria-live": "polite" });
    this.problem = make("p", { class: "be-problem", role: "alert" });
    this.line = make("textarea", { rows: 1, "aria-label": "what you say", autocomplete: "off" });
    this.go = make("button", { type: "submit", class: "be-main" });
    this.forget = make("button", { type: "button", class: "be-plain", onclick: () => tell(this, "forget") }, "start anew");
    this.form = make("form", { class: "be-say" }, this.line, this.go, this.forget);
    this.append(this.log, this.problem, this.form);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.line.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.data.busy) return tell(this, "stop");
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.data.busy) this.#submit(); // else what is typed waits
    });
    rove(this.log, ".be-said");
  }

  /** What could not be said is not lost. */
  giveBack(text) {
    this.line.value ||= text;
  }

  #submit() {
    if (this.data.busy) return tell(this, "stop");
    const text = this.line.value;
    if (!text.trim()) return;
    this.line.value = "";
    tell(this, "say", { text });
  }

  draw() {
    const { turns, busy, says, placeholder, problem } = this.data;
    const atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 40;
    while (this.log.children.length > turns.length) this.log.lastChild.remove();
    turns.forEach((turn, index) => this.#turn(turn, index));
    this.go.textContent = busy ? "stop" : says;
    this.line.placeholder = placeholder;
    this.forget.hidden = turns.length === 0;
    this.problem.textContent = problem ?? "";
    this.problem.hidden = !problem;
    this.log.setAttribute("aria-busy", String(busy));
    if (atEnd) this.log.scrollTop = this.log.scrollHeight;
  }

  #turn({ role, text, tokens }, turn) {
    const kind = `be-turn be-${role}`;
    let said = this.log.children[turn];
    if (said?.className !== kind) {
      const fresh = make("div", { class: kind });
      if (said) said.replaceWith(fresh);
      else this.log.append(fresh);
      said = fresh;
    }
    if (!tokens) {
      said.textContent = text;
      return;
    }
    while (said.children.length > tokens.length) said.lastChild.remove();
    tokens.forEach((token, index) => {
      if (said.children.length <= index) {
        said.append(this.#token(turn, index));
      }
      const button = said.children[index];
      const shown = token.text || "·"; // a part of a character whose rest comes later
      if (button.textContent !== shown) button.textContent = shown;
      const { opened } = this.data;
      button.setAttribute("aria-pressed", String(opened?.turn === turn && opened?.index === index));
    });
  }

  /** A span, as a button would not break within a line as text does. */
  #token(turn, index) {
    const open = () => tell(this, "open", { turn, index });
    const key = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open();
    };
    return make("span", { role: "button", class: "be-said", tabindex: index ? -1 : 0, onclick: open, onkeydown: key });
  }
}

define("be-chat-box", ChatBox);
