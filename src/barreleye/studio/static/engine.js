/**
 * The whole model in JavaScript: what `inference/plain.py` computes, with matrices in 8 bits and a scale for each row.
 * Read the pages side by side: names are the same. Every tensor worth seeing passes through `tap(name, data, shape)`,
 * which returns the one to go on with, under the names of `model/transformer.py`.
 *
 * Arrays lie in memory row after row; their names end in their axes:
 * T time (position), C channels (`d_model`), H heads, D channels per head, V vocabulary, F feed-forward, L layers,
 * Q and K positions of queries and of keys, R rows of a matrix.
 *
 * @typedef {{rows: number, columns: number, int8: Int8Array, scales: Float32Array}} Matrix
 * @typedef {{[name: string]: Matrix | Float32Array}} Weights
 * @typedef {(name: string, data: Float32Array, shape: number[]) => Float32Array} Tap
 */

const SINE_THETA = 10_000;

/** @type {Tap} */
export function noTap(name, data, shape) {
  return data;
}

/** Key/value heads and channels per head, where a configuration leaves them to others. */
export function sizes(config) {
  return {
    kvHeads: config.n_kv_heads || config.n_heads,
    dHead: config.head_dim || config.d_model / config.n_heads,
  };
}

/** Room for every layer's keys and values, allocated once. */
export class KVCache {
  constructor(config) {
    const { kvHeads, dHead } = sizes(config);
    const room = () => new Float32Array(config.context_length * kvHeads * dHead);
    this.keys_LTHD = Array.from({ length: config.n_layers }, room);
    this.values_LTHD = Array.from({ length: config.n_layers }, room);
    this.length = 0; // positions filled
  }
}

// The model ----------------------------------------------------------------------------------------------------------

/**
 * Logits for the token after each of these, (T, V), or after the last one alone; they continue those in the cache.
 * @param {Weights} weights
 * @param {number[]} tokens_T
 * @param {KVCache} cache
 * @param {Tap} tap
 */
export function forward(weights, config, tokens_T, cache, tap = noTap, last = false) {
  const start = cache.length;
  const end = start + tokens_T.length;
  if (end > config.context_length) {
    throw new Error(`${end} tokens do not fit a context of ${config.context_length}`);
  }
  const shape = [tokens_T.length, config.d_model];
  let x_TC = tap("hook_embed", embed(weights, tokens_T), shape);
  if (config.positions === "learned") {
    const positions_TC = weights["positions.weight"].slice(start * config.d_model, end * config.d_model);
    x_TC = add(x_TC, tap("hook_pos_embed", positions_TC, shape));
  } else if (config.positions === "sinusoidal") {
    x_TC = add(x_TC, tap("hook_pos_embed", sines(config, start, end), shape));
  }
  for (let layer = 0; layer < config.n_layers; layer++) {
    x_TC = block(weights, config, layer, x_TC, cache, tap);
  }
  cache.length = end;
  return unembed(weights, config, last ? x_TC.slice(-config.d_model) : x_TC, tap);
}

/** The stream as logits: final norm, then the output head. */
export function unembed(weights, config, x_TC, tap = noTap) {
  return linear(weights, config.tie_embeddings ? "embed" : "unembed", norm(weights, config, "ln_final", x_TC, tap));
}

/** Attention, then a feed-forward layer; each reads the normalized residual stream and adds to it. */
function block(weights, config, layer, x_TC, cache, tap) {
  const at = `blocks.${layer}.`;
  const shape = [x_TC.length / config.d_model, config.d_model];
  x_TC = tap(at + "hook_resid_pre", x_TC, shape);
  const attn_TC = attention(weights, config, layer, norm(weights, config, at + "ln1", x_TC, tap), cache, tap);
  x_TC = add(x_TC, tap(at + "hook_attn_out", attn_TC, shape));
  if (config.d_ff) {
    x_TC = tap(at + "hook_resid_mid", x_TC, shape);
    const mlp_TC = feedForward(weights, config, layer, norm(weights, config, at + "ln2", x_TC, tap), tap);
    x_TC = add(x_TC, tap(at + "hook_mlp_out", mlp_TC, shape));
  }
  return tap(at + "hook_resid_post", x_TC, shape);
}

