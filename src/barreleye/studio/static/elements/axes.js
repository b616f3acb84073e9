/** Numbers along the axes of a chart. */

/** The point next to a step, of points in order; null where there is none. */
export function nearest(points, step) {
  let [low, high] = [0, points.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < step) low = middle + 1;
    else high = middle;
  }
  const before = points[low - 1];
  return before && step - before[0] < points[low][0] - step ? before : (points[low] ?? null);
}

/** Round numbers between two. */
export function ticks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const by = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / by) * by; at <= high + by / 1e6; at += by) found.push(Number(at.toPrecision(12)));
  return found;
}

/** Powers of ten between two logarithms; with their halves where they are few. */
export function powers(bottom, top) {
  const steps = top - bottom < 1 ? [1, 2, 3, 5, 7] : top - bottom < 2.5 ? [1, 3] : [1];
  const found = [];
  for (let power = Math.floor(bottom); power <= top; power++) {
    for (const step of steps) found.push(Number((step * 10 ** power).toPrecision(3)));
  }
  const inside = found.filter((value) => Math.log10(value) >= bottom && Math.log10(value) <= top);
  const every = Math.ceil(inside.length / 6);
  return inside.filter((_, i) => i % every === 0);
}

/** A number, in as many digits as tell it from its neighbors. */
export function say(value) {
  if (value === null || !Number.isFinite(value)) return "not finite";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1);
  return value.toLocaleString("en", { maximumSignificantDigits: size >= 1000 ? 6 : 4 });
}
