// The gallery of particles: crops of the picks that the run kept, over the run and, beside the large picture, of one
// micrograph. With a server, those of one micrograph are cut out at once, all of them.
const CROPS_PER_PAGE = 120;
const particles = { mode: "random", page: 0, seed: 1, mark: null, strip: null, beside: false, edited: false };
const crops = []; // of the sheets, best score first in each: { m, k, sheet, place }
const sheets = data.crops.sheets.map((sheet) => ({ ...sheet, image: null, waiting: [] }));
sheets.forEach((sheet) => {
  const m = micrographs[sheet.micrograph];
  m.sheet = sheet;
  sheet.crops = [];
  sheet.index.forEach((index, place) => { if (index >= 0) sheet.crops.push({ m, k: m.start + index, sheet, place }); });
  crops.push(...sheet.crops);
});

const CROP_MODES = {
  random: ["At random", "a fair sample of the picks kept; the share of it that shows no particle is the share of false picks"],
  edge: ["At the threshold", "the scores nearest to it; it is well chosen if the upper ones are particles and the lower ones are not"],
  best: ["Best first", "sorted by score"],
  worst: ["Lowest first", "the picks kept with the lowest scores"],
};

// A number of 0 to 1 that depends on both numbers only.
function chance(seed, k) {
  let a = (Math.imul(seed, 0x9e3779b1) + Math.imul(k + 1, 0x85ebca6b)) | 0;
  a = Math.imul(a ^ (a >>> 15), a | 1);
  a ^= a + Math.imul(a ^ (a >>> 7), a | 61);
  return (((a ^ (a >>> 14)) >>> 0) + 0.5) / 4294967296;
}

const scoreOf = (crop) => levels[level[crop.k]];
const placeOf = (x, y) => `${Math.round(x)},${Math.round(y)}`;

// The crops of candidates that the sliders keep and, apart, of those that only the threshold leaves out.
function sortedOut() {
  const kept = [], out = [];
  for (const sheet of sheets) {
    const edited = edits.get(sheet.micrograph);
    const there = edited ? new Set(edited.picks.map((p) => placeOf(p.x, p.y))) : null;
    for (const crop of sheet.crops) {
      if (there ? there.has(placeOf(px[crop.k], py[crop.k])) : level[crop.k] >= state.t && inRange(size[crop.k])) kept.push(crop);
      else if (!there && level[crop.k] < state.t && inRange(size[crop.k])) out.push(crop);
    }
  }
  return { kept, out };
}

// Crops are few of some scores and all of others: each is drawn with the weight of the picks that it stands for.
function drawn(kept) {
  const bin = (m, score) => m.i * 20 + Math.min(19, Math.floor(score * 20));
  const have = new Map(), count = new Map();
  for (const crop of kept) { const b = bin(crop.m, scoreOf(crop)); have.set(b, (have.get(b) || 0) + 1); }
  for (const { micrograph } of sheets) {
    const m = micrographs[micrograph];
    eachPick(m, (x, y, d, s) => { const b = bin(m, s); count.set(b, (count.get(b) || 0) + 1); });
  }
  return kept
    .map((crop) => { const b = bin(crop.m, scoreOf(crop)); return [-Math.log(chance(particles.seed, crop.k)) * have.get(b) / (count.get(b) || 1), crop]; })
    .sort((a, b) => a[0] - b[0]).map(([, crop]) => crop);
}

const higher = (a, b) => level[b.k] - level[a.k] || a.k - b.k;

function listCrops() {
  const { kept, out } = sortedOut();
  if (particles.mode === "edge") {
    const half = CROPS_PER_PAGE / 2;
    const above = kept.filter((c) => !edits.has(c.m.i)).sort((a, b) => higher(b, a)).slice(0, half);
    return [[`Just kept, ${tidy(levels[state.t])} and above`, above], [`Just left out, below ${tidy(levels[state.t])}`, out.sort(higher).slice(0, half)]];
  }
  if (particles.mode === "random") return [["", drawn(kept)]];
  return [["", kept.sort(particles.mode === "best" ? higher : (a, b) => higher(b, a))]];
}

function withSheet(sheet, ready) {
  if (!sheet.image) {
    sheet.image = new Image();
    sheet.image.addEventListener("load", () => { for (const then of sheet.waiting.splice(0)) then(); });
    sheet.image.src = `data:image/jpeg;base64,${sheet.jpeg}`;
  }
  if (sheet.image.complete && sheet.image.naturalWidth) ready();
  else sheet.waiting.push(ready);
}

