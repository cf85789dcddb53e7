// The trace page, last of three scripts: pointing at tokens, state, controls and keys.
'use strict';
// ---- Pointing at tokens
const chosen = () => state.hover >= 0 ? state.hover : state.pinned;
function hover(token, event) {
  if (token === state.hover && !event) return;
  state.hover = token;
  markToken();
  showTip(event);
}
function pin(token, event) {
  state.pinned = token === state.pinned ? -1 : token;
  markToken();
  showTip(event);
  saveHash();
}
let marked = [];            // what takes the marks away again
const markOf = new Map();   // token -> its frame in the picture, while it is marked
function markToken() {
  for (const undo of marked) undo();
  marked = [];
  const i = chosen(), line = $('map-token');
  line.hidden = i < 0;
  if (i < 0) return;
  const outline = (element) => { if (element) { element.classList.add('on'); marked.push(() => element.classList.remove('on')); } };
  outline(textOf.get(i));
  outline(document.querySelector(`#table tr[data-token="${i}"] td:nth-child(2)`));
  const cell = cells.get(i);
  if (cell) {
    const mark = make(cell.box, 'div', 'mark');
    Object.assign(mark.style, {left: `${cell.left}%`, top: `${cell.top}%`, width: `${cell.size}%`, height: `${cell.size}%`});
    markOf.set(i, mark);
    marked.push(() => { mark.remove(); markOf.delete(i); });
  }
  Object.assign(line.style, {left: `${i * mapSize.width}px`, width: `${mapSize.width}px`,
                             height: `${measure().columns.length * mapSize.height}px`});
}
function showTip(event) {
  const tip = $('tip'), i = chosen();
  tip.hidden = i < 0;
  if (i < 0) return;
  const m = measure(), t = tokens[i];
  tip.replaceChildren();
  const head = make(tip, 'div');
  make(head, 'code', '', oneLine(t.text) || '\u2205');
  make(head, 'span', 'dim', `  id ${t.id}, position ${i}`);
  make(tip, 'div', 'dim', [KINDS[t.kind], whereText(t)].filter(Boolean).join(': '));
  make(tip, 'div', 'big', `${m.name}: ${format(shownValue(i))}`);
  make(tip, 'div', 'dim', state.mean ? `${middleName(m)} over ${depthWord(m)}` : m.columns[state.depth].name + headText(m));
  const count = m.columns.length, width = Math.min(300, Math.max(60, count * 12)), high = 46;
  const chart = svg(tip, 'svg', {width, height: high, style: 'display:block;margin-top:4px'});
  for (let c = 0; c < count; ++c) {
    const v = valueAt(m, c, i), h = isFinite(v) ? 3 + step(v) * (high - 8) : 0;
    svg(chart, 'rect', {x: c * width / count, y: high - h - 2, width: Math.max(1, width / count - 1), height: h,
                        fill: isFinite(v) ? css(colour(v)) : 'none',
                        stroke: !state.mean && c === state.depth ? 'var(--mark)' : 'var(--line)',
                        'stroke-width': !state.mean && c === state.depth ? 2 : 0.5});
  }
  make(tip, 'div', 'dim', `over ${depthWord(m)}${state.pinned === i ? '; kept, Esc lets go' : ''}`);
  let x, y;
  if (event && event.clientX !== undefined) {
    x = event.clientX + 16; y = event.clientY + 16;
  } else {
    const r = (markOf.get(i) || textOf.get(i)).getBoundingClientRect();
    x = r.left; y = r.bottom + 8;
    tip.hidden = r.bottom < 0 || r.top > innerHeight;  // scrolled away
  }
  const r = tip.getBoundingClientRect();
  tip.style.left = `${clamp(x, 6, Math.max(6, innerWidth - r.width - 6))}px`;
  tip.style.top = `${y + r.height > innerHeight ? Math.max(6, y - r.height - 32) : y}px`;
}

