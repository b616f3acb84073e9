/**
 * A text as its tokens, each as dark as it was surprising, or as much as it was looked at.
 *
 * data: {tokens: {id, text}[], loss?: (number | null)[] in nats, shares?: number[] from 0 to 1, most?: the share that
 *        is darkest (1), hints?: string[], selected?: number}
 * Tells "pick" {index}.
 */

import { heat } from "./colors.js";
import { DataElement } from "./data-element.js";
import { define, make, rove, tell } from "./define.js";
import { hint, percent } from "./hint.js";

const MOST_LOSS = 8; // nats: about as surprised as one can be by one of four thousand tokens

export class TokenRow extends DataElement {
  build() {
    rove(this, "button");
    hint(this, (event) => this.#words([...this.children].indexOf(event.target.closest("button"))));
  }

  draw() {
    const { tokens, selected, shares, most = 1, loss } = this.data;
    while (this.children.length > tokens.length) this.lastChild.remove();
    while (this.children.length < tokens.length) this.append(this.#button(this.children.length));
    tokens.forEach(({ text }, index) => {
      const button = this.children[index];
      button.textContent = text;
      button.setAttribute("aria-pressed", String(index === selected));
      button.tabIndex = index === (selected ?? 0) ? 0 : -1;
      heat(button, shares ? shares[index] / most : (loss?.[index] ?? 0) / MOST_LOSS);
      button.setAttribute("aria-label", this.#words(index));
    });
  }

  #button(index) {
    return make("button", { type: "button", class: "be-token", onclick: () => tell(this, "pick", { index }) });
  }

  #words(index) {
    if (index < 0) return null;
    const { tokens, loss, shares, hints } = this.data;
    const { id, text } = tokens[index];
    const words = [`${text}  position ${index}, token ${id}`];
    if (hints) words.push(hints[index]);
    else if (shares) words.push(percent(shares[index]));
    else if (loss?.[index] === null) words.push("nothing came before it");
    else if (loss) words.push(`loss ${loss[index].toFixed(2)} nats: it was given ${percent(Math.exp(-loss[index]))}`);
    return words.join("\n");
  }
}

define("be-token-row", TokenRow);