function attention(weights, config, layer, x_TC, cache, tap) {
  const at = `blocks.${layer}.attn.`;
  const heads = config.n_heads;
  const { kvHeads, dHead } = sizes(config);
  const n = x_TC.length / config.d_model;
  const start = cache.length;
  const end = start + n;
  const heads_THD = linear(weights, at + "qkv", x_TC);
  const all = (heads + 2 * kvHeads) * dHead;
  const part = (first, count) => columns(heads_THD, n, all, first * dHead, count * dHead);
  const place = (x_THD, which, count) => {
    x_THD = tap(at + "hook_" + which, x_THD, [n, count, dHead]);
    if (config.qk_norm) x_THD = norm(weights, config, at + which + "_norm", x_THD);
    if (config.positions !== "rope") return x_THD;
    return tap(at + "hook_rot_" + which, rotate(x_THD, count, dHead, start, config.rope_theta), [n, count, dHead]);
  };
  const q_THD = place(part(0, heads), "q", heads);
  const k_THD = place(part(heads, kvHeads), "k", kvHeads);
  const v_THD = tap(at + "hook_v", part(heads + kvHeads, kvHeads), [n, kvHeads, dHead]);
  cache.keys_LTHD[layer].set(k_THD, start * kvHeads * dHead);
  cache.values_LTHD[layer].set(v_THD, start * kvHeads * dHead);
  const shared = heads / kvHeads;
  const row = kvHeads * dHead; // from one position's key (or value) to the next one's
  const scores_HQK = new Float32Array(heads * n * end).fill(-Infinity);
  const keys = cache.keys_LTHD[layer];
  for (let h = 0; h < heads; h++) {
    const group = Math.floor(h / shared) * dHead;
    for (let q = 0; q < n; q++) {
      for (let k = 0; k <= start + q; k++) {
        const product = dot(q_THD, (q * heads + h) * dHead, keys, k * row + group, dHead);
        scores_HQK[(h * n + q) * end + k] = product / Math.sqrt(dHead);
      }
    }
  }
  const tapped_HQK = tap(at + "hook_attn_scores", scores_HQK, [heads, n, end]);
  const pattern_HQK = tap(at + "hook_pattern", softmax(tapped_HQK, end), [heads, n, end]);
  const values = cache.values_LTHD[layer];
  const z_THD = new Float32Array(n * heads * dHead);
  for (let h = 0; h < heads; h++) {
    const group = Math.floor(h / shared) * dHead;
    for (let q = 0; q < n; q++) {
      const to = (q * heads + h) * dHead;
      for (let k = 0; k < end; k++) {
        const weight = pattern_HQK[(h * n + q) * end + k];
        if (weight === 0) continue; // above all, what is still to come
        const from = k * row + group;
        for (let d = 0; d < dHead; d++) z_THD[to + d] += weight * values[from + d];
      }
    }
  }
  return linear(weights, at + "out", tap(at + "hook_z", z_THD, [n, heads, dHead]));
}

function feedForward(weights, config, layer, x_TC, tap) {
  const at = `blocks.${layer}.mlp.`;
  const shape = [x_TC.length / config.d_model, config.d_ff];
  let post_TF;
  if (config.activation === "swiglu") {
    const gate_TF = tap(at + "hook_pre", linear(weights, at + "gate", x_TC), shape).map(silu);
    const up_TF = tap(at + "hook_pre_linear", linear(weights, at + "up", x_TC), shape);
    post_TF = gate_TF.map((gate, i) => gate * up_TF[i]);
  } else {
    post_TF = tap(at + "hook_pre", linear(weights, at + "up", x_TC), shape).map(ACTIVATIONS[config.activation]);
  }
  return linear(weights, at + "down", tap(at + "hook_post", post_TF, shape));
}

// The parts ----------------------------------------------------------------------------------------------------------

/** Rows of the embedding, (T, C). */
function embed(weights, tokens_T) {
  const { rows, columns: width, int8, scales } = weights["embed.weight"];
  const x_TC = new Float32Array(tokens_T.length * width);
  tokens_T.forEach((token, t) => {
    if (!(token >= 0 && token < rows)) throw new Error(`there is no token ${token}; there are 0 to ${rows - 1}`);
    for (let c = 0; c < width; c++) x_TC[t * width + c] = int8[token * width + c] * scales[token];
  });
  return x_TC;
}

