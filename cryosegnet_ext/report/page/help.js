// The keys, which "?" lists. Groups and rows appear in the order in which the modules name them.
const shortcuts = new Map();
function shortcut(where, rows) { shortcuts.set(where, [...(shortcuts.get(where) || []), ...rows]); }

// Whether a key belongs to the field at hand. A slider needs only the keys that move it.
function typing(event) {
  const target = event.target;
  if (target.tagName === "SELECT" || target.tagName === "TEXTAREA") return true;
  if (target.tagName !== "INPUT") return false;
  if (target.type === "checkbox") return event.key === " ";
  return target.type !== "range" || event.key.length > 1;
}

function showHelp() {
  const table = at("help-keys");
  table.replaceChildren();
  for (const [where, rows] of shortcuts) {
    const body = table.createTBody();
    body.insertRow().append(Object.assign(document.createElement("th"), { colSpan: 2, scope: "rowgroup", textContent: where }));
    for (const [keys, what] of rows) {
      const row = body.insertRow();
      row.insertCell().append(...keys.split(" ").map((key) => Object.assign(document.createElement("kbd"), { textContent: key })));
      row.insertCell().textContent = what;
    }
  }
  at("help").showModal();
}

function startHelp() {
  document.addEventListener("keydown", (event) => {
    if (event.key !== "?" || at("help").open || event.ctrlKey || event.altKey || event.metaKey) return;
    if (typing(event) && event.target.type !== "range") return;
    event.preventDefault();
    showHelp();
  });
  at("help-close").addEventListener("click", () => at("help").close());
  for (const id of ["help-button", "large-help"]) at(id).addEventListener("click", showHelp);
  const blank = Boolean(view && view.blank), audit = Boolean(view && view.audit);
  if (!blank && !audit) shortcut("Sliders", [["← →", "a hundredth of the score, or one of the size"], ["PageUp PageDown", "a tenth of the score"], ["Home End", "to the ends"]]);
  shortcut("Micrographs", [["← → ↑ ↓", "move"], ["Enter", "open"], ["PageUp PageDown", "turn the page"]]);
  shortcut("Large picture", [["N P", "next and previous micrograph"], ["+ - 0", "zoom in, out, fit"], ["H", "hide or show the circles"], ["I", "invert"], ["G", "the particles beside it"], ["Esc", "close"]]);
  if (!audit) shortcut("Large picture", [["← → ↑ ↓", view ? "move the cross; with Shift farther" : "move the picture"]]);
  if (!blank && !audit) shortcut("Large picture", [["[ ]", "threshold down and up by a hundredth"]]);
  if (audit) shortcut("Judging", [["1 2 3", "particle, junk, unsure"], ["← →", "another pick"]]);
  else if (view) {
    shortcut("Correcting picks", [["Click", "removes the pick there, or adds one"], ["Space", "the same at the cross"], ["Shift-drag", "removes the picks in a rectangle"],
      ["R", "a drag, or two corners set with Space, removes the picks in a rectangle"], ["S", "save"]]);
  }
  if (view) shortcut(audit ? "Judging" : "Correcting picks", [["U Ctrl-Z", "undo, also on other micrographs"], ["Shift-U Ctrl-Y", "redo"]]);
  if (!blank && !audit) shortcut("Scores against sizes", [["Drag", "choose picks"], ["← → ↑ ↓", "move the choice; with Shift its size"], ["Enter", "use it as limits"], ["Esc", "clear it"]]);
  shortcut("Everywhere", [["?", "this list"]]);
}
