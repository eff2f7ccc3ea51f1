// Only with the viewer's server: adding and removing picks, and saving them.
const editing = { diameter: view ? view.diameter : 0, cursor: null, corner: null, status: "" };

function picksOf(m) {
  const picks = [];
  eachPick(m, (x, y, d, s) => picks.push({ x, y, d, s }));
  return picks;
}

// Null is the run's own picks; where a file is saved, they replace it with the next save.
function setPicks(m, picks) {
  const saved = Boolean(edits.get(m.i) && edits.get(m.i).saved);
  if (picks === null && !saved) edits.delete(m.i);
  else edits.set(m.i, { picks: picks || runPicks(m), dirty: true, saved });
  afterChange(m);
}

function change(m, picks) {
  const before = edits.has(m.i) ? edits.get(m.i).picks : null;
  did({ m, undo: () => setPicks(m, before), redo: () => setPicks(m, picks) });
  setPicks(m, picks);
}

function afterChange(m) {
  particles.edited = true;
  m.count = picksOf(m).length;
  if (view.compare) compareAgain(m);
  editing.status = "";
  showEditing(m);
  drawStage();
}

function toggle(m, x, y) {
  if (x < 0 || y < 0 || x > m.width - 1 || y > m.height - 1) return;
  const picks = picksOf(m);
  const [hit] = pickAt(m, x, y);
  if (hit >= 0) picks.splice(hit, 1);
  else picks.push({ x: Math.round(x), y: Math.round(y), d: editing.diameter, s: 1 });
  change(m, picks);
}

// Corners in pixels of the micrograph.
function removeArea(one, other) {
  const m = stage.m, picks = picksOf(m);
  const within = (v, k) => v >= Math.min(one[k], other[k]) && v <= Math.max(one[k], other[k]);
  const left = picks.filter((p) => !(within(p.x, 0) && within(p.y, 1)));
  const gone = picks.length - left.length;
  if (gone) change(m, left);
  editing.status = gone ? `${number(gone)} ${gone === 1 ? "pick" : "picks"} removed` : "no picks in the rectangle";
  showEditing(m);
  drawStage();
}

function setArea(on) {
  stage.area = on;
  editing.corner = null;
  at("edit-area").setAttribute("aria-pressed", String(on));
  drawStage();
}

function clickStage(left, top) {
  editing.cursor = null;
  toggle(stage.m, ...toMicrograph(left, top));
}

function runPicks(m) {
  const edited = edits.get(m.i);
  edits.delete(m.i);
  const picks = picksOf(m);
  if (edited) edits.set(m.i, edited);
  return picks;
}

/** How many of the run's picks are gone, and how many are new. */
function changesOf(m) {
  const places = (picks) => new Set(picks.map((p) => `${p.x},${p.y}`));
  const run = places(runPicks(m)), now = places(picksOf(m));
  const less = [...run].filter((place) => !now.has(place)).length, more = [...now].filter((place) => !run.has(place)).length;
  return ` (−${number(less)} +${number(more)})`;
}

