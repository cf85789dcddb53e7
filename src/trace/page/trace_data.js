// The trace page, first of three scripts: data, numbers, colours. `page` is the data block of
// docs/trace_page.md. All texts of the model and the files are shown through textContent; nothing is
// ever parsed as HTML.
'use strict';
const $ = (id) => document.getElementById(id);
const page = JSON.parse($('data').textContent);
const tokens = page.tokens, n = tokens.length;

const make = (parent, tag, cls, text) => {
  const element = document.createElement(tag);
  if (cls) element.className = cls;
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
};
const svg = (parent, tag, attributes, text) => {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
};
const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer;
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

// ---- Numbers
const HEAD_STEPS = 65534;
for (const m of page.measures) {
  m.flat = new Float32Array(bytesOf(m.f32));                       // [columns, tokens]
  if (m.heads) m.byHead = new Uint16Array(bytesOf(m.u16));         // [columns, heads, tokens]
  m.f32 = m.u16 = null;
}
const state = {measure: 0, depth: 0, mean: false, head: -1, range: 'auto', pinned: -1, hover: -1,
               sort: 'position', down: false, rows: 300};
const measure = () => page.measures[state.measure];
// NaN where there is no value.
function valueAt(m, column, token, head = m.heads ? state.head : -1) {
  if (head < 0) return m.flat[column * n + token];
  const step = m.byHead[(column * m.heads + head) * n + token];
  return step > HEAD_STEPS ? NaN : step / HEAD_STEPS;
}
// Over all depths: the mean of weights and counts; the median of changes, which span orders of
// magnitude.
const even = (m) => m.bounded || m.most > 0;
const middleName = (m) => even(m) ? 'mean' : 'median';
function middleOf(m, token) {
  const values = m.columns.map((_, c) => valueAt(m, c, token)).filter(isFinite);
  if (!values.length) return NaN;
  if (even(m)) return values.reduce((a, b) => a + b) / values.length;
  values.sort((a, b) => a - b);
  return (values[(values.length - 1) >> 1] + values[values.length >> 1]) / 2;
}
// What a step in depth is called.
const depthWord = (m) => m.columns.every((c) => c.name.startsWith('layer') && !c.name.includes(',')) ? 'layers' : 'visits';
const shownValue = (token) => state.mean ? middleOf(measure(), token) : valueAt(measure(), state.depth, token);
const format = (v, m = measure()) => !isFinite(v) ? 'none' : m.most ? String(+v.toFixed(2)) : m.bounded ? v.toFixed(3)
    : v === 0 ? '0' : v >= 1000 || v < 0.001 ? v.toExponential(1) : v.toPrecision(3);
const quantile = (sorted, q) => sorted[clamp(Math.round(q * (sorted.length - 1)), 0, sorted.length - 1)];

