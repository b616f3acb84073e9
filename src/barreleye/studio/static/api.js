/** The server of this page, and of no other. The key of this launch is in a cookie, which this page cannot read. */

/** Every question throws an Error with the server's one line on what was wrong. */
export class Api {
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

  /** Server-sent events. */
  events(path) {
    return new EventSource(`/api${path}`);
  }

  async #ask(path, how) {
    let response;
    try {
      response = await fetch(`/api${path}`, how);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("the studio does not answer; is it still running in its terminal?");
    }
    if (!response.ok) throw new Error(await lineOf(response));
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
