/**
 * What a pass of `engine.js` shows: what `lens` computes of a View, as arrays and words for the page.
 *
 * T time (position), C channels (`d_model`), D channels per head, V vocabulary, F feed-forward.
 *
 * @typedef {object} Pass one text as one model read it
 * @property {import("./engine.js").Weights} weights
 * @property {object} config
 * @property {number[]} ids
 * @property {Float32Array} logits_TV of the token after each position
 * @property {Map<string, {data: Float32Array, shape: number[]}>} seen every activation by its name
 * @property {Set<string>} edited the names of those that were interfered with
 * @property {KVCache} cache
 *
 * @typedef {{shape: number[], data: Float32Array}} Shaped
 */

import { KVCache, dot, forward, norm, sizes, softmax, unembed } from "./engine.js";
import { headAddress, switchedOff } from "./edits.js";
import { topK } from "./sampling.js";

/**
 * Reads a text and keeps all that happened.
 * @param {string[]} off addresses of what is switched off
 * @returns {Pass}
 */
export function read(weights, config, ids, off) {
  const seen = new Map();
  const cache = new KVCache({ ...config, context_length: Math.min(config.context_length, ids.length) });
  const edits = switchedOff(off, () => 0, (name, data, shape) => {
    seen.set(name, { data, shape });
    return data;
  });
  if (ids.length === 0) throw new Error("there is nothing to look at: the text is empty");
  if (ids.length > config.context_length) {
    throw new Error(`that is ${ids.length} tokens, and the model sees ${config.context_length} at a time; shorten it`);
  }
  const logits_TV = forward(weights, config, ids, cache, edits.tap);
  edits.check();
  return { weights, config, ids, logits_TV, seen, edited: edits.edited, cache };
}

/** Attention weights, (L, H, T, T). */
export function pattern({ config, ids, seen }) {
  const shape = [config.n_layers, config.n_heads, ids.length, ids.length];
  const data = new Float32Array(shape.reduce((a, b) => a * b));
  for (let layer = 0; layer < config.n_layers; layer++) {
    data.set(seen.get(`blocks.${layer}.attn.hook_pattern`).data, (layer * data.length) / config.n_layers);
  }
  return { shape, data };
}

/** The likeliest tokens after each position and the loss of each token, null for the first. */
export function expected({ config, ids, logits_TV }, k) {
  const probs_TV = softmax(logits_TV, config.vocab_size);
  const row = (t) => probs_TV.subarray(t * config.vocab_size, (t + 1) * config.vocab_size);
  const top = ids.map((_, t) => topK(row(t), k).map((id) => ({ id, probability: row(t)[id] })));
  const loss = ids.map((id, t) => (t === 0 ? null : -Math.log(Math.max(row(t - 1)[id], 1e-38))));
  return { top, loss };
}

/** What would be said if the model ended after the embedding, or after each block (nostalgebraist 2020). */
export function lens(pass) {
  const { weights, config, ids, logits_TV, seen } = pass;
  const probability = new Float32Array((config.n_layers + 1) * ids.length).fill(NaN);
  const rows = [];
  for (let place = 0; place <= config.n_layers; place++) {
    const name = place ? `blocks.${place - 1}.hook_resid_post` : "blocks.0.hook_resid_pre";
    const last = place === config.n_layers;
    const logits = last ? logits_TV : unembed(weights, config, seen.get(name).data);
    const probs_TV = softmax(logits, config.vocab_size);
    rows.push(
      ids.map((_, t) => {
        const row = probs_TV.subarray(t * config.vocab_size, (t + 1) * config.vocab_size);
        if (t + 1 < ids.length) probability[place * ids.length + t] = row[ids[t + 1]];
        const [id] = topK(row, 1);
        return { id, probability: row[id] };
      }),
    );
  }
  return { rows, probability: { shape: [config.n_layers + 1, ids.length], data: probability } };
}

