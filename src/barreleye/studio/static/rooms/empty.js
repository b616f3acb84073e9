/** What a room says where it has nothing to show, and what to do about it. */

import { make } from "../elements/define.js";

/**
 * @param {string} title
 * @param {string} words
 * @param {{[label: string]: string}} ways where to go on: label -> address
 */
export function emptyRoom(title, words, ways = {}) {
  const links = Object.entries(ways).map(([label, href]) => make("a", { class: "st-button", href }, label));
  return make("section", { class: "st-empty" }, make("h1", {}, title), make("p", {}, words), ...links);
}

/**
 * Why a room cannot be shown of a run; null where it can.
 * @param {object | undefined} run its entry in the list
 * @param {string | undefined} name what was asked for
 * @param {string[]} needs "run", "weights", "snapshots"
 * @param {string} room
 * @param {import("../source.js").Info} [info] where it has been asked
 */
export function whyEmpty(run, name, needs, room, info) {
  const here = encodeURIComponent(name ?? "");
  if (!needs.includes("run")) return null;
  if (!name) {
    return emptyRoom("No run yet", "A run is a model and all that was recorded while it learned. Start a training: a fish talks in minutes.", {
      "start a training": "#/runs",
    });
  }
  if (!run) return emptyRoom(`There is no run ${name}`, "It may have been renamed or removed.", { "all runs": "#/runs" });
  if (run.state === "corrupt") {
    return emptyRoom(`${name} is damaged`, run.problem ?? "Its folder cannot be read.", { "all runs": "#/runs" });
  }
  if (!info) return null;
  if (needs.includes("weights") && !hasWeights(run, info)) {
    return run.state === "learning"
      ? emptyRoom(`${name} is still learning`, `It has kept no weights yet. ${room} opens with the first ones.`, {
          "watch it learn": `#/learning/${here}`,
        })
      : emptyRoom(`${name} has no weights`, "It was stopped before it kept any.", { "all runs": "#/runs" });
  }
  if (needs.includes("snapshots") && info.steps.length < 2) {
    return emptyRoom(
      `${name} kept no snapshots`,
      "Without weights of earlier steps there is no time to travel. A training keeps twenty unless it is told not to (--snapshots 0); a model that was imported brings none.",
      { "look at it as it is now": `#/look/${here}` },
    );
  }
  return null;
}

/** A training keeps its first weights as a snapshot of step 0, or when it saves first. */
function hasWeights(run, { steps, snapshots }) {
  return run.state === "imported" || snapshots?.length > 0 || steps.some((step) => step > 0);
}
