// The gallery: pages of cards; only the cards of the page at hand exist.
const PER_PAGE = 30;
const gallery = { filter: "all", sort: "order", search: "", page: 0, list: [] };
const SORTS = {
  order: ["in order", (a, b) => a.i - b.i],
  flagged: ["look at first", (a, b) => (a.flag ? 0 : 1) - (b.flag ? 0 : 1) || a.i - b.i],
  most: ["most picks", (a, b) => b.count - a.count || a.i - b.i],
  fewest: ["fewest picks", (a, b) => a.count - b.count || a.i - b.i],
  false: ["most expected to be false", (a, b) => (b.expectedFalse === null ? -1 : b.expectedFalse) - (a.expectedFalse === null ? -1 : a.expectedFalse) || a.i - b.i],
  scores: ["lowest scores", (a, b) => (a.score === null ? 2 : a.score) - (b.score === null ? 2 : b.score) || a.i - b.i],
  brush: ["most in the choice", (a, b) => (b.brushed || 0) - (a.brushed || 0) || a.i - b.i],
  name: ["name", (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true })],
};
const number = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u2009");

function listMicrographs() {
  const all = gallery.filter === "all" ? [...micrographs, ...failures]
    : gallery.filter === "edited" ? micrographs.filter((m) => edits.has(m.i))
    : gallery.filter === "failed" ? failures
    : gallery.filter === "brush" ? micrographs.filter((m) => m.brushed)
    : micrographs.filter((m) => m.flag === gallery.filter);
  const wanted = gallery.search.toLowerCase();
  gallery.list = all.filter((m) => !wanted || m.name.toLowerCase().includes(wanted));
  // Failures have numbers below zero and stand at the end.
  const compare = SORTS[gallery.sort][1];
  gallery.list.sort((a, b) => a.failed - b.failed || compare(a, b));
}

function cardOf(m) {
  const card = document.createElement("button");
  card.type = "button";
  card.className = m.failed ? "card failed" : "card";
  card.setAttribute("role", "listitem");
  card.tabIndex = -1;
  card.micrograph = m;
  const add = (kind, parent, className, text) => {
    const element = document.createElement(kind);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };
  if (m.failed) add("span", card, "reason", m.reason);
  else add("canvas", card);
  add("span", card, "flag").hidden = true;
  const name = add("span", card, "name");
  add("bdi", name, "", m.name);
  name.title = m.name;
  const facts = add("span", card, "facts");
  if (m.failed) add("span", facts, "", "failed");
  else { add("b", facts, "count"); add("span", facts, "false"); add("span", facts, "middle"); }
  card.addEventListener("click", () => { if (!m.failed) openLarge(m); });
  return card;
}

function fillCard(card) {
  const m = card.micrograph;
  const flag = card.querySelector(".flag");
  const saved = edits.get(m.i);
  flag.hidden = !m.flag && !saved;
  flag.className = saved ? "flag good" : "flag";
  flag.textContent = saved ? saved.note || (saved.dirty ? "changed" : "saved") : m.flag ? FLAGS[m.flag][0] : "";
  if (m.failed) { card.setAttribute("aria-label", `${m.name}: failed, ${m.reason}`); return; }
  card.querySelector(".count").textContent = `${number(m.count)} ${m.count === 1 ? "pick" : "picks"}`;
  const expected = card.querySelector(".false");
  expected.textContent = m.expectedFalse === null ? "" : `${Math.round(100 * m.expectedFalse)} % false`;
  expected.title = m.expectedFalse === null ? "" : `${inPercent(m.expectedFalse)} of the picks are expected to be false`;
  if (view && view.compare) expected.textContent = inWords(m);
  const defocus = m.values.defocus;
  card.querySelector(".middle").textContent = defocus === undefined || defocus === null ? (m.score === null || m.expectedFalse !== null ? "" : `score ${m.score.toFixed(2)}`) : `${defocus.toFixed(1)} µm`;
  card.setAttribute("aria-label", `${m.name}: ${m.count} ${m.count === 1 ? "pick" : "picks"}${expected.title ? `, ${inPercent(m.expectedFalse)} expected to be false` : ""}${m.flag ? `, ${FLAGS[m.flag][0]}` : ""}`);
  card.querySelector("canvas").stale = true;
}

