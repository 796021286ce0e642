// The page: the text that is worked on, what may be done with it, and the views of it. Views know this object.

import { call, key } from "./api.js";
import { Cells } from "./cells.js";
import { element } from "./dom.js";
import { Field } from "./field.js";
import { asCurl, asPython, fragmentOf, readFragment, sameVersion } from "./link.js";
import { Live, changesOf } from "./live.js";
import { surprisalClass } from "./look.js";
import { Notebook } from "./notebook.js";
import { LONGEST, Passage, asked, bitsOf, meanBits } from "./passage.js";
import { Settings } from "./settings.js";
import { Tree } from "./tree.js";

const SCORE_MS = 350;
const LINK_MS = 300;
const COPIED_MS = 1500;
const VIEWS = ["notebook", "tree", "cells", "live"];

class Playground {
  constructor() {
    this.view = "notebook";
    this.models = [];
    this._busy = false;
    this._count = 0;
    this._prefix = `play-${crypto.getRandomValues(new Uint32Array(1))[0].toString(16).padStart(8, "0")}`;
    this.settings = new Settings(() => {
      this._live.settingsChanged();
      this._link();
    });
    this.field = new Field(element("text"), element("mirror"), {
      edit: (text) => this._edit(text),
      caret: (number) => this.caretMoved(number),
      hover: (number) => this._hover(number),
    });
    this._notebook = new Notebook(this);
    this._live = new Live(this);
    this._tree = new Tree(this);
    this._cells = new Cells(this);
    this.passage = new Passage("", "");
    this._listen();
  }

  /** An id for a session that nobody else has. */
  newId() {
    return `${this._prefix}.${++this._count}`;
  }

  get model() {
    return this.models.find((model) => model.id === this.passage.model);
  }

  /** Whether a call goes on; then the text cannot be edited. */
  get busy() {
    return this._busy;
  }

  set busy(busy) {
    this._busy = busy;
    this.field.locked = busy;
    element("go").disabled = busy;
    element("stop").disabled = !busy;
    element("branch").disabled = busy;
    element("model").disabled = busy;
    document.body.classList.toggle("busy", busy);
  }

  /** Tell people. */
  say(text) {
    element("status").textContent = text;
    element("status").classList.remove("wrong");
  }

  /** Do something, and say what was wrong with it; undefined where something was. */
  async tried(act) {
    try {
      return await act();
    } catch (problem) {
      this.say(problem.message);
      element("status").classList.add("wrong");
      if (problem.status === 401 || problem.code === "scope_missing") element("door").hidden = false;
      if (problem.status === undefined) throw problem; // a fault of this page
      return undefined;
    }
  }

  /**
   * Do something during which the text cannot be edited. Stop ends it, and so does another link.
   * @param act gets the signal that says so
   * @returns whether people see the same text still, and can edit it again
   */
  async working(told, act) {
    const { _begun: begun } = this;
    const abort = (this._abort = new AbortController());
    this.busy = true;
    this.say(told);
    await this.tried(() => act(abort.signal));
    if (this._abort !== abort) return false; // another text is being written by now
    this.busy = false;
    return this._begun === begun;
  }

  /** Draw what there is; with a number, the pieces before that one. */
  show(until = Infinity) {
    const changed = new Set(changesOf(this.passage.pieces).map(({ number }) => number));
    const look = this._cells.look() ?? ((piece) => surprisalClass(bitsOf(piece)));
    const drawn = until < this.passage.pieces.length ? this.passage.head(until) : this.passage;
    this.field.show(drawn, (piece, number) => look(piece, number) + (changed.has(number) ? " changed" : ""));
    const { pieces } = drawn;
    const told = [`${pieces.length} characters`];
    if (pieces.length) told.push(`${meanBits(pieces).toFixed(2)} bits each`, `session ${this.passage.id}`);
    element("figures").textContent = told.join(" · ");
    this._live.update(until);
    this._tree.update();
    this._cells.changed();
    this._link();
  }

  /** Draw the text from a piece on as not there. */
  dim(until) {
    this.field.show(this.passage, (piece) => surprisalClass(bitsOf(piece)), until);
  }

  /** Go on from the end of the text. */
  async goOn() {
    if (this.busy) return;
    const { passage } = this;
    clearTimeout(this._scoring);
    const { chosen, length } = this.settings;
    const still = await this.working("Writing…", async (signal) => {
      await passage.generate(chosen, length, () => this.show(), signal);
      this.say(`${passage.pieces.filter(({ by }) => by === chosen).length} characters more.`);
    });
    if (!still) return;
    this.show();
    this.field.caret = passage.pieces.length;
    this.caretMoved(passage.pieces.length);
  }

  /** Work on another text. */
  turnTo(passage) {
    this.passage = passage;
    this.show();
    this.caretMoved(this.field.caret);
  }

  /** The caret is before this piece now. */
  caretMoved(number) {
    this.field.mark(number);
    if (this.view === "notebook" && !this.busy) this._notebook.look(number);
    this._tree.caretMoved(number);
    this._cells.caretMoved(number);
    this._link();
  }

  _hover(number) {
    const meant = number ?? this.field.caret;
    this.field.mark(meant);
    if (this.view === "notebook" && !this.busy && (number !== null || meant < this.passage.pieces.length)) {
      this._notebook.look(meant);
    }
    if (this.view === "cells") this._cells.caretMoved(meant);
  }

  _edit(text) {
    this.passage.edit(text);
    this.show();
    this.caretMoved(this.field.caret);
    clearTimeout(this._scoring);
    this._scoring = setTimeout(() => this._score(), SCORE_MS);
  }

