// The list of records, the filters above it, and the overview that is shown while no record is open.
import { count, el, line, percent, plural, seconds } from "./dom.js";
import { plain } from "./record.js";

const STATUS = { answered: "answered", failed: "failed", rewritten: "waits" };

/** Show rows; `open(id)` is what a click does. */
export function fill(list, rows, hrefOf) {
  list.replaceChildren(...rows.map((row) => el("li", {}, item(row, hrefOf(row.id)))));
  if (!rows.length) list.append(el("li", { class: "none" }, "No record is like that."));
}

function item(row, href) {
  const worst = ["error", "warn"].map((level) => row.checks.find((check) => check.level === level)).find(Boolean);
  const facts = [
    seconds(row.seconds),
    row.tokens >= 0 && plural(row.tokens, "token"),
    row.after >= 0 && row.removed > 0 && `${percent(row.removed)} shorter`,
    row.after >= 0 && row.removed < 0 && `${percent(-row.removed)} longer`,
    row.attempts > 2 && plural(row.attempts, "attempt"),
  ];
  return el("a", { href, "data-id": row.id },
    el("span", { class: "row" },
      el("span", { class: `dot ${row.status}`, "aria-hidden": "true" }),
      el("strong", { class: "id", dir: "auto" }, line(plain(row.ident))),
      el("span", { class: "number" }, `line ${count(row.line)}`)),
    el("span", { class: "snippet", dir: "auto" }, line(row.prompt)),
    el("span", { class: "row small" },
      el("span", { class: `result ${row.status}`, dir: "auto" }, row.status === "failed" ? `${row.kind || "failed"}` : row.status === "answered" ? line(row.answer) : STATUS.rewritten),
      worst && el("span", { class: `mark ${worst.level}` }, worst.name)),
    el("span", { class: "row small faint" }, facts.filter(Boolean).map((fact) => el("span", {}, fact))));
}

/** Fill the filters' menus with what there is, keeping what is chosen. */
export function fillMenus(form, facets, chosen) {
  const byCheck = new Map();
  const byLevel = new Map();
  for (const { name, level, count: n } of facets.check ?? []) {
    byCheck.set(name, (byCheck.get(name) ?? 0) + n);
    byLevel.set(level, (byLevel.get(level) ?? 0) + n);
  }
  const lists = {
    status: (facets.status ?? []).map(({ name, count: n }) => [name, `${name} (${count(n)})`]),
    check: [...byCheck].map(([name, n]) => [name, `${name} (${count(n)})`]),
    level: [...byLevel].map(([name]) => [name, name]),
    kind: (facets.kind ?? []).map(({ name, count: n }) => [name, `${name} (${count(n)})`]),
    policy: (facets.policy ?? []).map(({ name, count: n }) => [name, `${name} (${count(n)})`]),
    version: (facets.version ?? []).map(({ name, count: n }) => [name, `${name} (${count(n)})`]),
  };
  for (const [name, options] of Object.entries(lists)) {
    const select = form.elements[name];
    const value = chosen[name] ?? "";
    if (value && !options.some(([option]) => option === value)) options.push([value, value]);
    const shown = JSON.stringify(options);
    if (select.dataset.shown !== shown) {
      select.dataset.shown = shown;
      select.replaceChildren(el("option", { value: "" }, "any"), ...options.map(([option, label]) => el("option", { value: option }, label)));
    }
    select.value = value;
    select.closest("label").hidden = options.length < (name === "version" ? 2 : 1);
    select.closest("label").classList.toggle("on", Boolean(value));
  }
}

/** What the run came to, as bars that filter. */
export function overview(pane, facets, filter) {
  const groups = [["Records", "status"], ["Checks", "check"], ["Failures", "kind"], ["Policies", "policy"]];
  const total = (facets.status ?? []).reduce((sum, row) => sum + row.count, 0);
  pane.replaceChildren(el("div", { class: "overview" },
    el("h2", { class: "lead" }, total ? `${plural(total, "record")}. Choose one from the list, or a row from here.` : "No record is finished yet."),
    groups.filter(([, facet]) => facets[facet]?.length).map(([title, facet]) => el("section", { class: "part" }, el("h3", {}, title),
      el("ul", { class: "bars" }, facets[facet].slice(0, 40).map((row) => {
        const bar = el("i", { "aria-hidden": "true" });
        bar.style.width = `${(row.count / total) * 100}%`;
        return el("li", {}, el("button", { type: "button", onclick: () => filter({ [facet]: row.name, ...(row.level ? { level: row.level } : {}) }) },
          el("span", { class: `name ${facet === "kind" ? "failed" : row.level || row.name}` }, line(row.name), row.level && el("small", {}, row.level)),
          el("span", { class: "amount" }, count(row.count), el("small", {}, share(row.count / total))), bar));
      })))),
    facets.damaged && el("p", { class: "note" }, `${plural(facets.damaged[0].count, "line")} damaged and not shown; s2a-batch verify tells which.`)));
}

function share(part) {
  return part > 0 && part < 0.005 ? "<\u202f1\u202f%" : percent(part);
}
