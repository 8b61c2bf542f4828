// One record: original with what was removed, rewrite, answer, checks, attempts on a timeline, messages.
import { ask, count, el, foreign, line, percent, plural, seconds, toast } from "./dom.js";

/** Build the view of a record into a pane; `more(full)` shows it again with all of its texts. */
export function show(pane, id, found, more) {
  pane.replaceChildren(...[
    head(id, found),
    found.error && failure(found.error),
    texts(found, more),
    answer(found, more),
    checks(found.checks),
    timeline(found),
    messages(found, more),
    source(id, found),
  ].flat().filter(Boolean));
}

function head(id, found) {
  const facts = [
    `${found.file ? `${found.file} ` : ""}line ${count(found.line ?? 0)}`,
    seconds(found.seconds),
    found.tokens === null ? "tokens unknown" : plural(found.tokens, "token"),
    found.policy_told && `policy ${found.policy}: ${found.policy_told}`,
  ];
  return el("header", { class: "head" },
    el("div", { class: "title" },
      el("h2", { id: "record-title", dir: "auto" }, line(plain(found.id.text))),
      el("span", { class: `badge ${found.status}` }, found.status === "rewritten" ? "waits for its answer" : String(found.status))),
    el("p", { class: "facts" }, facts.filter(Boolean).map((fact) => el("span", {}, fact))),
    el("p", { class: "key" }, el("span", {}, String(found.started_at ?? "")), el("span", {}, "key ", el("code", {}, String(found.key))),
      el("button", { type: "button", class: "link", onclick: () => copy(id) }, "Copy JSON")));
}

/** An id without the quotes of a text; null says that there is none. */
export function plain(id) {
  if (id === "null") return "no id";
  if (!id.startsWith('"')) return id;
  try { return JSON.parse(id); } catch { return id; }
}

/** Copy the result line as it stands in the file. */
export async function copy(id) {
  try {
    const reply = await ask(`/api/records/${id}/line`);
    await navigator.clipboard.writeText(await reply.text());
    toast("Copied the result line");
  } catch (error) {
    toast(`Could not copy: ${error.message}`);
  }
}

function failure(error) {
  return el("div", { class: "failure", role: "note" },
    el("strong", {}, String(error.kind)), " in ", String(error.stage), el("p", { dir: "auto" }, foreign(String(error.message))));
}

function section(title, ...children) {
  return el("section", { class: "part" }, el("h3", {}, title), ...children);
}

function texts(found, more) {
  const removed = found.original.marked;
  const original = section("Original",
    body(found.original, "del", more),
    el("p", { class: "note" }, found.rewrite ? `${count(removed)} of ${plural(found.words_before, "word")} left out` : plural(found.words_before, "word")));
  if (!found.rewrite) return el("div", { class: "texts one" }, original);
  const { context, query, question_kept: kept, words } = found.rewrite;
  const invented = context.marked + query.marked;
  const share = found.words_before ? 1 - words / found.words_before : 0;
  const size = share > 0 ? `${percent(share)} shorter` : share < 0 ? `${percent(-share)} longer` : "as long";
  return el("div", { class: "texts" }, original,
    section("Rewrite",
      context.chars ? body(context, "ins", more) : el("p", { class: "note" }, "no context"),
      el("div", { class: "query" }, el("h4", {}, "Question ", el("span", { class: kept ? "badge kept" : "badge failed" }, kept ? "kept" : "not kept")),
        body(query, "ins", more)),
      el("p", { class: "note" }, `${plural(words, "word")}, ${size}; `, invented ? `${plural(invented, "word")} not in the original` : "all words are in the original")));
}

/** A marked text: `tag` holds what the other text lacks. */
function body(text, tag, more) {
  const node = el("div", { class: "text", dir: "auto" });
  for (const [piece, has] of text.pieces) {
    if (has !== false) node.append(...foreign(piece));
    else {
      const bare = piece.trimEnd();
      node.append(el(tag, {}, foreign(bare)), ...foreign(piece.slice(bare.length)));
    }
  }
  return el("div", {}, node, rest(text.pieces.reduce((sum, [piece]) => sum + piece.length, 0), text.chars, more));
}

/** A text without marks. */
function cut(text, more, kind = "text") {
  return el("div", {}, el("div", { class: kind, dir: "auto" }, foreign(text.text)), rest(text.text.length, text.chars, more));
}

function rest(shown, chars, more) {
  if (!more || shown >= chars) return null;
  return el("p", { class: "note" }, `cut after ${count(shown)} of ${plural(chars, "character")} `,
    el("button", { type: "button", class: "link", onclick: () => more(true) }, "Show all"));
}

function answer(found, more) {
  if (!found.answer.chars && !found.baseline) return null;
  return section("Answer",
    found.answer.chars ? cut(found.answer, more, "text answer") : el("p", { class: "note" }, "none"),
    found.baseline && el("div", { class: "query" },
      el("h4", {}, "To the prompt as given ",
        found.flipped !== null && el("span", { class: "badge" }, found.flipped ? "another answer" : "the same answer")),
      cut(found.baseline, more)));
}

