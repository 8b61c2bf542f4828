// The page: what the address says is what is shown; filters, pages, keys.
import { ask, count, el, toast } from "./dom.js";
import { fill, fillMenus, overview } from "./list.js";
import { copy, show } from "./record.js";

const $ = (id) => document.getElementById(id);
const form = $("filters");
const NAMES = ["query", "status", "check", "level", "kind", "policy", "version"];
const page = { rows: [], from: 0, total: null, selected: null, stamp: "", meaning: "" };
let facets = {};
let shown = null;

/** The state that the address holds. */
const state = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

function hashOf(changes) {
  const all = Object.entries({ ...state(), ...changes }).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return `#${new URLSearchParams(all)}`;
}

function go(changes) {
  const hash = hashOf(changes);
  if (hash !== (location.hash || "#")) location.hash = hash;
}

const filtersOf = (now) => Object.fromEntries(NAMES.map((name) => [name, now[name] ?? ""]));
const sortOf = (now) => (now.sort ?? "line:up").split(":");

/** Load a page of the list: `where` is first, last, next, back. */
async function load(where) {
  const now = state();
  const [sort, order] = sortOf(now);
  const edge = where === "next" ? page.rows.at(-1) : where === "back" ? page.rows[0] : null;
  if ((where === "next" || where === "back") && !edge) return;
  const stamp = JSON.stringify([filtersOf(now), sort, order]);
  const waiting = setTimeout(() => $("list").setAttribute("aria-busy", "true"), 150);
  try {
    const reply = await ask("/api/rows", {
      ...filtersOf(now), sort, order,
      at: edge ? `${edge[sort]},${edge.id}` : "",
      way: where === "back" || where === "last" ? "back" : "",
      count: edge ? "" : "1",
    });
    const found = await reply.json();
    if (stamp !== JSON.stringify([filtersOf(state()), ...sortOf(state())])) return;
    if (edge && !found.rows.length) return;
    page.total = found.count ?? page.total;
    page.meaning = found.meaning;
    page.from = where === "next" ? page.from + page.rows.length
      : where === "back" ? Math.max(0, page.from - found.rows.length)
      : where === "last" ? page.total - found.rows.length : 0;
    page.rows = found.rows;
    page.stamp = stamp;
    fill($("list"), page.rows, (id) => hashOf({ record: id }));
    $("list").scrollTop = 0;
    $("fresh").hidden = true;
    describe();
  } catch (error) {
    toast(`Could not load: ${error.message}`);
  } finally {
    clearTimeout(waiting);
    $("list").removeAttribute("aria-busy");
  }
}

function describe() {
  const end = page.from + page.rows.length;
  $("found").textContent = page.rows.length ? `${count(page.from + 1)}\u2013${count(end)} of ${count(page.total ?? end)}` : "0 records";
  $("first").disabled = $("back").disabled = page.from <= 0;
  $("next").disabled = $("last").disabled = page.total !== null && end >= page.total;
  const exact = page.meaning === "id" || page.meaning === "key";
  $("words").hidden = !exact;
  if (exact) $("words").textContent = `by its ${page.meaning}; search the words instead`;
  $("clear").hidden = !Object.values(filtersOf(state())).some(Boolean);
  select(state().record ?? page.selected);
}

function select(id) {
  page.selected = id ?? null;
  for (const link of $("list").querySelectorAll("a")) {
    const is = link.dataset.id === String(id);
    if (is) { link.setAttribute("aria-current", "true"); link.scrollIntoView({ block: "nearest" }); }
    else link.removeAttribute("aria-current");
  }
}

/** Show what the address says. */
async function follow() {
  const now = state();
  fillMenus(form, facets, now);
  if (document.activeElement !== $("query")) $("query").value = now.query ?? "";
  form.elements.sort.value = now.sort ?? "line:up";
  if (page.stamp !== JSON.stringify([filtersOf(now), ...sortOf(now)])) await load("first");
  else { describe(); for (const link of $("list").querySelectorAll("a")) link.setAttribute("href", hashOf({ record: link.dataset.id })); }
  document.body.classList.toggle("open", Boolean(now.record));
  if (now.record) await open(now.record);
  else if (shown !== "") { shown = ""; overview($("record"), facets, (chosen) => go({ ...chosen, record: "" })); }
}

