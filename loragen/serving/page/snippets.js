// Code that loads an adapter elsewhere, to be copied.

import { copy, el } from "./dom.js";

const quoted = (text) => JSON.stringify(text);

/** The part of the page with code. */
export function snippets({ name, base }, info) {
  const writes = "generation" in info.model_type;
  const parts = [["peft", peft(name, base, info.auto_class)]];
  if (!writes) parts.push(["sentence-transformers", sentences(name, base)]);
  parts.push(["curl", writes ? completion(name) : embedding(name)]);
  return el("section", { id: "code", "aria-labelledby": "code-title" },
    el("h3", { id: "code-title" }, "Use it elsewhere"),
    el("p", { class: "hint" }, `For the first${writes ? "" : " two"}, unpack the folder that you downloaded; it is ${name}. Where the server wants a key, curl wants -H "Authorization: Bearer KEY" too.`),
    ...parts.map(([title, code]) => snippet(title, code)));
}

function snippet(title, code) {
  const button = el("button", { type: "button", "aria-label": `Copy the code for ${title}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await copy(code);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return el("div", { class: "snippet" }, el("div", { class: "row" }, el("h4", {}, title), button),
    el("pre", { tabindex: 0, role: "group", "aria-label": `Code for ${title}` }, el("code", {}, code)));
}

const peft = (name, base, kind) => `from peft import PeftModel
from transformers import ${kind}

base = ${kind}.from_pretrained(${quoted(base)})
model = PeftModel.from_pretrained(base, ${quoted(name)})`;

const sentences = (name, base) => `from sentence_transformers import SentenceTransformer

model = SentenceTransformer(${quoted(base)})
model.load_adapter(${quoted(name)})
vectors = model.encode(["a text"])`;

const embedding = (name) => `curl ${location.origin}/v1/embeddings -H "Content-Type: application/json" \\
  -d '{"model": ${quoted(name)}, "input": ["a text"]}'`;

const completion = (name) => `curl ${location.origin}/v1/completions -H "Content-Type: application/json" \\
  -d '{"model": ${quoted(name)}, "prompt": "a prompt", "max_tokens": 64}'`;