/** One head from the inside: scores before the mask, pattern, what it gathers (z), and how much it adds to the stream. */
export function stages(pass, layer, head) {
  const { weights, config, ids, seen, cache } = pass;
  const { kvHeads, dHead } = sizes(config);
  const n = ids.length;
  const at = `blocks.${layer}.attn.`;
  const q_THD = queries(pass, at);
  const keys = cache.keys_LTHD[layer];
  const group = Math.floor((head * kvHeads) / config.n_heads) * dHead;
  const scores = new Float32Array(n * n).map((_, i) => {
    const from = (Math.floor(i / n) * config.n_heads + head) * dHead;
    return dot(q_THD, from, keys, (i % n) * kvHeads * dHead + group, dHead) / Math.sqrt(dHead);
  });
  const z_THD = seen.get(at + "hook_z").data;
  const z = new Float32Array(n * dHead).map((_, i) => {
    return z_THD[(Math.floor(i / dHead) * config.n_heads + head) * dHead + (i % dHead)];
  });
  const { rows, columns, int8, scales } = weights[at + "out.weight"];
  const result = new Float32Array(n).map((_, t) => {
    let sum = 0;
    for (let c = 0; c < rows; c++) {
      sum += (dot(z, t * dHead, int8, c * columns + head * dHead, dHead) * scales[c]) ** 2;
    }
    return Math.sqrt(sum);
  });
  const pattern_HQK = seen.get(at + "hook_pattern").data;
  return {
    scores: { shape: [n, n], data: scores },
    pattern: { shape: [n, n], data: pattern_HQK.slice(head * n * n, (head + 1) * n * n) },
    z: { shape: [n, dHead], data: z },
    result: { shape: [n], data: result },
  };
}

/** As they meet the keys. */
function queries({ weights, config, seen }, at) {
  if (config.positions === "rope") return seen.get(at + "hook_rot_q").data;
  const q_THD = seen.get(at + "hook_q").data;
  return config.qk_norm ? norm(weights, config, at + "q_norm", q_THD) : q_THD;
}

/** Lengths in the stream: of the sum before the first block and after each one, and of what each sublayer adds. */
export function residual({ config, ids, seen }) {
  const layers = [...Array(config.n_layers).keys()];
  const lengths = (names) => {
    const rows = names.map((name) => (seen.has(name) ? rowLengths(seen.get(name)) : new Float32Array(ids.length)));
    return { shape: [names.length, ids.length], data: Float32Array.from(rows.flatMap((row) => [...row])) };
  };
  return {
    resid_norm: lengths(["blocks.0.hook_resid_pre", ...layers.map((layer) => `blocks.${layer}.hook_resid_post`)]),
    attn_norm: lengths(layers.map((layer) => `blocks.${layer}.hook_attn_out`)),
    mlp_norm: lengths(layers.map((layer) => `blocks.${layer}.hook_mlp_out`)),
  };
}

function rowLengths({ data, shape: [n, width] }) {
  return new Float32Array(n).map((_, t) => Math.sqrt(dot(data, t * width, data, t * width, width)));
}

/** For each layer the k most active neurons at a position, and the tokens that each makes most likely. */
export function neurons({ weights, config, seen }, position, k, writes = 5) {
  if (!config.d_ff) return [];
  return [...Array(config.n_layers).keys()].map((layer) => {
    const post_F = at(seen.get(`blocks.${layer}.mlp.hook_post`), position);
    return topK(post_F, k).map((neuron) => {
      const logits_V = readOut(weights, config, column(weights[`blocks.${layer}.mlp.down.weight`], neuron));
      return { neuron, activation: post_F[neuron], writes: topK(logits_V, writes) };
    });
  });
}

