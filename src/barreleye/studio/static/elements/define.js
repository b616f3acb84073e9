/**
 * Defines an element once; a second time, as when two notebook cells bring the same module, does nothing.
 * @param {string} name
 * @param {CustomElementConstructor} element
 */
export function define(name, element) {
  if (!customElements.get(name)) customElements.define(name, element);
}

/**
 * An element with its attributes, properties and children; texts become text nodes, never markup.
 * @param {string} name
 * @param {object} attributes `class`, `aria-...` and the like; functions become listeners, as `onclick`
 * @param {(Node | string)[]} children
 */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      element.addEventListener(key.slice(2), value);
    } else if (value === true || value === false) {
      element.toggleAttribute(key, value);
    } else if (value !== null && value !== undefined) {
      element.setAttribute(key, String(value));
    }
  }
  element.append(...children);
  return element;
}

/** Tells whoever listens what a person did. */
export function tell(element, what, detail) {
  element.dispatchEvent(new CustomEvent(what, { detail, bubbles: true }));
}

/** Arrow keys go from one to the next of several buttons, of which the tab key meets one alone. */
export function rove(container, selector) {
  container.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const all = [...container.querySelectorAll(selector)];
    const here = all.indexOf(event.target);
    if (!by || here < 0) return;
    event.preventDefault();
    const next = all[Math.min(Math.max(here + by, 0), all.length - 1)];
    all[here].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}
