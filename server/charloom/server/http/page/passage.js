// A text, token by token, and the session that has read it. Knows the routes; knows nothing of the page.
//
// The session's state stands behind the first `read` pieces of the text. What follows them is text that somebody typed,
// or that was there before: the next call reads it. A call that goes on from an earlier place first puts the session back.

import { call, events } from "./api.js";

export const ALTERNATIVES = 12;
/** Most tokens of a call. */
export const LONGEST = 4000;
const BITS = 1 / Math.LN2;
const NOT_KEPT = "position_not_kept";
const IN_USE_MS = [20, 50, 100, 200, 400, 800];

/** Surprisal of a piece, in bits. */
export const bitsOf = (piece) => -piece.logprob * BITS;

/** Bits per piece of some pieces. */
export const meanBits = (pieces) => pieces.reduce((sum, piece) => sum + bitsOf(piece), 0) / Math.max(1, pieces.length);

/** Whether two settings give the same text. */
export const alike = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** Wait. */
export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** The fields of a request that settings stand for. */
export async function asked({ seed, temperature, top_p, bias }, model) {
  const fields = { seed, temperature, top_p };
  if (bias) fields.logit_bias = { [await biasName(bias.character, model)]: bias.amount };
  return fields;
}

/** How the route names a character: digits alone are the number of a token. */
async function biasName(character, model) {
  if (!/^[0-9]+$/.test(character)) return character;
  const { tokens } = await call("POST", "tokenize", { model, prompt: character });
  return String(tokens[0]);
}

/**
 * What a chunk of text is made of: for each token, or for the tokens of one character, the text, the log-probability,
 * the position after it, the alternatives with their log-probabilities, and the settings that made it (null: typed).
 */
function piecesOf(text, columns, position, by) {
  const characters = Array.from(text);
  const { tokens, token_logprobs: logprobs, top_logprobs: tops, text_offset: offsets } = columns;
  const pieces = [];
  for (let first = 0; first < tokens.length; ) {
    let last = first + 1;
    while (last < tokens.length && offsets[last] === offsets[first]) last++;
    const end = last < tokens.length ? offsets[last] - offsets[0] : characters.length;
    const own = logprobs.slice(first, last).reduce((sum, logprob) => sum + logprob, 0);
    const top = Object.entries(tops[first]).sort((one, other) => other[1] - one[1]);
    position += last - first;
    pieces.push({ text: characters.slice(offsets[first] - offsets[0], end).join(""), logprob: own, top, position, by });
    first = last;
  }
  return pieces;
}

export class Passage {
  /**
   * @param model name of the model
   * @param id of its session
   * @param pieces that it begins with
   * @param standing where its session is, if there is one: behind all of these
   */
  constructor(model, id, pieces = [], standing = null, parent = null) {
    this.model = model;
    this.id = id;
    this.pieces = pieces;
    this.pending = "";
    this.parent = parent;
    this.forkedAt = parent ? pieces.length : 0;
    this.read = standing === null ? 0 : pieces.length;
    this._standing = standing;
    this._last = Promise.resolve();
  }

  get text() {
    return this.pieces.map((piece) => piece.text).join("") + this.pending;
  }

  /** Its beginning, to be shown. */
  head(count) {
    const pieces = this.pieces.slice(0, count);
    return { pieces, pending: "", text: pieces.map((piece) => piece.text).join("") };
  }

  /** How many tokens stand before a piece. */
  positionAt(index) {
    return index ? this.pieces[index - 1].position : 0;
  }

  /** The text as somebody has edited it: what is new, and all that follows, has yet to be read. */
  edit(text) {
    let index = 0;
    let offset = 0;
    while (index < this.pieces.length && text.startsWith(this.pieces[index].text, offset)) {
      offset += this.pieces[index++].text.length;
    }
    this.cut(index);
    this.pending = text.slice(offset);
  }

  /** Forget the text from a piece on. */
  cut(index) {
    this.pieces.length = Math.min(index, this.pieces.length);
    this.pending = "";
    this.read = Math.min(this.read, this.pieces.length);
  }

  get _unread() {
    return this.pieces.slice(this.read).map((piece) => piece.text).join("") + this.pending;
  }

  /** What made the text, so that it can be made again: typed texts, and counts of pieces with their settings. */
  recipe() {
    const steps = [];
    for (const piece of [...this.pieces, { text: this.pending, by: null }]) {
      const last = steps.at(-1);
      if (piece.by === null && last?.text !== undefined) last.text += piece.text;
      else if (piece.by === null) piece.text && steps.push({ text: piece.text });
      else if (last?.by && alike(last.by, piece.by)) last.position = piece.position;
      else steps.push({ by: piece.by, position: piece.position, from: this.positionAt(this.pieces.indexOf(piece)) });
    }
    return steps.map(({ text, by, position, from }) => (by ? { by, count: position - from } : { text }));
  }

