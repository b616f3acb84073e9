/**
 * Curves over the steps of a training, on a canvas. Numbers on hover; drag to look closer, a double click shows all again.
 * With the keyboard: arrows go from step to step, + and - come nearer and go away, 0 shows all.
 *
 * data: {label: string, unit?: string, lines: Line[], levels?: {name, value, words?}[], notes?: {step, words}[],
 *        range?: [number, number] | null, log?: boolean}
 * Line: {name, points: [step, value | null][], color: number (of COLORS), faint?: boolean, dash?: boolean, dots?: boolean,
 *        group?: string (lines of one group share an entry of the legend)}
 * Tells "range" {range}: what part of the steps is asked for, null for all; and "note" {index} when a pin is chosen.
 */

import { nearest, powers, say, ticks } from "./axes.js";
import { isDark } from "./colors.js";
import { DataElement } from "./data-element.js";
import { define, make, tell } from "./define.js";
import { hideHint, showHint } from "./hint.js";

/** After Okabe and Ito 2008: told apart by the color-blind too. */
const COLORS = {
  light: ["#0072b2", "#d55e00", "#007a5a", "#b3568c", "#9a6b00", "#2a8fc7", "#5b6b7a", "#10202c"],
  dark: ["#56b4e9", "#f0883e", "#2fbf94", "#e08abb", "#e6b23c", "#9bd3f0", "#93a7b5", "#e3edf3"],
};
const INK = {
  light: { text: "#546673", grid: "#e3eaef", level: "#7a8a99", note: "#a3260f", page: "#ffffff" },
  dark: { text: "#93a7b5", grid: "#22303c", level: "#7a8fa0", note: "#ff9b85", page: "#121a22" },
};
const MARGIN = { left: 52, right: 12, top: 18, bottom: 22 };
const MOST_SAID = 12; // lines in a hint
const LEAST_DRAG = 6; // pixels
const PIN = 9; // pixels around a pin

export class LineChart extends DataElement {
  #hidden = new Set();
  #cursor = null; // a step
  #drag = null;
  #waiting = 0;

  build() {
    this.canvas = make("canvas", { class: "be-chart", tabindex: 0, role: "img" });
    this.legend = make("div", { class: "be-legend" });
    this.append(this.canvas, this.legend);
    this.#listen();
    new ResizeObserver(() => this.redraw()).observe(this.canvas);
  }

