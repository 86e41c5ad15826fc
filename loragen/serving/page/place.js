// Where a task lies: the experts nearest to it, and a map of the zoo by description.

import { ask } from "./api.js";
import { bar, counted, el, find, svg } from "./dom.js";

const FAR = 0.45; // as loragen/confidence/outlook.py says it
const NEAR = 0.6;
const [WIDTH, HEIGHT, MARGIN] = [480, 320, 14];
const QUIET = 350; // milliseconds without a key

let points = new Map();
let scale = null;
let under = null; // the request under way
let timer = 0;

/** Draw the zoo, and follow what is typed as the description. */
export async function watch(field) {
  const [zoo, plane] = await Promise.all([ask("/zoo"), ask("/zoo/map")]);
  draw(zoo.experts, plane.experts);
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => look(field.value.trim()), QUIET);
  });
  look(field.value.trim());
}

/** Show what is near to a description. */
export async function look(description) {
  under?.abort();
  under = new AbortController();
  if (!description) {
    show([], null);
    find("distance").textContent = "Say the task, and the experts nearest to it are shown here.";
    return;
  }
  const query = new URLSearchParams({ description });
  const options = { signal: under.signal };
  try {
    const [near, plane] = await Promise.all([
      ask(`/zoo/search?${query}&top_k=5`, options),
      ask(`/zoo/map?${query}`, options),
    ]);
    show(near.experts, plane.task);
    find("distance").textContent = `The task is ${distance(near.experts[0].similarity)}.`;
  } catch (error) {
    if (error.name === "AbortError") return;
    show([], null);
    find("distance").textContent = error.message;
  }
}

/** How far a task is, in the words of the command line. */
export function distance(similarity) {
  const cosine = `(cosine ${similarity.toFixed(2)})`;
  if (similarity < FAR) return `far from every expert ${cosine}: from words alone expect little, and give texts if you can`;
  return similarity >= NEAR ? `near to an expert ${cosine}` : `some way from the nearest expert ${cosine}`;
}

function show(experts, task) {
  const items = experts.map(({ id, similarity, description }) =>
    el("li", {}, el("div", { class: "near" }, el("b", {}, id), el("span", {}, similarity.toFixed(2))), bar(similarity),
      el("p", { class: "hint" }, description)));
  find("nearest").replaceChildren(...items);
  const near = new Set(experts.map((one) => one.id));
  for (const [id, point] of points) point.classList.toggle("is-near", near.has(id));
  find("map").querySelector(".task")?.remove();
  if (!task || !scale) return;
  const [x, y] = scale(task);
  find("map").append(
    svg("path", { class: "task", role: "img", "aria-label": "Your task", transform: `translate(${x} ${y})`, d: "M0-9 9 0 0 9-9 0Z" },
      svg("title", {}, "Your task")),
  );
}

function draw(experts, places) {
  const about = new Map(experts.map((one) => [one.id, one]));
  scale = scaleOf(places);
  points = new Map();
  for (const place of places) {
    const [cx, cy] = scale(place);
    const words = `${place.id}: ${about.get(place.id)?.description ?? ""} (${place.family})`;
    const point = svg("circle", { class: "expert", cx, cy, r: 5, tabindex: -1, role: "img", "aria-label": words }, svg("title", {}, words));
    for (const event of ["pointerenter", "focus"]) point.addEventListener(event, () => (find("map-caption").textContent = words));
    points.set(place.id, point);
  }
  find("map").replaceChildren(...points.values());
  find("map-caption").textContent = `${counted(places.length, "expert")}, by what their descriptions say. Point at one, or go there by Tab and the arrow keys.`;
  roam(find("map"), [...points.values()]);
}

/** From the plane of the descriptions to the picture, the same in both directions. */
function scaleOf(places) {
  const [xs, ys] = [places.map((one) => one.x), places.map((one) => one.y)];
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const unit = Math.min((WIDTH - 2 * MARGIN) / (right - left || 1), (HEIGHT - 2 * MARGIN) / (high - low || 1));
  const within = (value, most) => Math.round(10 * Math.min(most - MARGIN, Math.max(MARGIN, value))) / 10;
  return ({ x, y }) => [
    within(WIDTH / 2 + unit * (x - (left + right) / 2), WIDTH),
    within(HEIGHT / 2 - unit * (y - (low + high) / 2), HEIGHT),
  ];
}

/** One stop of the Tab key; arrows go on from there, across and up and down. */
function roam(map, all) {
  const sorted = (axis) => [...all].sort((one, other) => one.getAttribute(axis) - other.getAttribute(axis));
  const ways = { ArrowRight: ["cx", 1], ArrowLeft: ["cx", -1], ArrowDown: ["cy", 1], ArrowUp: ["cy", -1] };
  all[0]?.setAttribute("tabindex", 0);
  map.onkeydown = (event) => {
    const way = ways[event.key];
    if (!way || !all.includes(event.target)) return;
    event.preventDefault();
    const order = sorted(way[0]);
    const next = order[order.indexOf(event.target) + way[1]] ?? event.target;
    event.target.setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  };
}