// One crop: { image, place, width } of its sheet; diameter in pixels of the micrograph.
function drawCrop(canvas, image, place, width, diameter, score) {
  const { ctx, width: w } = surface(canvas);
  if (!w) return;
  const side = data.crops.side, columns = data.crops.columns;
  ctx.imageSmoothingQuality = "high";
  ctx.drawImage(image, (place % columns) * side, Math.floor(place / columns) * side, side, side, 0, 0, w, w);
  if (at("crop-circles").checked) {
    ctx.beginPath();
    ctx.arc(w / 2, w / 2, ((diameter || width / data.crops.width) / width) * (w / 2), 0, 7);
    ctx.lineWidth = 1.4;
    ctx.strokeStyle = SHADES[Math.max(0, Math.min(15, Math.floor(score * 16)))];
    ctx.stroke();
  }
  canvas.dataset.drawn = "yes";
}

function cropButton(m, x, y, score, out) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = out ? "crop out" : "crop";
  button.tabIndex = -1;
  button.append(document.createElement("canvas"), Object.assign(document.createElement("span"), { textContent: score.toFixed(2) }));
  button.title = `${m.name}: score ${score.toFixed(3)}, x ${Math.round(x)}, y ${Math.round(y)}`;
  button.setAttribute("aria-label", button.title);
  button.addEventListener("click", () => { particles.from = at("large").open ? null : button; showPick(m, x, y); });
  return button;
}

function cropOf(crop, out) {
  const { m, k, sheet } = crop;
  const d = size[k] === UNKNOWN ? NaN : size[k] / 2;
  const button = cropButton(m, px[k], py[k], scoreOf(crop), out);
  button.draw = () => withSheet(sheet, () => drawCrop(button.firstChild, sheet.image, crop.place, sheet.width, diameterInPixels(m, d), scoreOf(crop)));
  return button;
}

// Opens the micrograph of a pick, with the pick in the middle and marked.
function showPick(m, x, y) {
  if (stage.m !== m) openLarge(m);
  particles.mark = { m, x, y };
  const box = at("stage").getBoundingClientRect();
  stage.scale = Math.max(stage.scale, Math.min(8, 2.5 * stage.fitted));
  stage.left = box.width / 2 - (x + 0.5) * stage.scale;
  stage.top = box.height / 2 - (y + 0.5) * stage.scale;
  drawStage();
}

function fillGrid(grid, buttons) {
  grid.replaceChildren(...buttons);
  if (buttons.length) buttons[0].tabIndex = 0;
  for (const button of buttons) button.draw();
}

function aboutCrops() {
  const dark = data.crops.dark;
  const shade = dark === null ? "shown as in the micrographs" : `particles are ${dark ? "dark" : "light"}, as in the micrographs`;
  const invert = at("crop-invert").checked ? "shown inverted" : shade;
  return `${invert}; a box is ${data.crops.width} diameters wide; one contrast for each micrograph`;
}

function refreshParticles() {
  if (at("particles").hidden) return;
  const parts = listCrops();
  const total = parts.reduce((sum, [, list]) => sum + list.length, 0);
  const pages = particles.mode === "edge" ? 1 : Math.max(1, Math.ceil(total / CROPS_PER_PAGE));
  particles.page = Math.max(0, Math.min(pages - 1, particles.page));
  const first = particles.page * CROPS_PER_PAGE;
  for (const button of at("crop-modes").children) button.setAttribute("aria-pressed", String(button.dataset.mode === particles.mode));
  at("crop-again").hidden = particles.mode !== "random";
  at("crops").replaceChildren(...parts.flatMap(([title, list]) => {
    const shown = list.slice(first, first + CROPS_PER_PAGE);
    const grid = document.createElement("div");
    grid.className = "crops";
    const buttons = shown.map((crop) => cropOf(crop));
    grid.append(...buttons);
    if (buttons.length) buttons[0].tabIndex = 0;
    const heading = Object.assign(document.createElement("h3"), { textContent: `${title}${shown.length ? "" : ": none"}` });
    return title ? [heading, grid] : [grid];
  }));
  for (const button of at("crops").querySelectorAll(".crop")) button.draw();
  const from = sheets.filter((sheet) => sheet.crops.length).length;
  const texts = [];
  if (!from) texts.push("This run kept no pictures of its picks: an earlier version made it, or nothing was found. Pick again, or open it with cryosegnet view and press G in a micrograph.");
  else {
    texts.push(`${CROP_MODES[particles.mode][0]}: ${CROP_MODES[particles.mode][1]}.`);
    if (!total) texts.push("No pick passes these settings.");
    texts.push(`The page holds ${number(crops.length)} crops from ${number(from)} of ${number(data.totals.micrographs)} micrographs: ${aboutCrops()}.`);
  }
  at("crop-about").textContent = texts.join(" ");
  pageButtons(at("crop-pages"), particles.page, pages, total, CROPS_PER_PAGE, (page) => { particles.page = page; refreshParticles(); at("micrographs").scrollIntoView({ block: "start" }); });
}

