/** The top of a room: what it is for, and of which run. */

import { make } from "../elements/define.js";
import { latest } from "../source.js";

/**
 * @param {object | null} run its entry in the list; null where the room itself says how far it is
 * @param {import("../source.js").Info} info
 * @param {string} title
 * @param {string} words
 */
export function roomHead(run, info, title, words) {
  const { config } = info;
  const about = [
    ...(info.parameters ? [`${count(info.parameters)} parameters`] : []),
    `${config.n_layers} layers of ${config.n_heads} heads`,
    `width ${config.d_model}`,
    `sees ${config.context_length} tokens`,
    ...(run?.state === "learning" ? ["still learning"] : []),
  ];
  const line = make("p", { class: "be-note" }, `${info.name}: ${about.join(" · ")}`);
  return make("header", { class: "st-head" }, make("h1", {}, title), make("p", {}, words), line);
}

/** 9,123,456 as 9.1 million. */
export function count(n) {
  if (n >= 1e9) return `${(n / 1e9).toFixed(1)} billion`;
  if (n >= 1e6) return `${(n / 1e6).toFixed(1)} million`;
  return n.toLocaleString("en");
}

/** What one may begin with. */
export function exampleOf(info) {
  return info.kind === "chat" ? "do you like living in the dark?" : info.example;
}

/**
 * While a run learns, weights of later steps come: calls back with all steps that there are.
 * @param {(steps: number[]) => void} then
 * @returns {() => void} ends it
 */
export function onLaterSteps(studio, source, then) {
  let [seen, ended, newest] = [null, false, source.known.steps.at(-1)];
  const look = latest(async () => {
    const { run } = studio;
    if (run?.name !== source.known.name) return;
    // The record is ahead of the weights, which are saved after the last look: so once more when the state is another.
    const now = `${run.step} ${run.state} ${run.doing}`;
    if (now === seen && run.state !== "learning") return;
    const { steps } = await source.open();
    seen = now;
    if (ended) return;
    if (steps.at(-1) !== newest) then(steps);
    newest = steps.at(-1);
  });
  studio.addEventListener("runs", look);
  return () => {
    ended = true;
    studio.removeEventListener("runs", look);
  };
}
