// Scores against sizes of all candidates, with a rectangle that chooses some of them: a brush.
const brush = { box: null, from: null, count: 0, micrographs: 0 };
const scatter = { key: "", pictures: null };
// Of all candidates by level and whole size, those of micrographs that are only counted too; filled once.
let density = null;

function fillDensity() {
  const widths = sizes.high - sizes.low + 1;
  density = { widths, cells: new Float64Array(levels.length * widths), unknown: 0 };
  const add = (l, code, n) => {
    if (code === UNKNOWN) density.unknown += n;
    else density.cells[l * widths + Math.min(widths - 1, (code >> 1) - sizes.low)] += n;
  };
  for (let k = 0; k < level.length; k++) add(level[k], size[k], 1);
  others.level.forEach((l, k) => add(l, others.size[k], others.count[k] * data.others.scale));
}

// Two pictures of the density, for candidates within and without the sliders' limits; kept until size or colours change.
function densityPictures(width, height) {
  const names = ["bar", "pale"].map(colour);
  const key = [width, height, ...names].join();
  if (scatter.key === key) return scatter.pictures;
  const cells = new Float64Array(width * height);
  density.cells.forEach((n, place) => {
    if (!n) return;
    const row = Math.min(height - 1, Math.floor((1 - levels[Math.floor(place / density.widths)]) * height));
    const column = Math.min(width - 1, Math.floor((((place % density.widths) + 0.5) / density.widths) * width));
    cells[row * width + column] += n;
  });
  const most = Math.log1p(cells.reduce((a, b) => Math.max(a, b), 0));
  scatter.key = key;
  scatter.pictures = names.map((name) => {
    const picture = Object.assign(document.createElement("canvas"), { width, height });
    const ctx = picture.getContext("2d");
    ctx.fillStyle = name;
    cells.forEach((n, place) => {
      if (!n) return;
      ctx.globalAlpha = 0.45 + 0.55 * (Math.log1p(n) / most);
      ctx.fillRect(place % width, Math.floor(place / width), 1, 1);
    });
    return picture;
  });
  return scatter.pictures;
}

function drawScatter() {
  const canvas = at("chart-scatter");
  if (canvas.closest("figure").hidden || !canvas.offsetWidth) return;
  const [low, high] = [sizes.low, sizes.high + 1];
  const frame = axes(canvas, [low, high], [0, 1]);
  const { ctx, box, x, y } = frame;
  const [width, height] = [box.right - box.left, box.bottom - box.top];
  const [inside, outside] = densityPictures(Math.max(1, Math.min(density.widths, Math.round(width / 2))), Math.max(1, Math.round(height / 2)));
  ctx.imageSmoothingEnabled = false;
  ctx.drawImage(outside, box.left, box.top, width, height);
  const limits = [x(state.lo), y(1), x(state.hi + 1) - x(state.lo), y(levels[state.t]) - y(1)];
  ctx.save();
  ctx.beginPath(); ctx.rect(...limits); ctx.clip();
  ctx.clearRect(...limits);
  ctx.drawImage(inside, box.left, box.top, width, height);
  ctx.restore();
  ctx.strokeStyle = colour("warn"); ctx.lineWidth = 1.5; ctx.strokeRect(...limits);
  if (brush.box) {
    const { lo, hi, t, top } = brush.box;
    ctx.strokeStyle = colour("ink"); ctx.setLineDash([4, 3]); ctx.lineWidth = 2;
    ctx.strokeRect(x(lo), y(top), x(hi + 1) - x(lo), y(t) - y(top));
    ctx.setLineDash([]);
  }
  canvas.setAttribute("aria-label", `Scores of 0 to 1 against diameters of ${sizes.low} to ${sizes.high} ${unit}. ${at("brush-about").textContent}`);
}

// In whole sizes and hundredths of the score, so that it is what the command gives.
function setBrush(a, b) {
  const sorted = (k) => [a[k], b[k]].sort((p, q) => p - q);
  const [left, right] = sorted(0), [bottom, top] = sorted(1);
  const clip = (v, low, high) => Math.max(low, Math.min(high, v));
  brush.box = {
    lo: clip(Math.floor(left), sizes.low, sizes.high), hi: clip(Math.ceil(right) - 1, sizes.low, sizes.high),
    t: clip(Math.round(bottom * 100) / 100, levels[data.floor], 1), top: clip(Math.round(top * 100) / 100, 0, 1),
  };
  brush.box.hi = Math.max(brush.box.lo, brush.box.hi);
  brush.box.top = Math.max(brush.box.t, brush.box.top);
  countBrush();
}

function clearBrush() { brush.box = null; countBrush(); }

