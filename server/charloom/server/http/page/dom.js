// Elements of the page: found, and made.

/** The one with this id. */
export const element = (id) => document.getElementById(id);

/** A new one. */
export const made = (tag, properties = {}, ...content) => {
  const one = Object.assign(document.createElement(tag), properties);
  one.append(...content);
  return one;
};

/** A new button that shows what it is for, a bar, and a figure. `part`: how much of the bar is filled, up to 1. */
export function barButton({ label, what, part, figure, kind = "" }) {
  const bar = made("span", { className: `bar ${kind}` });
  bar.style.setProperty("--part", part);
  const [before, after] = [made("span", { className: "what" }, what), made("span", { className: "how" }, figure)];
  const button = made("button", { type: "button" }, before, bar, after);
  button.setAttribute("aria-label", label);
  return button;
}
