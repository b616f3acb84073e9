/** The stops of the tour: what each says, and what of the live model it shows. */

import { part } from "../api.js";
import { AttentionWall } from "../elements/attention-wall.js";
import { define, make } from "../elements/define.js";
import { LensGrid } from "../elements/lens-grid.js";
import { LineChart } from "../elements/line-chart.js";
import { MergeSteps } from "../elements/merge-steps.js";
import { ProbabilityBars } from "../elements/probability-bars.js";
import { ScatterMap } from "../elements/scatter-map.js";
import { TimeSlider } from "../elements/time-slider.js";
import { TokenRow } from "../elements/token-row.js";
import { headAddress } from "../edits.js";
import { lossChart } from "./curves.js";

define("be-attention-wall", AttentionWall);
define("be-lens-grid", LensGrid);
define("be-line-chart", LineChart);
define("be-merge-steps", MergeSteps);
define("be-probability-bars", ProbabilityBars);
define("be-scatter-map", ScatterMap);
define("be-time-slider", TimeSlider);
define("be-token-row", TokenRow);

/**
 * build: makes what is shown once, {element, update(tour), renew?(tour)}; update is called when the text is another, renew
 * when there are weights of later steps.
 */
export const STOPS = [
  {
    title: "Text",
    words: "A language model does one thing: it reads a text and says how likely each next piece of it is. It has no eyes, no diary, no list of facts; all that it will ever be given is text like this, as bytes.",
    build: bytes,
  },
  {
    title: "Tokens",
    words: "The text is cut into tokens. The tokenizer began with single bytes and learned which neighbors often stand together; frequent words became one piece. Move the slider to see the pieces grow.",
    build: tokens,
  },
  {
    title: "Embeddings",
    words: "Each token has a list of numbers, its embedding, which it learned. Tokens that are used alike came to lie close together. Orange: the tokens of your text, on a map of all of them.",
    build: embeddings,
  },
  {
    title: "Attention",
    words: "A token alone says little. In every layer each head lets a token look back at earlier ones and take something along. Choose a head, then a token: the stronger the color, the more it looks there. The switch under a head takes it out.",
    build: attention,
  },
  {
    title: "Layers",
    words: "Every layer adds to the list of numbers of each token. If one reads the list after each layer as if it were the last, one sees the answer come about, from the bottom to the top.",
    build: layers,
  },
  {
    title: "Logits",
    words: "At the end each token of the vocabulary gets a number, its logit; as shares of one they are probabilities. Move the temperature: low, and the likeliest takes all; high, and anything goes.",
    build: logits,
  },
  {
    title: "Talking",
    words: "One token is drawn by these probabilities, put at the end of the text, and everything is read again. That is all there is to talking: one token, again and again.",
    build: talking,
  },
  {
    title: "Loss",
    words: "How good is it? For every token: how likely did the model think it, before it saw it? Loss is minus the logarithm of that share: 0 for what it was sure of. The stronger the color, the more it was surprised; point at a token for its number.",
    build: loss,
  },
  {
    title: "Learning",
    words: "Learning is making the loss smaller: read some text, find for each of the millions of numbers in which direction it should move, move it a little, again. Dotted: what simple counting would reach.",
    build: learning,
  },
  {
    title: "Time",
    words: "This run kept its weights on the way. Play: the same text, read by the model as it was at each step. At first every token surprises it; then the frequent ones do not, then what hangs together.",
    build: time,
  },
];

function bytes() {
  const element = make("div", { class: "be-pieces" });
  const note = make("p", { class: "be-note" });
  const update = async ({ text }) => {
    const all = [...text.value].map((character) => {
      const codes = [...new TextEncoder().encode(character)];
      const piece = make("span", { class: "be-piece st-byte" }, character === " " ? "␣" : character, make("small", {}, codes.join(" ")));
      return piece;
    });
    element.replaceChildren(...all);
    note.textContent = `${all.length} characters; under each one its bytes in UTF-8.`;
  };
  return { element: make("div", {}, element, note), update };
}

function tokens() {
  const element = make("be-merge-steps");
  const update = async ({ studio, source, text }) => {
    element.data = await studio.api.get(`${source.at}/merges?text=${part(text.value)}`);
  };
  return { element, update };
}

function embeddings(tour) {
  const map = make("be-scatter-map");
  let found;
  const update = async ({ studio, source, text }) => {
    found ??= await studio.api.get(`${source.at}/embeddings`);
    const ids = await source.tokenize(text.value);
    map.data = { ...found, marked: new Set(ids.map(({ id }) => id)) };
  };
  const many = `Each is a list of ${tour.info.config.d_model} numbers; the map shows the two directions in which they differ most.`;
  return { element: make("div", {}, make("p", { class: "be-note" }, many), map), update };
}