  async _score() {
    const { passage } = this;
    if (this.busy || !passage.pending) return;
    const done = await this.tried(async () => {
      await passage.score();
      return true;
    });
    if (!done || passage !== this.passage || this.busy) return;
    this.say("");
    this.show();
    this.caretMoved(this.field.caret);
  }

  async turnToView(view) {
    if (this._live.running) await this._live.stop();
    this.view = view;
    document.body.dataset.view = view;
    for (const tab of document.querySelectorAll("[role=tab]")) {
      const chosen = tab.dataset.view === view;
      tab.setAttribute("aria-selected", chosen);
      tab.tabIndex = chosen ? 0 : -1;
    }
    element("work").setAttribute("aria-labelledby", `tab-${view}`);
    for (const panel of document.querySelectorAll("[data-for]")) {
      panel.hidden = !panel.dataset.for.split(" ").includes(view);
    }
    this._tree.visible = view === "tree";
    this._cells.visible = view === "cells";
    this.show();
    this.caretMoved(this.field.caret);
  }

  _state() {
    const { passage, settings, view } = this;
    const recipe = passage.recipe();
    const { digest } = this.model;
    const [at, model] = [this.field.caret, passage.model];
    return { view, model, digest, at, recipe, settings: settings.chosen, length: settings.length };
  }

  _link() {
    clearTimeout(this._linking);
    this._linking = setTimeout(() => {
      if (this.model) history.replaceState(null, "", fragmentOf(this._state()));
    }, LINK_MS);
  }

  async _copy(button) {
    const state = this._state();
    const base = new URL(".", location.href).href;
    const options = { ...state, base, host: location.hostname, closed: key.get() !== "" };
    const copied = await this.tried(async () => {
      const forms = {
        link: () => new URL(fragmentOf(state), base).href,
        python: () => asPython(options),
        curl: () => asCurl({ ...options, id: `${this.newId()}-copy` }, (by) => asked(by, state.model)),
      };
      const text = await forms[button.dataset.copy]();
      await navigator.clipboard.writeText(text);
      return text;
    });
    if (!copied) return;
    this.say(`Copied: ${button.textContent}`);
    button.classList.add("copied");
    setTimeout(() => button.classList.remove("copied"), COPIED_MS);
  }

  _listen() {
    for (const tab of document.querySelectorAll("[role=tab]")) {
      tab.addEventListener("click", () => this.turnToView(tab.dataset.view));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const next = VIEWS[(VIEWS.indexOf(tab.dataset.view) + step + VIEWS.length) % VIEWS.length];
        element(`tab-${next}`).focus();
        this.turnToView(next);
      });
    }
    for (const button of document.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", () => this._copy(button));
    }
    element("go").addEventListener("click", () => this.goOn());
    element("stop").addEventListener("click", () => this._abort?.abort());
    element("text").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.goOn();
      }
    });
    element("model").addEventListener("change", () => {
      const { text } = this.passage;
      this.passage = new Passage(element("model").value, this.newId());
      this._tree.begin(this.passage);
      this._cells.modelChanged();
      this._edit(text);
    });
    element("door").addEventListener("submit", (event) => {
      event.preventDefault();
      key.set(element("key").value.trim());
      element("key").value = "";
      this.begin();
    });
    addEventListener("hashchange", () => this.begin());
  }

  /** Find the models, and make the text that the link stands for. */
  async begin() {
    this._abort?.abort();
    const begun = (this._begun = {});
    const link = linked(); // now: what is shown becomes the address again soon
    const found = await this.tried(() => call("GET", "v1/models"));
    if (!found || this._begun !== begun) return; // or the next link is there already
    this._abort?.abort();
    element("door").hidden = true;
    this.say("");
    this.models = found.data.filter(({ task }) => task === "language-model");
    element("model").replaceChildren(...this.models.map(({ id }) => new Option(id, id)));
    const model = this.models.find(({ id }) => id === link.model) ?? this.models[0];
    element("model").value = model.id;
    if (link.settings) [this.settings.chosen, this.settings.length] = [link.settings, link.length];
    this.passage = new Passage(model.id, this.newId());
    this._tree.begin(this.passage);
    this._cells.modelChanged();
    await this.turnToView(VIEWS.includes(link.view) ? link.view : "notebook");
    if (this._begun !== begun) return;
    if (link.recipe.length && this._mayReplay(link)) await this._replay(link, model);
    else this.field.focus();
    document.body.dataset.ready = "yes";
  }

  /** Whether to write what a link asks for; people are asked about more than the form would write at once. */
  _mayReplay({ recipe }) {
    const most = recipe.reduce((sum, { count = 0 }) => sum + count, 0);
    if (most <= LONGEST) return true;
    const long = `${most.toLocaleString("en")} characters`;
    if (confirm(`This link has the model write ${long}. Stop ends it at any time. Write them?`)) return true;
    this.say(`The ${long} of the link were not written.`);
    return false;
  }

  async _replay(link, model) {
    const { passage } = this;
    const still = await this.working("Writing the text of the link…", async (signal) => {
      await passage.replay(link.recipe, () => this.show(), signal);
      if (signal.aborted) {
        this.say(`Stopped after ${passage.pieces.length} characters.`);
        return;
      }
      await passage.score();
      const same = !link.digest || sameVersion(model.digest, link.digest);
      this.say(same ? "" : "This link was made with another version of the model; the text may be another one.");
    });
    if (!still) return;
    this.field.caret = link.at ?? passage.pieces.length;
    this.show();
    this.caretMoved(this.field.caret);
  }
}

/** What the address says; nothing where somebody has damaged it. */
function linked() {
  try {
    return readFragment(location.hash);
  } catch {
    return { recipe: [] };
  }
}

new Playground().begin();
