/** What is drawn of the record of runs: a chart each, of lines, with what they are called. */

const BLOCK = /^blocks\.(\d+)/;
const REST = 6; // the color of what is in no block
const COLORS = 6; // before that one

/** @typedef {import("./course.js").Course} Course */

/** The charts below the loss. pick: what a series is called in it; null where it has no place there. */
export const CHARTS = [
  { label: "gradient norm", log: true, pick: (name) => (name === "grad_norm" ? "all weights" : null) },
  { label: "learning rate, share of its peak", pick: (name) => (name === "rate" ? "rate" : null) },
  { label: "gradient norm by part", log: true, pick: under("probe/gradient_norm/") },
  { label: "update ÷ weight, a step", log: true, pick: under("probe/update_ratio/") },
  { label: "activations: spread of the stream after each block", log: true, pick: spread },
  { label: "attention entropy of each head, share of the most possible", pick: under("probe/attention_entropy/") },
  { label: "dead units, share", pick: under("probe/dead/") },
];

/** The lines of one chart. @param {Course[]} courses @param {(name: string) => string | null} pick */
export function linesOf(courses, pick) {
  const several = courses.length > 1;
  return courses.flatMap(({ name: run, found }, which) => {
    return Object.entries(found.series).flatMap(([series, points]) => {
      const name = pick(series);
      if (name === null) return [];
      const block = BLOCK.exec(name);
      const spoken = name.replace(/^blocks\.(\d+)\.attn\/(\d+)$/, "head $1.$2").replace(/^blocks\.(\d+)\.?/, "block $1 ");
      const dash = name.includes("mlp");
      if (several) return [{ name: `${run}: ${spoken}`, group: run, color: which % COLORS, dash, points }];
      const group = block ? `block ${block[1]}` : Object.keys(found.series).some((each) => BLOCK.test(pick(each) ?? "")) ? "the rest" : spoken;
      return [{ name: spoken, group, color: block ? Number(block[1]) % COLORS : REST, dash, points }];
    });
  });
}

/**
 * The losses, and what they can be compared with.
 * @param {Course[]} courses
 * @param {boolean} bits bits per byte, instead of nats per token
 */
export function lossChart(courses, bits) {
  const several = courses.length > 1;
  const lines = courses.flatMap(({ name, found }, which) => {
    const { series, per_byte } = found;
    const call = (words) => (several ? `${name}: ${words}` : words);
    const color = (alone) => (several ? which % COLORS : alone);
    const scaled = (curve, part) => (bits ? scale(curve ?? [], per_byte?.[part]) : (curve ?? []));
    const train = scaled(series.loss, "loss");
    const whole = (part) => scaled([...(series[`held_out.${part}`] ?? [])], part);
    const all = [
      { name: call("training, each step"), group: several ? name : undefined, color: color(0), faint: true, points: train },
      { name: call("training, smoothed"), group: several ? name : undefined, color: color(0), points: smoothed(train) },
      { name: call("held out"), group: several ? name : undefined, color: color(2), dots: true, dash: several, points: whole("all") },
      { name: call("held out, replies only"), color: color(1), dots: true, dash: true, points: whole("replies") },
    ];
    return all.filter(({ points }, i) => points.length && !(several && i === 3));
  });
  const { baselines = [], per_byte = {} } = courses[0].found;
  const factor = bits ? per_byte?.loss : 1;
  const levels = factor ? baselines.map(({ name, loss, words }) => ({ name, value: loss * factor, words })) : [];
  return { lines, levels };
}

function under(prefix) {
  return (name) => (name.startsWith(prefix) ? name.slice(prefix.length) : null);
}

function spread(name) {
  const found = /^probe\/activations\/(blocks\.\d+)\.hook_resid_post\/std$/.exec(name);
  return found ? found[1] : null;
}

function scale(curve, factor) {
  return factor ? curve.map(([step, value]) => [step, value === null ? null : value * factor]) : [];
}

/** Exponential moving average, corrected for its start (Kingma and Ba 2015, section 3), as in `training/report.py`. */
function smoothed(curve, keep = 0.95) {
  let [mean, weight] = [0, 0];
  return curve.map(([step, value]) => {
    if (value === null) return [step, null];
    mean = keep * mean + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return [step, mean / weight];
  });
}