function attention(tour) {
  const wall = make("be-attention-wall");
  const row = make("be-token-row");
  const note = make("p", { class: "be-note" });
  let [head, query] = [{ layer: 0, head: 0 }, null];
  const off = new Map(); // "layer.head" -> its address
  const update = async () => {
    const { header, arrays } = await tour.look(["pattern"], { off: [...off.values()] });
    const { shape, data } = arrays.pattern;
    const n = shape[2];
    const from = Math.min(query ?? n - 1, n - 1);
    const start = ((head.layer * shape[1] + head.head) * n + from) * n;
    wall.data = { pattern: arrays.pattern, selected: head, off: new Set(off.keys()) };
    row.data = { tokens: header.tokens, shares: [...data.subarray(start, start + n)], selected: from };
    note.textContent = `Layer ${head.layer}, head ${head.head}: where ${header.tokens[from].text} (position ${from}) looks.${nextInWords(header, off.size)}`;
  };
  wall.addEventListener("switch", ({ detail }) => {
    const name = `${detail.layer}.${detail.head}`;
    if (!off.delete(name)) off.set(name, headAddress(detail.layer, detail.head));
    tour.update();
  });
  wall.addEventListener("open", ({ detail }) => {
    head = detail;
    tour.update();
  });
  row.addEventListener("pick", ({ detail }) => {
    query = detail.index;
    tour.update();
  });
  return { element: make("div", { class: "st-tour-wall" }, wall, make("div", {}, note, row)), update };
}

function layers(tour) {
  const grid = make("be-lens-grid");
  const update = async () => {
    const { header, arrays } = await tour.look(["lens"]);
    const last = header.tokens.length - 1;
    const shown = { first: Math.max(0, last - 11), last, selected: last };
    grid.data = { tokens: header.tokens, lens: header.lens, probability: arrays.lens_probability, ...shown };
  };
  return { element: grid, update };
}

function logits(tour) {
  const bars = make("be-probability-bars");
  let { sampling } = tour.info;
  bars.addEventListener("sampling", ({ detail }) => (sampling = detail.sampling));
  const update = async () => {
    const { arrays } = await tour.look(["logits"], { k: 50 });
    const entries = [...arrays.logits.data].map((logit, id) => ({ id, logit, text: tour.source.tokenText(id) }));
    bars.data = { entries, sampling };
  };
  return { element: bars, update };
}

function talking(tour) {
  const said = make("p", { class: "be-turn be-assistant st-said" });
  const again = make("button", { type: "button", class: "be-plain", onclick: () => tour.update() }, "draw again");
  const update = async () => {
    said.replaceChildren();
    const turns = [{ role: "user", content: tour.text.value }];
    for await (const piece of tour.source.talk({ turns, step: tour.step, seed: -1 })) {
      if (!said.isConnected) return; // another stop
      if (piece.done) said.append(piece.text);
      else said.append(make("span", { class: "st-drawn" }, piece.text));
    }
  };
  return { element: make("div", {}, said, again), update };
}

function loss(tour) {
  const row = make("be-token-row");
  const note = make("p", { class: "be-note" });
  const update = async () => {
    const { header } = await tour.look([]);
    row.data = { tokens: header.tokens, loss: header.loss };
    note.textContent = lossInWords(header.loss);
  };
  return { element: make("div", {}, row, note), update };
}

function learning(tour) {
  const chart = make("be-line-chart", { class: "st-loss" });
  const update = async () => {
    if (chart.data) return;
    const found = await tour.studio.api.get(`${tour.source.at}/learning?points=600`);
    chart.data = { label: "nats per token", ...lossChart([{ name: tour.info.name, found }], false) };
  };
  return { element: chart, update };
}

function time(tour) {
  const slider = make("be-time-slider");
  const row = make("be-token-row");
  const note = make("p", { class: "be-note" });
  const renew = ({ info: { steps }, step }) => (slider.data = { steps, step });
  renew(tour);
  slider.addEventListener("step", () => tour.update());
  const update = async () => {
    const { step } = slider.data;
    const { header } = await tour.look([], { step });
    row.data = { tokens: header.tokens, loss: header.loss };
    note.textContent = `Step ${step.toLocaleString("en")}. ${lossInWords(header.loss)}`;
    slider.played();
  };
  const only = make("p", { class: "be-note" }, "This run kept no weights on the way, so there is one moment only.");
  only.hidden = tour.info.steps.length > 1;
  const on = make("p", {}, "Now go where you like: ", ...["talk", "look", "time", "runs"].flatMap((room, i) => {
    const link = make("a", { href: `#/${room}${room === "runs" ? "" : `/${part(tour.info.name)}`}` }, { talk: "talk to it", look: "look through its head", time: "travel through its training", runs: "grow one of your own" }[room]);
    return i ? [" · ", link] : [link];
  }));
  return { element: make("div", { class: "st-tour-time" }, slider, only, row, note, on), update, renew };
}

function lossInWords(losses) {
  const known = losses.filter((each) => each !== null);
  if (!known.length) return "";
  const mean = known.reduce((a, b) => a + b, 0) / known.length;
  return `On average ${mean.toFixed(2)} nats a token: as unsure as among ${Math.exp(mean).toFixed(mean < 3 ? 1 : 0)} equally likely ones.`;
}

/** What would come next, and without which. */
function nextInWords({ top }, off) {
  const [{ text, probability }] = top.at(-1);
  const without = off ? `, with ${off} switched off` : "";
  return ` Likeliest to come after the last token${without}: ${text}, ${(100 * probability).toFixed(1)} %.`;
}
