"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const SECONDS = 3;
const WORDS = {
  missing: "Waiting", starting: "Starting", estimating: "Estimating the size", checking: "Checking the size",
  running: "Running", waiting: "Waiting for data",
  finished: "Finished", stopped: "Stopped", failed: "Failed", died: "No sign of life", unknown: "Not known", unreadable: "Cannot be read",
};
const BAD = ["failed", "died", "unreadable", "stopped"];
const OVER = ["finished", "missing", "unknown"];
const number = (n) => n.toLocaleString("en");
const text = (id, value) => { if (at(id).textContent !== value) at(id).textContent = value; };
let shown = null, heard = null;

function duration(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function speed(perMinute) {
  const each = 60 / perMinute;
  if (each <= 1) return `${(perMinute / 60).toFixed(perMinute < 600 ? 1 : 0)} micrographs a second`;
  return each < 120 ? `${each.toFixed(each < 10 ? 1 : 0)} s a micrograph` : `${(each / 60).toFixed(1)} min a micrograph`;
}

function pace(s) {
  const p = s.progress, words = [];
  const finished = s.done + s.failed;
  if (p.total) words.push(`${number(finished)} of ${number(Math.max(p.total, finished))} micrographs`);
  const goes = ["running", "waiting"].includes(s.state);
  if (goes && p.rate) words.push(speed(p.rate));
  if (goes && p.left !== null) words.push(`about ${duration(p.left)} left`);
  if (goes && p.workers > 1) words.push(`${p.workers} workers`);
  if (p.started) words.push(`begun ${new Date(p.started).toLocaleString()}`);
  return words.join(" · ");
}

function show(s) {
  shown = s;
  text("state", WORDS[s.state] || s.state);
  at("state").className = "pill" + (BAD.includes(s.state) ? " warn" : OVER.includes(s.state) ? " quiet" : "");
  text("says", s.says + (s.behind ? " · reading what is there" : ""));
  text("pace", pace(s));
  const finished = s.done + s.failed, total = s.progress.total;
  at("bar").hidden = !total;
  if (total) {
    const share = Math.min(100, (100 * finished) / Math.max(total, finished));
    at("bar").firstElementChild.style.width = `${share}%`;
    at("bar").setAttribute("aria-valuenow", share.toFixed(0));
  }
  text("count-picks", number(s.picks));
  text("count-done", number(s.done));
  text("count-median", s.done ? number(s.curves.picks.median) : "–");
  text("count-none", number(s.without));
  text("count-failed", number(s.failed));
  at("false").hidden = s.false === null;
  if (s.false !== null) text("count-false", s.false < 0.005 ? "< 1 %" : `${Math.round(100 * s.false)} %`);
  document.title = `${WORDS[s.state] || s.state} · ${number(finished)}${total ? ` of ${number(Math.max(total, finished))}` : ""} · ${data.folder}`;
  warnings(s);
  gallery(s);
  failures(s);
  charts();
}

function warnings(s) {
  const lines = s.warnings.slice();
  if (s.done + s.failed >= 10 && s.failed > 0.1 * (s.done + s.failed)) lines.push(`${number(s.failed)} of ${number(s.done + s.failed)} micrographs failed; the reasons are below`);
  if (s.done >= 10 && s.without > 0.1 * s.done) lines.push(`${number(s.without)} of ${number(s.done)} micrographs have no picks`);
  if (s.damaged) lines.push(`${number(s.damaged)} ${s.damaged === 1 ? "line" : "lines"} of the journal cannot be used; the next run picks their micrographs again`);
  replace(at("warnings"), lines, (line) => element("li", line));
  at("warnings").hidden = !lines.length;
}

function element(name, content, kind) {
  const made = document.createElement(name);
  if (content !== undefined) made.textContent = content;
  if (kind) made.className = kind;
  return made;
}

// Children are made anew only where the values have changed.
function replace(parent, values, make) {
  const key = JSON.stringify(values);
  if (parent.key === key) return;
  parent.key = key;
  parent.replaceChildren(...values.map(make));
}

function gallery(s) {
  at("none").hidden = s.latest.length > 0;
  const before = new Map(Array.from(at("gallery").children, (card) => [card.picture, card]));
  const cards = s.latest.map((one) => before.get(one.picture) || card(one, s.unit));
  if (cards.some((one, i) => at("gallery").children[i] !== one) || at("gallery").children.length !== cards.length) {
    at("gallery").replaceChildren(...cards);
  }
}

function card(one, unit) {
  const made = element("a", undefined, "card");
  made.picture = one.picture;
  made.href = one.picture;
  made.target = "_blank";
  made.rel = "noreferrer";
  const picture = element("img");
  picture.alt = `${one.name} with its picks`;
  picture.addEventListener("error", () => picture.replaceWith(element("span", "no picture of this micrograph", "reason")));
  picture.src = one.picture;
  const facts = element("span", undefined, "facts");
  facts.append(element("span", ""));
  facts.firstChild.append(element("b", number(one.picks)), ` ${one.picks === 1 ? "pick" : "picks"}`);
  if (one.diameter !== null) facts.append(element("span", `${Math.round(one.diameter)} ${unit === "A" ? "Å" : "px"}`));
  const name = element("span", undefined, "name");
  name.append(element("bdi", one.name));
  name.title = one.name;
  made.append(picture, name, facts);
  return made;
}

function failures(s) {
  at("failures").hidden = !s.failed;
  const more = s.failed > s.failures.length ? `, the last ${s.failures.length}` : "";
  text("failures-title", `${number(s.failed)} failed${more}`);
  replace(at("failures-rows"), s.failures, ([name, reason]) => {
    const row = element("tr");
    row.append(element("td", name), element("td", reason));
    return row;
  });
}

function charts() {
  if (!shown) return;
  const unit = shown.unit === "A" ? " Å" : " px";
  draw("picks", shown.curves.picks, "", true);
  draw("size", shown.curves.size, unit, false);
  at("figure-score").hidden = !shown.curves.score.count;
  draw("score", shown.curves.score, "", false);
}

function draw(name, curve, unit, fromZero) {
  const canvas = at(`chart-${name}`), style = getComputedStyle(document.documentElement);
  text(`note-${name}`, curve.count ? `median ${number(+curve.median.toPrecision(4))}${unit}` : "nothing yet");
  const ratio = window.devicePixelRatio || 1, wide = canvas.clientWidth, high = canvas.clientHeight;
  if (!wide) return;
  canvas.width = wide * ratio;
  canvas.height = high * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const points = curve.points;
  canvas.setAttribute("aria-label", `${name}: ${curve.count} micrographs, median ${curve.median}${unit}`);
  if (!points.length) return;
  let low = fromZero ? 0 : Math.min(...points), high_ = Math.max(...points);
  if (low === high_) { low -= fromZero ? 0 : 1; high_ += 1; }
  const left = 42, top = 8, bottom = 6;
  const x = (i) => left + ((wide - left - 8) * (points.length === 1 ? 1 : i / (points.length - 1)));
  const y = (value) => high - bottom - ((high - top - bottom) * (value - low)) / (high_ - low);
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  for (const value of [low, (low + high_) / 2, high_]) {
    pen.fillStyle = style.getPropertyValue("--quiet");
    pen.fillText(+value.toPrecision(3), left - 6, y(value));
    pen.fillStyle = style.getPropertyValue("--line");
    pen.fillRect(left, Math.round(y(value)), wide - left - 8, 1);
  }
  pen.strokeStyle = pen.fillStyle = style.getPropertyValue("--bar");
  pen.lineWidth = 1.5;
  pen.beginPath();
  points.forEach((value, i) => (i ? pen.lineTo(x(i), y(value)) : pen.moveTo(x(i), y(value))));
  pen.stroke();
  if (points.length <= 60) points.forEach((value, i) => { pen.beginPath(); pen.arc(x(i), y(value), 2, 0, 7); pen.fill(); });
}

async function poll() {
  let wait = SECONDS;
  try {
    const answer = await fetch("state.json", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const state = await answer.json();
    heard = Date.now();
    show(state);
    if (state.behind) wait = 0.1;
  } catch (error) {
    text("state", "Not connected");
    at("state").className = "pill warn";
    text("says", `cryosegnet view does not answer${heard ? `; this is how it was ${duration((Date.now() - heard) / 1000)} ago` : ""}`);
  }
  document.documentElement.dataset.drawn = "yes";
  setTimeout(poll, 1000 * wait * (document.hidden ? 5 : 1));
}

text("title", data.folder);
text("about", `cryosegnet ${data.version} · this page only reads the folder, and updates itself`);
addEventListener("resize", charts);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", charts);
poll();
})();