function checks(list) {
  if (!list.length) return null;
  return section("Checks", el("ul", { class: "checks" }, list.map((check) => el("li", { class: String(check.level) },
    el("span", { class: "level" }, String(check.level)), el("strong", {}, String(check.name)), el("span", {}, foreign(String(check.message))),
    el("span", { class: "words" }, (Array.isArray(check.words) ? check.words : []).slice(0, 60).map((word) => el("code", {}, line(String(word)))))))));
}

function timeline(found) {
  const attempts = found.stages.flatMap((stage) => stage.attempts.map((attempt) => ({ ...attempt, stage: stage.name })));
  if (!attempts.length) return null;
  const begins = attempts.map((a) => (a.at_s ?? 0) - (a.waited_s ?? 0));
  const ends = attempts.map((a) => (a.at_s ?? 0) + (a.seconds ?? 0));
  const zero = Math.min(0, ...begins);
  const span = Math.max(...ends, 0.001) - zero;
  const rows = attempts.slice(0, 200).map((attempt) => {
    const bar = el("div", { class: "bar", "aria-hidden": "true" });
    const piece = (kind, from, size) => {
      const node = el("i", { class: kind });
      node.style.left = `${((from - zero) / span) * 100}%`;
      node.style.width = `${(size / span) * 100}%`;
      bar.append(node);
    };
    const at = attempt.at_s ?? 0;
    if (attempt.waited_s > 0) piece("wait", at - attempt.waited_s, attempt.waited_s);
    piece(attempt.error ? "bad" : "good", at, attempt.seconds ?? 0);
    return el("li", {}, el("div", { class: "attempt" },
      el("span", { class: "who" }, `${attempt.stage} ${attempt.n}`), bar, el("span", { class: "time" }, seconds(attempt.seconds))),
      el("p", { class: "note" }, told(attempt).map((text) => el("span", {}, line(text)))),
      attempt.reply && el("details", {}, el("summary", {}, "Unusable reply"), cut(attempt.reply, null, "mono")));
  });
  return section("Attempts", el("ol", { class: "timeline" }, rows),
    el("p", { class: "scale", "aria-hidden": "true" }, el("span", {}, "0"), el("span", {}, seconds(span))));
}

/** An attempt in words. */
function told(attempt) {
  const usage = attempt.usage;
  return [
    attempt.reask ? "re-ask" : "",
    attempt.waited_s > 0 ? `waited ${seconds(attempt.waited_s)}` : "",
    attempt.status ? `HTTP ${attempt.status}` : "no reply",
    attempt.error ? `${attempt.error.kind}: ${attempt.error.message}` : String(attempt.finish_reason ?? ""),
    typeof attempt.retry_after_s === "number" ? `server asked for ${seconds(attempt.retry_after_s)}` : "",
    attempt.outage ? "the endpoint was down for everyone" : "",
    usage ? `${usage.input_tokens ?? "?"} in, ${usage.output_tokens ?? "?"} out` : attempt.error ? "" : "tokens unknown",
    attempt.request_id ?? "",
  ].filter(Boolean);
}

function messages(found, more) {
  return found.stages.map((stage) => el("details", { class: "part fold" },
    el("summary", {}, el("span", {}, `Messages of ${stage.name}`),
      el("span", { class: "note" }, [stage.model_answered ?? stage.model, `prompt ${stage.prompt_version}`].filter(Boolean).join(", "))),
    stage.messages.length ? stage.messages.map((message) => el("div", { class: "message" },
      el("h4", {}, line(message.role)), cut(message.content, more)))
      : el("p", { class: "note" }, "kept as a hash: ", el("code", {}, String(stage.messages_sha256))),
    stage.raw.chars > 0 && el("div", { class: "message" }, el("h4", {}, "reply"), cut(stage.raw, more, "mono")),
    stage.name === "rewrite" && found.rewrite && el("div", { class: "message" }, el("h4", {}, "reply"), cut(found.rewrite.raw, more, "mono")),
    el("p", { class: "note" }, el("code", {}, foreign(JSON.stringify(stage.parameters ?? {}))))));
}

function source(id, found) {
  const node = el("details", { class: "part fold" }, el("summary", {}, el("span", {}, "Result line"), el("span", { class: "note" }, `${count(found.bytes)} bytes`)));
  node.addEventListener("toggle", async () => {
    if (!node.open || node.children.length > 1) return;
    const text = await (await ask(`/api/records/${id}/line`)).text();
    const most = 200_000;
    node.append(el("div", { class: "mono" }, foreign(pretty(text.slice(0, most), text.length <= most))),
      ...(text.length > most ? [el("p", { class: "note" }, `cut after ${count(most)} characters; Copy JSON takes all`)] : []));
  });
  return node;
}

/** JSON with line breaks, its texts and numbers as they stand: nothing is parsed and printed again. */
function pretty(text, all) {
  if (!all) return text;
  let depth = 0;
  return text.replaceAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]/g, (found) => {
    if (found[0] === '"') return found;
    if (found === ":") return ": ";
    if (found === ",") return `,\n${"  ".repeat(depth)}`;
    depth = Math.min(Math.max(0, depth + (found === "{" || found === "[" ? 1 : -1)), 40);
    return found === "{" || found === "[" ? `${found}\n${"  ".repeat(depth)}` : `\n${"  ".repeat(depth)}${found}`;
  });
}
