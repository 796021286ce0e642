// The controls of the settings: how tokens are chosen, and how many. Knows nothing of the text.

import { element } from "./dom.js";
import { LONGEST } from "./passage.js";

const SEEDS = 100_000;

export class Settings {
  /** @param changed called when somebody has changed one */
  constructor(changed) {
    this._form = element("settings");
    this._form.addEventListener("submit", (event) => event.preventDefault());
    this._form.addEventListener("input", () => {
      this._tell();
      changed();
    });
    element("seed").value = Math.floor(Math.random() * SEEDS);
    this._tell();
  }

  /** How tokens are chosen. */
  get chosen() {
    const character = [...element("bias-character").value][0] ?? "";
    const amount = Number(element("bias").value);
    return Object.freeze({
      seed: Math.max(0, Math.floor(Number(element("seed").value))),
      temperature: Number(element("temperature").value),
      top_p: Number(element("top-p").value),
      bias: character && amount ? { character, amount } : null,
    });
  }

  set chosen({ seed, temperature, top_p: topP, bias }) {
    element("seed").value = seed;
    element("temperature").value = temperature;
    element("top-p").value = topP;
    element("bias-character").value = bias?.character ?? "";
    element("bias").value = bias?.amount ?? 0;
    this._tell();
  }

  /** How many tokens to go on by. */
  get length() {
    return Math.min(LONGEST, Math.max(1, Math.floor(Number(element("length").value))));
  }

  set length(length) {
    element("length").value = length;
  }

  _tell() {
    const { temperature, top_p: topP } = this.chosen;
    element("temperature-told").value = temperature ? temperature.toFixed(2) : "greedy";
    element("top-p-told").value = topP.toFixed(2);
    const amount = Number(element("bias").value);
    element("bias-told").value = `${amount > 0 ? "+" : ""}${amount}`.replace("-", "−");
  }
}

/** What is different between two settings, in words. */
export function difference(one, other) {
  const parts = [];
  for (const [name, label] of [["temperature", "temperature"], ["top_p", "top p"], ["seed", "seed"]]) {
    if (one[name] !== other[name]) parts.push(`${label} ${one[name]} → ${other[name]}`);
  }
  const bias = ({ bias: found }) => (found ? `${found.character} ${found.amount > 0 ? "+" : ""}${found.amount}` : "none");
  if (bias(one) !== bias(other)) parts.push(`bias ${bias(one)} → ${bias(other)}`);
  return parts.join(", ").replaceAll("-", "−");
}
