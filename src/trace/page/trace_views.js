// The trace page, second of three scripts: text, pictures, map, profile and table.
'use strict';
// Elements by token: [element, marks only]; filled by the builders below.
const textOf = new Map();   // token -> span (several picture tokens share their chip)
const cells = new Map();    // token -> {stage, left, top, width, height} in percent of the tile
const chips = [];

function buildText() {
  const box = $('text');
  const section = (who) => { const div = make(box, 'div'); make(div, 'span', 'who', who); return div; };
  let div = section('prompt'), chip = null;
  tokens.forEach((t, i) => {
    if (t.kind === 'answer' && (i === 0 || tokens[i - 1].kind !== 'answer')) div = section('answer');
    if (t.kind === 'picture') {
      if (!chip || chip.picture !== t.picture) {
        chip = {picture: t.picture, tokens: [], element: make(div, 'span', 'token chip')};
        chips.push(chip);
      }
      chip.tokens.push(i);
      textOf.set(i, chip.element);
      return;
    }
    chip = null;
    const span = make(div, 'span', 'token' + (t.kind === 'special' ? ' special' : ''), printable(t.text) || '\u2205');
    span.dataset.token = i;
    textOf.set(i, span);
  });
}

function buildPictures() {
  $('picture-section').hidden = !page.pictures.length;
  if (!page.pictures.length) $('left').classList.add('alone');
  page.pictures.forEach((p, at) => {
    const row = make($('pictures'), 'div', 'picture');
    const stage = (cls, caption) => {
      const figure = make(row, 'figure', cls === 'plain' ? cls : cls + ' heat grey');
      const box = make(figure, 'div', 'stage' + (p.width < 300 ? ' pixels' : ''));
      box.style.aspectRatio = `${p.width} / ${p.height}`;
      box.style.width = `min(100%, ${cls === 'whole' ? 560 : 220}px, ${Math.round(60 * p.width / p.height)}vh)`;
      const image = make(box, 'img');
      image.src = p.source;
      image.alt = p.name;
      make(figure, 'figcaption', '', caption);
      return box;
    };
    const name = `${page.pictures.length > 1 ? `Picture ${at + 1}: ` : ''}${p.name}, ${p.width} \u00d7 ${p.height} pixels`;
    const count = p.columns * p.rows;
    const main = stage('whole', count === 1
        ? `${name}. Its ${p.perTile} tokens are a grid of ${p.side} \u00d7 ${p.side} over the whole picture, row by row.`
        : `${name}. Stretched to ${p.columns} \u00d7 ${p.rows} tiles, numbered in the order the model reads them; each tile ` +
          `gives ${p.side} \u00d7 ${p.side} = ${p.perTile} tokens, row by row.`);
    for (let tile = 0; tile < count; ++tile)
      addTile(main, p, tile, (tile % p.columns) / p.columns, Math.floor(tile / p.columns) / p.rows, 1 / p.columns, 1 / p.rows);
    if (p.thumbnail)
      addTile(stage('thumb', `Thumbnail: the whole picture once more, as the last tile (${p.perTile} tokens).`), p, count,
              0, 0, 1, 1);
    stage('plain', 'The picture as it is.');
  });
}
function addTile(stage, p, tile, left, top, width, height) {
  const box = make(stage, 'div', 'tile');
  Object.assign(box.style, {left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * width}%`, height: `${100 * height}%`});
  const canvas = make(box, 'canvas');
  canvas.width = canvas.height = p.side;
  canvas.style.width = canvas.style.height = `${100 * p.cover}%`;
  box.style.setProperty('--cover', `${100 * p.cover}%`);
  box.style.setProperty('--cell', `${100 / p.side}% ${100 / p.side}%`);
  if (p.tiles > 1) make(box, 'b', '', isThumbnail(p, tile) ? 'thumbnail' : tile + 1);
  (p.canvases ||= [])[tile] = canvas;
  const at = (event) => {
    const r = canvas.getBoundingClientRect(), side = p.side;
    return tokenAt(p, tile, clamp(Math.floor((event.clientY - r.top) / r.height * side), 0, side - 1),
                   clamp(Math.floor((event.clientX - r.left) / r.width * side), 0, side - 1));
  };
  canvas.addEventListener('mousemove', (e) => hover(at(e), e));
  canvas.addEventListener('mouseleave', () => hover(-1));
  canvas.addEventListener('click', (e) => pin(at(e), e));
  const size = 100 * p.cover / p.side;
  for (let row = 0; row < p.side; ++row)
    for (let column = 0; column < p.side; ++column)
      cells.set(tokenAt(p, tile, row, column), {box, left: column * size, top: row * size, size});
}
// values: one number per token (or a function of column and token for the map).
function fill(canvas, width, height, value) {
  const g = canvas.getContext('2d'), image = g.createImageData(width, height);
  for (let y = 0, at = 0; y < height; ++y)
    for (let x = 0; x < width; ++x, at += 4) {
      const v = value(x, y);
      if (!isFinite(v)) continue;  // transparent: the hatching below shows
      const c = colour(v);
      image.data[at] = c[0]; image.data[at + 1] = c[1]; image.data[at + 2] = c[2]; image.data[at + 3] = 255;
    }
  g.putImageData(image, 0, 0);
}

// ---- The map of all depths, and the profile by kind
const mapSize = {width: 1, height: 1};
function drawMap() {
  const m = measure(), rows = m.columns.length, canvas = $('map');
  const room = $('map-section').clientWidth - 90;
  mapSize.width = Math.max(1, Math.min(28, Math.floor(room / n)));
  mapSize.height = clamp(Math.round(300 / rows), 7, 22);
  canvas.width = n; canvas.height = rows;
  canvas.style.width = `${n * mapSize.width}px`;
  canvas.style.height = `${rows * mapSize.height}px`;
  canvas.className = 'none';
  $('map-stage').style.width = canvas.style.width;
  fill(canvas, n, rows, (x, y) => valueAt(m, y, x));
  const names = $('map-names'), every = Math.ceil(13 / mapSize.height);
  names.replaceChildren();
  let widest = 0;
  m.columns.forEach((c, i) => { if (i % every === 0) {
    const span = make(names, 'span', '', c.brief);
    span.style.top = `${(i + 0.5) * mapSize.height}px`;
    widest = Math.max(widest, c.brief.length);
  } });
  names.style.width = `${12 + 7 * widest}px`;
  const kinds = $('map-kinds');
  kinds.replaceChildren();
  const group = (t) => t.kind === 'special' ? 'text' : t.kind;
  for (let i = 0; i < n;) {
    let end = i;
    while (end < n && group(tokens[end]) === group(tokens[i])) ++end;
    const span = make(kinds, 'span', '', {text: 'prompt', picture: 'picture', answer: 'answer'}[group(tokens[i])]);
    span.style.left = `${i * mapSize.width + 1}px`;
    span.style.width = `${(end - i) * mapSize.width - 2}px`;
    span.title = `${span.textContent}: tokens ${i} to ${end - 1}`;
    i = end;
  }
}
function drawProfile() {
  const m = measure(), count = m.columns.length, box = $('profile');
  box.replaceChildren();
  const lines = [['prompt', '', ['text', 'special']], ['picture', '7 4', ['picture']], ['answer', '2 3', ['answer']]];
  const width = Math.min(820, box.clientWidth || 760), height = 180, left = 56, right = 90, top = 10, bottom = 34;
  const chart = svg(box, 'svg', {width, height, role: 'img', 'aria-label': 'Median value of each kind of token by depth'});
  const x = (c) => left + (count === 1 ? 0.5 : c / (count - 1)) * (width - left - right);
  const y = (v) => top + (1 - step(v)) * (height - top - bottom);
  const low = along(scale.low), high = along(scale.high);
  for (const t of [0, 0.5, 1]) {
    const v = scale.log ? 10 ** (low + t * (high - low)) : low + t * (high - low);
    svg(chart, 'line', {x1: left, x2: width - right, y1: y(v), y2: y(v), stroke: 'var(--line)'});
    svg(chart, 'text', {x: left - 6, y: y(v) + 4, 'text-anchor': 'end', fill: 'var(--dim)'}, format(v));
  }
  const every = Math.ceil(count * 34 / (width - left - right));
  m.columns.forEach((c, i) => { if (i % every === 0)
    svg(chart, 'text', {x: x(i), y: height - bottom + 15, 'text-anchor': 'middle', fill: 'var(--dim)'}, c.brief); });
  svg(chart, 'text', {x: left, y: height - 4, fill: 'var(--dim)'}, `${depthWord(m)}, from first to last`);
  if (!state.mean) svg(chart, 'line', {x1: x(state.depth), x2: x(state.depth), y1: top, y2: height - bottom,
                                       stroke: 'var(--mark)', 'stroke-width': 1.5});
  const labels = [];
  chart.style.cursor = 'pointer';
  chart.addEventListener('click', (e) => {
    const at = (e.clientX - chart.getBoundingClientRect().left - left) / (width - left - right);
    update({depth: clamp(Math.round(at * (count - 1)), 0, count - 1), mean: false});
  });
  for (const [name, dash, kinds] of lines) {
    const points = [];
    for (let c = 0; c < count; ++c) {
      const values = [];
      tokens.forEach((t, i) => { const v = valueAt(m, c, i); if (kinds.includes(t.kind) && isFinite(v)) values.push(v); });
      if (values.length) points.push([x(c), y(quantile(Float64Array.from(values).sort(), 0.5))]);
    }
    if (!points.length) continue;
    svg(chart, 'polyline', {points: points.map((p) => p.join()).join(' '), fill: 'none', stroke: 'var(--ink)',
                            'stroke-width': 1.8, 'stroke-dasharray': dash});
    for (const [px, py] of points) svg(chart, 'circle', {cx: px, cy: py, r: 2.4, fill: 'var(--ink)'});
    labels.push({name, dash, y: points.at(-1)[1]});
  }
  labels.sort((a, b) => a.y - b.y).forEach((label, i) => {
    if (i) label.y = Math.max(label.y, labels[i - 1].y + 14);
    svg(chart, 'line', {x1: width - right + 8, x2: width - right + 30, y1: label.y, y2: label.y, stroke: 'var(--ink)',
                        'stroke-width': 1.8, 'stroke-dasharray': label.dash});
    svg(chart, 'text', {x: width - right + 36, y: label.y + 4, fill: 'var(--ink)'}, label.name);
  });
}

// ---- The table
const FIRST_COLUMN = 5;  // position, token, id, kind, mean; then one for each step in depth
function tableRows() {
  const kinds = new Set([...document.querySelectorAll('#table-tools [data-kind]')].filter((b) => b.checked)
      .map((b) => b.dataset.kind));
  if (kinds.has('text')) kinds.add('special');
  const rows = tokens.map((t, i) => i).filter((i) => kinds.has(tokens[i].kind));
  const m = measure(), key = state.sort;
  const of = {position: (i) => i, id: (i) => tokens[i].id, token: (i) => tokens[i].text, kind: (i) => tokens[i].kind,
              mean: (i) => middleOf(m, i)}[key] || ((i) => valueAt(m, +key, i));
  const order = (a, b) => typeof a === 'string' ? (a < b ? -1 : a > b ? 1 : 0) : a - b;
  return rows.map((i) => [of(i), i]).sort(([a, i], [b, j]) => {
    const x = typeof a === 'string' || !Number.isNaN(a), y = typeof b === 'string' || !Number.isNaN(b);
    if (!x || !y) return x === y ? i - j : x ? -1 : 1;  // none always last
    return (state.down ? order(b, a) : order(a, b)) || i - j;
  }).map(([, i]) => i);
}
function drawTable() {
  const m = measure(), head = $('table').tHead, body = $('table').tBodies[0];
  head.replaceChildren();
  body.replaceChildren();
  const top = make(head, 'tr');
  const heading = (key, text, words, title) => {
    const th = make(top, 'th', words ? 'words' : '', text);
    th.dataset.key = key;
    th.tabIndex = 0;
    th.title = title || '';
    if (state.sort === key) th.setAttribute('aria-sort', state.down ? 'descending' : 'ascending');
  };
  heading('position', 'position'); heading('token', 'token', true); heading('id', 'id'); heading('kind', 'kind', true);
  heading('mean', middleName(m), false, `Over ${depthWord(m)}`);
  m.columns.forEach((c, i) => heading(String(i), c.brief, false, `${c.name} (${c.label})`));
  const rows = tableRows();
  for (const i of rows.slice(0, state.rows)) {
    const t = tokens[i], tr = make(body, 'tr');
    tr.dataset.token = i;
    make(tr, 'td', '', i);
    make(tr, 'td', 'words code', oneLine(t.text));
    make(tr, 'td', '', t.id);
    make(tr, 'td', 'words', t.kind === 'picture' ? whereText(t) : t.kind);
    for (let c = -1; c < m.columns.length; ++c) {
      const v = c < 0 ? middleOf(m, i) : valueAt(m, c, i), td = make(tr, 'td', '', isFinite(v) ? format(v) : '');
      paint(td, v);
    }
  }
  $('more').hidden = rows.length <= state.rows;
  $('more').textContent = `Show all ${rows.length} tokens`;
  $('table-note').textContent = '';
}
function tableText() {
  const m = measure(), exact = (v) => isFinite(v) ? String(+v.toPrecision(7)) : '';
  const lines = [['position', 'token', 'id', 'kind', 'where', middleName(m), ...m.columns.map((c) => c.name)]];
  for (const i of tableRows()) {
    const t = tokens[i];
    lines.push([i, JSON.stringify(t.text), t.id, t.kind, whereText(t), exact(middleOf(m, i)),
                ...m.columns.map((_, c) => exact(valueAt(m, c, i)))]);
  }
  return lines.map((line) => line.join('\t')).join('\n') + '\n';
}
async function copyTable() {
  try {
    await navigator.clipboard.writeText(tableText());
  } catch {  // pages from a file may not have that
    const area = make(document.body, 'textarea', '', tableText());
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  $('table-note').textContent = 'Copied, tab-separated.';
}
function saveTable() {
  const link = make(null, 'a');
  link.href = URL.createObjectURL(new Blob([tableText()], {type: 'text/tab-separated-values'}));
  link.download = `trace-${measure().key}.tsv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
