// The tree: continuations from one place, each a text with a session of its own; which to work on, and how they differ.

import { element, made } from "./dom.js";
import { bitsOf, meanBits } from "./passage.js";
import { surprisalClass } from "./look.js";

export class Tree {
  constructor(play) {
    this._play = play;
    this._passages = [];
    this._compared = new Set();
    this._visible = false;
    element("branch").addEventListener("click", () => this._branch());
  }

  set visible(visible) {
    this._visible = visible;
    element("comparison").hidden = !visible || this._compared.size < 2;
  }

  /** Forget all branches, and begin with one. */
  begin(passage) {
    this._passages = [passage];
    this._compared.clear();
  }

  caretMoved(number) {
    const { pieces } = this._play.passage;
    const place = number < pieces.length ? `before character ${number + 1}` : "from the end";
    element("branch-place").textContent = `The caret says where: ${place}.`;
  }

  async _branch() {
    const play = this._play;
    const { passage, settings } = play;
    const at = Math.min(play.field.caret, passage.pieces.length);
    const count = Math.min(8, Math.max(1, Number(element("branch-count").value)));
    const still = await play.working("Branching…", async (signal) => {
      if (passage.pending) await passage.score();
      if (signal.aborted) return;
      const { chosen, length } = settings;
      const branches = await passage.fork(at, Array.from({ length: count }, () => play.newId()));
      if (!this._passages.includes(passage)) return; // another link was opened meanwhile
      this._passages.push(...branches);
      this._compared = new Set(branches.slice(0, 2));
      play.turnTo(branches[0]);
      await Promise.all(
        branches.map((branch, number) =>
          // The text that is there already goes on with the seed itself.
          branch.generate({ ...chosen, seed: chosen.seed + 1 + number }, length, () => play.show(), signal),
        ),
      );
      play.say(`${count} branches from character ${at}.`);
    });
    if (!still) return;
    play.show();
    play.field.caret = at;
    play.caretMoved(at);
  }

  /** Draw the branches. */
  update() {
    if (!this._visible) return;
    const longest = Math.max(1, ...this._passages.map(({ pieces }) => pieces.length));
    element("branches").replaceChildren(...this._inOrder().map(([passage, depth]) => this._item(passage, depth, longest)));
    element("comparison").hidden = this._compared.size < 2;
    if (this._compared.size >= 2) this._compare();
  }

  /** Each branch after the one that it comes from, and how many it comes from. */
  _inOrder() {
    const below = (parent, depth) =>
      this._passages
        .filter((passage) => (this._passages.includes(passage.parent) ? passage.parent : null) === parent)
        .flatMap((passage) => [[passage, depth], ...below(passage, depth + 1)]);
    return below(null, 0);
  }

  _item(passage, depth, longest) {
    const { pieces, forkedAt, id } = passage;
    const name = id.split(".").at(-1);
    const current = passage === this._play.passage;
    const focused = document.activeElement?.dataset?.branch === id && document.activeElement.className;
    const open = made("button", { type: "button", className: "open", title: `session ${id}` });
    open.dataset.branch = id;
    if (current) open.setAttribute("aria-current", "true");
    const beginning = pieces.slice(forkedAt, forkedAt + 40).map((piece) => piece.text).join("").replaceAll("\n", "↵");
    open.append(made("b", {}, name), made("span", { className: "excerpt" }, beginning || "(nothing yet)"));
    open.setAttribute("aria-label", `Branch ${name}, from character ${forkedAt}, ${pieces.length} long: ${beginning}`);
    open.addEventListener("click", () => this._play.busy || this._play.turnTo(passage));
    const track = made("span", { className: "track" }, made("span", { className: "own" }));
    track.style.setProperty("--from", forkedAt / longest);
    track.style.setProperty("--to", pieces.length / longest);
    const compare = made("input", { type: "checkbox", checked: this._compared.has(passage), className: "compare" });
    compare.dataset.branch = id;
    compare.setAttribute("aria-label", `Compare branch ${name}`);
    compare.addEventListener("change", () => {
      if (compare.checked) this._compared.add(passage);
      else this._compared.delete(passage);
      this.update();
    });
    const forget = made("button", { type: "button", className: "forget", disabled: this._passages.length < 2 }, "×");
    forget.dataset.branch = id;
    forget.setAttribute("aria-label", `Delete branch ${name}`);
    forget.addEventListener("click", () => this._forget(passage));
    const figures = made("span", { className: "figures" }, `${meanBits(pieces.slice(forkedAt)).toFixed(2)} bits`);
    const item = made("li", {}, compare, open, figures, forget, track);
    item.style.setProperty("--depth", depth);
    if (focused) queueMicrotask(() => item.querySelector(`.${focused}`)?.focus());
    return item;
  }

  async _forget(passage) {
    const play = this._play;
    if (play.busy) return;
    this._passages = this._passages.filter((other) => other !== passage);
    this._compared.delete(passage);
    if (passage === play.passage) play.turnTo(this._passages.includes(passage.parent) ? passage.parent : this._passages[0]);
    else this.update();
    const gone = await play.tried(async () => {
      await passage.forget();
      return true;
    });
    if (gone) play.say(`Deleted branch ${passage.id.split(".").at(-1)}, and its session.`);
    element("branches").querySelector(".open")?.focus();
  }

  /** The compared branches beside each other, from where they part. */
  _compare() {
    const compared = this._passages.filter((passage) => this._compared.has(passage));
    let common = 0;
    while (compared.every(({ pieces }) => pieces[common] && pieces[common].text === compared[0].pieces[common].text)) common++;
    const heading = made("h2", {}, `The same up to character ${common}`);
    const columns = compared.map(({ id, pieces }) => {
      const own = pieces.slice(common);
      const text = made("p", { className: "reading" });
      text.append(
        made("span", { className: "before" }, pieces.slice(Math.max(0, common - 30), common).map((piece) => piece.text).join("")),
        ...own.map((piece) => made("span", { className: surprisalClass(bitsOf(piece)) }, piece.text)),
      );
      const by = own.find((piece) => piece.by)?.by;
      const how = by ? `seed ${by.seed}, ` : "";
      const figures = `${how}${meanBits(own).toFixed(2)} bits each over ${own.length} characters`;
      return made("article", {}, made("h3", {}, id.split(".").at(-1)), made("p", { className: "figures" }, figures), text);
    });
    element("comparison").replaceChildren(heading, made("div", { className: "columns" }, ...columns));
  }
}
