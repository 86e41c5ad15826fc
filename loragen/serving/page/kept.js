// The list of adapters that are kept.

import { ask } from "./api.js";
import { counted, el, find } from "./dom.js";

const FIRST = 30; // shown unless all are asked for

/** Read the list anew. */
export async function list(showsAll = false) {
  const place = find("kept-list");
  try {
    const { data, broken } = await ask("/v1/adapters");
    const shown = showsAll ? data : data.slice(0, FIRST);
    place.replaceChildren(
      data.length ? el("ul", { class: "cards" }, ...shown.map(card)) : el("p", { class: "hint" }, "None yet."),
      shown.length < data.length ? el("button", { type: "button", onclick: () => list(true) }, `Show all ${data.length}`) : "",
      trouble(Object.entries(broken)),
    );
  } catch (error) {
    place.replaceChildren(el("p", { class: "alert" }, error.message));
  }
}

function card({ name, description, labels, expected_gain: gain }) {
  const facts = [labels.length ? counted(labels.length, "label") : "no labels"];
  if (gain) facts.push(`expected ${gain.gain < 0 ? "−" : "+"}${Math.abs(gain.gain).toFixed(2)}`);
  return el("li", {},
    el("a", { href: `#/${name}` }, el("b", {}, name), el("span", {}, description ?? ""), el("span", { class: "hint" }, facts.join(" · "))));
}

function trouble(broken) {
  if (!broken.length) return "";
  const rows = broken.map(([name, reason]) => el("li", {}, el("b", {}, name), `: ${reason}`));
  return el("details", {}, el("summary", {}, `${counted(broken.length, "folder")} that cannot be served`), el("ul", {}, ...rows));
}
