/** Light or dark: as the system has it, until the switch is used; then as it was left. */

import { isDark } from "./elements/colors.js";

const KEPT = "barreleye-theme";

/** @param {HTMLButtonElement} button */
export function startTheme(button) {
  const root = document.documentElement;
  const draw = () => {
    button.textContent = isDark() ? "light" : "dark";
    button.setAttribute("aria-label", `change to the ${button.textContent} theme`);
  };
  const kept = localStorage.getItem(KEPT);
  if (kept) root.dataset.theme = kept;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem(KEPT, root.dataset.theme);
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}
