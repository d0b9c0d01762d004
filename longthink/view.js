"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
// data: fields (what can be filtered by), items (one a sample: i, source, problem, and the fields), problems, words, texts or null
const el = (tag, attrs = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attrs)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};
const PAGE = 200;
const SHOWN = 8; // samples of a problem in a column, the one that was chosen first
const state = { shown: PAGE, picked: -1, kept: new Set(data.kept), matches: null };
const form = document.getElementById("filters");
const list = document.querySelector("#list ol");
const texts = new Map();

async function textOf(i) {
  if (data.texts) return data.texts[i];
  if (!texts.has(i)) texts.set(i, await (await fetch(`text?i=${i}`)).json());
  return texts.get(i);
}

function select(name, values) {
  const options = ["", ...values].map((v) => el("option", { value: v }, v === "" ? "all" : String(v)));
  return el("label", {}, name, el("select", { name }, ...options));
}

function filters() {
  for (const name of data.fields) {
    const values = [...new Set(data.items.map((item) => item[name]))];
    const numeric = values.every((v) => typeof v === "number");
    values.sort(numeric ? (a, b) => a - b : undefined);
    if (values.length > 1) form.append(select(name, values));
  }
  form.append(el("label", {}, "search", el("input", { name: "search", type: "search", placeholder: "text of responses" })));
  form.append(el("label", {}, "order", el("select", { name: "order" },
    ...["as sampled", "longest first", "shortest first", "best first", "worst first"].map((o) => el("option", { value: o }, o)))));
  const keep = el("button", { type: "button", id: "export" }, "save kept cases");
  keep.addEventListener("click", save);
  form.append(keep);
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => { event.preventDefault(); refresh(); });
}

async function searched(wanted) {
  if (!wanted) return null;
  if (!data.texts) return new Set(await (await fetch(`search?q=${encodeURIComponent(wanted)}`)).json());
  const low = wanted.toLowerCase();
  return new Set(data.items.filter((item) => data.texts[item.i].toLowerCase().includes(low)).map((item) => item.i));
}

let turn = 0;
async function refresh() {
  const mine = ++turn;
  const asked = new FormData(form);
  const found = await searched(asked.get("search").trim());
  if (mine !== turn) return;
  let items = data.items.filter((item) =>
    data.fields.every((name) => !asked.get(name) || String(item[name]) === asked.get(name)) && (!found || found.has(item.i)));
  const order = asked.get("order");
  if (order.startsWith("longest")) items = items.toSorted((a, b) => b.tokens - a.tokens);
  if (order.startsWith("shortest")) items = items.toSorted((a, b) => a.tokens - b.tokens);
  if (order.startsWith("best")) items = items.toSorted((a, b) => (b.score ?? -1) - (a.score ?? -1));
  if (order.startsWith("worst")) items = items.toSorted((a, b) => (a.score ?? -1) - (b.score ?? -1));
  state.matches = items;
  state.shown = PAGE;
  draw();
  if (!items.length) {
    state.picked = -1;
    document.getElementById("case").replaceChildren(el("p", { class: "soft" }, "no response matches"));
  } else if (!items.some((item) => item.i === state.picked)) pick(items[0].i, false);
}

function draw() {
  document.getElementById("count").textContent = `${state.matches.length.toLocaleString("en")} of ${data.items.length.toLocaleString("en")} responses`;
  list.replaceChildren(...state.matches.slice(0, state.shown).map(row));
  if (state.matches.length > state.shown) {
    const more = el("button", { type: "button" }, "more");
    more.addEventListener("click", () => { state.shown += PAGE; draw(); });
    list.append(el("li", {}, more));
  }
}

const scored = (item) => (item.score === null ? "not graded" : String(Math.round(item.score * 1000) / 1000));
const tone = (item) => (item.score === null ? "soft" : item.score >= 1 ? "good" : "bad");

function row(item) {
  const made = el("li", { "data-i": item.i, "aria-current": String(item.i === state.picked), tabindex: "0" },
    el("span", {}, (state.kept.has(item.i) ? "★ " : "") + item.problem), el("span", { class: tone(item) }, scored(item)),
    el("span", { class: "soft" }, [item.source, item.status, item.finish].filter(Boolean).join(" · ")),
    el("span", { class: "soft" }, `${item.tokens.toLocaleString("en")} tokens`));
  made.addEventListener("click", () => pick(item.i, true));
  made.addEventListener("keydown", (event) => { if (event.key === "Enter") pick(item.i, true); });
  return made;
}

