// The running text: it goes on at a speed that can be read, and what changes takes effect at the character that is shown.
//
// The server is asked for a little more than is shown. When a setting changes, what is not shown yet is dropped, the
// session goes back to what is, and goes on from its state with the new settings.

import { element, made } from "./dom.js";
import { alike, pause } from "./passage.js";
import { difference } from "./settings.js";

const AHEAD_SECONDS = 1;
const LEAST_CHUNK = 16;
const WAIT_MS = 30;

export class Live {
  constructor(play) {
    this._play = play;
    this._shown = 0;
    this._running = false;
    this._ended = Promise.resolve();
    this._stale = false; // whether what is not shown yet was made with other settings
    element("run").addEventListener("click", () => (this.running ? this.stop() : this._play.busy || this.start()));
    element("speed").addEventListener("input", () => {
      element("speed-told").value = `${this._speed}/s`;
    });
    element("rewind").addEventListener("input", () => this._seek());
    element("rewind").addEventListener("change", () => this._rewind());
  }

  get _speed() {
    return Number(element("speed").value);
  }

  get running() {
    return this._running;
  }

  /** Begin, from where the text was put back to. */
  start() {
    const { passage } = this._play;
    const from = Number(element("rewind").value);
    if (from < passage.pieces.length) passage.cut(from);
    this._shown = passage.pieces.length;
    this._stale = false;
    this._play.show();
    this._play.say(`Running from character ${this._shown}.`);
    this._running = true;
    this._ended = this._run();
  }

  /** End; resolves once the session stands behind what is shown. */
  async stop() {
    this._running = false;
    this._abort?.abort();
    await this._ended;
  }

  /** The settings have changed. */
  settingsChanged() {
    if (!this.running) return;
    this._stale = true;
    this._abort?.abort();
  }

  async _run() {
    const { passage } = this._play;
    this._play.busy = true;
    this._press(true);
    const drawing = this._draw(passage);
    const ended = await this._play.tried(async () => {
      while (this.running) {
        if (this._stale) {
          passage.cut(this._shown);
          this._stale = false;
        }
        const ahead = passage.pieces.length - this._shown;
        if (passage.pending || ahead < this._speed * AHEAD_SECONDS) {
          this._abort = new AbortController();
          const count = Math.max(LEAST_CHUNK, this._speed);
          await passage.generate(this._play.settings.chosen, count, undefined, this._abort.signal);
        } else await pause(WAIT_MS);
      }
      return true;
    });
    this._running = false;
    await drawing;
    passage.cut(this._shown);
    this._press(false);
    this._play.busy = false;
    this._play.show();
    if (ended) this._play.say(`Stopped at character ${this._shown}.`);
  }

  /** Show more, a frame at a time. */
  async _draw(passage) {
    let before = performance.now();
    let due = 0;
    while (this.running) {
      const now = await new Promise(requestAnimationFrame);
      if (!this.running) return;
      due = Math.min(due + ((now - before) / 1000) * this._speed, this._speed);
      before = now;
      const more = this._stale ? 0 : Math.min(Math.floor(due), passage.pieces.length - this._shown);
      const typed = passage.pieces.slice(this._shown).findIndex((piece) => piece.by !== null);
      if (more > 0 || typed > 0) {
        due -= Math.max(0, more);
        this._shown += Math.max(more, typed);
        this._play.show(this._shown);
        this._play.field.follow();
      }
    }
  }

  _press(pressed) {
    element("run").textContent = pressed ? "Pause" : "Run";
    element("run").setAttribute("aria-pressed", pressed);
  }

  async _seek() {
    const to = Number(element("rewind").value);
    if (this.running) {
      this._goesOn = true;
      await this.stop();
    }
    element("rewind").value = to;
    element("rewind-told").value = to;
    this._play.dim(to);
  }

  /** What comes later stays, until the text goes on from here. */
  async _rewind() {
    const to = Number(element("rewind").value);
    await this._ended;
    this._play.say(`Back at character ${to}; Run goes on from there.`);
    if (!this._goesOn) return;
    this._goesOn = false;
    this.start();
  }

  /** Show how long the text is, and where settings have changed. */
  update(until) {
    const { pieces } = this._play.passage;
    const end = Math.min(until, pieces.length);
    const slider = element("rewind");
    slider.max = this.running ? end : pieces.length;
    slider.value = end;
    element("rewind-told").value = end;
    const changes = changesOf(pieces, end);
    const list = element("changes");
    if (list.childElementCount === changes.length && list.dataset.last === String(changes.at(-1)?.number)) return;
    list.dataset.last = String(changes.at(-1)?.number);
    list.replaceChildren(...changes.map(({ number, what }) => made("li", {}, made("b", {}, number), ` ${what}`)));
  }
}

/** The places where a generated text goes on with other settings. */
export function changesOf(pieces, end = pieces.length) {
  const changes = [];
  let last = null;
  for (let number = 0; number < end; number++) {
    const { by } = pieces[number];
    if (by && last && by !== last && !alike(by, last)) changes.push({ number, what: difference(last, by) });
    last = by ?? last;
  }
  return changes;
}