  /** However often new points come, one drawing a frame. */
  redraw() {
    if (!this.ready || this.#waiting) return;
    this.#waiting = requestAnimationFrame(() => {
      this.#waiting = 0;
      super.redraw();
    });
  }

  // What a person does ---------------------------------------------------------------------------------------------------

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !this.frame) return;
      canvas.setPointerCapture(event.pointerId);
      this.#drag = { from: event.offsetX, to: event.offsetX };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.frame) return;
      if (this.#drag) this.#drag.to = event.offsetX;
      this.#point(this.#stepAt(event.offsetX), event.clientX, event.clientY);
    });
    canvas.addEventListener("pointerup", (event) => {
      const drag = this.#drag;
      this.#drag = null;
      if (!drag) return;
      if (Math.abs(drag.to - drag.from) > LEAST_DRAG) {
        const [from, to] = [drag.from, drag.to].map((x) => this.#stepAt(x)).sort((a, b) => a - b);
        this.#ask([from, to]);
      } else {
        this.#choosePin(event.offsetX);
      }
      this.redraw();
    });
    canvas.addEventListener("pointercancel", () => (this.#drag = null));
    canvas.addEventListener("pointerleave", () => this.#leave());
    canvas.addEventListener("blur", () => this.#leave());
    canvas.addEventListener("dblclick", () => this.#ask(null));
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    if (!this.frame) return;
    const { first, last } = this.frame;
    const at = this.#cursor ?? first;
    const half = (last - first) / 2;
    const by = Math.max(half / 50, 1);
    const acts = {
      ArrowRight: () => this.#pointByKey(at + by),
      ArrowLeft: () => this.#pointByKey(at - by),
      Home: () => this.#pointByKey(first),
      End: () => this.#pointByKey(last),
      "+": () => this.#ask([at - half / 2, at + half / 2]),
      "-": () => this.#ask([at - half * 2, at + half * 2]),
      0: () => this.#ask(null),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  }

  #pointByKey(step) {
    const { left, top } = this.canvas.getBoundingClientRect();
    const { first, last, x } = this.frame;
    const at = Math.min(Math.max(step, first), last);
    this.#point(at, left + x(at), top + MARGIN.top);
  }

  #point(step, clientX, clientY) {
    this.#cursor = step;
    this.redraw();
    showHint(this.#words(step), clientX, clientY);
  }

  #leave() {
    this.#cursor = null;
    hideHint();
    this.redraw();
  }

  #ask(range) {
    const whole = this.#extent();
    let asked = range && [Math.max(range[0], whole[0]), Math.min(range[1], whole[1])];
    if (asked && (asked[1] - asked[0] < 2 || asked[1] - asked[0] >= whole[1] - whole[0])) {
      asked = asked[1] - asked[0] < 2 ? this.data.range ?? null : null;
    }
    this.data = { ...this.data, range: asked };
    tell(this, "range", { range: asked });
  }

  #choosePin(x) {
    const near = (this.data.notes ?? []).findIndex(({ step }) => Math.abs(this.frame.x(step) - x) <= PIN);
    if (near >= 0) tell(this, "note", { index: near });
  }

  #stepAt(x) {
    const { first, last, width } = this.frame;
    const share = (x - MARGIN.left) / (width - MARGIN.left - MARGIN.right);
    return first + Math.min(Math.max(share, 0), 1) * (last - first);
  }

  /** The numbers of all lines at a step, and what is pinned there. */
  #words(step) {
    const { notes = [], levels = [], unit = "" } = this.data;
    const found = this.#seen().map((line) => ({ line, point: nearest(line.points, step) })).filter(({ point }) => point);
    const at = found.reduce((best, { point }) => (Math.abs(point[0] - step) < Math.abs(best - step) ? point[0] : best), Infinity);
    const said = found.slice(0, MOST_SAID).map(({ line, point }) => {
      const where = point[0] === at ? "" : ` (step ${point[0].toLocaleString("en")})`;
      return `${line.name}: ${say(point[1])}${where}`;
    });
    const more = found.length > MOST_SAID ? [`and ${found.length - MOST_SAID} more`] : [];
    const pinned = notes.filter((note) => Math.abs(this.frame.x(note.step) - this.frame.x(step)) <= PIN).map(({ words }) => `▼ ${words}`);
    const known = this.data.sayLevels === false ? [] : levels.map(({ name, value }) => `${name}: ${say(value)}`);
    const head = Number.isFinite(at) ? `step ${at.toLocaleString("en")}${unit && `, ${unit}`}` : `step ${Math.round(step)}`;
    return [head, ...said, ...more, ...known, ...pinned].join("\n");
  }

  // The drawing ----------------------------------------------------------------------------------------------------------

  #seen() {
    return this.data.lines.filter((line) => !this.#hidden.has(line.group ?? line.name) && line.points.length);
  }

  #extent() {
    const ends = this.data.lines.filter(({ points }) => points.length).map(({ points }) => [points[0][0], points.at(-1)[0]]);
    const first = Math.min(...ends.map(([from]) => from), Infinity);
    const last = Math.max(...ends.map(([, to]) => to), -Infinity);
    return Number.isFinite(first) ? [first, Math.max(last, first + 1)] : [0, 1];
  }

  draw() {
    const { width, height } = this.canvas.getBoundingClientRect();
    if (!width) return; // not seen
    this.canvas.setAttribute("aria-label", this.data.label);
    this.#drawLegend();
    const scale = devicePixelRatio;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.font = "11px system-ui, sans-serif";
    const theme = isDark() ? "dark" : "light";
    this.frame = this.#frameOf(width, height);
    this.#drawAxes(pen, INK[theme]);
    pen.save();
    pen.beginPath();
    pen.rect(MARGIN.left, MARGIN.top - 2, width - MARGIN.left - MARGIN.right, height - MARGIN.top - MARGIN.bottom + 4);
    pen.clip();
    for (const level of this.data.levels ?? []) this.#drawLevel(pen, level, INK[theme]);
    for (const line of this.#seen()) this.#drawLine(pen, line, COLORS[theme][line.color % COLORS[theme].length]);
    pen.restore();
    (this.data.notes ?? []).forEach(({ step }) => this.#drawPin(pen, step, INK[theme]));
    this.#drawCursor(pen, INK[theme]);
  }

  /** Which steps and values are seen, and where each stands. */
  #frameOf(width, height) {
    const { range, log = false, levels = [] } = this.data;
    const [first, last] = range ?? this.#extent();
    let [low, high] = [Infinity, -Infinity];
    for (const { points } of this.#seen()) {
      for (const [step, value] of points) {
        if (value === null || step < first || step > last || (log && value <= 0)) continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
    if (!range) {
      for (const { value } of levels) [low, high] = [Math.min(low, value), Math.max(high, value)];
    }
    if (!Number.isFinite(low)) [low, high] = [log ? 0.1 : 0, 1];
    if (low === high) [low, high] = log ? [low / 2, high * 2] : low === 0 ? [0, 1] : [low - Math.abs(low) / 10, high + Math.abs(high) / 10];
    const t = log ? Math.log10 : (value) => value;
    const room = (t(high) - t(low)) * 0.04;
    const [bottom, top] = [t(low) - room, t(high) + room];
    const x = (step) => MARGIN.left + ((step - first) / (last - first)) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => height - MARGIN.bottom - ((t(value) - bottom) / (top - bottom)) * (height - MARGIN.top - MARGIN.bottom);
    return { first, last, bottom, top, x, y, width, height, log };
  }

  #drawAxes(pen, ink) {
    const { first, last, bottom, top, x, y, width, height, log } = this.frame;
    pen.strokeStyle = ink.grid;
    pen.fillStyle = ink.text;
    pen.lineWidth = 1;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    const values = log ? powers(bottom, top) : ticks(bottom, top, Math.max(2, Math.floor(height / 45)));
    for (const value of values) {
      const at = Math.round(y(value)) + 0.5;
      line(pen, MARGIN.left, at, width - MARGIN.right, at);
      pen.fillText(say(value), MARGIN.left - 6, at);
    }
    pen.textBaseline = "top";
    for (const step of ticks(first, last, Math.max(2, Math.floor(width / 110)))) {
      const at = Math.round(x(step)) + 0.5;
      line(pen, at, height - MARGIN.bottom, at, height - MARGIN.bottom + 4);
      pen.textAlign = at > width - 40 ? "right" : "center";
      pen.fillText(step.toLocaleString("en"), at > width - 40 ? width - 2 : at, height - MARGIN.bottom + 6);
    }
    pen.textAlign = "left";
    pen.fillText(this.data.label, 4, 2);
  }

  #drawLevel(pen, { name, value }, ink) {
    const { y, width, bottom, log } = this.frame;
    if ((log ? Math.log10(value) : value) < bottom) return;
    const at = Math.round(y(value)) + 0.5;
    pen.strokeStyle = ink.level;
    pen.fillStyle = ink.level;
    pen.setLineDash([2, 4]);
    line(pen, MARGIN.left, at, width - MARGIN.right, at);
    pen.setLineDash([]);
    pen.textAlign = "right";
    pen.textBaseline = "bottom";
    pen.fillText(name, width - MARGIN.right - 2, at - 1);
  }

  #drawLine(pen, { points, faint, dash, dots }, color) {
    const { first, last, x, y, log } = this.frame;
    pen.strokeStyle = color;
    pen.fillStyle = color;
    pen.globalAlpha = faint ? 0.35 : 1;
    pen.lineWidth = faint ? 1 : 1.8;
    pen.setLineDash(dash ? [5, 3] : []);
    pen.lineJoin = "round";
    pen.beginPath();
    let gap = true;
    for (let i = 0; i < points.length; i++) {
      const [step, value] = points[i];
      if ((points[i + 1]?.[0] ?? step) < first || (points[i - 1]?.[0] ?? step) > last) continue; // out of sight
      if (value === null || (log && value <= 0)) {
        gap = true;
        continue;
      }
      if (gap) pen.moveTo(x(step), y(value));
      else pen.lineTo(x(step), y(value));
      gap = false;
    }
    pen.stroke();
    pen.setLineDash([]);
    if (dots || points.length === 1) {
      for (const [step, value] of points) {
        if (value === null) continue;
        pen.beginPath();
        pen.arc(x(step), y(value), 2.6, 0, 2 * Math.PI);
        pen.fill();
      }
    }
    pen.globalAlpha = 1;
  }

  #drawPin(pen, step, ink) {
    const { first, last, x, height } = this.frame;
    if (step < first || step > last) return;
    const at = x(step);
    pen.strokeStyle = ink.note;
    pen.fillStyle = ink.note;
    pen.setLineDash([1, 3]);
    line(pen, at, MARGIN.top, at, height - MARGIN.bottom);
    pen.setLineDash([]);
    pen.beginPath();
    pen.moveTo(at - 5, MARGIN.top - 8);
    pen.lineTo(at + 5, MARGIN.top - 8);
    pen.lineTo(at, MARGIN.top);
    pen.fill();
  }

  #drawCursor(pen, ink) {
    const { x, height } = this.frame;
    if (this.#drag && Math.abs(this.#drag.to - this.#drag.from) > LEAST_DRAG) {
      pen.globalAlpha = 0.15;
      pen.fillStyle = ink.text;
      pen.fillRect(this.#drag.from, MARGIN.top, this.#drag.to - this.#drag.from, height - MARGIN.top - MARGIN.bottom);
      pen.globalAlpha = 1;
    }
    if (this.#cursor === null) return;
    pen.strokeStyle = ink.text;
    const at = Math.round(x(this.#cursor)) + 0.5;
    line(pen, at, MARGIN.top, at, height - MARGIN.bottom);
  }

  /** A button for each line, or group of lines: it hides them. */
  #drawLegend() {
    const groups = new Map(this.data.lines.toReversed().map((each) => [each.group ?? each.name, each])); // the first of each
    if (groups.size < 2) return this.legend.replaceChildren();
    const theme = isDark() ? "dark" : "light";
    const names = [...groups.keys()].reverse();
    const same = names.join("\n") === [...this.legend.children].map((child) => child.textContent).join("\n");
    if (!same) this.legend.replaceChildren(...names.map((name) => this.#entry(name)));
    names.forEach((name, i) => {
      const entry = this.legend.children[i];
      const { color, faint, dash } = groups.get(name);
      entry.style.setProperty("--swatch", COLORS[theme][color % COLORS[theme].length]);
      entry.classList.toggle("be-faint", Boolean(faint));
      entry.classList.toggle("be-dashed", Boolean(dash));
      entry.setAttribute("aria-pressed", String(!this.#hidden.has(name)));
    });
  }

  #entry(name) {
    const flip = () => {
      if (!this.#hidden.delete(name)) this.#hidden.add(name);
      this.redraw();
    };
    return make("button", { type: "button", class: "be-entry", onclick: flip }, name);
  }
}

function line(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

define("be-line-chart", LineChart);
