/**
 * The Source over data that is in the page: `engine.js` computes what the live server would be asked for.
 *
 * @typedef {import("./tokenizer.js").Turn} Turn
 * @typedef {object} Table what `export/html.py` says of a run
 * @property {string} name
 * @property {"chat" | "text"} kind
 * @property {string} character
 * @property {number} parameters
 * @property {object} config
 * @property {import("./sampling.js").Sampling} sampling
 * @property {number[]} steps those that there are weights of, the newest last
 * @property {{[name: string]: {shape: number[], int8: boolean}}} shapes
 * @property {object} tokenizer tokenizer.json
 * @property {{tidy: boolean, system: string} | null} chat
 * @property {string} system the turn that a chat begins with, or ""
 */

import { attribution, expected, lens, neurons, pattern, read, residual, stages } from "./answers.js";
import { switchedOff } from "./edits.js";
import { KVCache, forward } from "./engine.js";
import { randomNumbers, sample, topK } from "./sampling.js";
import { Tokenizer } from "./tokenizer.js";
import { unpack } from "./weights.js";

const LONGEST_REPLY = 128;
const LONGEST_TEXT = 200; // tokens, of a model that goes on with a text
const TOP = 50; // logits told of each token that is said
const PASSES_KEPT = 4;

export class EmbeddedSource {
  /**
   * @param {Table} table
   * @param {(step: number) => Promise<ArrayBuffer>} bytesOf the weights of a step, as they were packed
   */
  constructor(table, bytesOf) {
    this.table = table;
    this.bytesOf = bytesOf;
    this.tokenizer = new Tokenizer(table.tokenizer, table.chat);
    /** @type {Map<number, Promise<import("./engine.js").Weights>>} */
    this.weights = new Map();
    /** @type {Map<string, import("./answers.js").Pass>} the last ones, by what was asked */
    this.passes = new Map();
  }

  async info() {
    const { name, kind, character, parameters, config, steps, sampling } = this.table;
    return { name, kind, character, parameters, config, steps, sampling };
  }

  async tokenize(text) {
    return this.tokenizer.tokens(this.tokenizer.encode(text));
  }

  /** The text of a token for the eye. */
  tokenText(id) {
    return this.tokenizer.tokenText(id);
  }

  /** One text as the model reads it; see the contract of the Source for what can be wanted. */
  async look(request) {
    const began = performance.now();
    const { want = [], k = 10 } = request;
    const pass = await this.#pass(this.#ids(request), request.step ?? null, request.off ?? []);
    const last = pass.ids.length - 1;
    const position = request.position ?? last;
    if (!(position >= 0 && position <= last)) throw new Error(`there is no position ${position}; there are 0 to ${last}`);
    const named = (entry) => ({ ...entry, text: this.tokenizer.tokenText(entry.id) });
    const { top, loss } = expected(pass, k);
    const header = { tokens: this.tokenizer.tokens(pass.ids), loss, top: top.map((row) => row.map(named)) };
    const arrays = {};
    if (want.includes("pattern")) arrays.pattern = pattern(pass);
    if (want.includes("lens")) {
      const { rows, probability } = lens(pass);
      header.lens = rows.map((row) => row.map(named));
      arrays.lens_probability = probability;
    }
    if (want.includes("stages")) {
      const { scores, pattern: attended, z, result } = stages(pass, request.layer ?? 0, request.head ?? 0);
      Object.assign(arrays, { scores, z, result, [want.includes("pattern") ? "head_pattern" : "pattern"]: attended });
    }
    if (want.includes("residual")) Object.assign(arrays, residual(pass));
    if (want.includes("neurons")) {
      const words = (found) => ({ ...found, writes: found.writes.map((id) => this.tokenizer.tokenText(id)) });
      header.neurons = neurons(pass, position, k).map((layer) => layer.map(words));
    }
    if (want.includes("attribution")) {
      header.attribution = attribution(pass, request.token ?? top[position][0].id, position);
    }
    if (want.includes("logits")) {
      const size = this.table.config.vocab_size;
      arrays.logits = { shape: [size], data: pass.logits_TV.slice(position * size, (position + 1) * size) };
    }
    header.seconds = (performance.now() - began) / 1000;
    return { header, arrays };
  }

