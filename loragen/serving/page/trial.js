// Trying an adapter beside the base: classes of texts or, over a language model, what it writes.

import { ask } from "./api.js";
import { bar, el, tell } from "./dom.js";
import { labelsOf, textsOf } from "./texts.js";

const MOST = 256; // texts at once
const NEW_TOKENS = 64;

const percent = (share) => `${Math.round(100 * share)} %`;

/** The part of the page that tries an adapter. */
export function trial(adapter, info, texts) {
  const writes = "generation" in info.model_type;
  const word = writes ? "Prompts" : "Texts to try";
  const inputs = el("textarea", { id: "try-texts", rows: 5 });
  inputs.value = texts.slice(0, 5).join("\n");
  const labels = el("textarea", { id: "try-labels", rows: 5 });
  labels.value = adapter.labels.join("\n");
  const button = el("button", { type: "submit", id: "compare", class: "main" }, writes ? "Write" : "Compare");
  const [error, state, answers] = [el("div", { role: "alert" }), el("p", { class: "hint", role: "status", id: "try-state" }), el("div", { id: "answers" })];
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    tell(error, null);
    state.textContent = "At work …";
    try {
      const rows = read(inputs.value, word);
      const told = writes ? await written(rows, adapter, info) : await predicted(rows, labelsOf(labels.value), adapter, info);
      answers.replaceChildren(table(rows, told));
      state.textContent = summary(told, writes);
    } catch (failure) {
      answers.replaceChildren();
      state.textContent = "";
      tell(error, failure);
    }
    button.disabled = false;
  };
  return el("form", { id: "trial", novalidate: true, onsubmit: submit },
    el("h3", {}, "Try it beside the base"),
    el("div", { class: "fields" },
      el("div", { class: "field grow" }, el("label", { for: "try-texts" }, word, " ", el("span", { class: "quiet" }, "one a line")), inputs),
      writes ? "" : el("div", { class: "field" }, el("label", { for: "try-labels" }, "Labels"), labels)),
    el("div", { class: "row" }, button, state), error, answers);
}

function read(content, word) {
  const { kept } = textsOf(content);
  if (!kept.length) throw new Error(`${word}: there is none yet; write one a line.`);
  if (kept.length > MOST) throw new Error(`${kept.length} were given; at most ${MOST} are tried at once.`);
  return kept;
}

function batches(rows, size) {
  return Array.from({ length: Math.ceil(rows.length / size) }, (_, at) => rows.slice(at * size, (at + 1) * size));
}

/** For each text what the adapter says and what the base does. */
async function predicted(rows, labels, adapter, info) {
  if (labels.length < 2) throw new Error("At least two labels are wanted.");
  const told = [];
  for (const inputs of batches(rows, info.max_client_batch_size)) {
    const [adapted, bare] = await Promise.all([
      ask("/predict", { method: "POST", body: { inputs, labels, model: adapter.name } }),
      ask("/predict", { method: "POST", body: { inputs, labels } }),
    ]);
    told.push(...adapted.map((one, at) => [one[0], bare[at][0]]));
  }
  return told.map(([one, other]) => ({ cells: [one, other].map(guess), differs: one.label !== other.label }));
}

const guess = ({ label, score }) => [el("b", {}, label), " ", el("span", { class: "quiet" }, percent(score)), bar(score)];

async function written(rows, adapter, info) {
  const told = [];
  for (const prompt of batches(rows, info.max_client_batch_size)) {
    const body = { prompt, max_tokens: NEW_TOKENS, temperature: 0 };
    const [adapted, bare] = await Promise.all(
      [adapter.name, info.model_id].map((model) => ask("/v1/completions", { method: "POST", body: { ...body, model } })),
    );
    told.push(...adapted.choices.map((one, at) => [one.text, bare.choices[at].text]));
  }
  return told.map(([one, other]) => ({ cells: [[one], [other]], differs: one !== other }));
}

function table(rows, told) {
  const heads = ["Text", "With the adapter", "Base alone"];
  const body = told.map(({ cells, differs }, at) =>
    el("tr", { class: differs ? "differs" : null },
      el("th", { scope: "row" }, rows[at], differs ? el("span", { class: "tag" }, "differs") : ""),
      ...cells.map((parts, column) => el("td", { "data-head": heads[column + 1] }, ...parts))));
  return el("table", { class: "answers" }, el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, ...body));
}

function summary(told, writes) {
  const count = told.filter((row) => row.differs).length;
  const what = writes ? "Adapter and base write" : "Adapter and base say";
  if (told.length === 1) return count ? `${what} different things.` : `${what} the same.`;
  return count ? `${what} different things for ${count} of ${told.length}.` : `${what} the same for all ${told.length}.`;
}