async function post(address, body) {
  const answer = await fetch(address, {
    method: "POST", headers: { "Content-Type": "application/json", "X-CryoSegNet-Token": view.token }, body: JSON.stringify(body),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(text || `the server answered ${answer.status}`);
  return JSON.parse(text);
}

async function save(m) {
  const before = edits.get(m.i), picks = picksOf(m);
  try {
    const saved = await post(`save/${m.i}`, { picks: picks.map((p) => [p.x, p.y, Number.isFinite(p.d) ? p.d : null, p.s]) });
    const now = edits.get(m.i);
    // What was changed while the answer was on its way is not saved yet.
    if (now === before) edits.set(m.i, { picks, dirty: false, saved: true });
    else edits.set(m.i, { picks: now ? now.picks : runPicks(m), dirty: true, saved: true });
    editing.status = `saved${changesOf(m)} ${saved.path}`;
  } catch (error) {
    editing.status = `not saved: ${error.message}`;
  }
  if (stage.m === m) { m.count = picksOf(m).length; showEditing(m); drawStage(); } else refresh();
}

async function removeSaved(m) {
  try {
    await post(`discard/${m.i}`, {});
  } catch (error) {
    editing.status = `not discarded: ${error.message}`;
    showEditing(m);
    return false;
  }
  edits.delete(m.i);
  delete view.unreadable[m.i];
  afterChange(m);
  editing.status = "edits discarded";
  showEditing(m);
  return true;
}

async function discard(m) {
  const edited = edits.get(m.i);
  if (await removeSaved(m) && edited) did({ m, undo: () => setPicks(m, edited.picks), redo: () => removeSaved(m) });
}

function enterEditing(m) {
  const before = editing.current;
  if (before && before !== m) leaveEditing(before);
  editing.current = m;
  editing.cursor = editing.corner = null;
  editing.status = "";
  showEditing(m);
}

function leaveEditing(m) {
  if (edits.has(m.i) && edits.get(m.i).dirty) save(m);
}

function showEditing(m) {
  const edited = edits.get(m.i);
  at("edit-save").textContent = edited && !edited.dirty ? "Saved" : "Save";
  const unreadable = view.unreadable[m.i];
  at("edit-discard").disabled = !edited && !unreadable;
  keepKeys();
  at("edit-status").textContent = editing.status || (unreadable ? `the saved picks are not shown: ${unreadable}` : edited && edited.dirty ? `changed, not saved${changesOf(m)}` : "");
}

function drawCursor(ctx) {
  if (!editing.cursor) return;
  const onScreen = (p) => [(p.x + 0.5) * stage.scale + stage.left, (p.y + 0.5) * stage.scale + stage.top];
  const [x, y] = onScreen(editing.cursor);
  if (editing.corner) drawArea(ctx, onScreen(editing.corner), [x, y]);
  for (const [width, style] of [[4, "#000"], [2, "#fff"]]) {
    ctx.lineWidth = width; ctx.strokeStyle = style;
    ctx.beginPath(); ctx.moveTo(x - 12, y); ctx.lineTo(x + 12, y); ctx.moveTo(x, y - 12); ctx.lineTo(x, y + 12); ctx.stroke();
  }
}

function moveCursor(dx, dy, far) {
  const box = at("stage").getBoundingClientRect(), m = stage.m;
  if (!editing.cursor) {
    const [x, y] = toMicrograph(box.width / 2, box.height / 2);
    editing.cursor = { x: Math.round(x), y: Math.round(y) };
  }
  const step = Math.max(1, Math.round((far ? 40 : 6) / stage.scale));
  editing.cursor.x = Math.max(0, Math.min(m.width - 1, editing.cursor.x + dx * step));
  editing.cursor.y = Math.max(0, Math.min(m.height - 1, editing.cursor.y + dy * step));
  // Keep it in sight.
  const x = editing.cursor.x * stage.scale + stage.left, y = editing.cursor.y * stage.scale + stage.top;
  if (x < 20) stage.left += 80; if (x > box.width - 20) stage.left -= 80;
  if (y < 20) stage.top += 80; if (y > box.height - 20) stage.top -= 80;
  drawStage();
}

// At the cross: a pick, or in the way of rectangles a corner.
function place() {
  const { x, y } = editing.cursor;
  if (!stage.area) { toggle(stage.m, x, y); return; }
  const { corner } = editing;
  editing.corner = corner ? null : { x, y };
  if (corner) removeArea([corner.x, corner.y], [x, y]); else drawStage();
}

function editKey(event) {
  if (typing(event) || event.altKey || event.ctrlKey || event.metaKey) return false;
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const key = event.key.toLowerCase();
  const onStage = event.target === at("stage");
  if (arrows && onStage) moveCursor(...arrows, event.shiftKey);
  else if ((key === " " || key === "enter") && onStage && editing.cursor) place();
  else if (key === "s") save(stage.m);
  else if (key === "r") setArea(!stage.area);
  else return false;
  event.preventDefault();
  return true;
}

function startEditing() {
  for (const [i, picks] of Object.entries(view.edited)) {
    edits.set(+i, { picks: picks.map(([x, y, d, s]) => ({ x, y, d: d === null ? NaN : d, s })), dirty: false, saved: true });
  }
  const status = Object.assign(document.createElement("span"), { id: "edit-status", className: "quiet" });
  status.setAttribute("role", "status");
  at("large-state").append(status);
  const label = addTool("label", "edit-size-label", { textContent: `New circles (${unit}) ` });
  const input = Object.assign(document.createElement("input"), { id: "edit-diameter", type: "number", min: 1, step: 1, value: Math.round(editing.diameter) });
  input.addEventListener("input", () => { if (+input.value >= 1) editing.diameter = +input.value; });
  label.append(input);
  stage.remove = removeArea;
  addTool("button", "edit-area", { type: "button", textContent: "Remove area", title: "A drag removes the picks in a rectangle (R; or Shift and a drag)" }).addEventListener("click", () => setArea(!stage.area));
  at("edit-area").setAttribute("aria-pressed", "false");
  addTool("button", "edit-discard", { type: "button", textContent: "Discard edits", title: "Back to the run's picks; removes the saved file" }).addEventListener("click", () => discard(stage.m));
  addTool("button", "edit-save", { type: "button", className: "primary", textContent: "Save", title: "Save (S)" }).addEventListener("click", () => save(stage.m));
  at("stage").classList.add("editing");
  at("large").addEventListener("close", () => { if (editing.current) leaveEditing(editing.current); editing.current = null; });
  window.addEventListener("beforeunload", (event) => {
    if (Array.from(edits.values()).some((e) => e.dirty)) event.preventDefault();
  });
  document.body.classList.toggle("blank", view.blank);
}