/** x W^T + b. */
function linear(weights, name, x_TC) {
  const matrix = weights[name + ".weight"];
  const bias = weights[name + ".bias"];
  const { rows, columns: width, scales } = matrix;
  const x64_TC = new Float64Array(x_TC); // JavaScript reckons with doubles: made once, not at each use
  const y_TR = new Float32Array((x_TC.length / width) * rows);
  if (x_TC.length === width) {
    multiplyOne(matrix, x64_TC, y_TR);
  } else {
    multiplyMany(matrix, x64_TC, y_TR);
  }
  for (let i = 0; i < y_TR.length; i++) {
    const r = i % rows;
    y_TR[i] = y_TR[i] * scales[r] + (bias ? bias[r] : 0);
  }
  return y_TR;
}

/** One position: eight rows at a time, so that each number of x is fetched once for all of them. */
function multiplyOne({ rows, columns: width, int8 }, x, y) {
  const end = (rows - 1) * width; // the last row may come again; what is written beyond the end of y is dropped
  for (let r = 0; r < rows; r += 8) {
    const at0 = r * width;
    const at1 = Math.min(at0 + width, end);
    const at2 = Math.min(at1 + width, end);
    const at3 = Math.min(at2 + width, end);
    const at4 = Math.min(at3 + width, end);
    const at5 = Math.min(at4 + width, end);
    const at6 = Math.min(at5 + width, end);
    const at7 = Math.min(at6 + width, end);
    let [a, b, c, d, e, f, g, h] = [0, 0, 0, 0, 0, 0, 0, 0];
    for (let i = 0; i < width; i++) {
      const value = x[i];
      a += int8[at0 + i] * value;
      b += int8[at1 + i] * value;
      c += int8[at2 + i] * value;
      d += int8[at3 + i] * value;
      e += int8[at4 + i] * value;
      f += int8[at5 + i] * value;
      g += int8[at6 + i] * value;
      h += int8[at7 + i] * value;
    }
    [y[r], y[r + 1], y[r + 2], y[r + 3]] = [a, b, c, d];
    [y[r + 4], y[r + 5], y[r + 6], y[r + 7]] = [e, f, g, h];
  }
}

/** Many positions, four at a time, each with two rows. */
function multiplyMany({ rows, columns: width, int8 }, x, y) {
  const n = x.length / width;
  for (let r = 0; r < rows; r += 2) {
    const r1 = Math.min(r + 1, rows - 1); // the last row may come again, and so may the last position
    const row0 = new Float64Array(int8.subarray(r * width, (r + 1) * width));
    const row1 = new Float64Array(int8.subarray(r1 * width, (r1 + 1) * width));
    for (let t = 0; t < n; t += 4) {
      const t1 = Math.min(t + 1, n - 1);
      const t2 = Math.min(t + 2, n - 1);
      const t3 = Math.min(t + 3, n - 1);
      const [at0, at1, at2, at3] = [t * width, t1 * width, t2 * width, t3 * width];
      let [a0, b0, c0, d0, a1, b1, c1, d1] = [0, 0, 0, 0, 0, 0, 0, 0];
      for (let i = 0; i < width; i++) {
        const w0 = row0[i];
        const w1 = row1[i];
        const a = x[at0 + i];
        const b = x[at1 + i];
        const c = x[at2 + i];
        const d = x[at3 + i];
        a0 += w0 * a;
        b0 += w0 * b;
        c0 += w0 * c;
        d0 += w0 * d;
        a1 += w1 * a;
        b1 += w1 * b;
        c1 += w1 * c;
        d1 += w1 * d;
      }
      [y[t * rows + r], y[t1 * rows + r], y[t2 * rows + r], y[t3 * rows + r]] = [a0, b0, c0, d0];
      [y[t * rows + r1], y[t1 * rows + r1], y[t2 * rows + r1], y[t3 * rows + r1]] = [a1, b1, c1, d1];
    }
  }
}

