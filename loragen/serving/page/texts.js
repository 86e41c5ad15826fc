// Labels and texts as people type, paste or drop them.

export const MOST_TEXTS = 2000;
const MOST_BYTES = 1_800_000; // a request may have 2,000,000
const LARGEST_FILE = 20_000_000;

const lines = (text) => text.split(/\r\n|\r|\n/).map((line) => line.trim()).filter(Boolean);

/** Labels: a line each or, in a single line, with commas between; each once. */
export function labelsOf(text) {
  const rows = lines(text);
  const parts = rows.length > 1 ? rows : (rows[0] ?? "").split(",").map((part) => part.trim()).filter(Boolean);
  return [...new Set(parts.map((part) => part.replace(/,$/, "").trim()))].filter(Boolean);
}

/** Texts, a line each, as many as one request takes; with how many there were. */
export function textsOf(text) {
  const all = lines(text);
  const encoder = new TextEncoder();
  const kept = [];
  let bytes = 0;
  for (const one of all) {
    bytes += encoder.encode(JSON.stringify(one)).length + 1;
    if (kept.length >= MOST_TEXTS || bytes > MOST_BYTES) break;
    kept.push(one);
  }
  return { kept, all: all.length };
}

/** Texts of a file: plain, CSV or JSONL by its name. */
export async function read(file) {
  if (file.size > LARGEST_FILE) throw new Error(`${file.name} is over 20 MB; give a smaller file.`);
  const content = (await file.text()).replace(/^\uFEFF/, "");
  if (content.includes("\0") || content.includes("\uFFFD")) throw new Error(`${file.name} is not a text file in UTF-8.`);
  const kind = file.name.toLowerCase().split(".").pop();
  const found = kind === "jsonl" ? ofJsonl(content, file.name) : kind === "csv" || kind === "tsv" ? ofCsv(content) : lines(content);
  const texts = found.map((text) => text.replace(/\s+/g, " ").trim()).filter(Boolean);
  if (!texts.length) throw new Error(`${file.name} holds no texts.`);
  return texts;
}

function ofJsonl(content, name) {
  return content.split("\n").flatMap((line, at) => {
    if (!line.trim()) return [];
    let row = null;
    try {
      row = JSON.parse(line);
    } catch {
      // told below
    }
    const text = typeof row === "string" ? row : row?.text;
    if (typeof text !== "string") throw new Error(`Line ${at + 1} of ${name} is not JSON with a "text".`);
    return [text];
  });
}

function ofCsv(content) {
  const head = content.split("\n", 1)[0];
  const mark = [",", ";", "\t"].reduce((best, one) => (head.split(one).length > head.split(best).length ? one : best));
  const rows = cells(content, mark).filter((row) => row.some((cell) => cell.trim()));
  const column = (rows[0] ?? []).findIndex((cell) => cell.trim().toLowerCase() === "text");
  return (column < 0 ? rows : rows.slice(1)).map((row) => row[Math.max(0, column)] ?? "");
}

/** Rows of cells; between quotes a mark or a line's end is part of the cell, and "" a quote. */
function cells(content, mark) {
  const rows = [[""]];
  let isQuoted = false;
  for (let at = 0; at < content.length; at += 1) {
    const sign = content[at];
    const row = rows.at(-1);
    if (isQuoted) {
      if (sign !== '"') row[row.length - 1] += sign;
      else if (content[at + 1] === '"') row[row.length - 1] += content[(at += 1)];
      else isQuoted = false;
    } else if (sign === '"' && row.at(-1) === "") isQuoted = true;
    else if (sign === mark) row.push("");
    else if (sign === "\n") rows.push([""]);
    else if (sign !== "\r") row[row.length - 1] += sign;
  }
  return rows;
}
