// Puts the page together: what is served, the form, the map, the adapter that the address names, the list.

import { setUp } from "./ask.js";
import { ask } from "./api.js";
import { find, tell } from "./dom.js";
import { list } from "./kept.js";
import { watch } from "./place.js";
import { close, open } from "./result.js";

let info = null;
let given = { names: [], texts: [] }; // what was made last, and the texts that were given for it

function made(names, texts) {
  given = { names, texts };
  list();
  const address = `#/${names[0]}`;
  if (location.hash === address) route();
  else location.hash = address;
}

function route() {
  const name = location.hash.replace(/^#\/?/, ""); // letters that a name may have are not escaped
  if (!name) close();
  else open(name, info, given.names.includes(name) ? given : { names: [], texts: [] }, list);
}

async function begin() {
  try {
    info = await ask("/info");
    const base = info.model_id.split("/").pop();
    find("served").textContent = `Served here: ${base}, zoo ${info.zoo}.`;
    setUp(info, made);
    addEventListener("hashchange", route);
    if (location.hash) route();
    await Promise.all([watch(find("description")), list()]);
  } catch (error) {
    tell(find("error"), error);
  }
}

begin();
