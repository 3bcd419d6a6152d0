"use strict";
// Everything here is an extra: without it the page still shows all tables, figures and cards.
const choices = JSON.parse(document.getElementById("choices").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);

// ---- theme ----
const theme = byId("theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// ---- marks, as in the figures ----
const SHAPES = {
  o: '<circle r="5"/>', s: '<rect x="-4.5" y="-4.5" width="9" height="9"/>',
  "^": '<path d="M0-6 5.5 4.5h-11z"/>', v: '<path d="M0 6 5.5-4.5h-11z"/>',
  "<": '<path d="M-6 0 4.5 5.5v-11z"/>', ">": '<path d="M6 0-4.5 5.5v-11z"/>',
  D: '<path d="M0-6.5 6.5 0 0 6.5-6.5 0z"/>', P: '<path d="M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z"/>',
  X: '<path d="M0-2.5 3-5.5 5.5-3 2.5 0 5.5 3 3 5.5 0 2.5-3 5.5-5.5 3-2.5 0-5.5-3-3-5.5z"/>',
  h: '<path d="M0-6 5.2-3v6L0 6-5.2 3v-6z"/>', p: '<path d="M0-6 5.7-1.9 3.5 4.9h-7L-5.7-1.9z"/>',
  "*": '<path d="M0-7.5 1.8-2.4h5.4L2.9.9 4.5 6 0 2.9-4.5 6-2.9.9-7.2-2.4h5.4z"/>',
};
const colour = (method) => (method.colour === choices.ink ? "var(--ink)" : method.colour);
for (const svg of all("[data-mark]")) {
  const method = choices.methods[svg.dataset.mark];
  svg.innerHTML = `<g fill="${colour(method)}">${SHAPES[method.marker]}</g>`;
}

// ---- what is switched on ----
const on = (name) => new Set(all(`input[name=${name}]`).filter((box) => box.checked).map((box) => Number(box.value)));
const filter = byId("filter");
const known = new Map(choices.methods.map((method, number) => [method.label, number]));
function shownMethods() {
  const checked = on("method"), text = filter.value.trim().toLocaleLowerCase();
  return new Set([...checked].filter((number) => choices.methods[number].label.toLocaleLowerCase().includes(text)));
}
function shownTasks() {
  return choices.tasks.length > 1 ? on("task") : new Set(choices.tasks.keys());
}
function update() {
  const methods = shownMethods(), tasks = new Set([...shownTasks()].map((number) => choices.tasks[number]));
  const text = filter.value.trim().toLocaleLowerCase();
  for (const table of all("table.data")) {
    const columns = all("thead th", table).map((heading) => !heading.dataset.task || tasks.has(heading.dataset.task));
    for (const row of all("tr", table)) {
      if (row.classList.contains("group")) continue;
      [...row.cells].forEach((cell, place) => { cell.hidden = !columns[place]; });
      const label = row.dataset.method;
      if (label === undefined) continue;
      row.hidden = known.has(label) ? !methods.has(known.get(label)) : !label.toLocaleLowerCase().includes(text);
    }
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
      body.hidden = (body.dataset.task && !tasks.has(body.dataset.task)) || rows.every((row) => row.hidden);
    }
  }
  byId("shown").textContent =
    `${methods.size} of ${choices.methods.length} methods, ${tasks.size} of ${choices.tasks.length} tasks shown`;
  draw();
}
byId("controls").hidden = false;
byId("controls").addEventListener("input", update);

// ---- sorting ----
function sort(table, place, heading) {
  const descending = heading.getAttribute("aria-sort") !== "descending";
  for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const key = (row) => (place === 0 ? row.cells[0].textContent : Number.parseFloat(row.cells[place].dataset.value));
  const order = (one, other) => {
    const [a, b] = [key(one), key(other)];
    if (place === 0) return descending ? b.localeCompare(a) : a.localeCompare(b);
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // what has no number comes last
    return descending ? b - a : a - b;
  };
  for (const body of table.tBodies) {
    body.append(...[...body.rows].filter((row) => !row.classList.contains("group")).sort(order));
  }
}
for (const table of all("table.data")) {
  all("thead th", table).forEach((heading, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(table, place, heading));
    heading.append(button);
  });
}

