// One adapter: what to expect of it, trying it beside the base, its folder, code.

import { ask, pathOf } from "./api.js";
import { counted, el, find, svg, tell } from "./dom.js";
import { distance } from "./place.js";
import { snippets } from "./snippets.js";
import { trial } from "./trial.js";

let shown = null; // name of the adapter that was asked for last

/** Show no adapter. */
export function close() {
  shown = null;
  find("result").hidden = true;
  find("result").replaceChildren();
}

/** Show an adapter; `given` holds what was made last, and `changed` is called when it is deleted. */
export async function open(name, info, given, changed) {
  shown = name;
  const place = find("result");
  place.hidden = false;
  try {
    const adapter = await ask(pathOf(name));
    if (shown !== name) return;
    place.replaceChildren(...whole(adapter, info, given, changed));
  } catch (error) {
    if (shown !== name) return;
    place.replaceChildren(el("h2", { id: "result-title", tabindex: -1 }, name), el("div", { role: "alert" }));
    tell(place.querySelector("[role=alert]"), error);
  }
  find("result-title").focus({ preventScroll: true });
  place.scrollIntoView({ block: "start" }); // smooth where the style sheet says so
}

function whole(adapter, info, given, changed) {
  const { name, card, description } = adapter;
  return [
    el("h2", { id: "result-title", tabindex: -1 }, description || name),
    el("p", { class: "quiet" }, origin(adapter)),
    others(given.names.filter((one) => one !== name)),
    outlook(card),
    el("div", { class: "row" },
      el("a", { class: "button main", id: "download", href: `${pathOf(name)}/folder.zip`, download: `${name}.zip` }, "Download the folder"),
      el("span", { class: "hint" }, size(adapter.files)),
      el("button", { type: "button", id: "delete", class: "danger", onclick: () => remove(name, changed) }, "Delete")),
    el("div", { role: "alert", id: "result-error" }),
    trial(adapter, info, given.texts),
    snippets(adapter, info),
    parents(card),
  ];
}

function origin({ name, card }) {
  if (!card) return name;
  const parts = [card.examples && counted(card.examples, "labelled example"), card.texts && counted(card.texts, "text") + " without labels"];
  const from = ["the description", ...parts.filter(Boolean)];
  return `${name}, made by ${card.generator} from ${from.length > 1 ? `${from.slice(0, -1).join(", ")} and ${from.at(-1)}` : from[0]}`;
}

function others(names) {
  if (!names.length) return "";
  const links = names.flatMap((name, at) => [at ? ", " : "", el("a", { href: `#/${name}` }, name)]);
  return el("p", {}, "Drawn with it: ", ...links, ".");
}

const sources = { description: "the description alone", labels: "the description and labels alone", texts: "your texts" };

function outlook(card) {
  const told = card?.outlook;
  if (!told) return "";
  const parts = [];
  if (told.instead) parts.push(el("p", { class: "note" }, `This is the zoo's one adapter for all tasks: ${told.instead}.`));
  const start = `The task is ${distance(told.similarity).split(":")[0]}.`;
  if (!told.expected) return el("div", { id: "outlook" }, ...parts, el("p", {}, start));
  const { gain, low, high, knows } = told.expected;
  parts.push(el("p", {}, start, " Expected, from ", sources[knows], ": of 100 texts, ", el("b", {}, more(gain)),
    ` right than by the base; in four cases of five, between ${more(low)} and ${more(high)}.`), interval(gain, low, high));
  if (low < 0) parts.push(el("p", { class: "note" }, "It may be worse than the base: try it on texts whose labels you know before you rely on it."
    + (card.texts || card.fitted ? "" : " Fifty texts of yours, without labels, would help.")));
  return el("div", { id: "outlook" }, ...parts);
}

function more(share) {
  const number = Math.round(100 * share);
  return number === 0 ? "no more" : number > 0 ? `${number} more` : `${-number} fewer`;
}

/** The expected gain as a dot on its interval, with the base at a line of its own. */
function interval(gain, low, high) {
  const [left, right] = [Math.min(low, -0.1) - 0.04, Math.max(high, 0.25) + 0.04];
  const at = (value) => (8 + (304 * (value - left)) / (right - left)).toFixed(1);
  return svg("svg", { class: "interval", viewBox: "0 0 320 40", "aria-hidden": "true" },
    svg("line", { class: "axis", x1: 8, x2: 312, y1: 16, y2: 16 }),
    svg("line", { class: "zero", x1: at(0), x2: at(0), y1: 6, y2: 26 }),
    svg("text", { x: at(0), y: 38, "text-anchor": "middle" }, "base"),
    svg("line", { class: "range", x1: at(low), x2: at(high), y1: 16, y2: 16 }),
    svg("circle", { class: "dot", cx: at(gain), cy: 16, r: 6 }));
}

function size(files) {
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  return `${Math.max(1, Math.round(bytes / 1000)).toLocaleString("en")} kB, as PEFT reads it`;
}

async function remove(name, changed) {
  if (!confirm(`Delete the adapter ${name} from this server?`)) return;
  try {
    await ask(pathOf(name), { method: "DELETE" });
    history.replaceState(null, "", location.pathname);
    close();
    changed();
    find("kept-title").tabIndex = -1;
    find("kept-title").focus();
  } catch (error) {
    tell(find("result-error"), error);
  }
}

function parents(card) {
  if (!card?.parents.length) return "";
  const rows = card.parents.slice(0, 20).map((one) =>
    el("tr", {}, el("td", {}, one.id), el("td", { class: "number" }, one.weight.toFixed(2)), el("td", {}, one.licence)));
  return el("details", {},
    el("summary", {}, `The ${counted(card.parents.length, "expert")} behind it, and the licences of their data`),
    el("div", { class: "wide", tabindex: 0, role: "group", "aria-label": "Experts" }, el("table", {},
      el("thead", {}, el("tr", {}, ...["Expert", "Weight", "Licence"].map((word) => el("th", { scope: "col" }, word)))),
      el("tbody", {}, ...rows))));
}
