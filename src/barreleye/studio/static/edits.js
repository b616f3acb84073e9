/**
 * Parts of the model switched off: a tap that puts zero at some addresses (`lens/address.py`), as `lens/edits.py` does
 * with `zero`: "blocks.1.attn.hook_z[head=3]", "blocks.2.hook_mlp_out", "blocks.*.mlp.hook_post[neuron=0:8]".
 */

import { noTap } from "./engine.js";

const FORM = /^\s*([\w.*?]+)\s*(?:\[(.*)\])?\s*$/;
const PART = /^\s*(\w+)\s*=\s*(?:(\d+)|(\d*)\s*:\s*(\d*))\s*$/;
const HEADS = ["position", "head", "channel"];
const SQUARE = ["head", "query", "key"];
const NEURONS = ["position", "neuron"];
const AXES = new Map([
  ...["hook_q", "hook_k", "hook_rot_q", "hook_rot_k", "hook_v", "hook_z"].map((name) => [name, HEADS]),
  ...["hook_attn_scores", "hook_pattern"].map((name) => [name, SQUARE]),
  ...["hook_pre", "hook_pre_linear", "hook_post"].map((name) => [name, NEURONS]),
]);

/** Where a head is taken out: what it reads, before W_O makes of it what it adds to the stream. */
export function headAddress(layer, head) {
  return `blocks.${layer}.attn.hook_z[head=${head}]`;
}

/**
 * A tap that zeroes what stands at the addresses, and tells `then` of all that there is.
 * @param {string[]} addresses
 * @param {() => number} start the position of the first token of the piece that is being read
 * @param {import("./engine.js").Tap} then
 */
export function switchedOff(addresses, start, then = noTap) {
  const edits = addresses.map(parse);
  const edited = new Set();
  const tap = (name, data, shape) => {
    const axes = AXES.get(name.split(".").at(-1)) ?? ["position", "channel"];
    for (const edit of edits) {
      if (!edit.matches.test(name)) continue;
      const unknown = [...edit.where.keys()].find((axis) => !axes.includes(axis));
      if (unknown) throw new Error(`${name} has no axis "${unknown}"; it has ${axes.join(", ")}`);
      data = zeroed(data, shape, axes, edit.where, start());
      edit.met = true;
      edited.add(name);
    }
    return then(name, data, shape);
  };
  const check = () => {
    const lost = edits.find((edit) => !edit.met);
    if (lost) throw new Error(`there is no activation at ${lost.address}`);
  };
  return { tap, edited, check };
}

function parse(address) {
  const form = FORM.exec(address);
  if (!form) throw new Error(`"${address}" is no address; write a name and perhaps axes, as in blocks.1.attn.hook_z[head=3]`);
  const where = new Map();
  for (const piece of form[2] ? form[2].split(",") : []) {
    const part = PART.exec(piece);
    if (!part) throw new Error(`"${address}": "${piece.trim()}" is no axis with an index; write [head=3, position=0:4]`);
    const [, axis, at, first, last] = part;
    where.set(axis, at ? [Number(at), Number(at) + 1] : [Number(first || 0), last ? Number(last) : Infinity]);
  }
  const glob = form[1].replaceAll(".", "\\.").replaceAll("*", ".*").replaceAll("?", ".");
  return { address, matches: new RegExp(`^${glob}$`), where, met: false };
}

function zeroed(data, shape, axes, where, start) {
  const changed = data.slice();
  const ranges = shape.map((size, at) => {
    const [first, last] = where.get(axes[at]) ?? [0, Infinity];
    const begins = axes[at] === "position" || axes[at] === "query" ? start : 0;
    return [Math.max(first - begins, 0), Math.min(last - begins, size)];
  });
  const zero = (axis, at) => {
    const [first, last] = ranges[axis];
    const step = shape.slice(axis + 1).reduce((a, b) => a * b, 1);
    const isWhole = ranges.slice(axis + 1).every(([low, high], i) => low === 0 && high === shape[axis + 1 + i]);
    if (isWhole) changed.fill(0, at + first * step, Math.max(at + last * step, 0));
    else for (let i = first; i < last; i++) zero(axis + 1, at + i * step);
  };
  zero(0, 0);
  return changed;
}
