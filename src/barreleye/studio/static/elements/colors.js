/**
 * Numbers as colors. The ramps rise in lightness alone (from the page's own to its opposite), so that they read the same
 * to color-blind eyes and in gray; the two-sided ones go to blue and to orange.
 */

const RAMPS = {
  light: ["#ffffff", "#dcebf5", "#9fcbe3", "#4d97c3", "#1c5f94", "#0a2f5c"],
  dark: ["#121a22", "#17394f", "#1d6480", "#3c96a0", "#8fc9a8", "#f6f2b4"],
};
const BOTH = {
  light: ["#8a3c00", "#e08a3c", "#ffffff", "#5b9bd0", "#0d4a86"],
  dark: ["#ffb469", "#a85e1e", "#121a22", "#2d6ea3", "#8cc8ff"],
};

const system = matchMedia("(prefers-color-scheme: dark)");
const tables = new Map();
const painted = new Set();
const gone = new FinalizationRegistry((reference) => painted.delete(reference));

export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : system.matches;
}

/** An element is redrawn when light becomes dark or the other way. One that is gone is forgotten. */
export function onTheme(element) {
  const reference = new WeakRef(element);
  painted.add(reference);
  gone.register(element, reference);
}

function redrawAll() {
  for (const reference of painted) reference.deref()?.redraw();
}

system.addEventListener("change", redrawAll);
new MutationObserver(redrawAll).observe(document.documentElement, { attributeFilter: ["data-theme"] });

/** Red, green, blue of a share from 0 to 1. */
function sequential(share) {
  return between(RAMPS[isDark() ? "dark" : "light"], share);
}

/** A ramp in 256 steps, each a pixel as the bytes of a canvas are read: red first, little-endian. */
export function pixelsOf(signed) {
  const theme = isDark() ? "dark" : "light";
  const key = `${theme} ${signed}`;
  if (!tables.has(key)) {
    const ramp = (signed ? BOTH : RAMPS)[theme];
    tables.set(key, Uint32Array.from({ length: 256 }, (_, i) => pixel(between(ramp, i / 255))));
  }
  return tables.get(key);
}

function pixel(rgb) {
  const [red, green, blue] = rgb.map(Math.round);
  return (255 << 24) | (blue << 16) | (green << 8) | red;
}

/** For CSS. */
function css(rgb) {
  return `rgb(${rgb.map(Math.round).join(" ")})`;
}

/** Dark or light, whichever differs more: where the relative luminance (WCAG 2.2) is that of equal contrasts. */
function inkOn(rgb) {
  const [red, green, blue] = rgb.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.2 ? "#10202c" : "#ffffff";
}

/** Paints an element's background with a share from 0 to 1. */
export function heat(element, share) {
  const color = sequential(share);
  element.style.setProperty("--heat", css(color));
  element.style.setProperty("--ink-on-heat", inkOn(color));
}

function between(ramp, share) {
  const place = Math.min(Math.max(Number.isFinite(share) ? share : 0, 0), 1) * (ramp.length - 1);
  const low = Math.min(Math.floor(place), ramp.length - 2);
  const [from, to] = [rgb(ramp[low]), rgb(ramp[low + 1])];
  return from.map((value, i) => value + (to[i] - value) * (place - low));
}

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}
