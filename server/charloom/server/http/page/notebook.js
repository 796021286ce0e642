// The notebook: what could stand in a place, how probable each is, and going on with another one from there.

import { barButton, element, made } from "./dom.js";
import { bitsOf } from "./passage.js";
import { named, percent, shown, spoken } from "./look.js";

const SHOWN = 10;
const PEEK_MS = 250;

export class Notebook {
  constructor(play) {
    this._play = play;
    this._list = element("alternatives");
    this._list.addEventListener("keydown", (event) => this._move(event));
    element("text").addEventListener("keydown", (event) => {
      if (play.view === "notebook" && event.altKey && event.key === "ArrowDown") {
        event.preventDefault();
        this._list.querySelector("button:not(:disabled)")?.focus();
      }
    });
  }

  /** Show the alternatives of a piece, or of what comes after the last one. */
  look(number) {
    const { passage } = this._play;
    const piece = passage.pieces[number];
    clearTimeout(this._peeking);
    if (piece) {
      const how = `${percent(Math.exp(piece.logprob))}, ${bitsOf(piece).toFixed(1)} bits`;
      element("here").textContent = `${number + 1}: ${named(piece.text)}, ${how}${piece.by ? "" : ", typed"}`;
      this._fill(number, piece.top, piece.text);
      return;
    }
    element("here").textContent = passage.text ? "What comes next" : "Type a beginning, then press Go on.";
    this._fill(number, [], "");
    if (passage.text && !this._play.busy) this._peeking = setTimeout(() => this._peek(number), PEEK_MS);
  }

  async _peek(number) {
    const { passage } = this._play;
    const text = passage.text;
    const top = await this._play.tried(() => passage.next());
    const { field, view, busy } = this._play;
    if (top && passage === this._play.passage && passage.text === text && field.caret === number && !busy) {
      if (view === "notebook") this._fill(number, top, "");
    }
  }

  _fill(number, top, own) {
    const buttons = top.slice(0, SHOWN).map(([text, logprob]) => {
      const part = Math.exp(logprob);
      const figure = percent(part);
      const button = barButton({ label: `${spoken(text)}, ${figure}`, what: shown(text), part, figure });
      button.disabled = text.startsWith("bytes:") || this._play.busy;
      if (text === own) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => this._choose(number, text));
      return made("li", {}, button);
    });
    this._list.replaceChildren(...buttons);
  }

  /** Go back to a place, put this there, and go on. */
  async _choose(number, text) {
    const { passage, field } = this._play;
    if (passage.pieces[number]?.text === text) return;
    passage.cut(number);
    passage.pending = text;
    this._play.show();
    await this._play.goOn();
    field.focus();
    field.caret = number;
    this._play.caretMoved(number);
  }

  _move(event) {
    const buttons = [...this._list.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) buttons[(at + step + buttons.length) % buttons.length].focus();
    else if (event.key === "Escape") this._play.field.focus();
    else return;
    event.preventDefault();
  }
}
