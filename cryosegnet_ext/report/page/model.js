// The data, and what the sliders make of it. A candidate passes the threshold levels[t] if and only if level >= t.
const data = JSON.parse(document.getElementById("data").textContent);
const view = data.view;
const at = (id) => document.getElementById(id);

function decode(text, Kind) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return new Kind(bytes.buffer);
}

const level = decode(data.candidates.level, Uint16Array);
const size = decode(data.candidates.size, Uint16Array);
const px = decode(data.candidates.x, Uint16Array);
const py = decode(data.candidates.y, Uint16Array);
const others = {
  level: decode(data.others.level, Uint16Array), size: decode(data.others.size, Uint16Array),
  count: decode(data.others.count, Uint32Array),
};
const UNKNOWN = 65535;
const levels = data.levels;
const unit = data.unit;

const micrographs = [];
{
  let start = 0;
  const table = data.micrographs;
  table.name.forEach((name, i) => {
    const n = data.candidates.counts[i];
    const values = {};
    for (const column of data.columns) values[column.key] = column.values[i];
    micrographs.push({ i, name, start, end: start + n, width: table.width[i], height: table.height[i],
      pixel: table.pixel_size[i], seconds: table.seconds[i], byHand: table.by_hand[i], values, count: 0, score: null, expectedFalse: null, flag: null, failed: false });
    start += n;
  });
}
const failures = data.failed.map(([name, reason], k) => ({ i: -1 - k, name, reason, failed: true, count: 0, values: {} }));

// Whole diameters that occur, and the sliders' state: lo and hi at the ends mean no limit.
const sizes = { low: Infinity, high: 0 };
for (const columns of [size, others.size]) {
  for (const code of columns) {
    if (code === UNKNOWN) continue;
    if (code < 2 * sizes.low) sizes.low = code >> 1;
    if (code > 2 * sizes.high) sizes.high = (code + 1) >> 1;
  }
}
if (sizes.low > sizes.high) { sizes.low = 0; sizes.high = 0; }
const runLevel = levels.indexOf(data.threshold);
const state = { t: Math.max(runLevel, data.floor), lo: sizes.low, hi: sizes.high };
const edits = new Map();

const limited = () => state.lo > sizes.low || state.hi < sizes.high;

function inRange(code) {
  if (state.lo > sizes.low && (code === UNKNOWN || code < 2 * state.lo)) return false;
  if (state.hi < sizes.high && (code === UNKNOWN || code > 2 * state.hi)) return false;
  return true;
}

// Called for each pick that the sliders leave, best score first.
function eachPick(m, visit) {
  const edited = edits.get(m.i);
  if (edited) {
    for (const pick of edited.picks) visit(pick.x, pick.y, pick.d, pick.s);
    return;
  }
  for (let k = m.start; k < m.end && level[k] >= state.t; k++) {
    if (inRange(size[k])) visit(px[k], py[k], size[k] === UNKNOWN ? NaN : size[k] / 2, levels[level[k]]);
  }
}

const diameterInPixels = (m, d) => (unit === "px" || !m.pixel ? d : d / m.pixel);