async function open(id, full = false) {
  if (shown === id && !full) return;
  shown = id;
  try {
    const found = await (await ask(`/api/records/${encodeURIComponent(id)}`, full ? { full: "1" } : {})).json();
    if (shown !== id) return;
    show($("record"), id, found, () => open(id, true));
    $("record").prepend(el("nav", { class: "walk", "aria-label": "Neighbours" },
      el("button", { type: "button", class: "close", onclick: close }, "Close"),
      el("span", { class: "gap" }),
      el("button", { type: "button", onclick: () => walk(-1) }, "Previous record"),
      el("button", { type: "button", onclick: () => walk(1) }, "Next record")));
    if (!full) $("record").scrollTop = 0;
  } catch (error) {
    shown = null;
    $("record").replaceChildren(el("p", { class: "lead" }, `This record cannot be shown: ${error.message}`));
  }
}

const close = () => go({ record: "" });

/** Move to the next (1) or previous (-1) record, over the page's edge too. */
async function walk(way) {
  const at = page.rows.findIndex((row) => String(row.id) === String(page.selected));
  let to = at < 0 ? (way > 0 ? 0 : page.rows.length - 1) : at + way;
  if (to >= page.rows.length) {
    if (page.total !== null && page.from + page.rows.length >= page.total) return;
    await load("next");
    to = 0;
  } else if (to < 0) {
    if (page.from <= 0) return;
    await load("back");
    to = page.rows.length - 1;
  }
  const row = page.rows[to];
  if (!row) return;
  select(row.id);
  if (state().record) go({ record: row.id });
}

async function refresh() {
  let pause = 10_000;
  try {
    const run = await (await ask("/api/run")).json();
    const before = total(facets);
    facets = run.facets;
    document.title = `${run.name} \u2013 s2a-batch`;
    $("name").textContent = run.name;
    const { done_bytes: done, bytes, ready } = run.progress;
    const share = bytes ? done / bytes : 1;
    const busy = !ready || share < 0.999;
    $("progress").hidden = !busy;
    $("progress").setAttribute("aria-valuenow", String(Math.round(share * 100)));
    $("progress").firstElementChild.style.width = `${share * 100}%`;
    $("state").textContent = [run.running ? "running" : "", !run.indexing ? `index stopped at ${Math.floor(share * 100)}\u202f%, see the terminal` : busy ? `indexing, ${Math.floor(share * 100)}\u202f%` : ""].filter(Boolean).join(", ");
    $("state").classList.toggle("live", run.running);
    fillMenus(form, facets, state());
    if (total(facets) !== before) changed();
    pause = busy ? 1000 : run.running ? 3000 : 10_000;
  } catch {
    $("state").textContent = "the server has ended";
    $("state").classList.remove("live");
  }
  setTimeout(refresh, pause);
}

const total = (all) => (all.status ?? []).reduce((sum, row) => sum + row.count, 0);

function changed() {
  if (!state().record) { shown = null; follow(); }
  if (page.from === 0 && page.rows.length < 50) load("first");
  else $("fresh").hidden = page.total === null || total(facets) <= page.total || Object.values(filtersOf(state())).some(Boolean);
}

const KEYS = {
  j: () => walk(1), k: () => walk(-1),
  "/": () => { $("query").focus(); $("query").select(); },
  "?": () => $("keys").showModal(),
  "]": () => load("next"), "[": () => load("back"),
  t: theme, c: () => state().record && copy(state().record),
  Enter: () => { if (page.selected) { go({ record: page.selected }); $("record").focus(); } },
  Escape: close,
};

function theme() {
  toast(`Theme: ${globalThis.nextTheme()}`);
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const field = event.target.closest("input, select, textarea");
  if (field) {
    if (event.key === "Escape") { event.preventDefault(); field.blur(); }
    return;
  }
  if (event.key === "Enter" && event.target.closest("a, button, summary")) return;
  const act = KEYS[event.key];
  if (act) { event.preventDefault(); act(); }
});

let typing = 0;
form.addEventListener("submit", (event) => { event.preventDefault(); go({ query: $("query").value.trim(), record: "" }); $("query").blur(); });
$("query").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => go({ query: $("query").value.trim() }), 300);
});
form.addEventListener("change", (event) => {
  if (event.target.name && event.target !== $("query")) go({ [event.target.name]: event.target.value });
});
for (const where of ["first", "back", "next", "last"]) $(where).addEventListener("click", () => load(where));
$("fresh").addEventListener("click", () => load("first"));
$("words").addEventListener("click", () => { const words = `"${state().query}"`; $("query").value = words; go({ query: words }); });
$("clear").addEventListener("click", () => { $("query").value = ""; go(Object.fromEntries(NAMES.map((name) => [name, ""]))); });
$("theme").addEventListener("click", theme);
$("help").addEventListener("click", () => $("keys").showModal());
addEventListener("hashchange", follow);

if (location.search) history.replaceState(null, "", `/${location.hash}`);
await refresh();
await follow();
document.documentElement.dataset.ready = "true";