// ---- records ----
let records;
function parseCsv(text) {
  const rows = [[]];
  let value = "", quoted = false;
  for (let place = 0; place < text.length; place++) {
    const sign = text[place];
    if (quoted && sign === '"' && text[place + 1] === '"') { value += '"'; place++; }
    else if (sign === '"') quoted = !quoted;
    else if (!quoted && (sign === "," || sign === "\n")) {
      rows.at(-1).push(value);
      value = "";
      if (sign === "\n") rows.push([]);
    } else value += sign;
  }
  return rows.slice(0, -1);
}
function readRecords() {
  const found = new Map();
  for (const link of all("a[download]")) {
    const bytes = Uint8Array.from(atob(link.href.split(",")[1]), (sign) => sign.charCodeAt(0));
    const [names, ...rows] = parseCsv(new TextDecoder().decode(bytes));
    for (const row of rows) found.set(row[0], { names, row });
  }
  return found;
}
function showRecords(ids) {
  records ??= readRecords();
  const found = ids.map((id) => records.get(id)).filter(Boolean);
  const table = document.createElement("table");
  (found[0]?.names ?? []).forEach((name, place) => {
    if (found.every(({ row }) => row[place] === "")) return;
    const line = table.insertRow();
    const heading = document.createElement("th");
    heading.scope = "row";
    heading.textContent = name;
    line.append(heading);
    for (const { row } of found) line.insertCell().textContent = row[place];
  });
  byId("record-title").textContent = ids.map((id) => `records/${id}.json`).join(", ");
  byId("record-body").replaceChildren(table);
  byId("record").showModal();
}
document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-cells]");
  if (!link) return;
  event.preventDefault();
  showRecords(link.dataset.cells.split(" "));
});

// ---- cards: a link opens its card ----
function openCard() {
  const card = location.hash.startsWith("#card-") && byId(location.hash.slice(1));
  if (card) card.open = true;
}
addEventListener("hashchange", openCard);
openCard();
addEventListener("beforeprint", () => { for (const card of all("details")) card.open = true; });

// ---- the plot ----
const WIDTH = 440, HEIGHT = 320, LEFT = 60, RIGHT = 12, TOP = 26, BOTTOM = 44;
const cost = byId("cost");
for (const { name, key } of choices.costs) cost.add(new Option(name, key));
byId("explore").hidden = choices.points.length === 0;
cost.addEventListener("input", draw);