// Pictures are drawn a few a frame, and only those in sight, so that a slider never waits for them.
let drawing = 0;
function drawStale() {
  if (!drawing) drawing = requestAnimationFrame(drawSome);
  document.documentElement.dataset.drawn = "no";
}

function drawSome() {
  drawing = 0;
  const wanted = cards().filter((card) => card.querySelector("canvas") && card.querySelector("canvas").stale);
  const boxes = wanted.map((card) => card.getBoundingClientRect());
  const end = performance.now() + 14;
  let left = false;
  wanted.forEach((card, k) => {
    if (boxes[k].bottom < -200 || boxes[k].top > window.innerHeight + 200) return;
    if (performance.now() > end) { left = true; return; }
    const canvas = card.querySelector("canvas");
    canvas.stale = false;
    drawCard(canvas, card.micrograph);
  });
  if (left) drawStale();
  else document.documentElement.dataset.drawn = "yes";
}

function cards() { return Array.from(at("gallery").children).filter((c) => c.micrograph); }

function showPage(focus) {
  const pages = Math.max(1, Math.ceil(gallery.list.length / PER_PAGE));
  gallery.page = Math.max(0, Math.min(pages - 1, gallery.page));
  const first = gallery.page * PER_PAGE;
  const shown = gallery.list.slice(first, first + PER_PAGE);
  const parent = at("gallery");
  const same = cards().length === shown.length && cards().every((c, k) => c.micrograph === shown[k]);
  if (!same) parent.replaceChildren(...shown.map(cardOf));
  if (!shown.length) {
    const empty = document.createElement("p");
    empty.className = "quiet";
    empty.textContent = "No micrographs here.";
    parent.replaceChildren(empty);
  }
  cards().forEach(fillCard);
  drawStale();
  if (!cards().some((c) => c.tabIndex === 0) && cards().length) cards()[0].tabIndex = 0;
  pageButtons(at("pages"), gallery.page, pages, gallery.list.length, PER_PAGE, turnTo);
  if (focus !== undefined && cards().length) focusCard(focus < 0 ? cards().length - 1 : focus);
}

function pageButtons(nav, page, pages, total, each, turn) {
  nav.replaceChildren();
  if (pages < 2) return;
  const button = (text, target, label) => {
    const b = document.createElement("button");
    b.type = "button"; b.textContent = text; b.setAttribute("aria-label", label);
    b.disabled = target < 0 || target >= pages || target === page;
    b.addEventListener("click", () => turn(target));
    nav.append(b);
  };
  button("«", 0, "First page"); button("‹", page - 1, "Previous page");
  const span = document.createElement("span");
  span.textContent = `${number(page * each + 1)}–${number(Math.min(total, (page + 1) * each))} of ${number(total)}`;
  nav.append(span);
  button("›", page + 1, "Next page"); button("»", pages - 1, "Last page");
}

function turnTo(page, focus) {
  gallery.page = page;
  showPage(focus);
  if (focus === undefined) at("micrographs").scrollIntoView({ block: "start" });
}

function focusCard(k) {
  const all = cards();
  all.forEach((c, i) => { c.tabIndex = i === k ? 0 : -1; });
  all[k].focus();
}