function median(values) {
  if (!values.length) return 0;
  const sorted = Float64Array.from(values).sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

const SCORE_BINS = 50;
const totals = { picks: 0, expectedFalse: null, median: 0, none: 0, scoreAll: null, sizeAll: null, sizeIn: null };

// Probability that a candidate of each level is no particle: scores lie between the level and the next one.
const falseAt = Float64Array.from(levels, (value, k) => 1 - (value + (k + 1 < levels.length ? levels[k + 1] : 1)) / 2);

// Expected share of false picks; null without picks, or where scores are no probabilities.
const shareOf = (sum, count) => (data.probabilities && !(view && view.blank) && count > 0 ? sum / count : null);

// "about 12 %", as the program says it.
const inPercent = (share) => (share < 0.005 ? "less than 1 %" : `about ${Math.round(100 * share)} %`);

function evaluate() {
  const wide = Math.max(1, Math.ceil((sizes.high - sizes.low + 1) / 60));
  const bins = Math.max(1, Math.floor((sizes.high - sizes.low) / wide) + 1);
  const scoreAll = new Float64Array(SCORE_BINS), sizeAll = new Float64Array(bins + 1);
  const scoreBin = Uint16Array.from(levels, (value) => Math.min(SCORE_BINS - 1, Math.floor(value * SCORE_BINS + 1e-9)));
  // By size code, so that the loops below only look up; what is not known goes to a bin that is not drawn.
  const fitting = new Uint8Array(UNKNOWN + 1), sizeBin = new Uint16Array(UNKNOWN + 1).fill(bins);
  for (let code = 2 * sizes.low; code <= 2 * sizes.high; code++) {
    fitting[code] = inRange(code);
    sizeBin[code] = Math.max(0, Math.min(bins - 1, Math.floor(((code >> 1) - sizes.low) / wide)));
  }
  fitting[UNKNOWN] = inRange(UNKNOWN);
  let picks = 0, none = 0, wrong = 0, judged = 0;
  const t = state.t;
  for (const m of micrographs) {
    let count = 0, sum = 0;
    for (let k = m.start; k < m.end; k++) {
      const fits = fitting[size[k]];
      scoreAll[scoreBin[level[k]]] += fits;
      if (level[k] >= t) {
        sizeAll[sizeBin[size[k]]]++;
        count += fits;
        sum += fits * falseAt[level[k]];
      }
    }
    const edited = edits.get(m.i);
    m.count = edited ? edited.picks.length : count;
    // A person has looked at the picks of an edited micrograph.
    m.expectedFalse = edited || m.byHand ? null : shareOf(sum, count);
    if (!edited && !m.byHand) { wrong += sum; judged += count; }
    picks += m.count;
    if (!m.count) none++;
  }
  let more = 0, moreWrong = 0;
  for (let k = 0; k < others.level.length; k++) {
    const count = others.count[k] * fitting[others.size[k]];
    scoreAll[scoreBin[others.level[k]]] += count;
    if (others.level[k] >= t) {
      sizeAll[sizeBin[others.size[k]]] += others.count[k];
      more += count;
      moreWrong += count * falseAt[others.level[k]];
    }
  }
  // The counts of the run itself are known of every micrograph, however many are read.
  const own = t === runLevel && !limited() && !edits.size;
  totals.exact = own || data.others.scale === 1;
  totals.picks = own ? data.totals.picks : picks + Math.round(more * data.others.scale);
  totals.expectedFalse = shareOf(wrong + moreWrong * data.others.scale, judged + more * data.others.scale);
  totals.none = none;
  totals.median = median(micrographs.map((m) => m.count));
  totals.scoreAll = scoreAll;
  totals.sizeAll = sizeAll.subarray(0, bins);
  totals.sizeStep = wide;
}

// What is worth a look. Spread: robust, and at least that of chance.
const FLAGS = {
  failed: ["Failed", "could not be picked; the reason is on the card"],
  none: ["No picks", "nothing passes: empty, or the size or the threshold is wrong for them"],
  few: ["Few", "less than a fifth of the median number of picks"],
  many: ["Too many", "far more picks than the others: contamination, aggregates or a wrong size"],
  weak: ["Low scores", "scores well below the other micrographs': often carbon, ice or bad focus"],
  crowded: ["In one area", "most picks lie in a quarter of the area: often carbon, a hole's edge or contamination"],
};

function flagMicrographs() {
  const counts = micrographs.map((m) => m.count);
  const middle = totals.median;
  const spread = Math.max(1.4826 * median(counts.map((c) => Math.abs(c - middle))), Math.sqrt(middle), 1);
  const scored = [];
  for (const m of micrographs) {
    const scores = [];
    const cells = new Int32Array(16);
    eachPick(m, (x, y, d, s) => {
      scores.push(s);
      cells[Math.min(3, Math.floor((4 * y) / m.height)) * 4 + Math.min(3, Math.floor((4 * x) / m.width))]++;
    });
    // Best first already.
    m.score = !scores.length ? null : edits.has(m.i) ? median(scores) : (scores[(scores.length - 1) >> 1] + scores[scores.length >> 1]) / 2;
    const fullest = Array.from(cells).sort((a, b) => b - a).slice(0, 4).reduce((a, b) => a + b, 0);
    m.crowding = scores.length >= 20 ? fullest / scores.length : 0;
    if (scores.length >= 5) scored.push(m.score);
  }
  const usual = median(scored);
  const scatter = Math.max(1.4826 * median(scored.map((s) => Math.abs(s - usual))), 0.03);
  for (const m of micrographs) {
    m.flag = null;
    if (edits.has(m.i) || (view && view.blank)) continue;
    if (m.count === 0) m.flag = "none";
    else if (m.count > middle + 4 * spread && m.count > 1.5 * middle) m.flag = "many";
    else if (m.count >= 5 && m.score < usual - 4 * scatter) m.flag = "weak";
    else if (m.crowding > 0.75) m.flag = "crowded";
    else if (middle >= 15 && m.count < 0.2 * middle) m.flag = "few";
  }
  for (const f of failures) f.flag = "failed";
}