function ticks(low, high, count = 7) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high * (1 + 1e-9); n++) found.push(Number((n * step).toPrecision(10)));
  return found;
}
function front(points) {
  const found = [];
  for (const point of [...points].sort((a, b) => a.x[0] - b.x[0] || b.y[0] - a.y[0])) {
    if (!found.length || point.y[0] > found.at(-1).y[0]) found.push(point);
  }
  return found;
}
const NS = "http://www.w3.org/2000/svg";
function element(name, attributes, parent, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}
function freeSpots(marks) { // finds room for a name beside its mark, or returns nothing where there is none
  const taken = marks.map(([x, y]) => [x - 6, y - 6, x + 6, y + 6]);
  return (x, y, name) => {
    const width = 6.4 * name.length;
    for (const [right, down] of [[9, -7], [-9, -7], [9, 15], [-9, 15]]) {
      const left = x + right - (right < 0 ? width : 0);
      const box = [left, y + down - 10, left + width, y + down + 3];
      const apart = ([a, b, c, d]) => c <= box[0] || a >= box[2] || d <= box[1] || b >= box[3];
      if (left > LEFT && box[2] < WIDTH && taken.every(apart)) {
        taken.push(box);
        return { x: x + right, y: y + down, "text-anchor": right < 0 ? "end" : "start" };
      }
    }
  };
}
function plot(task, points, costName) {
  const means = points.map((point) => point.y[0]);
  const [least, most] = [Math.min(...means), Math.max(...means)];
  const room = Math.max(0.75 * (most - least), 1); // a wide interval of few seeds must not squeeze the points together
  const low = Math.max(Math.min(...points.map((point) => point.y[1])), least - room) - 0.05 * (most - least + 1);
  const high = Math.min(Math.max(...points.map((point) => point.y[2])), most + room) + 0.05 * (most - least + 1);
  const right = 1.06 * Math.max(...points.map((point) => point.x[0]));
  const x = (value) => LEFT + (value / right) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const clamp = (value) => Math.min(Math.max(value, low), high);
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("role", "group");
  svg.setAttribute("aria-label", `${choices.tasks[task]}: ${choices.scores[task]} against ${costName}`);
  for (const value of ticks(0, right)) {
    element("line", { x1: x(value), x2: x(value), y1: TOP, y2: HEIGHT - BOTTOM, stroke: "var(--line)" }, svg);
    element("text", { x: x(value), y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, svg, String(value));
  }
  for (const value of ticks(low, high)) {
    element("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), stroke: "var(--line)" }, svg);
    element("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, svg, String(value));
  }
  element("text", { x: (LEFT + WIDTH) / 2, y: 15, "text-anchor": "middle", "font-weight": 600 }, svg, choices.tasks[task]);
  element("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 10, "text-anchor": "middle" }, svg, costName);
  element("text", { x: 14, y: HEIGHT / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${HEIGHT / 2})` }, svg,
    `${choices.scores[task]} × 100`);
  const line = front(points).flatMap((point, place, found) =>
    [...(place ? [[point.x[0], found[place - 1].y[0]]] : []), [point.x[0], point.y[0]]]);
  element("polyline", { points: line.map(([a, b]) => `${x(a)},${y(b)}`).join(" "), fill: "none", stroke: "var(--ink)",
    "stroke-dasharray": "5 3", class: "front" }, svg);
  const free = freeSpots(points.map((point) => [x(point.x[0]), y(point.y[0])]));
  for (const point of points) {
    const method = choices.methods[point.method];
    const text = `${method.label}: ${choices.scores[task]} ${point.y[0].toFixed(1)}, ${costName} ${point.x[0].toPrecision(3)}`;
    const link = element("a", { href: `#card-${point.card}`, "aria-label": text, class: "point", fill: colour(method),
      stroke: colour(method) }, svg);
    element("title", {}, link, text);
    element("line", { x1: x(point.x[0]), x2: x(point.x[0]), y1: y(clamp(point.y[1])), y2: y(clamp(point.y[2])) }, link);
    element("line", { x1: x(point.x[1]), x2: x(Math.min(point.x[2], right)), y1: y(point.y[0]), y2: y(point.y[0]) }, link);
    const mark = element("g", { transform: `translate(${x(point.x[0])} ${y(point.y[0])})`, stroke: "var(--paper)" }, link);
    mark.innerHTML = SHAPES[method.marker];
    const spot = free(x(point.x[0]), y(point.y[0]), method.label);
    if (spot) element("text", { ...spot, class: "name" }, link, method.label);
  }
  return svg;
}
function draw() {
  const methods = shownMethods(), made = [];
  for (const task of shownTasks()) {
    const points = choices.points.filter((point) => point.task === task && methods.has(point.method) && point.costs[cost.value])
      .map((point) => ({ ...point, x: point.costs[cost.value], y: point.score }));
    if (points.length) made.push(plot(task, points, cost.selectedOptions[0].textContent));
  }
  byId("plots").replaceChildren(...made);
}
update();
