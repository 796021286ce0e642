// How numbers look: the bins of surprisal and of activations, and the ways to write a character, a probability, a number.

/** Bits from which on each bin of surprisal reaches. */
export const BINS = [0, 1, 2, 3, 4, 6, 8];

/** The class of a piece by its surprisal. */
export function surprisalClass(bits) {
  let bin = 0;
  while (bin + 1 < BINS.length && bits >= BINS[bin + 1]) bin++;
  return `s${bin}`;
}

export const LEVELS = 4;

/** From -LEVELS to LEVELS, of a value between -most and most. */
export const level = (value, most) => Math.max(-LEVELS, Math.min(LEVELS, Math.round((value / (most || 1)) * LEVELS)));

/** The class of a piece by the value of a unit. */
export const activationClass = (value, most) => `a${level(value, most)}`;

const NAMES = new Map([["\n", "↵"], [" ", "␣"], ["\t", "⇥"]]);
const SPOKEN = new Map([["\n", "line break"], [" ", "space"], ["\t", "tab"]]);

/** A token as it is shown. */
export const shown = (text) => NAMES.get(text) ?? text;

/** A token as it is read out. */
export const spoken = (text) => SPOKEN.get(text) ?? text;

/** A token in a sentence. */
export const named = (text) => SPOKEN.get(text) ?? `“${text}”`;

/** A probability. */
export function percent(probability) {
  const value = probability * 100;
  if (value >= 99.95) return "100 %";
  return `${value >= 9.95 ? value.toFixed(0) : value >= 0.095 ? value.toFixed(1) : "< 0.1"} %`;
}
