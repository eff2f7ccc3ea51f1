// Sliders, counts, commands; one pass over the candidates at each change, at most once a frame.
const tidy = (value) => String(+value.toFixed(4));

function levelAt(value) {
  const exact = levels.indexOf(value);
  if (exact >= 0) return exact;
  return levels.indexOf(Math.round(value * 1000) / 1000);
}

// To a hundredth, or to the run's own threshold where that is near.
function snapped(value) {
  const bounded = Math.max(levels[data.floor], Math.min(1, value));
  return Math.abs(bounded - data.threshold) < 0.006 ? data.threshold : Math.round(bounded * 100) / 100;
}

function setThreshold(value) {
  const index = levelAt(Math.max(0, Math.min(1, value)));
  if (index < 0) return;
  state.t = Math.max(data.floor, index);
  schedule();
}

function setSizes(low, high) {
  const clip = (v) => Math.max(sizes.low, Math.min(sizes.high, Math.round(v)));
  state.lo = clip(low);
  state.hi = Math.max(state.lo, clip(high));
  schedule();
}

let pending = 0, later = 0;
function schedule() {
  if (!pending) pending = requestAnimationFrame(() => { pending = 0; refresh(true); });
}

const MANY = 200000;

function refresh(quick = false) {
  evaluate();
  clearTimeout(later);
  showControls();
  // Flags and the gallery's order cost more than counts; while a slider is dragged over many candidates they wait.
  if (quick && level.length > MANY) {
    cards().forEach(fillCard);
    drawStale();
    later = setTimeout(refreshRest, 150);
  } else refreshRest();
  drawCharts();
  if (view && view.compare) compareAgain();
  if (stage.m) drawStage();
}

function refreshRest() {
  flagMicrographs();
  refreshGallery();
  refreshParticles();
  if (level.length > MANY) drawCharts();
}

function showControls() {
  const t = levels[state.t];
  const slider = at("threshold");
  slider.value = state.t;
  slider.setAttribute("aria-valuetext", tidy(t));
  const setNumber = (id, value) => { if (document.activeElement !== at(id)) at(id).value = value; };
  setNumber("threshold-number", tidy(t));
  for (const [id, value] of [["size-low", state.lo], ["size-high", state.hi]]) {
    at(id).value = value;
    at(id).setAttribute("aria-valuetext", `${value} ${unit}`);
    setNumber(`${id}-number`, value);
  }
  const share = (v) => (sizes.high > sizes.low ? (v - sizes.low) / (sizes.high - sizes.low) : 0);
  at("size-span").style.left = `${100 * share(state.lo)}%`;
  at("size-span").style.width = `${100 * (share(state.hi) - share(state.lo))}%`;
  at("count-picks").textContent = (totals.exact ? "" : "≈ ") + number(totals.picks);
  at("count-picks").dataset.count = totals.picks;
  at("count-label").textContent = totals.exact ? "picks" : "picks, from a sample";
  at("false").hidden = totals.expectedFalse === null;
  if (totals.expectedFalse !== null) {
    at("count-false").textContent = inPercent(totals.expectedFalse);
    at("count-false").dataset.share = totals.expectedFalse;
  }
  at("count-median").textContent = number(Math.round(totals.median));
  at("count-none").textContent = number(totals.none) + (data.others.micrographs ? " shown" : "");
  at("reset").disabled = state.t === Math.max(runLevel, data.floor) && !limited();
  showCommands(t);
}

function showCommands(t) {
  for (const row of at("commands").querySelectorAll(".command")) {
    fillCommand(row, t, state.lo, state.hi);
    row.querySelector(".note").textContent = limited() && !row.parts.some((p) => p.value === "sizes") ? "(without the size limits)" : "";
  }
}

function fillCommand(row, t, low, high) {
  let sizeText = "";
  if (low > sizes.low) sizeText += ` --min-diameter ${low}`;
  if (high < sizes.high) sizeText += ` --max-diameter ${high}`;
  const code = row.querySelector("code");
  code.replaceChildren(...row.parts.map((part) => {
    if (typeof part === "string") return document.createTextNode(part);
    const b = document.createElement("b");
    b.textContent = part.value === "threshold" ? tidy(t) : sizeText;
    return b;
  }));
  // The threshold is what changes: it must be in sight.
  const bold = code.querySelector("b");
  if (bold) code.scrollLeft = Math.max(0, bold.offsetLeft - code.offsetLeft + bold.offsetWidth + 60 - code.clientWidth);
}

