/** The record of one run: what is known of it so far, and what comes while it learns. */

import { part } from "../api.js";

const POINTS = 1000;
const MOST_POINTS = 4000; // of a curve that grew while one looked on; then it is asked for anew
const MOST_HEARD = 2; // streams at a time: a browser opens six connections to one server, for all of its tabs

let heard = 0;

export class Course {
  /**
   * @param {import("../api.js").Api} api
   * @param {string} name
   * @param {() => void} changed
   */
  constructor(api, name, changed) {
    Object.assign(this, { api, name, changed });
    this.hide = () => document.hidden && this.#deaf(); // who looks again listens again, from where it was
    document.addEventListener("visibilitychange", this.hide);
    this.at = `/runs/${part(name)}`;
    this.found = null;
  }

  async load() {
    this.found = await this.api.get(`${this.at}/learning?points=${POINTS}`);
    this.changed();
    if (this.found.state === "learning") this.listen();
  }

  /**
   * From where it is, for as long as it learns; asked for anew where others are listened to, or it has ended meanwhile.
   * @param {string} state of the run, by now
   */
  follow(state) {
    if (this.events?.readyState === EventSource.CLOSED) this.#deaf(); // refused, as by another launch of the studio
    if (this.events || !this.found || this.loading) return;
    if (state === "learning" && heard < MOST_HEARD) return this.listen();
    this.loading = this.load()
      .catch(() => {}) // the next time, perhaps
      .finally(() => (this.loading = null));
  }

  listen() {
    if (this.events || this.closed || !this.found || document.hidden || heard === MOST_HEARD) return;
    heard += 1;
    this.events = this.api.events(`${this.at}/events?since=${this.found.cursor}`);
    this.events.addEventListener("message", (event) => this.#take(JSON.parse(event.data)));
  }

  close() {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.hide);
    this.#deaf();
  }

  #deaf() {
    if (!this.events) return;
    this.events.close();
    this.events = null;
    heard -= 1;
  }

  #take({ series, notes, samples, back_to, ...rest }) {
    const known = this.found;
    if (back_to !== undefined) goBack(known, back_to);
    Object.assign(known, rest);
    let longest = 0;
    for (const [name, points] of Object.entries(series)) {
      const curve = (known.series[name] ??= []);
      while (curve.length && curve.at(-1)[0] >= points[0][0]) curve.pop();
      curve.push(...points);
      longest = Math.max(longest, curve.length);
    }
    known.notes = joined(known.notes, notes, ({ step, name }) => `${step} ${name}`);
    known.samples = joined(known.samples, samples, ({ step }) => step);
    this.changed();
    if (known.state !== "learning") this.#deaf();
    else if (longest > MOST_POINTS) {
      this.#deaf();
      this.load().catch(() => this.listen());
    }
  }
}

/** What was learned after a step was undone. */
function goBack(known, step) {
  const before = (thing) => thing.step <= step;
  for (const [name, curve] of Object.entries(known.series)) known.series[name] = curve.filter(([at]) => at <= step);
  known.notes = known.notes.filter(before);
  known.samples = known.samples.filter(before);
}

/** What comes again takes the place of what was there. */
function joined(old, fresh, key) {
  if (!fresh.length) return old;
  return [...new Map([...old, ...fresh].map((each) => [key(each), each])).values()];
}
