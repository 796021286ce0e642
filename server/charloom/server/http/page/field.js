// The text on the page: a textarea whose characters are drawn by a layer beneath it, so that each can have a look of its
// own while caret, selection, keyboard and screen reader stay the browser's. Knows pieces; knows nothing of the server.

const NEWLINE = "\n";

export class Field {
  /**
   * @param area the textarea
   * @param mirror what is drawn
   * @param heard functions: edit(text), caret(piece number), hover(piece number or null)
   */
  constructor(area, mirror, heard) {
    this._area = area;
    this._mirror = mirror;
    this._pieces = [];
    this._spans = [];
    this._starts = [0]; // of each piece in the text, and its end; in UTF-16 units, as the textarea counts
    this._hovered = null;
    area.addEventListener("input", () => heard.edit(area.value));
    for (const name of ["keyup", "pointerup", "select", "focus"]) {
      area.addEventListener(name, () => heard.caret(this.caret));
    }
    area.addEventListener("pointermove", (event) => this._hover(this._under(event), heard.hover));
    area.addEventListener("pointerleave", () => this._hover(null, heard.hover));
  }

  /**
   * Draw a text.
   * @param passage what there is
   * @param look class names of a piece, given it, its number and the one before it
   * @param until pieces from this one on are drawn as not there yet
   */
  show(passage, look, until = Infinity) {
    const pieces = passage.pieces;
    let same = 0;
    while (same < pieces.length && this._pieces[same] === pieces[same]) same++;
    this._spans.splice(same).forEach((span) => span.remove());
    this._starts.length = same + 1;
    this._tail?.remove();
    for (let number = same; number < pieces.length; number++) {
      const span = document.createElement("span");
      span.textContent = pieces[number].text;
      span.dataset.piece = number;
      this._spans.push(span);
      this._mirror.append(span);
      this._starts.push(this._starts[number] + pieces[number].text.length);
    }
    this._pieces = [...pieces];
    this._spans.forEach((span, number) => {
      const classes = [look(pieces[number], number, pieces[number - 1])];
      if (pieces[number].text === NEWLINE) classes.push("newline");
      if (pieces[number].by === null) classes.push("typed");
      if (number >= until) classes.push("ahead");
      const name = classes.filter(Boolean).join(" ");
      if (span.className !== name) span.className = name;
    });
    this._tail = document.createElement("span");
    this._tail.className = "typed unread";
    this._tail.textContent = `${passage.pending}\u200b`; // a last empty line has a height too
    this._mirror.append(this._tail);
    const text = passage.text;
    if (this._area.value !== text) {
      const { selectionStart, selectionEnd } = this._area;
      this._area.value = text;
      this._area.setSelectionRange(selectionStart, selectionEnd);
    }
    this.mark(this._marked);
  }

  /** Whether it can be edited. */
  set locked(locked) {
    this._area.readOnly = locked;
  }

  /** The piece behind the caret; as many as there are pieces where it stands at the end. */
  get caret() {
    return this._piece(this._area.selectionStart);
  }

  set caret(number) {
    const at = this._starts[Math.min(number, this._spans.length)];
    this._area.setSelectionRange(at, at);
  }

  /** The pieces that are selected: the first one, and the one behind the last. */
  get selection() {
    const { selectionStart, selectionEnd } = this._area;
    return [this._piece(selectionStart), selectionEnd > selectionStart ? this._piece(selectionEnd - 1) + 1 : 0];
  }

  focus() {
    this._area.focus({ preventScroll: true });
  }

  /** Bring the end of the text into view. */
  follow() {
    this._tail.scrollIntoView({ block: "nearest" });
  }

  /** Show which piece is meant. */
  mark(number) {
    this._spans[this._marked]?.classList.remove("meant");
    this._marked = number;
    this._spans[number]?.classList.add("meant");
  }

  _piece(offset) {
    let low = 0;
    let high = this._spans.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this._starts[middle + 1] <= offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  _under(event) {
    const found = document.elementsFromPoint(event.clientX, event.clientY);
    const span = found.find((element) => element.parentElement === this._mirror && element.dataset.piece);
    return span ? Number(span.dataset.piece) : null;
  }

  _hover(number, tell) {
    if (number === this._hovered) return;
    this._hovered = number;
    tell(number);
  }
}
