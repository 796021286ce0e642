// A text as a link, and as programs: what was typed, and what was generated with which settings. Knows no server.
//
// Text is a pure function of the model, the seed, the position and the settings, so this is all that a text needs:
//   #view=notebook&model=shakespeare&digest=1a2b3c&t=ROMEO:&g=200,seed:7,temperature:0.7,top_p:1&at=12

const SETTINGS = ["seed", "temperature", "top_p"];
const DIGEST_LENGTH = 12;

const packed = (text) => encodeURIComponent(text).replaceAll("%20", "+").replaceAll("%3A", ":");
const unpacked = (text) => decodeURIComponent(text.replaceAll("+", " "));

function packedSettings({ bias, ...settings }) {
  const parts = SETTINGS.map((name) => `${name}:${settings[name]}`);
  if (bias) parts.push(`bias:${encodeURIComponent(bias.character)}:${bias.amount}`);
  return parts.join(",");
}

function unpackedSettings(parts) {
  const settings = { seed: 0, temperature: 1, top_p: 1, bias: null };
  for (const part of parts) {
    const [name, value, amount] = part.split(":");
    if (name === "bias") settings.bias = { character: decodeURIComponent(value), amount: Number(amount) };
    else if (SETTINGS.includes(name)) settings[name] = Number(value);
  }
  return settings;
}

/** The fragment of a link. */
export function fragmentOf({ view, model, digest, at, recipe, settings, length }) {
  const parts = [`view=${view}`, `model=${packed(model)}`, `digest=${digest.slice(0, DIGEST_LENGTH)}`];
  for (const { text, by, count } of recipe) {
    parts.push(by ? `g=${count},${packedSettings(by)}` : `t=${packed(text)}`);
  }
  parts.push(`next=${length},${packedSettings(settings)}`, `at=${at}`);
  return `#${parts.join("&")}`;
}

/**
 * What a fragment says; what it leaves out is undefined.
 * @throws Error it is not one that `fragmentOf` makes
 */
export function readFragment(fragment) {
  const found = { recipe: [] };
  for (const part of fragment.slice(1).split("&")) {
    const [name, ...rest] = part.split("=");
    const value = rest.join("=");
    if (name === "t") found.recipe.push({ text: unpacked(value) });
    else if (name === "g") found.recipe.push(step(value));
    else if (name === "next") ({ count: found.length, by: found.settings } = step(value));
    else if (name === "at") found.at = whole(value);
    else if (name === "view" || name === "model" || name === "digest") found[name] = unpacked(value);
  }
  return found;
}

function step(value) {
  const [count, ...settings] = value.split(",");
  return { count: whole(count), by: unpackedSettings(settings) };
}

function whole(value) {
  if (!/^[0-9]{1,15}$/.test(value)) throw new Error(`${value} is no number`);
  return Number(value);
}

/** Whether a link was made with this version of a model. */
export const sameVersion = (digest, linked) => digest.startsWith(linked.slice(0, DIGEST_LENGTH));

/** Calls of a session: what each reads, and what it then generates. */
function callsOf(recipe) {
  const calls = [];
  let prompt = "";
  for (const { text, by, count } of recipe) {
    if (by) calls.push({ prompt, by, count });
    prompt = by ? "" : prompt + text;
  }
  return { calls, rest: prompt };
}

/** A program that makes the text with the SDK. */
export function asPython({ model, recipe, host, closed }) {
  const { calls, rest } = callsOf(recipe);
  const lines = ["from charloom.client import Client", ""];
  if (closed) lines.unshift("import os", "");
  const access = closed ? ', token=os.environ["CHARLOOM_KEY"]' : "";
  lines.push(`with Client("${host}:50051"${access}) as client, client.session(model=${JSON.stringify(model)}) as session:`);
  let sign = "=";
  const add = (part) => {
    lines.push(`    text ${sign} ${part}`);
    sign = "+=";
  };
  for (const { prompt, by, count } of calls) {
    const options = [`max_tokens=${count}`, ...SETTINGS.map((name) => `${name}=${by[name]}`)];
    if (by.bias) options.push(`logit_bias={${JSON.stringify(by.bias.character)}: ${by.bias.amount}}`);
    if (prompt) options.unshift(JSON.stringify(prompt));
    if (prompt) add(JSON.stringify(prompt));
    add(`session.complete(${options.join(", ")}).text`);
  }
  if (rest || !calls.length) add(JSON.stringify(rest));
  lines.push("    print(text)");
  return `${lines.join("\n")}\n`;
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/**
 * Commands that make the text.
 * @param fields makes the fields of a request from settings
 */
export async function asCurl({ model, recipe, base, closed, id }, fields) {
  const { calls, rest } = callsOf(recipe);
  const key = closed ? ' -H "authorization: Bearer $CHARLOOM_KEY"' : "";
  const command = (path, body) =>
    `curl -sS ${base}${path} -H 'content-type: application/json'${key} \\\n    -d ${quoted(JSON.stringify(body))}`;
  const alone = calls.length === 1 && !rest;
  const lines = alone ? [] : [command("v1/sessions", { session_id: id, model })];
  for (const { prompt, by, count } of calls) {
    const where = alone ? { model } : { session_id: id };
    const body = { ...where, prompt, max_tokens: count, echo: true, ...(await fields(by)) };
    lines.push(command("v1/completions", body));
  }
  if (rest) lines.push(command(`v1/sessions/${id}/feed`, { text: rest }));
  if (!alone) lines.push(`curl -sS -X DELETE ${base}v1/sessions/${id}${key}`);
  return `${lines.join("\n")}\n`;
}
