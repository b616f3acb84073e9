/** Numbers on hover, and on focus: one small box for the whole page, which says what is under the pointer. */

import { make } from "./define.js";

const NEAR = 14; // pixels from the pointer

function box() {
  let found = document.querySelector("body > .be-hint");
  if (!found) {
    found = make("div", { class: "be-hint", role: "status", hidden: true });
    document.body.append(found);
  }
  return found;
}

/**
 * @param {HTMLElement} element
 * @param {(event: PointerEvent | FocusEvent) => string | null} say what to show for a place, or null
 */
export function hint(element, say) {
  const show = (event) => {
    const words = say(event);
    if (!words) return hideHint();
    const near = event.target.getBoundingClientRect();
    const [x, y] = event.type === "focusin" ? [near.left, near.bottom] : [event.clientX, event.clientY];
    showHint(words, x, y);
  };
  element.addEventListener("pointermove", show);
  element.addEventListener("focusin", (event) => event.target.matches(":focus-visible") && show(event));
  element.addEventListener("pointerleave", hideHint);
  element.addEventListener("focusout", hideHint);
}

/** Of the parts that a selector finds, each says what is in its data-words. */
export function hintOf(element, selector) {
  hint(element, (event) => event.target.closest(selector)?.dataset.words ?? null);
}

/** As when what it speaks of is taken away. */
export function hideHint() {
  box().hidden = true;
}

/** Shows words near a place of the window, within it. */
export function showHint(words, x, y) {
  const shown = box();
  shown.textContent = words;
  shown.hidden = false;
  const { width, height } = shown.getBoundingClientRect();
  const left = Math.min(x + NEAR, innerWidth - width - 4);
  const top = y + NEAR + height > innerHeight ? y - NEAR - height : y + NEAR;
  shown.style.setProperty("left", `${Math.max(left, 4)}px`);
  shown.style.setProperty("top", `${Math.max(top, 4)}px`);
}

export function percent(share) {
  if (share === 0) return "0 %";
  return share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}