/** What a direction in the stream does to each logit, through the gain of the final norm, up to its scale. */
function readOut(weights, config, direction_C) {
  const gain = weights["ln_final.weight"];
  const mean = weights["ln_final.bias"] ? sum(direction_C) / direction_C.length : 0;
  const { rows, columns, int8, scales } = output(weights, config);
  const read_C = direction_C.map((value, c) => (value - mean) * gain[c]);
  return new Float32Array(rows).map((_, token) => dot(read_C, 0, int8, token * columns, columns) * scales[token]);
}

/**
 * Direct logit attribution (Elhage et al. 2021), as `lens/attribution.py` has it: the logit of a token after a position
 * as a sum over all that was added to the stream; the final norm's scale is taken as it was.
 */
export function attribution({ weights, config, logits_TV, seen, edited }, token, position) {
  const direction_C = matrixRow(output(weights, config), token);
  const gain = weights["ln_final.weight"];
  const bias = weights["ln_final.bias"];
  const scale = seen.get("ln_final.hook_scale").data[position];
  let read_C = direction_C.map((value, c) => (value * gain[c]) / scale);
  // Taking off the mean is a projection: it may as well be done to the reader as to what is read.
  if (bias) read_C = read_C.map((value, _, all) => value - sum(all) / all.length);
  const value = (numbers_C) => dot(numbers_C, 0, read_C, 0, read_C.length);
  const found = new Map();
  let biases = bias ? dot(bias, 0, direction_C, 0, bias.length) : 0;
  for (const name of ["hook_embed", "hook_pos_embed"]) {
    if (seen.has(name)) found.set(name, value(at(seen.get(name), position)));
  }
  for (let layer = 0; layer < config.n_layers; layer++) {
    const [attn, mlp] = [`blocks.${layer}.hook_attn_out`, `blocks.${layer}.hook_mlp_out`];
    if (edited.has(attn)) {
      found.set(attn, value(at(seen.get(attn), position)));
    } else {
      const z_HD = at(seen.get(`blocks.${layer}.attn.hook_z`), position);
      const read_HD = readThrough(weights[`blocks.${layer}.attn.out.weight`], read_C);
      const dHead = z_HD.length / config.n_heads;
      for (let head = 0; head < config.n_heads; head++) {
        found.set(headAddress(layer, head), dot(z_HD, head * dHead, read_HD, head * dHead, dHead));
      }
      const added = weights[`blocks.${layer}.attn.out.bias`];
      if (added) biases += value(added);
    }
    if (seen.has(mlp)) {
      const added = edited.has(mlp) ? undefined : weights[`blocks.${layer}.mlp.down.bias`];
      if (added) biases += value(added);
      found.set(mlp, value(at(seen.get(mlp), position)) - (added ? value(added) : 0));
    }
  }
  if (bias || weights["blocks.0.attn.out.bias"]) found.set("biases", biases);
  const logit = logits_TV[position * config.vocab_size + token];
  if (edited.size) found.set("edits", logit - sum([...found.values()]));
  return [...found].map(([part, v]) => ({ part, value: v })).sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
}

function output(weights, config) {
  return weights[config.tie_embeddings ? "embed.weight" : "unembed.weight"];
}

/** W^T x: the direction before a matrix that is the given one behind it. */
function readThrough({ rows, columns, int8, scales }, x) {
  const y = new Float64Array(columns);
  for (let r = 0; r < rows; r++) {
    const value = x[r] * scales[r];
    for (let c = 0; c < columns; c++) y[c] += int8[r * columns + c] * value;
  }
  return y;
}

function matrixRow({ columns, int8, scales }, r) {
  return Float64Array.from(int8.subarray(r * columns, (r + 1) * columns), (value) => value * scales[r]);
}

function column({ rows, columns, int8, scales }, c) {
  return new Float64Array(rows).map((_, r) => int8[r * columns + c] * scales[r]);
}

/** The row of one position. */
function at({ data, shape }, position) {
  const width = data.length / shape[0];
  return data.subarray(position * width, (position + 1) * width);
}

function sum(numbers) {
  return numbers.reduce((a, b) => a + b, 0);
}
