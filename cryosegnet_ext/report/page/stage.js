// The large view of one micrograph: zoom and pan; with a server, full resolution in tiles.
const stage = { m: null, scale: 1, left: 0, top: 0, fitted: 1, tiles: new Map(), drag: null, area: false, remove: null, opener: null, untouched: true };
const TILE = 512;

function openLarge(m) {
  if (!at("large").open) { stage.opener = document.activeElement; at("large").showModal(); at("large").append(at("tip")); }
  stage.m = m;
  stage.tiles.clear();
  at("large-name").textContent = m.name;
  at("large-name").title = m.name;
  at("stage").focus();
  fit();
  if (view) enterEditing(m);
  const position = gallery.list.indexOf(m);
  at("large-previous").disabled = position <= 0 && position !== -1;
  at("large-next").disabled = position >= gallery.list.length - 1;
}

function move(step) {
  const list = gallery.list.filter((m) => !m.failed);
  const k = list.indexOf(stage.m) + step;
  if (k >= 0 && k < list.length) openLarge(list[k]);
}

function fit() {
  const m = stage.m;
  const box = at("stage").getBoundingClientRect();
  if (m.width) {
    stage.scale = stage.fitted = Math.min(box.width / m.width, box.height / m.height);
    stage.left = (box.width - m.width * stage.scale) / 2;
    stage.top = (box.height - m.height * stage.scale) / 2;
  }
  drawStage();
}

function zoom(factor, x, y) {
  const scale = Math.max(stage.fitted * 0.8, Math.min(8, stage.scale * factor));
  stage.left = x - ((x - stage.left) * scale) / stage.scale;
  stage.top = y - ((y - stage.top) * scale) / stage.scale;
  stage.scale = scale;
  drawStage();
}

let stageFrame = 0;
function drawStage() {
  cancelAnimationFrame(stageFrame);
  stageFrame = requestAnimationFrame(paintStage);
}

function paintStage() {
  const m = stage.m;
  if (!m || !at("large").open) return;
  const { ctx, width, height } = surface(at("stage"));
  const unknown = !m.width;
  const image = pictureOf(m, () => { if (stage.m === m) unknown && m.width ? fit() : drawStage(); });
  if (!m.width) { describe(m); return; }
  ctx.imageSmoothingQuality = "high";
  if (image) ctx.drawImage(image, stage.left, stage.top, m.width * stage.scale, m.height * stage.scale);
  if (view) drawTiles(ctx, m, width, height);
  tone(ctx, stage.left, stage.top, m.width * stage.scale, m.height * stage.scale);
  const shown = !stage.hide;
  if (shown) drawPicks(ctx, m, stage.scale, stage.left, stage.top, 1.8);
  drawScaleBar(ctx, m, stage.scale, height);
  onStage(ctx, m);
  if (view) drawCursor(ctx);
  const drag = stage.drag;
  if (drag && drag.area && drag.moved) drawArea(ctx, drag.from, drag.to);
  describe(m);
  showPicture(m);
}

// The rectangle whose picks go; corners in pixels of the screen.
function drawArea(ctx, from, to) {
  const [x, y, w, h] = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.abs(from[0] - to[0]), Math.abs(from[1] - to[1])];
  ctx.fillStyle = "rgba(213,94,0,.18)";
  ctx.fillRect(x, y, w, h);
  for (const [width, style, dash] of [[4, "rgba(0,0,0,.6)", []], [2, "#ff9a4d", [7, 5]]]) {
    ctx.lineWidth = width; ctx.strokeStyle = style; ctx.setLineDash(dash); ctx.strokeRect(x, y, w, h);
  }
  ctx.setLineDash([]);
}

const toMicrograph = (left, top) => [(left - stage.left) / stage.scale - 0.5, (top - stage.top) / stage.scale - 0.5];

// The pick at a place of the micrograph, nearest first: its number among those that eachPick visits, or -1.
function pickAt(m, x, y) {
  let hit = -1, found = null, least = Infinity, k = 0;
  eachPick(m, (px, py, d, s) => {
    const reach = Math.max((diameterInPixels(m, d) || 0) / 2, 7 / stage.scale);
    const distance = Math.hypot(px - x, py - y);
    if (distance < reach && distance < least) { least = distance; hit = k; found = { d, s }; }
    k++;
  });
  return [hit, found];
}

function hover(event) {
  const m = stage.m;
  if (!m || stage.hide || !m.width) return;
  const place = toMicrograph(event.offsetX, event.offsetY);
  const [k, pick] = pickAt(m, ...place);
  const text = pick ? `score ${pick.s.toFixed(2)}, ${Number.isFinite(pick.d) && pick.d > 0 ? `${short(pick.d)} ${unit}` : "size not known"}` : "";
  showTip(event, text + (view && view.compare ? comparedTip(m, ...place, k) : ""));
}

// Tiles of the coarsest level that is sharp on this screen.
function drawTiles(ctx, m, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const zoomLevel = Math.max(0, Math.floor(Math.log2(1 / (stage.scale * ratio)) + 0.25));
  const span = TILE * 2 ** zoomLevel;
  const smooth = lowpass();
  const first = (offset) => Math.max(0, Math.floor(-offset / stage.scale / span));
  for (let row = first(stage.top); row * span < m.height && row * span * stage.scale + stage.top < height; row++) {
    for (let column = first(stage.left); column * span < m.width && column * span * stage.scale + stage.left < width; column++) {
      const key = `${m.i}/${zoomLevel}/${column}/${row}/${smooth}`;
      let tile = stage.tiles.get(key);
      if (!tile) {
        tile = new Image();
        tile.addEventListener("load", () => { if (stage.m === m) drawStage(); });
        tile.src = `tile/${key}`;
        stage.tiles.set(key, tile);
      }
      if (!tile.complete || !tile.naturalWidth) continue;
      // Between tiles that end within a pixel of the screen there would be a seam.
      const whole = (v) => Math.round(v * devicePixelRatio) / devicePixelRatio;
      const [x, right] = [column * span, Math.min(m.width, (column + 1) * span)].map((v) => whole(v * stage.scale + stage.left));
      const [y, bottom] = [row * span, Math.min(m.height, (row + 1) * span)].map((v) => whole(v * stage.scale + stage.top));
      ctx.drawImage(tile, x, y, right - x, bottom - y);
    }
  }
}

