#!/usr/bin/env python3
"""Opens a trace page in a headless Chromium and judges what it shows by the JSON of the same run.

Usage: check_trace_page.py PAGE.html NUMBERS.json [--browser chromium]
Both from `reprise run ... --trace`, with the same arguments. A copy of the page gets a script that works
its controls; exits with 1 and a line per difference. Not part of the tests: they need no browser.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

CHECKS = r"""
const wrong = [], expect = (ok, what) => { if (!ok) wrong.push(what); };
const same = (a, b) => (b === null ? Number.isNaN(a) : Math.fround(b) === a);
const press = (key) => { document.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true})); draw(); showTip(); };
const point = (element, type, x, y) => element.dispatchEvent(
    new MouseEvent(type, {bubbles: true, clientX: x, clientY: y}));
expect(tokens.length === truth.tokens.length, 'number of tokens');
expect(document.scripts.length === 5, 'scripts: ' + document.scripts.length);  // data, three, this one
page.measures.forEach((m, at) => {
  const t = truth.measures[at];
  expect(m.key === t.key, 'measure ' + m.key);
  t.values.forEach((column, c) => column.forEach((v, i) => expect(same(m.flat[c * n + i], v), `${m.key} ${c} ${i}`)));
  (t.by_head || []).forEach((heads, c) => heads.forEach((of, h) => of.forEach((v, i) => {
    const seen = valueAt(m, c, i, h);
    expect(v === null ? Number.isNaN(seen) : Math.abs(v - seen) <= 0.5 / 65534 + 1e-7, `${m.key} ${c} head ${h} ${i}`);
  })));
  press(String(at + 1));
  press('Home');
  expect(state.depth === 0 && !state.mean, 'Home');
  press('End');
  expect(state.depth === m.columns.length - 1, 'End');
  expect($('depth-name').textContent === m.columns.at(-1).name, 'name of the depth');
  press('ArrowLeft');
  expect(state.depth === Math.max(0, m.columns.length - 2), 'ArrowLeft');
  // Text: the colour of the value, hatched where there is none.
  tokens.forEach((token, i) => {
    if (token.kind === 'picture') return;
    const v = t.values[state.depth][i], span = textOf.get(i);
    expect(span.classList.contains('none') === (v === null), `hatching of token ${i}`);
    if (v !== null) expect(span.style.background.replace(/ /g, '') === css(colour(v)), `colour of token ${i}`);
  });
  // Picture: pointing at the middle of a square names the token that lies there.
  page.pictures.forEach((p) => p.canvases.forEach((canvas, tile) => {
    const r = canvas.getBoundingClientRect();
    for (const [row, column] of [[0, 0], [0, p.side - 1], [p.side - 1, 0], [Math.floor(p.side / 2), 1 % p.side]]) {
      point(canvas, 'mousemove', r.left + (column + 0.5) * r.width / p.side, r.top + (row + 0.5) * r.height / p.side);
      const before = truth.pictures.slice(0, page.pictures.indexOf(p))
          .reduce((sum, q) => sum + (q.columns * q.rows + (q.thumbnail ? 1 : 0)) * q.side * q.side, 0);
      const place = before + tile * p.side * p.side + row * p.side + column;
      const token = truth.tokens.map((x, i) => [x, i]).filter(([x]) => x.kind === 'picture')[place][1];
      expect(state.hover === token, `picture square ${tile} ${row} ${column}`);
      expect($('tip').textContent.includes(`row ${row + 1}, column ${column + 1}`), 'tip of a square');
      const pixel = canvas.getContext('2d').getImageData(column, row, 1, 1).data, v = t.values[state.depth][token];
      expect(v === null ? pixel[3] === 0 : String([...pixel.slice(0, 3)]) === String(colour(v)), `colour of square ${place}`);
    }
    point(canvas, 'mouseleave', 0, 0);
  }));
  // Table: sorted by this depth, none last, and copied with full names.
  Object.assign(state, {sort: String(state.depth), down: true});
  draw();
  const sorted = tableRows().map((i) => t.values[state.depth][i]);
  for (let i = 1; i < sorted.length; ++i)
    expect(sorted[i] === null || (sorted[i - 1] !== null && sorted[i - 1] >= sorted[i]), `order of row ${i}`);
  expect(tableText().split('\n').length === sorted.length + 2, 'lines of the copy');
  Object.assign(state, {sort: 'position', down: false});
  press('m');
  expect(state.mean, 'M');
});
press(']');
expect(state.pinned === 0 && !$('tip').hidden, ']');
press('Escape');
expect(state.pinned === -1, 'Escape');
const loaded = performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:'));
expect(loaded.length === 0, 'fetched: ' + loaded.map((e) => e.name));
document.body.replaceChildren(make(null, 'pre', '', `CHECKED ${JSON.stringify(wrong.slice(0, 20))} of ${wrong.length}`));
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("numbers", type=pathlib.Path)
    parser.add_argument("--browser", default="chromium")
    arguments = parser.parse_args()
    truth = json.dumps(json.loads(arguments.numbers.read_text())).replace("<", "\\u003c")
    html = arguments.page.read_text()
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "page.html"
        copy.write_text(html.replace("</body>", f"<script>{{const truth = {truth};{CHECKS}}}</script></body>"))
        run = subprocess.run([arguments.browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000",
                              "--enable-logging=stderr", "--dump-dom", f"file://{copy}"], capture_output=True, text=True, timeout=300)
    at = run.stdout.find("CHECKED ")
    if at < 0:
        print("the page's checks didn't end:", *[line for line in run.stderr.splitlines() if "CONSOLE" in line], sep="\n")
        return 1
    result = run.stdout[at:run.stdout.find("</pre>", at)]
    print(arguments.page.name, result)
    return 0 if result.startswith("CHECKED []") else 1


if __name__ == "__main__":
    sys.exit(main())
