// A second set of picks over those of the run. The server pairs them, by the rule of `cryosegnet evaluate`.
const comparison = { key: "", running: false, timer: 0, error: "", hidden: new Set(), theirs: new Map() };
// Colours that colour-blind people tell apart (Okabe and Ito), and another shape for the other set.
const SETS = { common: ["in both", "#ffffff"], own: ["only here", "#e69f00"], other: ["only in the other set", "#56b4e9"] };
const TOGETHER = 64;

const theirsOf = (m) => comparison.theirs.get(m.i);

function startCompare() {
  const columns = ["x", "y", "diameter", "score"].map((name) => decode(view.compare[name], Float32Array));
  let start = 0;
  view.compare.counts.forEach((n, i) => {
    if (n === null) return;
    const [x, y, d, s] = columns.map((column) => column.subarray(start, start + n));
    comparison.theirs.set(i, { x, y, d, s });
    start += n;
  });
  const parent = at("compare");
  parent.hidden = false;
  const what = document.createElement("strong");
  what.textContent = `Over these picks: ${view.compare.name}`;
  parent.append(what);
  for (const [name, [label, tint]] of Object.entries(SETS)) {
    const b = Object.assign(document.createElement("button"), { type: "button", id: `compare-${name}`, title: "Show or hide" });
    const mark = document.createElement("i");
    mark.className = name;
    mark.style.borderColor = tint;
    const text = document.createElement("span");
    text.textContent = label;
    b.append(mark, text);
    b.setAttribute("aria-pressed", "true");
    b.addEventListener("click", () => {
      if (!comparison.hidden.delete(name)) comparison.hidden.add(name);
      b.setAttribute("aria-pressed", String(!comparison.hidden.has(name)));
      cards().forEach(fillCard); drawStale();
      if (stage.m) drawStage();
    });
    parent.append(b);
  }
  const state = Object.assign(document.createElement("span"), { id: "compare-about", className: "quiet" });
  state.setAttribute("role", "status");
  parent.append(state);
  if (view.compare.notes.length) {
    const notes = document.createElement("ul");
    notes.append(...view.compare.notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })));
    parent.append(notes);
  }
  SORTS.apart = ["least in common", (a, b) => shareInCommon(a) - shareInCommon(b) || a.i - b.i];
  at("sort").add(new Option(SORTS.apart[0], "apart"));
}

function shareInCommon(m) {
  const c = m.compared, all = c ? c.common + c.own + c.other : 0;
  return all ? c.common / all : 2;
}

// After a change of the sliders, or of the picks of one micrograph.
function compareAgain(changed) {
  const key = `${state.t}/${state.lo}/${state.hi}`;
  for (const m of micrographs) {
    if (m !== changed && (comparison.key === key || (edits.has(m.i) && m.compared))) continue;
    m.compared = null;
    m.asked = null;
  }
  comparison.key = key;
  clearTimeout(comparison.timer);
  comparison.timer = setTimeout(compareAll, 120);
}

async function compareAll() {
  if (comparison.running) return;
  comparison.running = true;
  comparison.error = "";
  try {
    for (;;) {
      const waiting = micrographs.filter((m) => theirsOf(m) && !m.compared);
      if (!waiting.length) break;
      // What is in sight comes first.
      const seen = new Set([stage.m, ...cards().map((card) => card.micrograph)]);
      const some = [...waiting.filter((m) => seen.has(m)), ...waiting.filter((m) => !seen.has(m))].slice(0, TOGETHER);
      const asked = {}, sets = {};
      for (const m of some) { m.asked = asked; sets[m.i] = picksOf(m).map((p) => [p.x, p.y]); }
      const answer = await post("common", { sets });
      for (const m of some) {
        // Picks that were changed meanwhile are asked for again.
        if (m.asked !== asked) continue;
        const [mine, their] = answer[m.i], n = sets[m.i].length, all = theirsOf(m).x.length;
        m.compared = { mine: new Set(mine), their: new Set(their), common: mine.length, own: n - mine.length, other: all - mine.length };
      }
      showCompared();
      cards().filter((card) => some.includes(card.micrograph)).forEach(fillCard);
      drawStale();
      if (some.includes(stage.m)) drawStage();
    }
    if (gallery.sort === "apart") refreshGallery();
  } catch (error) {
    comparison.error = `not compared: ${error.message}`;
  }
  comparison.running = false;
  showCompared();
}

function showCompared() {
  const sums = { common: 0, own: 0, other: 0 };
  let done = 0;
  for (const m of micrographs) {
    if (!m.compared) continue;
    done++;
    for (const name of Object.keys(sums)) sums[name] += m.compared[name];
  }
  for (const [name, [label]] of Object.entries(SETS)) at(`compare-${name}`).lastChild.textContent = `${number(sums[name])} ${label}`;
  const all = comparison.theirs.size;
  at("compare-about").textContent = comparison.error || (done < all ? `${number(done)} of ${number(all)} micrographs counted`
    : `on ${number(all)} ${all === 1 ? "micrograph" : "micrographs"}, at most ${view.compare.distance} diameters apart`);
}

const inWords = (m) => (!theirsOf(m) ? "not in the other set" : !m.compared ? "" : `${number(m.compared.common)} common, ${number(m.compared.own)} / ${number(m.compared.other)} alone`);

// The circles of both sets; false if they are not paired yet.
function drawCompared(ctx, m, scale, left, top, line) {
  if (!m.compared) return false;
  const theirs = theirsOf(m), paths = { common: new Path2D(), own: new Path2D(), other: new Path2D() };
  const usual = Math.max(m.width, m.height) / 40;
  const radius = (d) => Math.max(2, ((diameterInPixels(m, d) || usual) * scale) / 2);
  let k = 0;
  eachPick(m, (x, y, d) => {
    const [cx, cy, r] = [(x + 0.5) * scale + left, (y + 0.5) * scale + top, radius(d)];
    const path = paths[m.compared.mine.has(k++) ? "common" : "own"];
    path.moveTo(cx + r, cy);
    path.arc(cx, cy, r, 0, 7);
  });
  for (let j = 0; j < theirs.x.length; j++) {
    if (m.compared.their.has(j)) continue;
    const r = radius(theirs.d[j] || view.diameter);
    paths.other.rect((theirs.x[j] + 0.5) * scale + left - r, (theirs.y[j] + 0.5) * scale + top - r, 2 * r, 2 * r);
  }
  for (const [name, path] of Object.entries(paths)) {
    if (comparison.hidden.has(name)) continue;
    ctx.lineWidth = line + 1.4; ctx.strokeStyle = "rgba(0,0,0,.55)"; ctx.stroke(path);
    ctx.lineWidth = line; ctx.strokeStyle = SETS[name][1]; ctx.stroke(path);
  }
  return true;
}

// What the mouse tells of a place, beside the score of the pick of this number there (-1: none).
function comparedTip(m, x, y, k) {
  if (!m.compared) return "";
  if (k >= 0) return `, ${SETS[m.compared.mine.has(k) ? "common" : "own"][0]}`;
  const theirs = theirsOf(m);
  for (let j = 0; j < theirs.x.length; j++) {
    const reach = diameterInPixels(m, theirs.d[j] || view.diameter) / 2;
    if (!m.compared.their.has(j) && Math.hypot(theirs.x[j] - x, theirs.y[j] - y) < reach) return `${SETS.other[0]}, score ${theirs.s[j].toFixed(2)}`;
  }
  return "";
}