function describe(m) {
  const facts = [`${number(m.count)} ${m.count === 1 ? "pick" : "picks"}`];
  if (m.expectedFalse !== null && !edits.has(m.i)) facts.push(`${inPercent(m.expectedFalse)} expected to be false`);
  if (m.score !== null && !edits.has(m.i)) facts.push(`median score ${m.score.toFixed(2)}`);
  if (m.flag) facts.push(FLAGS[m.flag][0].toLowerCase());
  if (view && view.compare) facts.push(inWords(m));
  if (m.pixel) facts.push(`${+m.pixel.toPrecision(4)} A per pixel`);
  if (m.width && !m.guessed) facts.push(`${m.width} × ${m.height} pixels`);
  for (const c of data.columns) if (m.values[c.key] !== null) facts.push(`${c.label.replace(/ \(.*/, "").replace(/^[A-Z](?=[a-z])/, (a) => a.toLowerCase())} ${short(m.values[c.key])}${c.unit ? ` ${c.unit}` : ""}`);
  const how = view && view.audit ? "1 particle, 2 junk, 3 unsure; arrows or a click choose a pick"
    : view ? "click adds or removes a pick, Shift and a drag removes those in a rectangle; S saves, U undoes"
    : "scroll or + − zooms, 0 fits, H hides the circles";
  const text = [...facts, how, "? lists the keys"].join("  ·  ");
  if (at("large-about").textContent !== text) at("large-about").textContent = text;
  at("stage").setAttribute("aria-label", `Micrograph ${m.name} with ${m.count} picks`);
}

function stageKey(event) {
  const box = at("stage").getBoundingClientRect();
  const [x, y] = [box.width / 2, box.height / 2];
  const shift = 60;
  const threshold = (step) => { if (!at("large-threshold").disabled && !document.body.classList.contains("blank")) stepThreshold(step); };
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event)) return false;
  const does = {
    "+": () => zoom(1.4, x, y), "=": () => zoom(1.4, x, y), "-": () => zoom(1 / 1.4, x, y), 0: fit,
    n: () => move(1), p: () => move(-1), h: () => { stage.hide = !stage.hide; drawStage(); },
    i: () => at("invert").click(), "[": () => threshold(-0.01), "]": () => threshold(0.01),
    ArrowLeft: () => { stage.left += shift; drawStage(); }, ArrowRight: () => { stage.left -= shift; drawStage(); },
    ArrowUp: () => { stage.top += shift; drawStage(); }, ArrowDown: () => { stage.top -= shift; drawStage(); },
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!does) return false;
  does();
  event.preventDefault();
  return true;
}

function startStage() {
  const canvas = at("stage");
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 500), event.offsetX, event.offsetY); }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    const from = [event.offsetX, event.offsetY], area = Boolean(stage.remove) && event.button === 0 && (stage.area || event.shiftKey);
    stage.drag = { x: event.clientX, y: event.clientY, left: stage.left, top: stage.top, moved: false, area, from, to: from };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const drag = stage.drag;
    if (!drag) { hover(event); return; }
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    if (!drag.moved && Math.hypot(dx, dy) < 5) return;
    drag.moved = true;
    if (drag.area) { drag.to = [event.offsetX, event.offsetY]; drawStage(); return; }
    stage.left = drag.left + dx; stage.top = drag.top + dy;
    drawStage();
  });
  canvas.addEventListener("pointerup", (event) => {
    const drag = stage.drag;
    stage.drag = null;
    if (drag && drag.area && drag.moved) stage.remove(toMicrograph(...drag.from), toMicrograph(event.offsetX, event.offsetY));
    else if (view && !(drag && drag.moved) && event.button === 0) clickStage(event.offsetX, event.offsetY);
  });
  canvas.addEventListener("pointerleave", (event) => showTip(event, ""));
  canvas.addEventListener("pointercancel", () => { stage.drag = null; });
  at("large").addEventListener("keydown", (event) => { if (!(view && (historyKey(event) || editKey(event)))) stageKey(event); });
  at("large").addEventListener("close", () => {
    const m = stage.m;
    stage.m = null;
    // The browser has given the focus back before this event comes: a reader who has gone on since keeps it.
    stage.untouched = [document.body, null, stage.opener].includes(document.activeElement) || at("large").contains(document.activeElement);
    at("tip").hidden = true;
    document.body.append(at("tip"));
    const card = cards().find((c) => c.micrograph === m);
    if (view) refresh();
    if (card && stage.untouched) focusCard(cards().indexOf(card));
  });
  at("large-close").addEventListener("click", () => at("large").close());
  at("large-previous").addEventListener("click", () => move(-1));
  at("large-next").addEventListener("click", () => move(1));
  new ResizeObserver(() => { if (!stage.m) return; if (stage.scale === stage.fitted) fit(); else drawStage(); }).observe(canvas);
}

function addTool(kind, id, properties) {
  const element = Object.assign(document.createElement(kind), { id, ...properties });
  at("large-tools").append(element);
  return element;
}