// ---- State and events
const headText = (m) => !m.heads ? '' : state.head < 0 ? `, mean of ${m.heads} heads` : `, head ${state.head}`;
const drawn = {look: '', list: ''};
function draw() {
  const m = measure();
  state.depth = clamp(state.depth, 0, m.columns.length - 1);
  state.head = m.heads ? clamp(state.head, -1, m.heads - 1) : -1;
  $('question').textContent = m.question;
  $('about').textContent = m.about;
  $('mean-word').textContent = middleName(m);
  for (const id of ['depth-word', 'map-word']) $(id).textContent = depthWord(m);
  document.querySelectorAll('#measures button').forEach((b, i) => b.setAttribute('aria-checked', i === state.measure));
  Object.assign($('depth'), {max: m.columns.length - 1, value: state.depth});
  $('depth').setAttribute('aria-valuetext', m.columns[state.depth].name);
  $('depth-name').textContent = state.mean ? `${middleName(m)} of ${m.columns.length} ${depthWord(m)}` : m.columns[state.depth].name;
  $('mean').checked = state.mean;
  $('head-box').hidden = !m.heads;
  $('head').replaceChildren(...[['-1', `mean of ${m.heads}`], ...Array.from({length: m.heads}, (_, h) => [String(h), String(h)])]
      .map(([value, text]) => Object.assign(make(null, 'option', '', text), {value})));
  $('head').value = String(state.head);
  const modes = [['auto', 'automatic'], ...(m.bounded ? [['full', '0 to 1']] : []),
                 ['all', `all ${depthWord(m)}`], ['view', 'what is shown']];
  if (!modes.some(([mode]) => mode === state.range)) state.range = 'auto';
  $('range').replaceChildren(...modes.map(([value, text]) => Object.assign(make(null, 'option', '', text), {value})));
  $('range').value = state.range;

  const values = Array.from({length: n}, (_, i) => shownValue(i));
  // Map, profile and table show every depth: they are made anew only when more than the depth changed.
  const room = document.body.clientWidth;
  const look = [state.measure, state.head, state.range, state.range === 'view' ? [state.depth, state.mean] : '',
                document.documentElement.dataset.theme, room].join();
  const list = [look, state.sort, state.down, state.rows, ...[...document.querySelectorAll('[data-kind]')]
      .map((box) => box.checked)].join();
  if (look !== drawn.look) chooseScale(values);
  drawLegend(values);
  for (const [i, span] of textOf) if (tokens[i].kind !== 'picture') paint(span, values[i]);
  for (const chip of chips) {
    const known = chip.tokens.map((i) => values[i]).filter(isFinite);
    const mean = known.length ? known.reduce((a, b) => a + b, 0) / known.length : NaN;
    const p = page.pictures[chip.picture];
    chip.element.textContent = `${p ? p.name : 'picture'}: ${chip.tokens.length} tokens, mean ${format(mean)}`;
    paint(chip.element, mean);
  }
  for (const p of page.pictures)
    p.canvases.forEach((canvas, tile) => fill(canvas, p.side, p.side, (x, y) => values[tokenAt(p, tile, y, x)]));
  if (look !== drawn.look) drawMap();
  Object.assign($('map-row').style, {top: `${state.depth * mapSize.height}px`, height: `${mapSize.height}px`,
                                     width: `${n * mapSize.width}px`});
  $('map-row').hidden = state.mean;
  drawProfile();
  if (list !== drawn.list) drawTable();
  for (const cell of document.querySelectorAll('#table .now')) cell.classList.remove('now');
  if (!state.mean) for (const row of $('table').rows) row.cells[state.depth + FIRST_COLUMN].classList.add('now');
  Object.assign(drawn, {look, list});
  markToken();
  if (state.hover < 0 && state.pinned < 0) $('tip').hidden = true;
}
let pending = 0;
function update(changes) {
  Object.assign(state, changes);
  if (!pending) pending = requestAnimationFrame(() => { pending = 0; draw(); showTip(); saveHash(); });
}
function saveHash() {
  const parts = [`show=${measure().key}`, ...(state.mean ? [] : [`depth=${state.depth}`])];
  if (state.head >= 0) parts.push(`head=${state.head}`);
  if (state.range !== 'auto') parts.push(`range=${state.range}`);
  if (state.pinned >= 0) parts.push(`token=${state.pinned}`);
  try { history.replaceState(null, '', '#' + parts.join('&')); } catch { /* some viewers forbid it */ }
}
function loadHash() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const number = (key, none) => /^\d+$/.test(hash.get(key) || '') ? +hash.get(key) : none;
  const at = page.measures.findIndex((m) => m.key === hash.get('show'));
  Object.assign(state, {measure: Math.max(at, 0), depth: number('depth', 0), mean: !hash.has('depth'),
                        head: number('head', -1), range: hash.get('range') || 'auto',
                        pinned: Math.min(number('token', -1), n - 1)});
  const theme = hash.get('theme');
  if (theme === 'dark' || theme === 'light') document.documentElement.dataset.theme = theme;
}

$('origin').textContent = [page.model, `scheme ${page.scheme}`, page.prefill, page.decode, `${n} tokens`].join(' \u00b7 ');
$('method').textContent = `Made by ${page.program} on ${page.backend}. The numbers come from running the prompt and the ` +
    'answer once more through the same model and plan while every step of depth is observed; they are measured, not ' +
    'estimated. This file holds everything it shows and fetches nothing.';
