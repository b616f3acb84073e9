/**
 * What the elements and the rooms ask of a model, wherever it is computed: `source-live.js` asks the server,
 * `source-embedded.js` computes on the page. Types alone.
 *
 * T time (position), L layers, H heads, D channels per head, V vocabulary.
 *
 * @typedef {{role: "system" | "user" | "assistant", content: string}} Turn
 * @typedef {{id: number, text: string}} Token `text` as for the eye: a space is seen, half a character too
 * @typedef {{temperature: number, top_k: number, top_p: number, repetition_penalty: number}} Sampling
 *
 * @typedef {object} Info
 * @property {string} name
 * @property {"chat" | "text"} kind whether it takes turns, or goes on with a text
 * @property {string} character
 * @property {number} parameters
 * @property {{n_layers: number, n_heads: number, d_model: number, context_length: number, vocab_size: number}} config
 * @property {number[]} steps the recorded snapshots, ascending; the last entry is the newest weights' step
 * @property {Sampling} sampling
 *
 * @typedef {object} Look exactly one of text, turns and ids is given
 * @property {string | null} [text]
 * @property {Turn[] | null} [turns]
 * @property {number[] | null} [ids]
 * @property {number | null} [step] null: the newest
 * @property {string[]} [off] addresses of what is switched off: "blocks.1.attn.hook_z[head=3]"
 * @property {("pattern" | "lens" | "stages" | "residual" | "neurons" | "attribution" | "logits")[]} [want]
 * @property {number} [layer] for "stages", with `head`
 * @property {number} [head]
 * @property {number} [position] for "neurons", "attribution" and "logits"
 * @property {number} [token] for "attribution"; the likeliest unless told
 * @property {number} [k] how many of the likeliest
 *
 * @typedef {{shape: number[], data: Float32Array}} Shaped
 *
 * @typedef {object} Glance
 * @property {object} header tokens: Token[]; loss: (number | null)[]; top: {id, text, probability}[][]; seconds; and
 *     lens: {id, text, probability}[][], neurons: {neuron, activation, writes: string[]}[][],
 *     attribution: {part, value}[] where wanted
 * @property {{[name: string]: Shaped}} arrays pattern (L, H, T, T), lens_probability (L + 1, T), scores (T, T), z (T, D),
 *     result (T,), resid_norm (L + 1, T), attn_norm (L, T), mlp_norm (L, T), logits (V,) where wanted
 *
 * @typedef {{turns: Turn[], step?: number | null, off?: string[], sampling?: Partial<Sampling>, seed?: number,
 *     signal?: AbortSignal}} Talk whoever no longer listens may say so at once
 * @typedef {{id: number, text: string, top: {id: number, text: string, logit: number}[], position: number,
 *     prompt?: number[], read?: number} | {done: true, ids: number[], text: string}} Said
 *
 * @typedef {object} Source
 * @property {() => Promise<Info>} info
 * @property {(text: string) => Promise<Token[]>} tokenize
 * @property {(request: Look) => Promise<Glance>} look
 * @property {(request: Talk) => AsyncIterable<Said>} talk
 */

/**
 * One thing at a time: of what is asked while it is at work, only the last is done.
 * @template {unknown[]} Asked
 * @param {(...asked: Asked) => Promise<void>} work
 * @returns {(...asked: Asked) => Promise<void>}
 */
export function latest(work) {
  let busy = false;
  let next = null;
  return async (...asked) => {
    next = asked;
    if (busy) return;
    busy = true;
    try {
      while (next) {
        const now = next;
        next = null;
        await work(...now);
      }
    } finally {
      busy = false;
    }
  };
}
