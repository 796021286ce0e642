// The cells: what units of a layer do under the text, and which of them follow a part of it.

import { call } from "./api.js";
import { barButton, element, made } from "./dom.js";
import { LEVELS, activationClass, level, shown } from "./look.js";

const ROWS = 14;
const WAIT_MS = 250;
const LONGEST = 4000; // tokens that the server inspects at a time, about
const [WIDTH, HEIGHT, TOP] = [11, 15, 20]; // of a cell of the map, and of the line of text above it
const WIDEST = 1400; // characters of the map
const LONG_NAMES = { h: "output h", c: "cell state c" };

export class Cells {
  constructor(play) {
    this._play = play;
    this._visible = false;
    this._found = null; // what the units do: tokens x units
    this._unit = null; // the one that colours the text
    element("layer").addEventListener("change", () => this._ask());
    element("array").addEventListener("change", () => this._ask());
    element("text").addEventListener("select", () => this._rank());
    element("heat").addEventListener("pointermove", (event) => this._point(event));
    element("units").addEventListener("keydown", (event) => this._move(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this._draw());
  }

  set visible(visible) {
    this._visible = visible;
    element("map").hidden = !visible;
    this._legend();
    if (visible) this._ask();
  }

  /** What the colours of the text mean. */
  _legend() {
    const coloured = this._visible && this._unit !== null;
    element("activation-legend").hidden = !coloured;
    element("surprisal-legend").hidden = coloured;
  }

  /** Another model has other layers and arrays. */
  modelChanged() {
    const { cell } = this._play.model;
    const layers = Array.from({ length: cell.layers }, (_, layer) => new Option(layer, layer));
    layers.at(-1).defaultSelected = true;
    element("layer").replaceChildren(...layers);
    const names = [...cell.arrays].reverse().concat(cell.gates);
    element("array").replaceChildren(
      ...names.map((name) => new Option(LONG_NAMES[name] ?? `${name}${cell.gates.includes(name) ? " gate" : ""}`, name)),
    );
    this._found = this._unit = this._ranked = null;
    element("units").replaceChildren();
    element("map-units").replaceChildren();
    this._legend();
  }

  /** How pieces look where a unit colours the text; null where none does. */
  look() {
    if (!this._visible || this._unit === null || !this._found) return null;
    const values = this._column(this._unit);
    const most = Math.max(...values.map(Math.abs));
    return (piece) => {
      const value = values[piece.position - 1];
      return value === undefined ? "" : activationClass(value, most);
    };
  }

  /** The text has changed. */
  changed() {
    if (!this._visible || this._found?.text === this._play.passage.text) return;
    // Not put off by further changes: the map grows while a text is written.
    this._asking ??= setTimeout(() => this._ask(), WAIT_MS);
  }

  async _ask() {
    clearTimeout(this._asking);
    this._asking = undefined;
    const { passage } = this._play;
    const text = passage.text;
    if (!text || text.length > LONGEST) {
      element("units-told").textContent = text ? `Up to ${LONGEST} characters can be looked into.` : "There is no text yet.";
      return;
    }
    const [layer, array] = [Number(element("layer").value), element("array").value];
    const body = { model: passage.model, text, layers: [layer], arrays: [array], encoding_format: "base64" };
    const answer = await this._play.tried(() => call("POST", "v1/inspect", body));
    if (!answer || !this._visible || passage !== this._play.passage) return;
    const bytes = Uint8Array.from(atob(answer.activations[0].values), (character) => character.charCodeAt(0));
    const values = new Float32Array(bytes.buffer);
    this._found = { text, layer, array, tokens: answer.tokens, units: answer.units, values };
    this._rank();
    this._play.show();
  }

  /** The first token of a piece: a character may have several. */
  _token(piece) {
    const { passage } = this._play;
    return passage.positionAt(Math.min(piece, passage.pieces.length));
  }

  _column(unit) {
    const { units, values, tokens } = this._found;
    return tokens.map((_, row) => values[row * units + unit]);
  }

  /** Order the units: by how they follow what is selected, or else by how much they vary. */
  _rank() {
    if (!this._visible || !this._found) return;
    const { tokens, units } = this._found;
    const [first, end] = this._play.field.selection.map((piece) => this._token(piece));
    const selected = end > first && end - first < tokens.length;
    const scores = Array.from({ length: units }, (_, unit) => {
      const values = this._column(unit);
      return { unit, score: selected ? correlation(values, first, end) : deviation(values) };
    });
    scores.sort((one, other) => Math.abs(other.score) - Math.abs(one.score));
    this._selected = selected ? [first, end] : null;
    this._ranked = scores.slice(0, ROWS);
    const where = selected ? `characters ${first + 1} to ${end}` : "";
    element("units-told").textContent = selected
      ? `Units that follow ${where}, by correlation. Choose one to colour the text.`
      : "Units that vary most. Select a part of the text to find those that follow it; choose one to colour the text.";
    element("map-caption").textContent = selected ? `Units that follow ${where}` : "Units that vary most, under the text";
    this._list();
    this._draw();
  }

  _list() {
    const focused = document.activeElement?.dataset?.unit;
    const buttons = this._ranked.map(({ unit, score }) => {
      const figure = (this._selected && score > 0 ? "+" : "") + score.toFixed(2).replace("-", "−");
      const label = `Unit ${unit}, ${this._selected ? "correlation" : "deviation"} ${figure}`;
      const part = Math.abs(score) / Math.abs(this._ranked[0].score || 1);
      const button = barButton({ label, what: unit, part, figure, kind: score < 0 ? "negative" : "" });
      button.dataset.unit = unit;
      button.setAttribute("aria-pressed", unit === this._unit);
      button.addEventListener("click", () => this._colour(unit));
      return made("li", {}, button);
    });
    element("units").replaceChildren(...buttons);
    if (focused) element("units").querySelector(`[data-unit="${focused}"]`)?.focus();
    element("map-units").replaceChildren(...this._ranked.map(({ unit }) => made("li", {}, unit)));
  }

  /** Colour the text by a unit; the same one again ends it. */
  _colour(unit) {
    this._unit = this._unit === unit ? null : unit;
    const { layer, array } = this._found;
    element("activation-name").textContent = `unit ${unit} of layer ${layer}, ${array}`;
    this.visible = true;
    this._list();
    this._play.show();
  }

  _draw() {
    if (!this._visible || !this._found || !this._ranked) return;
    const canvas = element("heat");
    const { tokens } = this._found;
    const from = Math.max(0, tokens.length - WIDEST);
    const count = tokens.length - from;
    const scale = Math.min(2, devicePixelRatio);
    canvas.width = count * WIDTH * scale;
    canvas.height = (TOP + ROWS * HEIGHT) * scale;
    canvas.style.setProperty("--width", `${count * WIDTH}px`);
    canvas.style.setProperty("--height", `${TOP + ROWS * HEIGHT}px`);
    const style = getComputedStyle(canvas);
    const colours = new Map();
    for (let step = -LEVELS; step <= LEVELS; step++) colours.set(step, style.getPropertyValue(`--a${step}`));
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.font = `13px ${style.getPropertyValue("--mono")}`;
    pen.textAlign = "center";
    if (this._selected) {
      const [first, end] = this._selected;
      pen.fillStyle = style.getPropertyValue("--selected");
      pen.fillRect((first - from) * WIDTH, 0, (end - first) * WIDTH, TOP - 3);
    }
    pen.fillStyle = style.getPropertyValue("--ink");
    for (let place = 0; place < count; place++) pen.fillText(shown(tokens[from + place]), (place + 0.5) * WIDTH, 13);
    this._ranked.forEach(({ unit }, row) => {
      const values = this._column(unit);
      const most = Math.max(...values.map(Math.abs));
      for (let place = 0; place < count; place++) {
        pen.fillStyle = colours.get(level(values[from + place], most));
        pen.fillRect(place * WIDTH, TOP + row * HEIGHT, WIDTH - 0.5, HEIGHT - 1);
      }
    });
    this._from = from;
  }

  /** The caret is before a character: bring it into the picture, and tell what the coloured unit does there. */
  caretMoved(piece) {
    if (!this._visible || !this._found) return;
    const number = this._token(piece);
    const scroller = element("map-scroller");
    const left = (number - (this._from ?? 0)) * WIDTH;
    if (left < scroller.scrollLeft || left > scroller.scrollLeft + scroller.clientWidth - WIDTH) {
      scroller.scrollLeft = left - scroller.clientWidth / 2;
    }
    const value = this._unit === null ? undefined : this._column(this._unit)[number];
    if (value !== undefined) {
      const token = shown(this._found.tokens[number]);
      this._play.say(`Unit ${this._unit} at ${number + 1} ${token}: ${value.toFixed(2).replace("-", "−")}`);
    }
  }

  _point(event) {
    const place = Math.floor(event.offsetX / WIDTH);
    const row = Math.floor((event.offsetY - TOP) / HEIGHT);
    const one = this._ranked?.[row];
    const number = place + (this._from ?? 0);
    if (!one || !this._found.tokens[number]) return;
    const value = this._column(one.unit)[number];
    this._play.field.mark(this._play.passage.pieces.findIndex(({ position }) => position > number));
    this._play.say(`Unit ${one.unit} at ${number + 1} ${shown(this._found.tokens[number])}: ${value.toFixed(2).replace("-", "−")}`);
  }

  _move(event) {
    const buttons = [...element("units").querySelectorAll("button")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length].focus();
  }
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** How much values vary. */
function deviation(values) {
  const middle = mean(values);
  return Math.sqrt(mean(values.map((value) => (value - middle) ** 2)));
}

/** Correlation (Pearson's) of values with whether their place is from `first` to before `end`. */
export function correlation(values, first, end) {
  const part = (end - first) / values.length;
  const spread = deviation(values) * Math.sqrt(part * (1 - part));
  return spread ? (part * (mean(values.slice(first, end)) - mean(values))) / spread : 0;
}