// The panel beside the large picture: every pick of this micrograph with a server, else those of its sheet.
function besideKey(m) {
  const edited = edits.get(m.i);
  return `${m.i} ${state.t} ${state.lo} ${state.hi} ${edited ? edited.picks.map((p) => placeOf(p.x, p.y)).join(" ") : ""}`;
}

function onStage(ctx, m) {
  const mark = particles.mark;
  if (mark && mark.m === m) {
    const x = (mark.x + 0.5) * stage.scale + stage.left, y = (mark.y + 0.5) * stage.scale + stage.top;
    const half = Math.max(14, (0.75 * stage.scale * (m.sheet ? m.sheet.width / data.crops.width : 0)) || 14);
    for (const [line, style] of [[4, "#000"], [2, "#fff"]]) {
      ctx.lineWidth = line; ctx.strokeStyle = style;
      ctx.strokeRect(x - half, y - half, 2 * half, 2 * half);
    }
  }
  if (!particles.beside || particles.strip === besideKey(m)) return;
  particles.strip = besideKey(m);
  if (view) cutBeside(m);
  else showBeside(m);
}

function showBeside(m) {
  const list = m.sheet ? sortedOut() : { kept: [], out: [] };
  const own = (some) => some.filter((crop) => crop.m === m).sort(higher);
  const [kept, out] = [own(list.kept), own(list.out)];
  fillGrid(at("beside-crops"), [...kept.map((crop) => cropOf(crop)), ...out.map((crop) => cropOf(crop, true))]);
  at("beside-about").textContent = m.sheet
    ? `${number(kept.length)} of the ${number(m.count)} picks, best first${out.length ? `; pale: ${number(out.length)} below the threshold` : ""}. A click shows the place.`
    : "No crops of this micrograph are in the page; cryosegnet view shows them.";
}

const MOST_BESIDE = 1000;
let asked = 0;
async function cutBeside(m) {
  const mine = ++asked;
  const picks = [];
  eachPick(m, (x, y, d, s) => picks.push({ x, y, d: diameterInPixels(m, d), s }));
  picks.sort((a, b) => b.s - a.s);
  picks.splice(MOST_BESIDE);
  const width = Math.max(4, data.crops.width * (median(picks.map((p) => p.d).filter(Number.isFinite)) || diameterInPixels(m, view.diameter)));
  at("beside-about").textContent = picks.length ? "cutting out the picks …" : "No picks here.";
  if (!picks.length) { fillGrid(at("beside-crops"), []); return; }
  try {
    const answer = await fetch(`crops/${m.i}`, {
      method: "POST", headers: { "Content-Type": "application/json", "X-CryoSegNet-Token": view.token },
      body: JSON.stringify({ picks: picks.map((p) => [p.x, p.y]), width }),
    });
    if (!answer.ok) throw new Error(await answer.text());
    const image = await createImageBitmap(await answer.blob());
    if (mine !== asked) return;
    fillGrid(at("beside-crops"), picks.map((p, place) => {
      const button = cropButton(m, p.x, p.y, p.s);
      button.draw = () => drawCrop(button.firstChild, image, place, width, p.d, p.s);
      return button;
    }));
    at("beside-about").textContent = `${picks.length < m.count ? `${number(picks.length)} of the ${number(m.count)}` : `all ${number(picks.length)}`} picks, best first. A click shows the place.`;
  } catch (error) {
    if (mine === asked) at("beside-about").textContent = `The picks cannot be cut out: ${error.message}`;
  }
}

function toggleBeside() {
  particles.beside = !particles.beside;
  particles.strip = null;
  at("beside").hidden = !particles.beside;
  at("beside-button").setAttribute("aria-pressed", String(particles.beside));
  drawStage();
}

function showPanel(name) {
  if (name === "averages" && data.averages) tellAverages(data.averages);
  for (const tab of at("tabs").children) {
    const chosen = tab.dataset.panel === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    at(tab.dataset.panel).hidden = !chosen;
  }
  refresh();
}