/** LayerNorm, which has a bias, or RMSNorm, which has none; over as many channels as its gain has. */
export function norm(weights, config, name, x_TC, tap = noTap) {
  const gain = weights[name + ".weight"];
  const bias = weights[name + ".bias"];
  const width = gain.length;
  const n = x_TC.length / width;
  let scale_T1 = new Float32Array(n);
  const centred_TC = x_TC.slice();
  for (let t = 0; t < n; t++) {
    const row = centred_TC.subarray(t * width, (t + 1) * width);
    const mean = bias ? row.reduce((sum, value) => sum + value, 0) / width : 0;
    for (let c = 0; c < width; c++) row[c] -= mean;
    scale_T1[t] = Math.sqrt(dot(row, 0, row, 0, width) / width + config.norm_eps);
  }
  scale_T1 = tap(name + ".hook_scale", scale_T1, [n, 1]);
  const divided_TC = centred_TC.map((value, i) => value / scale_T1[Math.floor(i / width)]);
  const normalized_TC = tap(name + ".hook_normalized", divided_TC, [n, width]);
  return normalized_TC.map((value, i) => value * gain[i % width] + (bias ? bias[i % width] : 0));
}

function gelu(x) {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)));
}

function geluErf(x) {
  return 0.5 * x * (1 + erf(x * Math.SQRT1_2));
}

/** To 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26). */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const terms = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
  return Math.sign(x) * (1 - terms.reduce((sum, term) => (sum + term) * t, 0) * Math.exp(-x * x));
}

function silu(x) {
  return 0.5 * x * (1 + Math.tanh(0.5 * x)); // x * sigmoid(x), in a form that never overflows
}

const ACTIVATIONS = {
  gelu,
  gelu_erf: geluErf,
  relu: (x) => Math.max(x, 0),
  relu2: (x) => Math.max(x, 0) ** 2,
};

/** Channel i turned with channel i + D/2, by an angle that grows with position. */
function rotate(x_THD, heads, dHead, start, theta) {
  const turned_THD = new Float32Array(x_THD.length);
  const half = dHead / 2;
  for (let i = 0; i < x_THD.length; i++) {
    const d = i % dHead;
    const angle = angleOf(start + Math.floor(i / (heads * dHead)), d % half, dHead, theta);
    const other = d < half ? -x_THD[i + half] : x_THD[i - half];
    turned_THD[i] = x_THD[i] * Math.cos(angle) + other * Math.sin(angle);
  }
  return turned_THD;
}

/** Sine at even channels, cosine at odd ones, as large as a fresh embedding. */
function sines(config, start, end) {
  const width = config.d_model;
  const size = (config.embed_std || config.init_std || width ** -0.5) * Math.SQRT2;
  return new Float32Array((end - start) * width).map((_, i) => {
    const c = i % width;
    const angle = angleOf(start + Math.floor(i / width), Math.floor(c / 2), width + (width % 2), SINE_THETA);
    return size * (c % 2 ? Math.cos(angle) : Math.sin(angle));
  });
}

/** position / theta^(2 pair / width), in float32 as the model learned it. */
function angleOf(position, pair, width, theta) {
  return Math.fround(position * Math.fround(theta ** -Math.fround((2 * pair) / width)));
}

/** Of each row of this width; a row's largest is taken off first. */
export function softmax(x, width) {
  const y = new Float32Array(x.length);
  for (let at = 0; at < x.length; at += width) {
    const row = x.subarray(at, at + width);
    const most = row.reduce((a, b) => Math.max(a, b), -Infinity);
    let sum = 0;
    for (let i = 0; i < width; i++) sum += y[at + i] = Math.exp(row[i] - most);
    for (let i = 0; i < width; i++) y[at + i] /= sum;
  }
  return y;
}

export function dot(x, atX, y, atY, width) {
  let sum = 0;
  for (let i = 0; i < width; i++) sum += x[atX + i] * y[atY + i];
  return sum;
}

function add(x, y) {
  return x.map((value, i) => value + y[i]);
}

/** Some columns of a matrix of n rows, as a matrix of their own. */
function columns(x, n, width, first, count) {
  const y = new Float32Array(n * count);
  for (let t = 0; t < n; t++) y.set(x.subarray(t * width + first, t * width + first + count), t * count);
  return y;
}
