// Only with the viewer's server and labels: judging the picks that lie at no label, one after the other.
const VERDICTS = [["particle", "#3fb950", "P"], ["junk", "#ff6b5e", "J"], ["unsure", "#f2b632", "?"]];
const auditing = { picks: new Map(), current: null, status: "" };
const ACROSS = 9; // diameters in the window's shorter side

const auditOf = (m) => auditing.picks.get(m.i);
const judged = (m) => auditOf(m).filter((pick) => pick.verdict).length;

async function send(m, k, verdict) {
  const answer = await fetch(`mark/${m.i}`, {
    method: "POST", headers: { "Content-Type": "application/json", "X-CryoSegNet-Token": view.token }, body: JSON.stringify({ pick: k, verdict }),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(text || `the server answered ${answer.status}`);
  return JSON.parse(text);
}

// One after the other, so that the file never gets an older verdict last.
let sending = Promise.resolve();
function mark(m, k, verdict) {
  const pick = auditOf(m)[k], before = pick.verdict;
  pick.verdict = verdict;
  note(m);
  sending = sending.then(async () => {
    try {
      const saved = await send(m, k, verdict);
      const whole = judged(m) === auditOf(m).length;
      auditing.status = `${saved.judged} of ${saved.all} judged, saved${whole ? "; all here, N turns on" : ""}`;
    } catch (error) {
      if (pick.verdict === verdict) pick.verdict = before;
      auditing.status = `not saved: ${error.message}`;
    }
    note(m);
    showAudit();
  });
}

function judge(verdict) {
  const m = stage.m, k = auditing.current;
  if (k === null) return;
  const before = auditOf(m)[k].verdict;
  const say = (what) => { mark(m, k, what); choose(k); };
  did({ m, undo: () => say(before), redo: () => say(verdict) });
  mark(m, k, verdict);
  const next = following(k);
  if (next === null) showAudit();
  else choose(next);
}

// The next pick without a verdict, round the end; null if there is none.
function following(k) {
  const picks = auditOf(stage.m);
  for (let step = 1; step <= picks.length; step++) {
    const i = (k + step + picks.length) % picks.length;
    if (!picks[i].verdict) return i;
  }
  return null;
}

function choose(k) {
  const m = stage.m, pick = auditOf(m)[k];
  const box = at("stage").getBoundingClientRect();
  auditing.current = k;
  const d = diameterInPixels(m, pick.d) || m.width / 40;
  if (m.width) {
    stage.scale = Math.max(stage.fitted, Math.min(8, Math.min(box.width, box.height) / (ACROSS * d)));
    stage.left = box.width / 2 - (pick.x + 0.5) * stage.scale;
    stage.top = box.height / 2 - (pick.y + 0.5) * stage.scale;
  }
  showAudit();
  drawStage();
}

function clickStage(left, top) {
  let hit = null, least = Infinity;
  auditOf(stage.m).forEach((pick, k) => {
    const distance = Math.hypot((pick.x + 0.5) * stage.scale + stage.left - left, (pick.y + 0.5) * stage.scale + stage.top - top);
    const reach = Math.max(((diameterInPixels(stage.m, pick.d) || 0) * stage.scale) / 2, 12);
    if (distance < reach && distance < least) { least = distance; hit = k; }
  });
  if (hit !== null) choose(hit);
}

function enterEditing(m) {
  auditing.current = null;
  auditing.status = "";
  const picks = auditOf(m);
  if (!picks.length) { auditing.status = "no pick without a label here"; showAudit(); return; }
  const first = following(-1);
  choose(first === null ? 0 : first);
}

function note(m) {
  edits.get(m.i).note = auditOf(m).length ? `${judged(m)} of ${auditOf(m).length} judged` : "all labelled";
}

function showAudit() {
  if (!stage.m) { refresh(); return; }
  const picks = auditOf(stage.m), k = auditing.current;
  const pick = k === null ? null : picks[k];
  at("audit-status").textContent = auditing.status;
  at("audit-place").textContent = pick ? `pick ${k + 1} of ${picks.length}, score ${pick.s.toFixed(2)}${pick.verdict ? `: ${pick.verdict}` : ""}` : "";
  VERDICTS.forEach(([name]) => {
    at(`audit-${name}`).disabled = !pick;
    at(`audit-${name}`).setAttribute("aria-pressed", String(Boolean(pick && pick.verdict === name)));
  });
  drawStage();
}

// Over the circles: the verdicts, as colour and letter, and ticks around the pick at hand.
function drawCursor(ctx) {
  if (stage.hide) return;
  auditOf(stage.m).forEach((pick, k) => {
    const x = (pick.x + 0.5) * stage.scale + stage.left, y = (pick.y + 0.5) * stage.scale + stage.top;
    const radius = Math.max(4, ((diameterInPixels(stage.m, pick.d) || stage.m.width / 40) * stage.scale) / 2);
    const known = VERDICTS.find(([name]) => name === pick.verdict);
    if (known) {
      ctx.strokeStyle = known[1]; ctx.lineWidth = 3;
      ctx.beginPath(); ctx.arc(x, y, radius, 0, 7); ctx.stroke();
      ctx.font = "bold 13px system-ui, sans-serif"; ctx.fillStyle = known[1];
      ctx.textAlign = "left"; ctx.textBaseline = "alphabetic";
      ctx.fillText(known[2], x + radius * 0.75 + 4, y - radius * 0.75);
    }
    if (k !== auditing.current) return;
    for (const [width, style] of [[5, "#000"], [2.5, "#fff"]]) {
      ctx.lineWidth = width; ctx.strokeStyle = style;
      ctx.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        ctx.moveTo(x + dx * (radius + 4), y + dy * (radius + 4));
        ctx.lineTo(x + dx * (radius + 16), y + dy * (radius + 16));
      }
      ctx.stroke();
    }
  });
}

function editKey(event) {
  if (typing(event) || event.altKey || event.ctrlKey || event.metaKey) return false;
  const picks = auditOf(stage.m), k = auditing.current;
  const key = event.key.toLowerCase();
  const step = { arrowright: 1, arrowdown: 1, arrowleft: -1, arrowup: -1 }[key];
  if (["1", "2", "3"].includes(key)) judge(VERDICTS[+key - 1][0]);
  else if (step && k !== null) choose((k + step + picks.length) % picks.length);
  else return false;
  event.preventDefault();
  return true;
}

function startEditing() {
  for (const m of micrographs) {
    const picks = view.audit.picks[m.i].map(([x, y, d, s, verdict]) => ({ x, y, d: d === null ? NaN : d, s, verdict }));
    auditing.picks.set(m.i, picks);
    edits.set(m.i, { picks, dirty: false, saved: true });
    note(m);
  }
  addTool("span", "audit-status", { className: "quiet" }).setAttribute("role", "status");
  addTool("span", "audit-place", {});
  VERDICTS.forEach(([name], k) => {
    addTool("button", `audit-${name}`, { type: "button", textContent: `${k + 1} ${name}` }).addEventListener("click", () => judge(name));
  });
  document.body.classList.add("blank");
}
