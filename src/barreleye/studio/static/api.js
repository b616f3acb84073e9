/** The server of this page, and of no other: every request carries the token that this launch was opened with. */

const KEPT = "barreleye-token"; // for a reload: the address no longer has it

/** The server's one line on what was wrong. */
export class Refused extends Error {
  /** @param {number} status @param {string} line */
  constructor(status, line) {
    super(line);
    this.status = status;
  }
}

/** The token of the address the page was opened with, which is then taken out of the address. */
export function takeToken() {
  const address = new URL(location.href);
  const given = address.searchParams.get("token");
  if (given) {
    sessionStorage.setItem(KEPT, given);
    address.searchParams.delete("token");
    history.replaceState(null, "", address);
  }
  return given ?? sessionStorage.getItem(KEPT) ?? "";
}

export class Api {
  /** @param {string} token */
  constructor(token) {
    this.token = token;
  }

  /** @param {string} path behind /api, its parts encoded (see `part`) */
  async get(path) {
    return (await this.#ask(path, {})).json();
  }

  async post(path, body = {}) {
    return (await this.send(path, body)).json();
  }

  /** @returns {Promise<Response>} @param {AbortSignal} [signal] */
  send(path, body, signal) {
    const headers = { "Content-Type": "application/json" };
    return this.#ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  }

  /** Server-sent events; the token is in the cookie, for an EventSource has no headers. */
  events(path) {
    return new EventSource(`/api${path}`);
  }

  async #ask(path, how) {
    const headers = { ...how.headers, "X-Barreleye-Token": this.token };
    let response;
    try {
      response = await fetch(`/api${path}`, { ...how, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(0, "the studio does not answer; is it still running in its terminal?");
    }
    if (!response.ok) throw new Refused(response.status, await lineOf(response));
    return response;
  }
}

/** A name as one part of a path. */
export function part(name) {
  return encodeURIComponent(name);
}

async function lineOf(response) {
  const found = await response.json().catch(() => ({}));
  return found.error ?? `the studio answered ${response.status}`;
}