  /** The reply to a conversation (or how a text goes on), token by token. */
  async *talk({ turns, step = null, off = [], sampling, seed = -1 }) {
    const { config, kind } = this.table;
    const weights = await this.#weightsOf(step);
    const isChat = kind === "chat";
    const ids = isChat ? this.#fit(turns) : this.tokenizer.encode(turns.map((turn) => turn.content).join(""));
    if (ids.length === 0) throw new Error("say something");
    const longest = isChat ? Math.min(longestReply(config), config.context_length - ids.length) : LONGEST_TEXT;
    const cache = new KVCache(config);
    const edits = switchedOff(off, () => cache.length);
    const drawn = { ...this.table.sampling, ...sampling };
    const numbers = randomNumbers(seed);
    const text = this.tokenizer.stream();
    let unread = ids.slice(-config.context_length);
    const prompt = [...ids];
    for (let said = 0; said < longest; said++) {
      const logits_V = forward(weights, config, unread, cache, edits.tap, true);
      edits.check();
      const id = sample(logits_V, drawn, drawn.repetition_penalty === 1 ? [] : ids, numbers());
      if (this.tokenizer.stopIds.has(id)) break;
      const top = topK(logits_V, TOP).map((each) => this.#named(each, logits_V[each]));
      yield { id, text: text.feed(id), top, position: ids.length, read: cache.length, ...(said ? {} : { prompt }) };
      ids.push(id);
      unread = [id];
      if (cache.length === config.context_length) {
        cache.length = 0; // full: its later half is read anew
        unread = ids.slice(-Math.max(1, config.context_length >> 1));
      }
      await pause();
    }
    yield { done: true, ids, text: text.finish() };
  }

  #named(id, logit) {
    return { id, text: this.tokenizer.tokenText(id), logit };
  }

  /** The ids of the latest whole exchanges that leave room for a reply, as `inference/chat.py` trims them. */
  #fit(turns) {
    const room = this.table.config.context_length;
    for (;;) {
      const ids = this.tokenizer.encodeChat(this.#withSystem(turns));
      if (ids.length <= room - longestReply(this.table.config) || turns.length === 1) {
        if (ids.length < room) return ids;
        throw new Error(`that is ${ids.length} tokens, and the model sees ${room} at a time; say it shorter`);
      }
      turns = turns.slice(2); // the oldest exchange: what was asked and what was answered go together
    }
  }

  #withSystem(turns) {
    const named = this.table.system && turns[0]?.role !== "system";
    return named ? [{ role: "system", content: this.table.system }, ...turns] : turns;
  }

  #ids({ text = null, turns = null, ids = null }) {
    if (ids) return ids;
    return turns ? this.tokenizer.encodeChat(this.#withSystem(turns)) : this.tokenizer.encode(text);
  }

  /** A pass that was made before is not made again. */
  async #pass(ids, step, off) {
    const key = JSON.stringify([ids, step, [...off].sort()]);
    const pass = this.passes.get(key) ?? read(await this.#weightsOf(step), this.table.config, ids, off);
    this.passes.delete(key);
    this.passes.set(key, pass); // now the newest
    if (this.passes.size > PASSES_KEPT) this.passes.delete(this.passes.keys().next().value);
    return pass;
  }

  #weightsOf(step) {
    const { steps, shapes } = this.table;
    const wanted = step ?? steps.at(-1);
    if (!steps.includes(wanted)) throw new Error(`there is no step ${wanted}; there are ${steps.join(", ")}`);
    if (!this.weights.has(wanted)) {
      this.weights.set(wanted, this.bytesOf(wanted).then((buffer) => unpack(shapes, buffer)));
    }
    return this.weights.get(wanted);
  }
}

function longestReply(config) {
  return Math.min(LONGEST_REPLY, Math.max(1, config.context_length >> 1));
}

/** Lets the page draw and listen; a timer would wait for some milliseconds each time. */
function pause() {
  return new Promise((resolve) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      channel.port1.close();
      resolve();
    };
    channel.port2.postMessage(null);
  });
}