  /** Make a text again: the same, in however many calls; `signal` ends it where it has come to. */
  async replay(recipe, onMore, signal) {
    for (const { text, by, count } of recipe) {
      if (signal?.aborted) return;
      if (!by) this.pending += text;
      for (let left = by ? count : 0; left > 0 && !signal?.aborted; left -= LONGEST) {
        await this.generate(by, Math.min(left, LONGEST), onMore, signal);
      }
    }
  }

  /** Have the server's session do one thing after the other: it takes one call at a time. */
  _inTurn(act) {
    const mine = this._last.then(() => this._withSession(act));
    this._last = mine.catch(() => {});
    return mine;
  }

  async _withSession(act) {
    try {
      await this._stand();
      return await act();
    } catch (problem) {
      if (![404, 410].includes(problem.status) || problem.code === "model_not_found") throw problem;
      this._standing = null; // the session has expired; its text is still here
      await this._stand();
      return act();
    }
  }

  /** See that there is a session, and that it stands behind what is read. */
  async _stand() {
    const path = `v1/sessions/${this.id}`;
    const at = this.positionAt(this.read);
    if (this._standing === at) return;
    if (this._standing !== null) {
      for (let tried = 0; ; tried++) {
        try {
          await call("POST", `${path}/rewind`, { position: at });
          this._standing = at;
          return;
        } catch (problem) {
          // A call that was broken off may hold the session for a moment.
          if (problem.status === 409 && tried < IN_USE_MS.length) await pause(IN_USE_MS[tried]);
          else if (problem.code === NOT_KEPT) break; // it cannot go back so far, and reads the text again
          else throw problem;
        }
      }
      await call("DELETE", path);
    }
    await call("POST", "v1/sessions", { session_id: this.id, model: this.model });
    this._standing = this.read = 0;
  }

  _take(text, columns, by) {
    const pieces = piecesOf(text, columns, this.positionAt(this.read), by);
    if (by === null) {
      pieces.forEach((piece, number) => {
        const before = this.pieces[this.read + number];
        if (before?.text === piece.text) piece.by = before.by;
      });
      this.pieces.length = this.read;
      this.pending = "";
    }
    this.pieces.push(...pieces);
  }

  /** Tell how probable the text is that is not read yet; the session stays where it is. */
  score() {
    return this._inTurn(async () => {
      const text = this._unread;
      if (!this.pending) return;
      const body = { session_id: this.id, prompt: text, echo: true, max_tokens: 0, logprobs: ALTERNATIVES };
      const { choices } = await call("POST", "v1/completions", body);
      if (text === this._unread) this._take(choices[0].text, choices[0].logprobs, null);
    });
  }

  /** The most probable tokens after the text, with their log-probabilities. */
  next() {
    return this._inTurn(async () => {
      // Several continuations leave the session where it is.
      const body = { session_id: this.id, prompt: this._unread, n: 2, max_tokens: 1, logprobs: ALTERNATIVES };
      const { choices } = await call("POST", "v1/completions", body);
      return Object.entries(choices[0].logprobs.top_logprobs[0]).sort((one, other) => other[1] - one[1]);
    });
  }

  /**
   * Go on by up to `count` tokens.
   * @param onMore called whenever there are more pieces
   * @param signal ends the call; what has come until then stays
   */
  generate(settings, count, onMore = () => {}, signal = undefined) {
    return this._inTurn(async () => {
      const prompt = this._unread;
      const body = { session_id: this.id, prompt, max_tokens: count, logprobs: ALTERNATIVES };
      Object.assign(body, await asked(settings, this.model));
      let typed = prompt !== ""; // the echo of a single choice is one event
      this._standing = NaN; // until the call tells where it has ended
      try {
        for await (const event of events("v1/completions", { ...body, echo: typed }, signal)) {
          const [choice] = event.choices;
          if (choice?.logprobs) {
            this._take(choice.text, choice.logprobs, typed ? null : settings);
            this.read = this.pieces.length;
            typed = false;
            onMore();
          }
          if (choice?.finish_reason) this._standing = choice.position;
        }
      } catch (problem) {
        if (problem.name !== "AbortError") throw problem;
      }
    });
  }

  /** Copies of the text up to a piece, each with a session of its own, with these ids. */
  fork(index, ids) {
    return this._inTurn(async () => {
      const path = `v1/sessions/${this.id}`;
      if (index > this.read) {
        const text = this.pieces.slice(this.read, index).map((piece) => piece.text).join("");
        this._standing = (await call("POST", `${path}/feed`, { text })).position;
        this.read = index;
      }
      const position = this.positionAt(index);
      const pieces = this.pieces.slice(0, index);
      let standing = position;
      try {
        await call("POST", `${path}/fork`, { position, count: ids.length, new_session_ids: ids });
      } catch (problem) {
        if (problem.code !== NOT_KEPT) throw problem;
        standing = null; // it cannot go back so far; the copies read the text
      }
      return ids.map((id) => new Passage(this.model, id, [...pieces], standing, this));
    });
  }

  /** Forget the session. */
  async forget() {
    await this._last;
    if (this._standing !== null) await call("DELETE", `v1/sessions/${this.id}`);
    this._standing = null;
  }
}