function makeCommands() {
  const rows = data.commands.map(commandRow);
  const fold = rows.length > 2;
  at("commands").append(...rows.slice(0, fold ? 1 : 2));
  if (!fold) return;
  const details = Object.assign(document.createElement("details"), { id: "hand-on" });
  details.append(Object.assign(document.createElement("summary"), { textContent: "Hand on to RELION, CryoSPARC and others; pick again" }), ...rows.slice(1));
  details.addEventListener("toggle", layout);
  at("commands").append(details);
}

function commandRow(command) {
  const row = document.createElement("div");
  row.className = "command";
  row.parts = command.parts;
  const label = document.createElement("span");
  label.className = "label";
  label.textContent = command.label;
  const code = document.createElement("code");
  code.tabIndex = 0;
  code.setAttribute("aria-label", command.label);
  const note = document.createElement("span");
  note.className = "note quiet";
  const copy = document.createElement("button");
  copy.type = "button";
  copy.textContent = "Copy";
  copy.setAttribute("aria-label", `Copy the command: ${command.label}`);
  copy.addEventListener("click", () => copyText(code, copy));
  row.append(label, code, note, copy);
  return row;
}

async function copyText(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch (error) {
    // A page from a disk may have no clipboard: select the text and use the old way.
    const range = document.createRange();
    range.selectNodeContents(code);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function describeRun() {
  at("title").textContent = view && view.blank ? `Labelling ${data.title}` : view && view.audit ? `Auditing ${data.title}` : data.title;
  const t = data.totals, s = data.settings;
  const facts = [`${number(t.micrographs)} micrographs`];
  if (t.failed) facts.push(`${number(t.failed)} failed`);
  if (!(view && view.blank)) {
    const each = t.micrographs ? t.seconds / t.micrographs : 0;
    facts.push(`picked with a threshold of ${tidy(data.threshold)}`);
    if (s.weights) facts.push(`weights ${s.weights}`);
    if (s.diameter) facts.push(`diameter given as ${s.diameter} A`);
    if (each) facts.push(`${each < 10 ? each.toFixed(1) : Math.round(each)} s a micrograph`);
  }
  facts.push(`cryosegnet ${data.version}, ${data.created}`);
  if (!data.complete) facts.push("lower scores were not kept by this run, so the slider starts at its threshold");
  else if (levels[data.floor] > 0.0005) facts.push(`candidates below ${tidy(levels[data.floor])} are left out to keep this file small`);
  at("about").textContent = facts.join("  ·  ");
}

function startControls() {
  const slider = at("threshold");
  slider.min = data.floor;
  slider.max = levels.length - 1;
  at("threshold-number").min = levels[data.floor];
  slider.addEventListener("input", () => setThreshold(snapped(levels[slider.value])));
  // A key press is a hundredth, not the thousandth of the slider's own step.
  slider.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 0.01, ArrowUp: 0.01, ArrowLeft: -0.01, ArrowDown: -0.01, PageUp: 0.1, PageDown: -0.1 }[event.key];
    if (step) stepThreshold(step);
    else if (event.key === "Home") setThreshold(levels[data.floor]);
    else if (event.key === "End") setThreshold(1);
    else return;
    event.preventDefault();
  });
  at("threshold-number").addEventListener("input", (event) => {
    const value = parseFloat(event.target.value);
    if (Number.isFinite(value)) setThreshold(value);
  });
  for (const id of ["size-low", "size-high"]) {
    for (const name of [id, `${id}-number`]) { at(name).min = sizes.low; at(name).max = sizes.high; }
    const set = (value) => (id === "size-low" ? setSizes(Math.min(value, state.hi), state.hi) : setSizes(state.lo, Math.max(value, state.lo)));
    at(id).addEventListener("input", () => set(+at(id).value));
    at(`${id}-number`).addEventListener("change", (event) => { if (event.target.value !== "") set(+event.target.value); event.target.blur(); });
  }
  at("reset").addEventListener("click", () => { setThreshold(data.threshold); setSizes(sizes.low, sizes.high); });
  for (const element of document.querySelectorAll(".unit")) element.textContent = unit;
  makeCommands();
}

function layout() {
  document.documentElement.style.setProperty("--head", `${Math.round(document.querySelector("header").offsetHeight) + 12}px`);
}

function start() {
  describeRun();
  startControls();
  startCharts();
  startGallery();
  startStage();
  startPicture();
  startScatter();
  startParticles();
  startHelp();
  if (view) { startEditing(); startHistory(); }
  if (view && view.compare) startCompare();
  layout();
  const shape = median(micrographs.filter((m) => m.width).map((m) => m.width / m.height)) || 1;
  at("gallery").style.setProperty("--aspect", String(Math.max(0.6, Math.min(1.6, shape))));
  refresh();
  let width = 0;
  window.addEventListener("resize", () => { layout(); if (width !== innerWidth) { width = innerWidth; schedule(); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", schedule);
}
