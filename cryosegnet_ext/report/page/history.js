// What can be taken back: changes of picks and verdicts of all micrographs, in the order in which they were made.
const past = [], future = [];
const MOST_CHANGES = 500;

// A change has its micrograph m and two functions, undo and redo.
function did(change) {
  past.push(change);
  if (past.length > MOST_CHANGES) past.shift();
  future.length = 0;
  showHistory();
}

function step(from, to, way) {
  const change = from.pop();
  if (!change) return;
  to.push(change);
  if (stage.m !== change.m) openLarge(change.m);
  change[way]();
  showHistory();
}

const undo = () => step(past, future, "undo");
const redo = () => step(future, past, "redo");

function showHistory() {
  at("undo").disabled = !past.length;
  at("redo").disabled = !future.length;
  keepKeys();
}

// A button that has just been switched off would swallow the keys.
function keepKeys() {
  if (document.activeElement.disabled) at("stage").focus();
}

function historyKey(event) {
  const key = event.key.toLowerCase(), control = event.ctrlKey || event.metaKey;
  if (event.altKey || typing(event)) return false;
  if ((control && key === "y") || (event.shiftKey && (key === "u" || (control && key === "z")))) redo();
  else if (control ? key === "z" : key === "u" && at("large").open) undo();
  else return false;
  event.preventDefault();
  return true;
}

function startHistory() {
  addTool("button", "undo", { type: "button", textContent: "Undo", title: "Undo (U or Ctrl-Z)" }).addEventListener("click", undo);
  addTool("button", "redo", { type: "button", textContent: "Redo", title: "Redo (Shift-U or Ctrl-Y)" }).addEventListener("click", redo);
  showHistory();
  // Also with the large picture closed: it opens at the micrograph whose picks come back.
  document.addEventListener("keydown", (event) => { if (!at("large").open) historyKey(event); });
}