async function pick(i, jump) {
  state.picked = i;
  for (const entry of list.children) entry.setAttribute("aria-current", String(Number(entry.dataset.i) === i));
  const item = data.items[i];
  const problem = data.problems[item.key];
  const target = document.getElementById("case");
  const prompt = el("div", { class: "prompt" }, ...problem.prompt.map((m) => el("pre", {}, `${m.role}: ${m.content}`)));
  const gold = problem.gold === undefined ? [] : [el("p", { class: "soft" }, `gold: ${JSON.stringify(problem.gold)}`)];
  const sides = new Map();
  for (const other of data.items) {
    if (other.key !== item.key) continue;
    if (!sides.has(other.source)) sides.set(other.source, []);
    sides.get(other.source).push(other);
  }
  const columns = await Promise.all([...sides].map(([source, own]) => column(source, own, item)));
  if (state.picked !== i) return;
  target.replaceChildren(el("h2", {}, item.problem), prompt, ...gold, el("div", { class: "sides" }, ...columns));
  if (jump) target.querySelector('[aria-current="true"]').scrollIntoView({ block: "nearest" });
  history.replaceState(null, "", `#${encodeURIComponent(item.key)}/${i}`);
}

async function column(source, own, current) {
  const right = own.filter((item) => item.score >= 1).length;
  const shown = [...own.filter((x) => x.i === current.i), ...own.filter((x) => x.i !== current.i)].slice(0, SHOWN);
  const articles = await Promise.all(shown.map((item) => article(item, item.i === current.i)));
  const more = own.length > shown.length ? [el("p", { class: "soft" }, `and ${own.length - shown.length} more in the list`)] : [];
  return el("div", {}, el("h3", {}, `${source}: ${right} of ${own.length} right`), ...articles, ...more);
}

async function article(item, current) {
  const facts = [`sample ${item.sample}`, `${item.tokens} tokens`, item.status, item.finish, item.extracted ? `answer ${item.extracted}` : ""];
  const keep = el("button", { type: "button" }, state.kept.has(item.i) ? "★ kept" : "keep");
  keep.addEventListener("click", () => {
    if (!state.kept.delete(item.i)) state.kept.add(item.i);
    keep.textContent = state.kept.has(item.i) ? "★ kept" : "keep";
    draw();
  });
  return el("article", { "aria-current": String(current) },
    el("div", {}, el("b", { class: tone(item) }, scored(item)), " ", el("span", { class: "soft" }, facts.filter(Boolean).join(" · ")), " ", keep),
    coloured(await textOf(item.i)));
}

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const groups = Object.entries(data.words);
function coloured(text) {
  const sought = form.elements.search.value.trim();
  const parts = ["(?<tool>```(?:python|output)[\\s\\S]*?(?:```|$))", "(?<end></?think>|</?answer>)"];
  if (sought) parts.unshift(`(?<found>${escaped(sought)})`);
  for (const [name, words] of groups) parts.push(`(?<${name}>\\b(?:${words.map(escaped).join("|")})\\b)`);
  const pattern = new RegExp(parts.join("|"), "gi");
  const pre = el("pre");
  let last = 0;
  for (const match of text.matchAll(pattern)) {
    if (!match[0]) continue;
    pre.append(text.slice(last, match.index));
    const kind = Object.entries(match.groups).find(([, value]) => value !== undefined)[0];
    pre.append(el(kind === "end" ? "span" : "mark", { class: kind, title: kind }, match[0]));
    last = match.index + match[0].length;
  }
  pre.append(text.slice(last));
  return pre;
}

async function save() {
  const cases = await Promise.all([...state.kept].sort((a, b) => a - b).map(async (i) => {
    const item = data.items[i];
    return { ...item, prompt: data.problems[item.key].prompt, text: await textOf(i) };
  }));
  const body = JSON.stringify(cases, null, 1);
  const button = document.getElementById("export");
  if (!data.texts) {
    const done = await fetch("cases", { method: "POST", body });
    button.textContent = done.ok ? `${cases.length} saved beside the data` : "not saved";
    return;
  }
  const link = el("a", { download: "cases.json", href: URL.createObjectURL(new Blob([body], { type: "application/json" })) });
  link.click();
  button.textContent = `${cases.length} in cases.json`;
}

filters();
refresh().then(() => {
  const asked = decodeURIComponent(location.hash.slice(1)).split("/");
  const i = Number(asked.pop());
  const key = asked.join("/");
  const item = data.items.find((x) => x.i === i && x.key === key) ?? data.items.find((x) => x.key === decodeURIComponent(location.hash.slice(1)));
  if (item) pick(item.i, true);
});
