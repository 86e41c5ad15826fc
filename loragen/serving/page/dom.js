// Elements are made here, and texts only ever become text nodes: a description may hold markup.

const SVG = "http://www.w3.org/2000/svg";

export const find = (id) => document.getElementById(id);

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

/** An element of HTML; attributes that begin with "on" are listeners. */
export const el = (kind, attributes = {}, ...children) => filled(document.createElement(kind), attributes, children);

/** An element of SVG. */
export const svg = (kind, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, kind), attributes, children);

/** Show an error in words in a region that is read out; nothing takes the last one away. */
export function tell(region, error) {
  region.replaceChildren();
  if (error) region.append(el("p", { class: "alert" }, error.message ?? String(error)));
}

/** A bar as long as a share between 0 and 1. */
export function bar(share) {
  const inner = el("span");
  inner.style.width = `${(100 * Math.min(1, Math.max(0, share))).toFixed(1)}%`;
  return el("span", { class: "bar", "aria-hidden": "true" }, inner);
}

/** A number of things in words. */
export const counted = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/** Put a text on the clipboard, also where the page came over plain HTTP. */
export async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = el("textarea", { class: "unseen" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
