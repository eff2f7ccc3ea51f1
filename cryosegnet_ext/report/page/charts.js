// Small charts on canvas: drawn anew at each change of the sliders.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function surface(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  return { ctx, width, height };
}

// About four round numbers from low to high.
function ticks(low, high, count = 4) {
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  const step = [1, 2, 5, 10].find((s) => span / (s * power) <= count) * power;
  const found = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-6; v += step) found.push(Math.abs(v) < step / 1e6 ? 0 : v);
  return found;
}

// Round numbers for a square-root axis, whose low end has room for more.
const rootTicks = (high) => [0, 0.06, 0.3, 1].map((share) => {
  const power = 10 ** Math.floor(Math.log10(high * share || 1));
  return share ? Math.floor((high * share) / power) * power : 0;
}).filter((v, k, all) => k === 0 || v > all[k - 1]);

const short = (v) => (Math.abs(v) >= 1e6 ? `${+(v / 1e6).toPrecision(3)}M` : Math.abs(v) >= 1e4 ? `${+(v / 1e3).toPrecision(3)}k` : `${+v.toPrecision(4)}`);

function axes(canvas, xs, ys, xLabel = "", root = false) {
  const { ctx, width, height } = surface(canvas);
  const box = { left: 40, right: width - 8, top: 6, bottom: height - (xLabel ? 30 : 18) };
  const x = (v) => box.left + ((v - xs[0]) / (xs[1] - xs[0] || 1)) * (box.right - box.left);
  const bend = root ? Math.sqrt : (v) => v;
  const y = (v) => box.bottom - (bend(v - ys[0]) / bend(ys[1] - ys[0] || 1)) * (box.bottom - box.top);
  ctx.font = "11px system-ui, sans-serif";
  ctx.strokeStyle = colour("line");
  ctx.fillStyle = colour("quiet");
  ctx.lineWidth = 1;
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  for (const v of root ? rootTicks(ys[1]) : ticks(ys[0], ys[1], 3)) {
    ctx.beginPath(); ctx.moveTo(box.left, Math.round(y(v)) + 0.5); ctx.lineTo(box.right, Math.round(y(v)) + 0.5); ctx.stroke();
    ctx.fillText(short(v), box.left - 5, y(v));
  }
  ctx.textBaseline = "top";
  // As many labels as fit without touching.
  const fitting = Math.floor((box.right - box.left) / (ctx.measureText(short(Math.round(xs[1]))).width + 9));
  for (const v of ticks(xs[0], xs[1], Math.max(2, Math.min(6, fitting)))) {
    ctx.textAlign = x(v) > box.right - 12 ? "right" : "center";
    ctx.fillText(short(v), Math.min(x(v), box.right), box.bottom + 4);
  }
  if (xLabel) { ctx.textAlign = "center"; ctx.fillText(xLabel, (box.left + box.right) / 2, box.bottom + 17); }
  const frame = { ctx, x, y, box, xs, toValue: (left) => xs[0] + ((left - box.left) / (box.right - box.left)) * (xs[1] - xs[0]) };
  canvas.frame = frame;
  return frame;
}

function vertical(frame, value, name) {
  const { ctx, box } = frame;
  ctx.strokeStyle = colour(name);
  ctx.lineWidth = 2;
  ctx.beginPath(); ctx.moveTo(frame.x(value), box.top); ctx.lineTo(frame.x(value), box.bottom); ctx.stroke();
}

function histogram(canvas, bins, low, high, inside, root) {
  const top = Math.max(1, ...bins);
  const frame = axes(canvas, [low, high], [0, top * 1.05], "", root);
  const { ctx, x, y, box } = frame;
  const step = (high - low) / bins.length;
  bins.forEach((value, b) => {
    if (!value) return;
    ctx.fillStyle = inside(low + b * step, low + (b + 1) * step) ? colour("bar") : colour("pale");
    const left = x(low + b * step), right = x(low + (b + 1) * step);
    const height = Math.max(1, box.bottom - y(value));
    ctx.fillRect(left, box.bottom - height, Math.max(1, right - left - 0.8), height);
  });
  return frame;
}

function drawScores() {
  const t = levels[state.t];
  const canvas = at("chart-score");
  const frame = histogram(canvas, totals.scoreAll, 0, 1, (low, high) => (low + high) / 2 >= t, true);
  vertical(frame, t, "warn");
  if (levels[data.floor] > 0.0005) {
    frame.ctx.fillStyle = colour("quiet");
    frame.ctx.textAlign = "left";
    frame.ctx.fillText("not kept", frame.x(0) + 4, frame.box.top + 2);
  }
  canvas.setAttribute("aria-label", `Distribution of scores from 0 to 1; ${totals.picks} picks lie at or above the threshold of ${t}.`);
}

function drawSizes() {
  const canvas = at("chart-size");
  const low = sizes.low, high = sizes.low + totals.sizeAll.length * totals.sizeStep;
  const frame = histogram(canvas, totals.sizeAll, low, Math.max(high, low + 1), (a, b) => a >= state.lo - totals.sizeStep && b <= state.hi + totals.sizeStep);
  if (state.lo > sizes.low) vertical(frame, state.lo, "warn");
  if (state.hi < sizes.high) vertical(frame, state.hi, "warn");
  canvas.setAttribute("aria-label", `Distribution of diameters from ${sizes.low} to ${sizes.high} ${unit}; limits ${state.lo} to ${state.hi}.`);
}