page.measures.forEach((m, i) => {
  const button = make($('measures'), 'button', '', m.name);
  button.type = 'button';
  button.setAttribute('role', 'radio');
  button.addEventListener('click', () => update({measure: i, depth: 0}));
});
buildText();
buildPictures();
$('picture-filter').hidden = !page.pictures.length;
$('depth').addEventListener('input', (e) => update({depth: +e.target.value, mean: false}));
const deeper = (by) => ({depth: state.mean ? (by > 0 ? 0 : measure().columns.length - 1) : state.depth + by, mean: false});
$('prev').addEventListener('click', () => update(deeper(-1)));
$('next').addEventListener('click', () => update(deeper(1)));
$('mean').addEventListener('change', (e) => update({mean: e.target.checked}));
$('head').addEventListener('change', (e) => update({head: +e.target.value}));
$('range').addEventListener('change', (e) => update({range: e.target.value}));
$('opacity').addEventListener('input', (e) => $('pictures').style.setProperty('--opacity', e.target.value / 100));
$('grey').addEventListener('change', (e) => document.querySelectorAll('figure.heat')
    .forEach((p) => p.classList.toggle('grey', e.target.checked)));
$('theme').addEventListener('click', () => {
  const root = document.documentElement.dataset;
  const dark = root.theme ? root.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.theme = dark ? 'light' : 'dark';
  update({});
});
for (const id of ['text', 'table']) {
  const token = (e) => { const at = e.target.closest('[data-token]'); return at ? +at.dataset.token : -1; };
  $(id).addEventListener('mouseover', (e) => hover(token(e), e));
  $(id).addEventListener('mouseleave', () => hover(-1));
  $(id).addEventListener('click', (e) => { if (token(e) >= 0) pin(token(e), e); });
}
const onMap = (e) => {
  const r = $('map').getBoundingClientRect();
  return [clamp(Math.floor((e.clientX - r.left) / mapSize.width), 0, n - 1),
          clamp(Math.floor((e.clientY - r.top) / mapSize.height), 0, measure().columns.length - 1)];
};
$('map').addEventListener('mousemove', (e) => hover(onMap(e)[0], e));
$('map').addEventListener('mouseleave', () => hover(-1));
$('map').addEventListener('click', (e) => { const [token, depth] = onMap(e); update({depth, mean: false, pinned: token}); });
const sortBy = (th) => { if (th) update({sort: th.dataset.key, down: state.sort === th.dataset.key ? !state.down : false}); };
$('table').tHead.addEventListener('click', (e) => sortBy(e.target.closest('th')));
$('table').tHead.addEventListener('keydown', (e) => { if (e.key === 'Enter') sortBy(e.target.closest('th')); });
document.querySelectorAll('#table-tools input').forEach((box) => box.addEventListener('change', () => update({rows: 300})));
$('more').addEventListener('click', () => update({rows: n}));
$('copy').addEventListener('click', copyTable);
$('save').addEventListener('click', saveTable);
document.addEventListener('keydown', (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.tagName === 'SELECT') return;
  const m = measure(), last = m.columns.length - 1;
  if (e.target.type === 'range' && e.target.id !== 'depth') return;
  const token = (by) => ({pinned: clamp((state.pinned < 0 ? (by > 0 ? -1 : n) : state.pinned) + by, 0, n - 1), hover: -1});
  const keys = {
    ArrowLeft: () => deeper(-1), ArrowRight: () => deeper(1),
    Home: () => ({depth: 0, mean: false}), End: () => ({depth: last, mean: false}),
    m: () => ({mean: !state.mean}), Escape: () => ({pinned: -1, hover: -1}),
    h: () => m.heads ? {head: state.head + 1 >= m.heads ? -1 : state.head + 1} : {},
    H: () => m.heads ? {head: state.head < 0 ? m.heads - 1 : state.head - 1} : {},
    '[': () => token(-1), ']': () => token(1),
  };
  const digit = +e.key;
  if (digit >= 1 && digit <= page.measures.length) update({measure: digit - 1, depth: 0});
  else if (keys[e.key]) update({...keys[e.key]()});
  else return;
  e.preventDefault();
});
addEventListener('scroll', () => { if (state.hover < 0) showTip(); }, {passive: true});
addEventListener('hashchange', () => { loadHash(); update({}); });
let resized = 0;
addEventListener('resize', () => { clearTimeout(resized); resized = setTimeout(() => update({}), 150); });
loadHash();
draw();
if (state.pinned >= 0) showTip();