function showChips() {
  const counts = {};
  for (const m of micrographs) if (m.flag) counts[m.flag] = (counts[m.flag] || 0) + 1;
  counts.failed = data.totals.failed;
  const chips = [["all", "All", data.micrographs.name.length + failures.length]];
  for (const [flag, [label]] of Object.entries(FLAGS)) if (counts[flag]) chips.push([flag, label, counts[flag]]);
  if (edits.size && !(view && view.audit)) chips.push(["edited", view && view.blank ? "Labelled" : "Edited", edits.size]);
  if (brush.box) chips.push(["brush", "In the choice", brush.micrographs]);
  if (!chips.some(([flag]) => flag === gallery.filter)) gallery.filter = "all";
  const parent = at("chips");
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.flag : null;
  parent.replaceChildren(...chips.map(([flag, label, count]) => {
    const b = document.createElement("button");
    b.type = "button"; b.dataset.flag = flag;
    b.className = flag in FLAGS ? "warn" : "";
    b.textContent = `${label} ${number(count)}`;
    b.title = flag in FLAGS ? FLAGS[flag][1] : "";
    b.setAttribute("aria-pressed", String(flag === gallery.filter));
    b.addEventListener("click", () => { gallery.filter = flag; gallery.page = 0; refresh(); });
    return b;
  }));
  if (focused) { const b = parent.querySelector(`[data-flag="${focused}"]`); if (b) b.focus(); }
  const beyond = data.others.micrographs;
  const parts = [];
  if (view && view.blank) parts.push(`Open a micrograph, click on the centres of the particles, press S. The labels go to ${view.target}.`);
  else if (view && view.audit) parts.push(`Open a micrograph to judge its picks that lie at no label. The verdicts go to ${view.audit.path}.`);
  else if (view) parts.push(`Open a micrograph to add and remove picks; what you save goes to ${view.target}, the run's own picks stay.`);
  const unreadable = Object.entries(view ? view.unreadable : {});
  if (unreadable.length) parts.push(`The saved picks of ${number(unreadable.length)} of the micrographs cannot be shown; repair them or discard them: ${unreadable.slice(0, 3).map(([i, reason]) => `${micrographs[i].name}: ${reason}`).join(" ")}`);
  if (gallery.filter in FLAGS) parts.push(`${FLAGS[gallery.filter][0]}: ${FLAGS[gallery.filter][1]}.`);
  if (beyond) parts.push(`${number(micrographs.length)} micrographs are shown, those with the fewest and the most picks and others spread evenly; ${number(beyond)} more are counted.`);
  if (data.totals.failed > failures.length) parts.push(`${number(failures.length)} of ${number(data.totals.failed)} failures are listed; failed.csv has all.`);
  at("explain").textContent = parts.join(" ");
}

function refreshGallery() {
  showChips();
  listMicrographs();
  showPage();
}

function startGallery() {
  for (const [key, [label]] of Object.entries(SORTS)) at("sort").add(new Option(label, key));
  at("sort").addEventListener("change", () => { gallery.sort = at("sort").value; gallery.page = 0; refreshGallery(); });
  at("search").addEventListener("input", () => { gallery.search = at("search").value; gallery.page = 0; refreshGallery(); });
  at("gallery").addEventListener("keydown", (event) => {
    const all = cards(), k = all.indexOf(document.activeElement);
    if (k < 0) return;
    const columns = Math.max(1, all.filter((c) => c.offsetTop === all[0].offsetTop).length);
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (step) {
      const next = k + step;
      if (next >= 0 && next < all.length) focusCard(next);
      else if (next < 0 && gallery.page > 0 && step === -1) turnTo(gallery.page - 1, -1);
      else if (next >= all.length && step === 1 && (gallery.page + 1) * PER_PAGE < gallery.list.length) turnTo(gallery.page + 1, 0);
    } else if (event.key === "PageDown") turnTo(gallery.page + 1, 0);
    else if (event.key === "PageUp") turnTo(gallery.page - 1, 0);
    else if (event.key === "Home") focusCard(0);
    else if (event.key === "End") focusCard(all.length - 1);
    else return;
    event.preventDefault();
  });
  window.addEventListener("scroll", drawStale, { passive: true });
}
