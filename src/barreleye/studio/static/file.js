/** The exported page: the rooms, over the weights that are in it. */

import { isDark } from "./elements/colors.js";
import { fileRooms } from "./file-rooms.js";
import { penalize, probabilities, randomNumbers, sample } from "./sampling.js";

/** The bytes of a step's weights, which stand in the page as base64. */
async function bytesOf(step) {
  const text = document.getElementById(`weights-${step}`).textContent;
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text).buffer;
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes.buffer;
}

function start() {
  const table = JSON.parse(document.getElementById("run").textContent);
  const { source, rooms, tabs, element } = fileRooms(table, bytesOf);
  document.getElementById("theme").before(tabs);
  document.getElementById("top").after(element);
  document.getElementById("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  });
  // For whoever reads this page's source: everything the rooms use, at the console.
  Object.assign(globalThis, { barreleye: { source, table, rooms, sampling: { penalize, probabilities, randomNumbers, sample } } });
}

start();
