/**
 * Tokens as points of a plane. Drag to move, the buttons or + and - to come nearer; a word is found by its letters.
 *
 * data: {points: [x, y][], tokens: {id, text}[], marked?: Set<number> of ids, share?: number[] of each axis}
 */

import { isDark } from "./colors.js";
import { DataElement } from "./data-element.js";
import { define, make } from "./define.js";
import { hint, percent } from "./hint.js";

const NEAR = 12; // pixels from the pointer to a point
const INK = { light: ["#4d97c3", "#b65a0c", "#10202c"], dark: ["#3c96a0", "#f0a45a", "#e3edf3"] };

export class ScatterMap extends DataElement {
  #view = { x: 0.5, y: 0.5, zoom: 1 }; // the middle, in shares of the whole
  #drag = null;

  build() {
    this.canvas = make("canvas", { class: "be-map", tabindex: 0, role: "img", "aria-label": "map of the tokens" });
    this.find = make("input", { type: "search", placeholder: "find a token", "aria-label": "find a token" });
    this.find.addEventListener("input", () => this.redraw());
    const button = (words, label, act) => make("button", { type: "button", class: "be-plain", "aria-label": label, onclick: act }, words);
    const tools = make(
      "div",
      { class: "be-tools" },
      this.find,
      button("+", "nearer", () => this.#nearer(1.5)),
      button("−", "farther", () => this.#nearer(1 / 1.5)),
      button("all", "all tokens", () => this.#go({ x: 0.5, y: 0.5, zoom: 1 })),
    );
    this.note = make("p", { class: "be-note" });
    this.append(tools, this.canvas, this.note);
    this.#listen();
    new ResizeObserver(() => this.redraw()).observe(this.canvas);
  }

  #listen() {
    const { canvas } = this;
    hint(canvas, (event) => this.#words(event));
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#drag = { x: event.clientX, y: event.clientY, view: this.#view };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.#drag) return;
      const { x, y, view } = this.#drag;
      const { width, height } = canvas.getBoundingClientRect();
      const [dx, dy] = [(event.clientX - x) / width / view.zoom, (event.clientY - y) / height / view.zoom];
      this.#go({ ...view, x: view.x - dx, y: view.y - dy });
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.#drag = null));
    canvas.addEventListener("dblclick", () => this.#nearer(2));
    canvas.addEventListener("keydown", (event) => {
      const by = 0.1 / this.#view.zoom;
      const { x, y } = this.#view;
      const moves = {
        ArrowLeft: () => this.#go({ ...this.#view, x: x - by }),
        ArrowRight: () => this.#go({ ...this.#view, x: x + by }),
        ArrowUp: () => this.#go({ ...this.#view, y: y - by }),
        ArrowDown: () => this.#go({ ...this.#view, y: y + by }),
        "+": () => this.#nearer(1.5),
        "-": () => this.#nearer(1 / 1.5),
      };
      if (!moves[event.key]) return;
      event.preventDefault();
      moves[event.key]();
    });
  }

  #nearer(by) {
    this.#go({ ...this.#view, zoom: Math.min(Math.max(this.#view.zoom * by, 1), 64) });
  }

  #go(view) {
    this.#view = view;
    this.redraw();
  }

  /** Where each point stands on the canvas, in CSS pixels. */
  #places(width, height) {
    const { points } = this.data;
    const axis = (at) => {
      const values = points.map((point) => point[at]).filter(Number.isFinite);
      const [least, most] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
      return (value) => 0.03 + (0.94 * (value - least)) / (most - least || 1);
    };
    const [across, up] = [axis(0), axis(1)];
    const { x, y, zoom } = this.#view;
    return points.map(([px, py]) => [
      ((across(px) - x) * zoom + 0.5) * width,
      ((1 - up(py) - y) * zoom + 0.5) * height,
    ]);
  }

  draw() {
    const { tokens, marked = new Set(), share } = this.data;
    const { width, height } = this.canvas.getBoundingClientRect();
    if (!width) return; // not seen
    const scale = devicePixelRatio;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const [dot, mark, ink] = INK[isDark() ? "dark" : "light"];
    const wanted = this.find.value.toLowerCase();
    const found = (i) => wanted && tokens[i].text.toLowerCase().includes(wanted);
    this.places = this.#places(width, height);
    pen.globalAlpha = 0.55;
    pen.fillStyle = dot;
    const size = Math.min(1.2 + 0.35 * this.#view.zoom, 4);
    this.places.forEach(([x, y]) => pen.fillRect(x - size / 2, y - size / 2, size, size));
    pen.globalAlpha = 1;
    pen.font = "12px ui-monospace, monospace";
    const named = this.#named(width, height, found);
    for (const i of named) {
      const [x, y] = this.places[i];
      const stands = marked.has(tokens[i].id) || found(i);
      pen.fillStyle = stands ? mark : ink;
      if (stands) {
        pen.beginPath();
        pen.arc(x, y, 4, 0, 2 * Math.PI);
        pen.fill();
      }
      pen.fillText(tokens[i].text, x + 6, y + 4);
    }
    const many = share ? ` These two axes hold ${percent(share[0] + share[1])} of how their embeddings differ.` : "";
    this.note.textContent = `${tokens.length.toLocaleString("en")} tokens.${many}`;
  }

  /** Those whose names are written: what is marked or found, and what else there is room for. */
  #named(width, height, found) {
    const { tokens, marked = new Set() } = this.data;
    const taken = new Set();
    const chosen = [];
    const order = [...tokens.keys()].sort((a, b) => rank(b) - rank(a) || a - b);
    function rank(i) {
      return (found(i) ? 2 : 0) + (marked.has(tokens[i].id) ? 1 : 0);
    }
    for (const i of order) {
      const [x, y] = this.places[i];
      if (!(x >= 0 && x < width - 20 && y >= 8 && y < height - 4)) continue;
      const cells = Array.from({ length: Math.ceil((tokens[i].text.length * 7.4 + 12) / 40) + 1 }, (_, c) => `${Math.floor(x / 40) + c},${Math.floor(y / 16)}`);
      if (cells.some((cell) => taken.has(cell))) continue;
      cells.forEach((cell) => taken.add(cell));
      chosen.push(i);
      if (chosen.length > 150) break;
    }
    return chosen;
  }

  #words(event) {
    if (!this.places || event.type === "focusin") return null;
    const { left, top } = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    let [nearest, distance] = [-1, NEAR];
    this.places.forEach(([px, py], i) => {
      const far = Math.hypot(px - x, py - y);
      if (far < distance) [nearest, distance] = [i, far];
    });
    if (nearest < 0) return null;
    const { tokens, points } = this.data;
    return `${tokens[nearest].text}  token ${tokens[nearest].id}\nat ${points[nearest].map((v) => v.toFixed(3)).join(", ")}`;
  }
}

define("be-scatter-map", ScatterMap);
