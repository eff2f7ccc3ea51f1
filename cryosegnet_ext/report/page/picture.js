// How the large picture is shown, and nothing else: contrast, inversion and low-pass change no picks.
const picture = { contrast: 1, invert: false };

// By blending, which all browsers have: c * (v - 1/2) + 1/2 for each grey v of 0 to 1.
function tone(ctx, left, top, width, height) {
  const fill = (mode, grey, alpha = 1) => {
    const level = Math.round(255 * grey);
    ctx.globalCompositeOperation = mode;
    ctx.fillStyle = `rgba(${level},${level},${level},${alpha})`;
    ctx.fillRect(left, top, width, height);
  };
  const c = picture.contrast;
  if (c > 1) {
    fill("difference", 1); fill("lighter", (c - 1) / (2 * c)); fill("difference", 1);
    fill("color-dodge", 1 - 1 / c);
  } else if (c < 1) fill("source-over", 0.5, 1 - c);
  if (picture.invert) fill("difference", 1);
  ctx.globalCompositeOperation = "source-over";
}

function startPicture() {
  const contrast = at("contrast");
  contrast.addEventListener("input", () => {
    picture.contrast = 2 ** contrast.value;
    contrast.setAttribute("aria-valuetext", `${picture.contrast.toFixed(1)} times`);
    drawStage();
  });
  at("invert").addEventListener("change", () => { picture.invert = at("invert").checked; drawStage(); });
  at("plain").addEventListener("click", () => {
    Object.assign(picture, { contrast: 1, invert: false });
    contrast.value = 0; at("invert").checked = false;
    if (view) at("lowpass").value = view.lowpass;
    drawStage();
  });
  const slider = at("large-threshold");
  slider.min = data.floor;
  slider.max = levels.length - 1;
  slider.addEventListener("input", () => setThreshold(snapped(levels[slider.value])));
  at("lowpass-label").hidden = !view;
  if (view) { at("lowpass").value = view.lowpass; at("lowpass").addEventListener("change", drawStage); }
}

// By a hundredth, to the next whole one.
function stepThreshold(step) {
  const now = levels[state.t];
  setThreshold((step > 0 ? Math.floor(now * 100 + 1e-6) : Math.ceil(now * 100 - 1e-6)) / 100 + step);
}

function showPicture(m) {
  const slider = at("large-threshold"), edited = edits.has(m.i);
  slider.value = state.t;
  slider.setAttribute("aria-valuetext", tidy(levels[state.t]));
  slider.disabled = edited;
  at("large-threshold-number").textContent = edited ? "edited" : tidy(levels[state.t]);
  at("large-threshold-label").title = edited ? "The threshold does not change the picks of an edited micrograph" : "Score threshold ([ and ])";
}

// Whole angstrom (pixels without a pixel size); 0 is none.
const lowpass = () => Math.max(0, Math.min(9999, Math.round(+at("lowpass").value || 0)));