function arrowsAmong(event) {
  const all = Array.from(event.currentTarget.querySelectorAll(".crop")), k = all.indexOf(document.activeElement);
  if (k < 0) return;
  const columns = Math.max(1, all.filter((c) => c.offsetTop === all[0].offsetTop).length);
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (!step || !all[k + step]) return;
  all[k].tabIndex = -1;
  all[k + step].tabIndex = 0;
  all[k + step].focus();
  event.preventDefault();
  event.stopPropagation();
}

function tellAverages(found) {
  // Edits of this session count as soon as they are made.
  const old = found.old || (particles.edited && found.edits !== null);
  at("average-old").hidden = !old;
  at("average-old").textContent = `These averages are old: since they were made, the micrographs were picked or edited again. New ones take about a minute: cryosegnet report ${data.folder} --averages`;
  at("average-verdict").textContent = old ? `At that time: ${found.sentence}` : found.sentence;
  at("average-verdict").className = old ? "" : found.verdict;
  at("average-images").classList.toggle("old", old);
}

function showAverages() {
  const found = data.averages;
  if (!found) {
    at("average-verdict").textContent = "No averages were made of this run.";
    at("average-about").textContent = `This makes them in about a minute: cryosegnet report ${data.folder} --averages`;
    return;
  }
  tellAverages(found);
  const of = `${number(found.picks)} picks of ${number(found.micrographs)} micrographs`;
  const texts = [`${of}${found.edited ? `, ${number(found.edited)} of them with edited picks` : ""}, aligned and sorted into ${found.counts.length === 1 ? "one class" : `${found.counts.length} classes`}.`,
    "Each half of the picks is judged by averages of the other half. Frequencies that are only noise are left out, so an average of noise is grey. Each picture has its own contrast."];
  if (found.unreadable) texts.push(`${number(found.unreadable)} micrographs of the sample could not be read.`);
  if (found.edits === null) texts.push("Edited picks were ignored, as asked.");
  at("average-about").textContent = texts.join(" ");
  at("average-images").append(...found.images.map((text, k) => {
    const figure = document.createElement("figure");
    const image = Object.assign(document.createElement("img"), { src: `data:image/png;base64,${text}`, alt: `Average ${k + 1}` });
    figure.append(image, Object.assign(document.createElement("figcaption"), { textContent: `${number(Math.round(found.counts[k]))} picks` }));
    return figure;
  }));
}

function startParticles() {
  showAverages();
  at("crop-modes").append(...Object.entries(CROP_MODES).map(([mode, [label, title]]) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: label, title });
    button.dataset.mode = mode;
    button.addEventListener("click", () => { particles.mode = mode; particles.page = 0; refreshParticles(); });
    return button;
  }));
  at("crop-again").addEventListener("click", () => { particles.seed += 1; particles.page = 0; refreshParticles(); });
  for (const tab of at("tabs").children) tab.addEventListener("click", () => showPanel(tab.dataset.panel));
  at("tabs").addEventListener("keydown", (event) => {
    const tabs = Array.from(at("tabs").children).filter((tab) => !tab.hidden), k = tabs.indexOf(document.activeElement);
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || k < 0) return;
    const next = tabs[(k + step + tabs.length) % tabs.length];
    next.focus(); showPanel(next.dataset.panel); event.preventDefault();
  });
  const redraw = () => { for (const button of document.querySelectorAll(".crop")) if (button.draw) button.draw(); };
  at("crop-circles").addEventListener("change", redraw);
  at("crop-invert").addEventListener("change", () => { document.body.classList.toggle("inverted", at("crop-invert").checked); refreshParticles(); });
  at("crop-size").addEventListener("change", () => { at("crops").style.setProperty("--crop", `${at("crop-size").value}px`); redraw(); });
  for (const id of ["crops", "beside-crops"]) at(id).addEventListener("keydown", arrowsAmong);
  const button = addTool("button", "beside-button", { type: "button", textContent: "Particles", title: "The picks of this micrograph side by side (G)" });
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", toggleBeside);
  at("large").addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() !== "g" || event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT"].includes(event.target.tagName)) return;
    toggleBeside();
    event.preventDefault();
  });
  at("large").addEventListener("close", () => {
    particles.mark = particles.strip = null;
    if (stage.untouched && particles.from && particles.from.isConnected) particles.from.focus();
    particles.from = null;
  });
}
