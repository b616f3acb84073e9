/**
 * Text <-> token ids: what `inference/plain_text.py` reads from the same tokenizer.json. Two kinds: each character is a
 * token, or byte-level BPE, whose words are cut as GPT-2 cuts them.
 *
 * No text ever becomes a special token: those are put in by id, by `encodeChat`, which spells a conversation as
 * `data/chat_format.py` does.
 *
 * @typedef {{role: string, content: string}} Turn
 */

// White space as Unicode has it: JavaScript's own \s takes U+FEFF in, and leaves U+0085 out.
const SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const WORD = new RegExp(
  `'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|[${SPACE}]+(?![^${SPACE}])|[${SPACE}]+`,
  "gu",
);
// What Python's `strip` takes off besides: the four separators of ASCII.
const AROUND = new RegExp(`^[${SPACE}\\x1c-\\x1f]+|[${SPACE}\\x1c-\\x1f]+$`, "gu");
const UNSEEN = /[\p{C}\p{Z}]/u;
const VISIBLE = { " ": "␣", "\n": "↵", "\t": "⇥" };
const MOST_WORDS = 100_000; // kept in memory
const IM_START = "<|im_start|>";
const IM_END = "<|im_end|>";
const END_OF_TEXT = ["<|endoftext|>", "<|end_of_text|>", "</s>"]; // as tokenizers of other houses call it

/** GPT-2's letter for each byte: its own where that prints, else the next from U+0100 on (space: Ġ). */
const LETTERS = (() => {
  let spare = 0x100;
  return Array.from({ length: 0x100 }, (_, byte) => {
    const prints = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCodePoint(prints ? byte : spare++);
  });
})();
const BYTE_OF = new Map(LETTERS.map((letter, byte) => [letter, byte]));

export class Tokenizer {
  /**
   * @param {object} table the content of tokenizer.json
   * @param {{tidy: boolean, system: string} | null} chat how a chat is spelled; null for a tokenizer of plain text
   */
  constructor(table, chat) {
    const model = table.model;
    this.kind = model.type === "BPE" ? "bpe" : "characters";
    this.composes = table.normalizer !== null;
    this.chat = chat;
    this.special = new Map(table.added_tokens.map((token) => [token.content, token.id]));
    this.specialIds = new Set(this.special.values());
    const ends = chat ? [IM_END, IM_START, ...END_OF_TEXT] : END_OF_TEXT;
    this.stopIds = new Set(ends.filter((token) => this.special.has(token)).map((token) => this.special.get(token)));
    this.idOf = new Map(Object.entries(model.vocab).filter(([token]) => !this.special.has(token)));
    /** @type {Uint8Array[]} what each token stands for, in UTF-8 */
    this.bytesOf = [];
    const utf8 = new TextEncoder();
    for (const [token, id] of this.special) this.bytesOf[id] = utf8.encode(token);
    for (const [token, id] of this.idOf) {
      this.bytesOf[id] = this.kind === "bpe" ? Uint8Array.from(token, (c) => BYTE_OF.get(c)) : utf8.encode(token);
    }
    this.wholeWordsFirst = Boolean(model.ignore_merges);
    this.rank = new Map();
    (model.merges ?? []).forEach((merge, rank) => {
      const pair = typeof merge === "string" ? merge : merge.join(" ");
      if (!this.rank.has(pair)) this.rank.set(pair, rank);
    });
    this.words = new Map();
    this.texts = [];
  }

