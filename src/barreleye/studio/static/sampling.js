/**
 * How the next token is drawn from logits: the rules of `inference/generate.py`, one text at a time.
 *
 * V vocabulary, or as many tokens as there are logits of.
 *
 * @typedef {{temperature: number, top_k: number, top_p: number, repetition_penalty: number}} Sampling
 */

/**
 * Numbers from 0 to 1 without end, the same for the same seed (mulberry32, by Tommy Ettinger); for a negative one other
 * ones each time.
 * @param {number} seed
 * @returns {() => number}
 */
export function randomNumbers(seed) {
  let state = seed < 0 ? Math.floor(Math.random() * 2 ** 32) : seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * The next token: where the sum of the probabilities passes a random number from 0 to 1.
 * @param {Float32Array} logits_V
 * @param {Sampling} sampling
 * @param {number[]} seen what a repetition penalty looks at
 */
export function sample(logits_V, sampling, seen, uniform) {
  const penalized_V = penalize(logits_V, seen, sampling.repetition_penalty);
  if (sampling.temperature === 0) return indexOfMost(penalized_V);
  const probs_V = probabilities(penalized_V, sampling);
  let sum = 0;
  let last = 0; // rounding can end the sum a little below 1: then the last token that adds to it is taken
  for (let token = 0; token < probs_V.length; token++) {
    if (probs_V[token] === 0) continue;
    sum += probs_V[token];
    last = token;
    if (sum > uniform) break;
  }
  return last;
}

/** Makes the tokens of `seen` less likely (Keskar et al. 2019, CTRL, section 4.1). */
export function penalize(logits_V, seen, penalty) {
  const penalized_V = logits_V.slice();
  for (const token of new Set(seen)) {
    penalized_V[token] = logits_V[token] > 0 ? logits_V[token] / penalty : logits_V[token] * penalty;
  }
  return penalized_V;
}

/**
 * What is drawn from: softmax at the temperature, then top-k, then top-p (Holtzman et al. 2020), summing to 1.
 * @param {Float32Array} logits_V
 * @param {Sampling} sampling
 */
export function probabilities(logits_V, sampling) {
  const most = logits_V[indexOfMost(logits_V)];
  const heat = Math.max(sampling.temperature, 1e-6);
  const probs_V = new Float64Array(logits_V);
  for (let token = 0; token < probs_V.length; token++) probs_V[token] = Math.exp((probs_V[token] - most) / heat);
  scaleToOne(probs_V);
  if (0 < sampling.top_k && sampling.top_k < probs_V.length) {
    const smallest = probs_V.slice().sort()[probs_V.length - sampling.top_k];
    probs_V.forEach((p, token) => (probs_V[token] = p < smallest ? 0 : p));
  }
  if (sampling.top_p < 1) keepTopP(probs_V, sampling.top_p);
  scaleToOne(probs_V);
  return probs_V;
}

/** Leaves the likeliest tokens that together reach p of the sum: one stays when those before it do not reach it yet. */
function keepTopP(probs_V, top_p) {
  const order = [...probs_V.keys()].filter((token) => probs_V[token] > 0);
  order.sort((a, b) => probs_V[b] - probs_V[a] || a - b);
  const enough = top_p * probs_V.reduce((a, b) => a + b, 0);
  let before = 0;
  order.forEach((token, place) => {
    const p = probs_V[token];
    if (place > 0 && before >= enough) probs_V[token] = 0; // the first always stays
    before += p;
  });
}

function scaleToOne(probs_V) {
  const sum = probs_V.reduce((a, b) => a + b, 0);
  for (let token = 0; token < probs_V.length; token++) probs_V[token] /= sum;
}

/** Where the largest number stands. */
function indexOfMost(numbers) {
  let at = 0;
  for (let i = 1; i < numbers.length; i++) if (numbers[i] > numbers[at]) at = i;
  return at;
}

/** The k largest, largest first: where they stand. */
export function topK(numbers, k) {
  const best = [];
  let least = -Infinity;
  for (let i = 0; i < numbers.length; i++) {
    if (best.length === k && !(numbers[i] > least)) continue;
    let at = best.length;
    while (at > 0 && numbers[best[at - 1]] < numbers[i]) at--;
    best.splice(at, 0, i);
    if (best.length > k) best.pop();
    least = numbers[best[best.length - 1]];
  }
  return best;
}