// Whether a candidate lies in the brush; a score of 1 is below no upper edge.
function brushed() {
  const { lo, hi, t, top } = brush.box;
  const least = levelAt(t) < 0 ? levels.findIndex((v) => v >= t) : levelAt(t);
  const most = top >= 1 ? levels.length - 1 : levels.findIndex((v) => v >= top);
  return (k) => level[k] >= least && level[k] <= most && size[k] >= 2 * lo && size[k] !== UNKNOWN && size[k] <= 2 * hi;
}

function countBrush() {
  brush.count = brush.micrographs = 0;
  const fits = brush.box && brushed();
  for (const m of micrographs) {
    m.brushed = 0;
    if (fits) for (let k = m.start; k < m.end; k++) m.brushed += fits(k);
    brush.count += m.brushed;
    brush.micrographs += m.brushed > 0;
  }
  const about = at("brush-about");
  at("brush-tools").hidden = !brush.box;
  if (brush.box) {
    const { lo, hi, t, top } = brush.box;
    about.textContent = `${number(brush.count)} ${brush.count === 1 ? "candidate" : "candidates"} on ${number(brush.micrographs)} micrographs: score ${tidy(t)} to ${tidy(top)}, ${lo} to ${hi} ${unit}. White and dashed in the pictures.`;
    if (at("brush-command").row) fillCommand(at("brush-command").row, t, lo, hi);
  } else about.textContent = density && density.unknown ? `${number(Math.round(density.unknown))} candidates have no diameter and are not drawn.` : "";
  drawScatter();
  refreshGallery();
  if (stage.m) drawStage();
}

// The brush's candidates over the circles of a micrograph, also those that the sliders leave out.
function drawBrushed(ctx, m, scale, left, top, line) {
  if (!brush.box || edits.has(m.i)) return;
  const fits = brushed(), path = new Path2D();
  for (let k = m.start; k < m.end; k++) {
    if (!fits(k)) continue;
    const cx = (px[k] + 0.5) * scale + left, cy = (py[k] + 0.5) * scale + top;
    const radius = Math.max(2, (diameterInPixels(m, size[k] / 2) * scale) / 2 + line);
    path.moveTo(cx + radius, cy);
    path.arc(cx, cy, radius, 0, 7);
  }
  ctx.lineWidth = 2 * line + 1; ctx.strokeStyle = "rgba(0,0,0,.7)"; ctx.stroke(path);
  ctx.setLineDash([3 * line, 2 * line]); ctx.lineWidth = 1.5 * line; ctx.strokeStyle = "#fff"; ctx.stroke(path);
  ctx.setLineDash([]);
}

function takeBrush() {
  const { lo, hi, t } = brush.box;
  brush.box = null;
  setThreshold(t);
  setSizes(lo, hi);
  countBrush();
}

function brushKey(event) {
  const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (arrow) {
    const box = brush.box || { lo: state.lo, hi: state.hi, t: levels[state.t], top: 1 };
    const [dx, dy] = brush.box ? [arrow[0], arrow[1] * 0.01] : [0, 0];
    const still = event.shiftKey ? 0 : 1;
    setBrush([box.lo + dx * still, box.t + dy * still], [box.hi + 1 + dx, box.top + dy]);
  } else if (event.key === "Enter" && brush.box) takeBrush();
  else if (event.key === "Escape" && brush.box) clearBrush();
  else return;
  event.preventDefault();
}

function startScatter() {
  const canvas = at("chart-scatter");
  fillDensity();
  canvas.closest("figure").hidden = !density.cells.some(Boolean);
  const value = (event) => {
    const { xs, box } = canvas.frame;
    const share = (v, from, to) => Math.max(0, Math.min(1, (v - from) / (to - from)));
    return [xs[0] + share(event.offsetX, box.left, box.right) * (xs[1] - xs[0]), share(event.offsetY, box.bottom, box.top)];
  };
  canvas.addEventListener("pointerdown", (event) => { brush.from = value(event); brush.moved = false; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (!brush.from) return;
    brush.moved = true;
    brush.to = value(event);
    if (!brush.frame) brush.frame = requestAnimationFrame(() => { brush.frame = 0; setBrush(brush.from || brush.last, brush.to); });
  });
  canvas.addEventListener("pointerup", () => { if (!brush.moved) clearBrush(); brush.last = brush.from; brush.from = null; });
  canvas.addEventListener("pointercancel", () => { brush.last = brush.from; brush.from = null; });
  canvas.addEventListener("keydown", brushKey);
  at("brush-take").addEventListener("click", takeBrush);
  at("brush-clear").addEventListener("click", clearBrush);
  const command = data.commands.find((one) => one.parts.some((part) => part.value === "sizes"));
  if (command) { at("brush-command").row = commandRow(command); at("brush-command").append(at("brush-command").row); }
  countBrush();
}
