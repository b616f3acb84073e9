/** The Source over the server: a run that lies on this machine. See `source.js`. */

import { part } from "./api.js";
import { decodeFrame } from "./frames.js";

export class LiveSource {
  /**
   * @param {import("./api.js").Api} api
   * @param {string} name of the run
   */
  constructor(api, name) {
    this.api = api;
    this.at = `/runs/${part(name)}`;
    /** @type {Map<number, string>} the texts of the tokens that were met, by their ids */
    this.texts = new Map();
  }

  /** What `info` tells, which has to be known before anything else is asked. */
  async open() {
    this.known = await this.info();
    return this.known;
  }

  async info() {
    const found = await this.api.get(this.at);
    return { ...found, character: found.character || found.name };
  }

  tokenize(text) {
    return this.api.get(`${this.at}/tokens?text=${part(text)}`);
  }

  /** @param {import("./source.js").Look} request */
  async look(request) {
    const asText = typeof request.text === "string"; // as it stands, and not as what a person says
    const response = await this.api.send(`${this.at}/look`, this.#given({ ...request, as_text: asText || null }));
    const glance = decodeFrame(await response.arrayBuffer());
    this.#remember([glance.header.tokens, ...glance.header.top]);
    return glance;
  }

  /** The text of a token for the eye, of those that were met. */
  tokenText(id) {
    return this.texts.get(id) ?? `token ${id}`;
  }

  #remember(rows) {
    for (const row of rows) for (const { id, text } of row) this.texts.set(id, text);
  }

  /** Whoever stops taking tokens stops the model too. @param {import("./source.js").Talk} request */
  async *talk({ signal, ...request }) {
    const stop = new AbortController();
    signal?.addEventListener("abort", () => stop.abort());
    const response = await this.api.send(`${this.at}/talk`, this.#given(request), stop.signal);
    const lines = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    try {
      for (;;) {
        const { value, done } = await lines.read();
        if (done) return;
        const pieces = (rest + value).split("\n");
        rest = pieces.pop();
        for (const piece of pieces) {
          const said = JSON.parse(piece);
          this.#remember([said.top ?? []]);
          yield said;
        }
      }
    } finally {
      lines.cancel().catch(() => {}); // already ended, perhaps
      stop.abort();
    }
  }

  /** Without what is not given, so that the server's defaults hold. */
  #given(request) {
    return Object.fromEntries(Object.entries(request).filter(([, value]) => value !== null && value !== undefined));
  }
}