function points(frame, list, xOf) {
  const { ctx, x, y } = frame;
  const radius = list.length > 600 ? 1.6 : list.length > 150 ? 2.2 : 3;
  for (const flagged of [false, true]) {
    ctx.fillStyle = colour(flagged ? "warn" : "bar");
    ctx.beginPath();
    for (const m of list) {
      if (Boolean(m.flag) !== flagged) continue;
      const [cx, cy] = [x(xOf(m)), y(m.count)];
      // Shape tells as well as colour.
      if (flagged) { const r = radius + 1.5; ctx.moveTo(cx, cy - r); ctx.lineTo(cx + r, cy + r); ctx.lineTo(cx - r, cy + r); ctx.closePath(); }
      else { ctx.moveTo(cx + radius, cy); ctx.arc(cx, cy, radius, 0, 7); }
    }
    ctx.fill();
  }
}

const highest = () => Math.max(5, ...micrographs.map((m) => m.count)) * 1.06;

function drawSeries() {
  const canvas = at("chart-series");
  const frame = axes(canvas, [1, Math.max(2, micrographs.length)], [0, highest()]);
  const { ctx, box, y } = frame;
  ctx.strokeStyle = colour("accent");
  ctx.setLineDash([5, 4]);
  ctx.beginPath(); ctx.moveTo(box.left, y(totals.median)); ctx.lineTo(box.right, y(totals.median)); ctx.stroke();
  ctx.setLineDash([]);
  points(frame, micrographs, (m) => m.i + 1);
  canvas.near = (left, top) => nearest(frame, micrographs, (m) => m.i + 1, left, top);
  const flagged = micrographs.filter((m) => m.flag).length;
  canvas.setAttribute("aria-label", `Picks of ${micrographs.length} micrographs in order; median ${totals.median}, ${flagged} stand out. Left and right arrows choose one, Enter opens it.`);
}

function drawColumn() {
  const key = at("column").value;
  const column = data.columns.find((c) => c.key === key);
  if (!column) return;
  const list = micrographs.filter((m) => m.values[key] !== null);
  const values = list.map((m) => m.values[key]);
  if (!values.length) return;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = (high - low || 1) * 0.04;
  const canvas = at("chart-column");
  const frame = axes(canvas, [low - pad, high + pad], [0, highest()], `${column.label}${column.unit ? ` (${column.unit})` : ""}`);
  points(frame, list, (m) => m.values[key]);
  canvas.near = (left, top) => nearest(frame, list, (m) => m.values[key], left, top);
  canvas.setAttribute("aria-label", `Picks of each micrograph against ${column.label}, from ${short(low)} to ${short(high)} ${column.unit}.`);
}

function nearest(frame, list, xOf, left, top) {
  let best = null, least = 400;
  for (const m of list) {
    const distance = (frame.x(xOf(m)) - left) ** 2 + (frame.y(m.count) - top) ** 2;
    if (distance < least) { least = distance; best = m; }
  }
  return best;
}

function drawCharts() {
  drawSeries();
  drawScores();
  drawSizes();
  drawScatter();
  if (data.columns.length) drawColumn();
}

function showTip(event, text) {
  const tip = at("tip");
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  tip.style.left = `${Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 6)}px`;
  tip.style.top = `${event.clientY + 14}px`;
}

function startCharts() {
  for (const id of ["chart-series", "chart-column"]) {
    const canvas = at(id);
    const find = (event) => canvas.near && canvas.near(event.offsetX, event.offsetY);
    canvas.addEventListener("mousemove", (event) => { const m = find(event); showTip(event, m ? `${m.name}: ${m.count} picks` : ""); });
    canvas.addEventListener("mouseleave", (event) => showTip(event, ""));
    canvas.addEventListener("click", (event) => { const m = find(event); if (m) openLarge(m); });
  }
  let chosen = -1;
  const series = at("chart-series");
  series.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && micrographs.length) {
      chosen = Math.max(0, Math.min(micrographs.length - 1, chosen + step));
      const m = micrographs[chosen];
      const box = series.getBoundingClientRect();
      showTip({ clientX: box.left + series.frame.x(m.i + 1), clientY: box.top + series.frame.y(m.count) }, `${m.name}: ${m.count} picks`);
      event.preventDefault();
    } else if (event.key === "Enter" && chosen >= 0) openLarge(micrographs[chosen]);
  });
  series.addEventListener("blur", (event) => showTip(event, ""));
  const score = at("chart-score");
  const drag = (event) => {
    if (event.type === "pointermove" && !(event.buttons & 1)) return;
    setThreshold(snapped(score.frame.toValue(event.offsetX)));
  };
  score.addEventListener("pointerdown", drag);
  score.addEventListener("pointermove", drag);
  at("score-note").title = "Square-root scale; a click sets the threshold";
  at("size-note").title = "At this threshold";
  at("score-note").textContent = "(click: threshold)";
  at("size-note").textContent = `(${unit})`;
  for (const c of data.columns) at("column").add(new Option(c.label, c.key));
  at("figure-column").hidden = !data.columns.length;
  at("column").addEventListener("change", drawColumn);
}
