// Elements, numbers and foreign texts. Whatever a record holds goes through textContent, never through HTML.

/** An element with attributes and children; texts become text nodes. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Signs that are not seen or that turn the order of what follows: shown by their number.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/gu;
const MOST_SHOWN = 200;

/** A foreign text as nodes: what is hidden in it is made visible. */
export function foreign(text) {
  const nodes = [];
  let end = 0;
  for (const found of text.replaceAll("\r\n", "\n").matchAll(HIDDEN)) {
    if (nodes.length > 2 * MOST_SHOWN) break;
    nodes.push(found.input.slice(end, found.index));
    const code = found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    nodes.push(el("span", { class: "sign", title: "a sign that is not seen" }, `U+${code}`));
    end = found.index + found[0].length;
  }
  nodes.push(text.replaceAll("\r\n", "\n").slice(end).replace(HIDDEN, "\ufffd"));
  return nodes;
}

/** A foreign text on one line. */
export function line(text) {
  return foreign(text.replaceAll(/\s+/g, " "));
}

const whole = new Intl.NumberFormat("en");
export const count = (n) => whole.format(n);
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
export const percent = (share) => `${Math.round(share * 100)}\u202f%`;

/** Seconds as a person says them. */
export function seconds(s) {
  if (typeof s !== "number") return "";
  if (s < 0.0995) return `${Math.round(s * 1000)}\u202fms`;
  if (s < 99.5) return `${s.toFixed(s < 9.95 ? 2 : 1)}\u202fs`;
  if (s < 5970) return `${Math.floor(s / 60)}\u202fmin ${Math.round(s % 60)}\u202fs`;
  return `${(s / 3600).toFixed(1)}\u202fh`;
}

/** Ask our server; throws with what it said. */
export async function ask(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== null));
  const reply = await fetch(`${path}?${query}`, { cache: "no-store" });
  if (!reply.ok) throw new Error((await reply.text()).slice(0, 200));
  return reply;
}

let hiding = 0;
/** A short word at the bottom. */
export function toast(text) {
  const node = document.getElementById("toast");
  node.textContent = text;
  node.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { node.hidden = true; }, 2500);
}