// ---- Colours: lightness rises evenly in OKLab (Ottosson 2020) while the hue turns from violet over
// blue-green to yellow, so that order is seen with any kind of colour vision and in grey print. All
// inside sRGB; steps of equal size look equal within 5% (OKLab distance).
function oklch(l, c, h) {
  const a = c * Math.cos(h * Math.PI / 180), b = c * Math.sin(h * Math.PI / 180);
  const x = (l + 0.3963377774 * a + 0.2158037573 * b) ** 3, y = (l - 0.1055613458 * a - 0.0638541728 * b) ** 3,
        z = (l - 0.0894841775 * a - 1.2914855480 * b) ** 3;
  const linear = [4.0767416621 * x - 3.3077115913 * y + 0.2309699292 * z,
                  -1.2684380046 * x + 2.6097574011 * y - 0.3413193965 * z,
                  -0.0041960863 * x - 0.7034186147 * y + 1.7076147010 * z];
  return linear.map((u) => Math.round(255 * clamp(u <= 0.0031308 ? 12.92 * u : 1.055 * u ** (1 / 2.4) - 0.055, 0, 1)));
}
const RAMP = Array.from({length: 256}, (_, i) => {
  const t = i / 255;
  return oklch(0.27 + 0.66 * t, 0.13 - 0.12 * t * (1 - t), 300 - 185 * t);
});
const css = (rgb) => `rgb(${rgb[0]},${rgb[1]},${rgb[2]})`;
const scale = {low: 0, high: 1, log: false, open: false};
const along = (v) => scale.log ? Math.log10(Math.max(v, 1e-30)) : v;
const step = (v) => {
  const low = along(scale.low), high = along(scale.high);
  return clamp(high > low ? (along(v) - low) / (high - low) : 0.5, 0, 1);
};
const colour = (v) => RAMP[Math.round(255 * step(v))];
const inkOn = (v) => step(v) > 0.52 ? '#000' : '#fff';
function paint(element, v) {
  const none = !isFinite(v);
  element.classList.toggle('none', none);
  element.style.background = none ? '' : css(colour(v));
  element.style.color = none ? '' : inkOn(v);
}
function chooseScale(values) {
  const m = measure();
  if (m.most) {
    Object.assign(scale, {low: 1, high: m.most, log: false, open: false});
    return;
  }
  const all = [];
  if (state.range !== 'view')
    for (let c = 0; c < m.columns.length; ++c)
      for (let i = 0; i < n; ++i) { const v = valueAt(m, c, i); if (isFinite(v)) all.push(v); }
  const used = Float64Array.from(state.range === 'view' ? values.filter(isFinite) : all).sort();
  scale.log = !m.bounded;
  const spread = quantile(used, 0.98) - quantile(used, 0.02);
  if (m.bounded && (state.range === 'full' || (state.range === 'auto' && !(spread < 0.3)))) {
    scale.low = 0; scale.high = 1; scale.open = false;
    return;
  }
  scale.open = true;  // a few values lie beyond its ends
  const positive = m.bounded ? used : used.filter((v) => v > 0);
  scale.low = positive.length ? quantile(positive, 0.02) : 0.1;
  scale.high = positive.length ? quantile(positive, 0.96) : 1;
  if (scale.log) scale.low = Math.max(scale.low, scale.high * 1e-4);  // what is smaller is nothing
  if (!(scale.high > scale.low)) {
    scale.low = m.bounded ? scale.low - 0.01 : scale.low / 2;
    scale.high = m.bounded ? scale.high + 0.01 : scale.high * 2;
  }
}
function drawLegend(values) {
  $('low-name').textContent = measure().low;
  $('high-name').textContent = measure().high;
  $('ramp').style.background = `linear-gradient(to right, ${[0, 32, 64, 96, 128, 160, 192, 224, 255]
      .map((i) => css(RAMP[i])).join(', ')})`;
  const low = along(scale.low), high = along(scale.high), back = (x) => scale.log ? 10 ** x : x;
  $('ticks').replaceChildren(...[0, 0.5, 1].map((t) => make(null, 'span', '',
      (scale.open ? ['\u2264\u2009', '', '\u2265\u2009'][2 * t] : '') + format(back(low + t * (high - low))))));
  const canvas = $('histogram'), g = canvas.getContext('2d'), bins = new Array(40).fill(0);
  for (const v of values) if (isFinite(v)) ++bins[Math.min(39, Math.floor(40 * step(v)))];
  const most = Math.max(...bins, 1);
  g.clearRect(0, 0, canvas.width, canvas.height);
  g.fillStyle = getComputedStyle(document.body).color;
  bins.forEach((count, i) => { if (count) {
    const h = Math.max(1, Math.sqrt(count / most) * canvas.height);
    g.fillRect(i * canvas.width / 40, canvas.height - h, canvas.width / 40 - 1, h);
  } });
}

// ---- Tokens and pictures
const pictureTokens = [];  // token index by picture placeholder
tokens.forEach((t, i) => { if (t.kind === 'picture') pictureTokens.push(i); });
let used = 0;
page.pictures.forEach((p, at) => {
  p.first = used;
  p.perTile = p.side * p.side;
  p.tiles = p.columns * p.rows + (p.thumbnail ? 1 : 0);
  for (let k = 0; k < p.tiles * p.perTile; ++k) {
    const tile = Math.floor(k / p.perTile), cell = k % p.perTile;
    Object.assign(tokens[pictureTokens[used + k]], {picture: at, tile, row: Math.floor(cell / p.side), column: cell % p.side});
  }
  used += p.tiles * p.perTile;
});
const tokenAt = (p, tile, row, column) => pictureTokens[p.first + tile * p.perTile + row * p.side + column];
const isThumbnail = (p, tile) => p.thumbnail && tile === p.tiles - 1;
function whereText(t) {
  if (t.picture === undefined) return '';
  const p = page.pictures[t.picture];
  const tile = isThumbnail(p, t.tile) ? 'thumbnail' : p.tiles > 1 ? `tile ${t.tile + 1}` : '';
  return [page.pictures.length > 1 ? `picture ${t.picture + 1}` : '', tile, `row ${t.row + 1}`, `column ${t.column + 1}`]
      .filter(Boolean).join(', ');
}
const KINDS = {text: 'prompt', special: 'prompt, special token', picture: 'picture', answer: 'answer (generated)'};
// Control characters as codes; line ends and tabs still do their work.
const printable = (text) => text.replace(/[\x00-\x1f\x7f]/g, (c) => c === '\n' ? '\u23ce\n' : c === '\t' ? '\u21e5\t'
    : `\\x${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`);
const oneLine = (text) => printable(text).replace(/[\n\t]/g, '').replace(/ /g, '\u00b7');