  /** The ids of a text. Throws for a character that cannot be encoded. */
  encode(text) {
    if (/\p{Cs}/u.test(text)) throw new Error("half a character (a lone surrogate) cannot be encoded: leave it out");
    text = this.composes ? text.normalize("NFC") : text;
    if (this.kind === "characters") return [...text].map((character) => this.#idOf(character, character));
    return (text.match(WORD) ?? []).flatMap((word) => this.#encodeWord(word));
  }

  #idOf(token, within) {
    const id = this.idOf.get(token);
    if (id === undefined) throw new Error(`this tokenizer has not seen ${JSON.stringify(within)}: leave it out`);
    return id;
  }

  #encodeWord(word) {
    if (!this.words.has(word)) {
      if (this.words.size > MOST_WORDS) this.words.clear();
      const letters = Array.from(new TextEncoder().encode(word), (byte) => LETTERS[byte]);
      const whole = this.wholeWordsFirst && this.idOf.has(letters.join(""));
      const tokens = whole ? [letters.join("")] : this.#merge(letters);
      this.words.set(word, tokens.map((token) => this.#idOf(token, word)));
    }
    return this.words.get(word);
  }

  /** The pair that was learned first becomes one token wherever it stands, until none is left. */
  #merge(tokens) {
    for (;;) {
      let first = Infinity;
      for (let at = 0; at + 1 < tokens.length; at++) {
        first = Math.min(first, this.rank.get(`${tokens[at]} ${tokens[at + 1]}`) ?? Infinity);
      }
      if (first === Infinity) return tokens;
      const merged = [];
      for (let at = 0; at < tokens.length; at++) {
        const joins = this.rank.get(`${tokens[at]} ${tokens[at + 1]}`) === first;
        merged.push(joins ? tokens[at] + tokens[++at] : tokens[at]);
      }
      tokens = merged;
    }
  }

  /** The text of ids, special tokens spelled out; bytes that make no whole character become U+FFFD. */
  decode(ids) {
    const stream = this.stream();
    return ids.map((id) => stream.feed(id)).join("") + stream.finish();
  }

  /** A decoder to be fed id by id, which holds the bytes of a character back until it is whole. */
  stream() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return {
      feed: (id) => decoder.decode(this.bytesOf[id], { stream: true }),
      finish: () => decoder.decode(),
    };
  }

  /** A token for the eye: "␣" for a space, "↵" for a newline, "\xf0" for a byte of a cut character. */
  tokenText(id) {
    this.texts[id] ??= Array.from(forTheEye(this.bytesOf[id])).map(escaped).join("");
    return this.texts[id];
  }

  /** The ids of a text as the model reads it, each with its text for the eye. */
  tokens(ids) {
    return ids.map((id) => ({ id, text: this.tokenText(id) }));
  }

  /**
   * The ids of a conversation, and those that open the reply unless the last turn is one.
   * @param {Turn[]} turns
   */
  encodeChat(turns) {
    if (this.chat.system && turns[0]?.role !== "system") {
      turns = [{ role: "system", content: this.chat.system }, ...turns];
    }
    const [start, end, newline] = [this.special.get(IM_START), this.special.get(IM_END), this.encode("\n")];
    const ids = turns.flatMap(({ role, content }) => {
      // Where white space stays, a word may span the role's line and what is said.
      const pieces = this.chat.tidy ? [role + "\n", tidied(role, content)] : [role + "\n" + content];
      return [start, ...pieces.flatMap((piece) => this.encode(piece)), end, ...newline];
    });
    return turns.at(-1)?.role === "assistant" ? ids : [...ids, start, ...this.encode("assistant\n")];
  }
}

/** As the model reads what is said: without white space around it, and the user's words in lowercase. */
function tidied(role, content) {
  return (role === "user" ? content.toLowerCase() : content).replace(AROUND, "");
}

/** Bytes as text, where those that make no character are spelled as numbers. */
function forTheEye(bytes) {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    let length = 1;
    while (length <= 4 && !readable(decoder, bytes.subarray(at, at + length))) length++;
    text += length > 4 ? hexadecimal(bytes[at], 2, "\\x") : decoder.decode(bytes.subarray(at, at + length));
    at += length > 4 ? 1 : length;
  }
  return text;
}

function readable(decoder, bytes) {
  try {
    return decoder.decode(bytes).length > 0;
  } catch {
    return false;
  }
}

/** A character that one can see. */
function escaped(character) {
  if (character in VISIBLE) return VISIBLE[character];
  if (character === "\r") return "\\r";
  if (!UNSEEN.test(character)) return character;
  const code = character.codePointAt(0);
  if (code < 0x100) return hexadecimal(code, 2, "\\x");
  return code < 0x10000 ? hexadecimal(code, 4, "\\u") : hexadecimal(code, 8, "\\U");
}

function hexadecimal(number, digits, before) {
  return before + number.toString(16).padStart(digits, "0");
}
