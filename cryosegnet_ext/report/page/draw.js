// Pictures and circles.
const VIRIDIS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"]
  .map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));

// As the overlays: the dark end does not show on a grey micrograph.
const SHADES = Array.from({ length: 16 }, (_, b) => {
  const v = (0.25 + 0.75 * ((b + 0.5) / 16)) * (VIRIDIS.length - 1);
  const i = Math.min(VIRIDIS.length - 2, Math.floor(v));
  return `rgb(${VIRIDIS[i].map((c, k) => Math.round(c + (v - i) * (VIRIDIS[i + 1][k] - c))).join(",")})`;
});

const pictures = new Map();
const MOST_PICTURES = 400;

function pictureOf(m, ready) {
  const known = pictures.get(m.i);
  if (known) {
    if (known.complete && known.naturalWidth) return known;
    known.addEventListener("load", ready, { once: true });
    return null;
  }
  const text = data.thumbnails[m.i];
  const address = view ? `thumbnail/${m.i}` : text ? `data:image/jpeg;base64,${text}` : null;
  if (!address) return null;
  const image = new Image();
  image.addEventListener("load", () => {
    if (!m.width) { m.width = image.naturalWidth; m.height = image.naturalHeight; m.guessed = true; }
    ready();
  }, { once: true });
  image.addEventListener("error", () => { m.broken = true; ready(); }, { once: true });
  image.src = address;
  pictures.set(m.i, image);
  if (pictures.size > MOST_PICTURES) pictures.delete(pictures.keys().next().value);
  return null;
}

// Circles of a micrograph's picks; (x, y) -> screen is scale * (x + 0.5) + offset.
function drawPicks(ctx, m, scale, left, top, line) {
  if (view && view.compare && drawCompared(ctx, m, scale, left, top, line)) { drawBrushed(ctx, m, scale, left, top, line); return; }
  const paths = SHADES.map(() => null);
  const least = Math.max(1.5, line);
  eachPick(m, (x, y, d, s) => {
    const shade = Math.max(0, Math.min(15, Math.floor(s * 16)));
    const path = paths[shade] || (paths[shade] = new Path2D());
    const cx = (x + 0.5) * scale + left, cy = (y + 0.5) * scale + top;
    const radius = Math.max(least, ((diameterInPixels(m, d) || Math.max(m.width, m.height) / 40) * scale) / 2);
    path.moveTo(cx + radius, cy);
    path.arc(cx, cy, radius, 0, 7);
  });
  paths.forEach((path, shade) => {
    if (!path) return;
    ctx.lineWidth = line + 1.2; ctx.strokeStyle = "rgba(0,0,0,.45)"; ctx.stroke(path);
    ctx.lineWidth = line; ctx.strokeStyle = SHADES[shade]; ctx.stroke(path);
  });
  drawBrushed(ctx, m, scale, left, top, line);
}

// A length bar of a round number of nanometres (angstrom, pixels), bottom left.
function drawScaleBar(ctx, m, scale, height) {
  const per = m.pixel ? m.pixel / 10 : 1;
  const target = (110 / scale) * per;
  const power = 10 ** Math.floor(Math.log10(target));
  const length = [5, 2, 1].find((s) => s * power <= target) * power;
  const width = (length / per) * scale;
  ctx.fillStyle = "rgba(0,0,0,.55)";
  ctx.fillRect(10, height - 36, width + 16, 28);
  ctx.fillStyle = "#fff";
  ctx.fillRect(18, height - 16, width, 3);
  ctx.font = "12px system-ui, sans-serif";
  ctx.textAlign = "left"; ctx.textBaseline = "alphabetic";
  ctx.fillText(`${+length.toPrecision(2)} ${m.pixel ? "nm" : "px"}`, 18, height - 20);
}

function drawCard(canvas, m) {
  const { ctx, width, height } = surface(canvas);
  if (!width) return;
  const image = pictureOf(m, () => { if (canvas.isConnected) drawCard(canvas, m); });
  if (m.broken) { ctx.fillStyle = "#fff"; ctx.font = "12px system-ui"; ctx.fillText("picture missing", 10, 20); }
  if (!m.width) return;
  const scale = Math.min(width / m.width, height / m.height);
  const [left, top] = [(width - m.width * scale) / 2, (height - m.height * scale) / 2];
  if (image) ctx.drawImage(image, left, top, m.width * scale, m.height * scale);
  drawPicks(ctx, m, scale, left, top, 1.1);
}
