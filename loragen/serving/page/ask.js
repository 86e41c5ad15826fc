// The form: what is given, and the generation with its progress.

import { ask, follow } from "./api.js";
import { counted, find, tell } from "./dom.js";
import { labelsOf, read, textsOf } from "./texts.js";

/** Make the form work; `made` is told the names of new adapters and the texts that were given. */
export function setUp(info, made) {
  for (const name of info.generators) find("generator").append(new Option(name, name));
  find("generator").value = info.generator;
  find("labels").addEventListener("input", countLabels);
  find("texts").addEventListener("input", () => countTexts());
  find("file").addEventListener("change", (event) => take(event.target.files[0]));
  takeDrops();
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!find("generate").disabled) generate(info, made);
  });
  countLabels();
  countTexts();
}

function countLabels() {
  const labels = labelsOf(find("labels").value);
  find("labels-count").textContent = labels.length
    ? `${counted(labels.length, "label")}: ${labels.join(" · ")}`
    : "Names of the classes that texts are sorted into.";
}

function countTexts(source = "") {
  const { kept, all } = textsOf(find("texts").value);
  const taken = kept.length < all ? `; the first ${kept.length.toLocaleString("en")} are taken` : "";
  find("texts-count").textContent = all
    ? `${counted(all, "text")}${source}${taken}${kept.length < 20 ? "; at least 20 are wanted" : ""}.`
    : "Or drop one on the field: .txt, .csv or .jsonl. 50 or more help.";
}

async function take(file) {
  if (!file) return;
  try {
    const texts = await read(file);
    find("texts").value = texts.join("\n");
    countTexts(` from ${file.name}`);
    tell(find("error"), null);
  } catch (error) {
    tell(find("error"), error);
  }
  find("file").value = "";
}

function takeDrops() {
  const zone = find("drop");
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const mark = (event) => {
    if (!hasFile(event)) return;
    event.preventDefault(); // also beside the field, where the browser would leave the page for the file
    zone.classList.toggle("is-over", event.type === "dragover" && zone.contains(event.target));
  };
  for (const name of ["dragover", "dragleave", "drop"]) window.addEventListener(name, mark);
  zone.addEventListener("drop", (event) => hasFile(event) && take(event.dataTransfer.files[0]));
}

function given(info) {
  const { kept } = textsOf(find("texts").value);
  const labels = labelsOf(find("labels").value);
  const body = { description: find("description").value.trim(), samples: Number(find("samples").value) || 1 };
  if (labels.length) body.labels = labels;
  if (kept.length) body.texts = kept;
  if (find("name").value.trim()) body.name = find("name").value.trim();
  if (find("generator").value !== info.generator) body.generator = find("generator").value;
  return body;
}

/** What is wrong with the form, where one need not ask the server. */
function refuse(body) {
  if (!body.description) {
    find("description").focus();
    throw new Error("The description is empty; say the task in words.");
  }
  if (body.texts && !body.labels) {
    find("labels").focus();
    throw new Error("Texts are of use only with the names of the labels; name them too.");
  }
}

async function generate(info, made) {
  const body = given(info);
  tell(find("error"), null);
  try {
    refuse(body);
    find("generate").disabled = true;
    find("state").textContent = "Generating …";
    const answer = await ask("/v1/adapters", { method: "POST", body });
    const names = answer.object === "job" ? await finished(answer) : (answer.samples ?? [answer]).map((one) => one.name);
    find("state").textContent = `Made ${names.join(", ")}.`;
    made(names, body.texts ?? []);
  } catch (error) {
    find("state").textContent = "";
    tell(find("error"), error);
  } finally {
    find("generate").disabled = false;
    find("job").hidden = true;
  }
}

async function finished(job) {
  find("job").hidden = false;
  find("cancel").disabled = false;
  find("cancel").onclick = () => {
    find("cancel").disabled = true;
    find("state").textContent = "Cancelling …";
    ask(`/v1/jobs/${job.id}`, { method: "DELETE" }).catch((error) => tell(find("error"), error));
  };
  const state = await follow(job, progress, () => (find("state").textContent = "The connection was lost; trying again …"));
  if (state.status !== "done") throw new Error(state.error ?? `The job is ${state.status}.`);
  return state.adapters;
}

function progress({ status, progress: { stage, step, steps } }) {
  if (find("cancel").disabled) return;
  const words = status === "waiting" ? "Waiting for other jobs" : stage.charAt(0).toUpperCase() + stage.slice(1);
  if (find("state").textContent !== `${words} …`) find("state").textContent = `${words} …`; // read out once a stage
  find("bar").max = Math.max(1, steps);
  if (steps > 1) find("bar").value = step;
  else find("bar").removeAttribute("value"); // how far it is cannot be said
  find("steps").textContent = steps > 1 ? `step ${step} of ${steps}` : "";
}
