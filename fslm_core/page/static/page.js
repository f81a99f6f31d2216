// Keys, tokens, and what changes while it is looked at. Everything can be read without this.
"use strict";

const rows = () => [...document.querySelectorAll("[data-row]")];
const typing = (target) => target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]") !== null;
const calm = matchMedia("(prefers-reduced-motion: reduce)");
let here = null; // the id or place of the row that j and k stand on

function stand(row, focus = true) {
  for (const other of document.querySelectorAll(".here[data-row], .outline .here")) other.classList.remove("here");
  here = row;
  if (!row) return;
  row.classList.add("here");
  const line = row.id && document.querySelector(`.outline a[href="#${CSS.escape(row.id)}"]`);
  if (line) line.parentElement.classList.add("here");
  if (focus) (row.matches("article, section") ? row : row.querySelector("a") ?? row).focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
}

function current() {
  return document.activeElement?.closest("[data-row]") ?? (here?.isConnected ? here : null);
}

function step(by) {
  const all = rows();
  const at = all.indexOf(current());
  const next = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + by))];
  if (next) stand(next);
}

const keys = {
  j: () => step(1),
  k: () => step(-1),
  "/": () => document.getElementById("q")?.select(),
  "?": () => document.getElementById("help").showModal(),
  Enter: () => current()?.querySelector("a[href]")?.click(),
  r: () => current()?.querySelector("button[value=right]")?.click(),
  w: () => current()?.querySelector("button[value=wrong]")?.click(),
  e: () => {
    const edit = current()?.querySelector(":scope > details.edit");
    if (!edit) return;
    edit.open = true;
    edit.querySelector("textarea")?.focus();
  },
};

document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (event.key === "Escape" && typing(target)) {
    const row = target.closest("[data-row]");
    row ? stand(row) : target.blur();
    return;
  }
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || typing(target)) return;
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && target.closest("a, button, summary, input, [data-tokens]")) return;
  if (event.repeat && event.key !== "j" && event.key !== "k") return;
  const act = keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

// Tokens: one stop of the Tab key, then the arrows; what is known of a token is told below.
const legends = new WeakMap();

function tellToken(token) {
  const group = token.closest("[data-tokens]");
  const told = group.nextElementSibling;
  if (!legends.has(told)) legends.set(told, [...told.childNodes]);
  for (const other of group.querySelectorAll(".here")) other.classList.remove("here");
  token.classList.add("here");
  told.textContent = token.title;
}

function untell(group) {
  const told = group.nextElementSibling;
  for (const other of group.querySelectorAll(".here")) other.classList.remove("here");
  if (legends.has(told)) told.replaceChildren(...legends.get(told));
}

document.addEventListener("pointerover", (event) => {
  const token = event.target.closest?.("[data-tokens] .t");
  if (token) tellToken(token);
});
document.addEventListener("pointerout", (event) => {
  const group = event.target.closest?.("[data-tokens]");
  if (group && !group.contains(event.relatedTarget) && document.activeElement !== group) untell(group);
});
document.addEventListener("focusout", (event) => {
  if (event.target.matches?.("[data-tokens]")) untell(event.target);
});
document.addEventListener("keydown", (event) => {
  const group = event.target;
  const by = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
  if (by === undefined || !group.matches?.("[data-tokens]")) return;
  event.preventDefault();
  const all = [...group.querySelectorAll(".t")];
  const at = all.findIndex((token) => token.classList.contains("here"));
  const next = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + by))];
  tellToken(next);
  next.scrollIntoView({ block: "nearest", inline: "nearest" });
});

// Live: the server says that something changed, and the page takes over what is new of itself.
const kept = (node) => node.querySelector(":scope > details.edit[open]") !== null; // somebody may be writing there

function takeOver(old, fresh) {
  const before = new Map([...old.children].map((child, place) => [child.id || `#${place}`, child]));
  const after = [...fresh.children].map((child, place) => {
    const there = before.get(child.id || `#${place}`);
    if (!there) return child;
    const same = there.outerHTML.replaceAll(/ here(?=")/g, "") === child.outerHTML;
    if (same || kept(there)) return there;
    for (const details of there.querySelectorAll("details[open]")) {
      const place = [...there.querySelectorAll("details")].indexOf(details);
      child.querySelectorAll("details")[place]?.setAttribute("open", "");
    }
    return child;
  });
  for (const [place, child] of after.entries()) {
    if (old.children[place] !== child) old.insertBefore(child, old.children[place] ?? null);
  }
  while (old.children.length > after.length) old.lastElementChild.remove();
}

function focused(id) {
  const row = id && document.getElementById(id);
  if (row && !row.contains(document.activeElement)) stand(row);
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const row = current()?.id;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ["head", "outline", "flow", "rows"]) {
    const [old, now] = [document.getElementById(id), fresh.getElementById(id)];
    if (!old || !now) continue;
    if (id === "head" || id === "outline") old.replaceChildren(...now.childNodes);
    else takeOver(old, now);
    for (const name of ["live", "seen"]) {
      if (now.dataset[name] === undefined) delete old.dataset[name];
      else old.dataset[name] = now.dataset[name];
    }
  }
  focused(row);
  const status = document.querySelector("#head .status");
  document.getElementById("told").textContent = status
    ? `${document.querySelectorAll("#flow .card").length} cards, ${status.textContent}`
    : "the list has changed";
}

function follow() {
  const live = document.querySelector("[data-live]");
  if (!live) return;
  const mark = live.dataset.live.includes("?") ? "&" : "?";
  const source = new EventSource(`${live.dataset.live}${mark}seen=${encodeURIComponent(live.dataset.seen)}`);
  let busy = Promise.resolve();
  source.addEventListener("changed", () => (busy = busy.then(refresh).catch(() => {})));
  source.addEventListener("ended", () => source.close());
  addEventListener("pagehide", () => source.close(), { once: true });
  addEventListener("pageshow", (event) => event.persisted && location.reload(), { once: true });
}

function begin() {
  const help = document.querySelector("[data-help]");
  if (help) {
    help.hidden = false;
    help.addEventListener("click", keys["?"]);
  }
  document.querySelector("[role=alert][tabindex]")?.focus();
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named?.matches("[data-row]")) stand(named);
  follow();
}

begin();
