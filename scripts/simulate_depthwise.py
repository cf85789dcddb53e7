#!/usr/bin/env python3
"""Simulates how fast a looped model answers many requests under four schedules, from measured times.

  scripts/simulate_depthwise.py TIMES.json --rows 8 64 512 --shares 0.5 0.25 0.25
  scripts/simulate_depthwise.py --check BENCH.json

TIMES.json is what bench_depthwise --json prints, or by hand {"loops": 3, "times": {"embed": [[rows,
seconds], ...], "core": ..., "head": ..., "rest": ...}}: the embedding, one loop over the blocks, norm +
head, and a loop for keys and values alone of tokens that left (may be missing: no time), by rows. Between measured row counts times are interpolated, beyond them they go on as the last two do.

Time goes in sweeps, as in the scheduler: everybody who is under way runs one loop. Schedules:
  sequence   every token runs all loops; all requests go from token to token together
  cohort     rows that left drop out; the next token when all have theirs; a new request when all of
             those that run have ended
  refill     the same, but ended requests are replaced at every token's end
  depthwise  a request goes on when its own token is there
Only decoding is simulated; there are always requests that wait.

--check simulates the cells of a bench_depthwise --json file with the exits that were measured and
prints simulated and measured tokens a second and the error.
"""
import argparse
import json
import random
import sys

SCHEDULES = ("sequence", "cohort", "refill", "depthwise")


def fail(text):
    sys.exit(f"simulate_depthwise.py: error: {text}")


class Times:
    """Seconds by rows: 0 for none, straight lines between the points."""

    def __init__(self, points, what):
        good = isinstance(points, list) and points and all(
            isinstance(p, list) and len(p) == 2 and p[0] >= 1 and p[1] >= 0 for p in points)
        if not good:
            fail(f"key 'times.{what}': expected a list of [rows, seconds]")
        self.points = sorted((float(n), float(s)) for n, s in points)
        self.factor = 1.0
        self.known = {}

    def __call__(self, rows):
        if rows not in self.known:
            self.known[rows] = self.at(rows)
        return self.factor * self.known[rows]

    def at(self, rows):
        points = self.points
        if rows <= 0:
            return 0.0
        if rows <= points[0][0] or len(points) == 1:
            return points[0][1] * max(1.0, rows / points[0][0])
        for (n0, s0), (n1, s1) in zip(points, points[1:]):
            if rows <= n1:
                return s0 + (s1 - s0) * (rows - n0) / (n1 - n0)
        (n0, s0), (n1, s1) = points[-2:]
        return s1 + max(0.0, (s1 - s0) / (n1 - n0)) * (rows - n1)


class Machine:
    def __init__(self, model, where):
        times = model.get("times")
        if not isinstance(times, dict):
            fail(f"{where}: key 'times': expected embed, core and head, as bench_depthwise --json prints them")
        self.embed, self.core, self.head = (Times(times.get(k), k) for k in ("embed", "core", "head"))
        self.rest = Times(times["rest"], "rest") if times.get("rest") else lambda rows: 0.0
        self.loops = model.get("loops")
        if not isinstance(self.loops, int) or self.loops < 1:
            fail(f"{where}: key 'loops': expected 1 or more, found {self.loops}")
        # Whether all rows at a loop end go through the head, or only those that leave.
        self.reads_logits = bool(model.get("reads_logits", False))


class Drawn:
    """Depths (loops a token runs, 1 to all of them) with these shares by loop; the token before's is
    kept with probability `keep`."""

    def __init__(self, shares, keep, seed):
        self.shares, self.keep, self.random = shares, keep, random.Random(seed)
        self.depths = range(1, len(shares) + 1)

    def request(self, tokens):
        depth = None
        for _ in range(tokens):
            if depth is None or self.random.random() >= self.keep:
                depth = self.random.choices(self.depths, self.shares)[0]
            yield depth


class Recorded:
    """The depths of recorded answers, one after the other and again."""

    def __init__(self, lists):
        self.lists, self.next = lists, 0

    def request(self, tokens):
        answer = self.lists[self.next % len(self.lists)]
        self.next += 1
        for i in range(tokens):
            yield answer[i % len(answer)]


class Result:
    """What was measured while other requests waited."""

    def __init__(self):
        self.seconds = self.tokens = self.loops = self.heads = self.head_rows = 0

    def rate(self):
        return self.tokens / self.seconds

    def mean_depth(self):
        return self.loops / self.tokens


def simulate(machine, schedule, rows, depths, lengths, requests, rest=0.0):
    """Answers `requests` requests, more than the `rows` that run at a time. depths.request(n): the
    depths of n tokens; lengths(): n of the next request. rest: what a deeper row of a token that
    left costs as a share of a row (1: --exit-kv exact); 0: the machine's time for its keys and values."""
    loops = machine.loops
    waiting = requests
    live = []  # tokens under way: [loops run, its depth, its request]
    ready = []  # requests whose next token may start
    behind = [0] * loops  # by loop the rows of tokens that left and have it still to run
    result = Result()

    def token_of(request):
        depth = next(request, None)
        return None if depth is None else [0, loops if schedule == "sequence" else depth, request]

    while True:
        started = []
        if schedule == "depthwise" or not live:
            started = [token for token in map(token_of, ready) if token]
            ready = []
            if schedule != "cohort" or not started:
                while waiting > 0 and len(live) + len(started) < rows:
                    waiting -= 1
                    started.append(token_of(depths.request(lengths())))
            live += started
        if not live:
            return result
        deeper = sum(behind)
        judged = len(live) if machine.reads_logits and schedule != "sequence" else 0
        seconds = machine.embed(len(started)) + machine.core(len(live) + rest * deeper)
        if rest == 0:
            seconds += machine.rest(deeper)
        behind = [0] + behind[:-1]
        leave, stay = [], []
        for token in live:
            token[0] += 1
            (leave if token[0] == token[1] else stay).append(token)
        for token in leave:
            if token[0] < loops:
                behind[token[0]] += 1
        head_rows = max(judged, len(leave))
        seconds += machine.head(head_rows)
        if waiting > 0:
            result.seconds += seconds
            result.tokens += len(leave)
            result.loops += sum(token[1] for token in leave)
            result.heads += head_rows > 0
            result.head_rows += head_rows
        live = stay
        ready += [token[2] for token in leave]


def bound_rate(machine, rows, found, rest):
    """Tokens a second of rows that never wait: the parts' times at the exits of a simulation."""
    depth = found.mean_depth()
    per_head = found.head_rows / found.heads
    heads = found.head_rows / found.tokens * rows / per_head
    work = rows * (1 + rest * (machine.loops / depth - 1))
    seconds = machine.embed(rows) + depth * machine.core(work) + heads * machine.head(per_head)
    return rows / seconds


def lengths_of(mean, spread, seed):
    draw = random.Random(seed)
    return lambda: max(1, round(mean * (1 + spread * (2 * draw.random() - 1))))


def read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        fail(f"{path}: {error}")


def models_of(data, path):
    if not isinstance(data, dict):
        fail(f"{path}: expected an object, as bench_depthwise --json prints it")
    models = data.get("models", [data])
    return [(model.get("model", path), model, Machine(model, path)) for model in models]


def read_depths(path, loops):
    lists = read_json(path)
    good = isinstance(lists, list) and lists and all(
        isinstance(one, list) and one and all(isinstance(d, int) and 1 <= d <= loops for d in one) for one in lists)
    if not good:
        fail(f"{path}: expected a list of answers, each a list of tokens' depths from 1 to {loops}")
    return lists


def check_shares(shares, loops):
    if len(shares) != loops or min(shares) < 0 or sum(shares) <= 0:
        fail(f"shares: expected {loops} numbers, one for each loop, found {shares}")
    return shares


def compare(path, seed):
    """Simulated beside measured, by cell."""
    data = read_json(path)
    rest = 1.0 if data.get("exit_kv") == "exact" else 0.0
    rows_of = []
    for name, model, machine in models_of(data, path):
        for cell in model.get("cells", []):
            rows = cell["rows"]
            # A cell's own time at its rows, the shape of the curve from all of them.
            machine.core.factor = 1.0
            machine.core.factor = cell.get("core_seconds", machine.core(rows)) / machine.core(rows)
            for schedule, simulated in (("sequence", "sequence"), ("cohort", "refill"), ("depthwise", "depthwise")):
                # All that a window runs is decoding: no request ends.
                shares = cell["exits"].get(schedule) or [0] * (machine.loops - 1) + [1]
                depths = Drawn(check_shares(shares, machine.loops), cell.get("keeps", 0), seed)
                found = simulate(machine, simulated, rows, depths, lambda: 1000, 2 * rows, rest).rate()
                measured = cell["tokens_per_second"][schedule]
                rows_of.append({"model": name, "depths": cell["depths"], "rows": rows, "schedule": schedule,
                                "simulated": found, "measured": measured, "error": found / measured - 1})
    if not rows_of:
        fail(f"{path}: no measured cells")
    return rows_of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("times", nargs="?", help="TIMES.json")
    parser.add_argument("--check", metavar="BENCH.json", help="compare with the measured cells of this file")
    parser.add_argument("--model", help="which model of TIMES.json; default: the first")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 16, 64], help="requests at a time")
    parser.add_argument("--shares", type=float, nargs="+", help="share of tokens that leave at each loop")
    parser.add_argument("--keep", type=float, default=0.0, help="probability that a token leaves where the one "
                        "before it left (0: independent)")
    parser.add_argument("--depths", metavar="FILE.json", help="recorded answers instead of --shares: a list of "
                        "lists of depths, 1 to the number of loops")
    parser.add_argument("--tokens", type=int, default=256, help="of an answer, on average")
    parser.add_argument("--spread", type=float, default=0.0, help="answers' lengths differ by up to this share")
    parser.add_argument("--requests", type=int, default=8, help="for each row")
    parser.add_argument("--rest", type=float, default=0.0, help="cost of a deeper row of a token that left as a "
                        "share of a row (1: --exit-kv exact) instead of TIMES.json's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if (args.times is None) == (args.check is None):
        parser.error("expected TIMES.json or --check BENCH.json")
    if args.check:
        cells = compare(args.check, args.seed)
        if args.json:
            return print(json.dumps(cells, indent=1))
        print(f"{'model':16} {'depths':12} rows schedule   simulated  measured  error")
        for cell in cells:
            print(f"{cell['model']:16} {cell['depths']:12} {cell['rows']:4} {cell['schedule']:9} "
                  f"{cell['simulated']:10.1f} {cell['measured']:9.1f} {100 * cell['error']:+5.1f}%")
        return None
    if min(args.rows) < 1 or args.tokens < 1 or args.requests < 2 or not 0 <= args.keep <= 1 \
            or not 0 <= args.spread <= 1 or args.rest < 0:
        fail("expected rows and tokens of 1 or more, 2 or more requests a row, --keep and --spread from 0 to 1, "
             "--rest of 0 or more")
    models = [entry for entry in models_of(read_json(args.times), args.times) if args.model in (None, entry[0])]
    if not models:
        fail(f"{args.times}: no model '{args.model}'")
    _, _, machine = models[0]
    if args.depths:
        recorded = read_depths(args.depths, machine.loops)
    elif args.shares:
        check_shares(args.shares, machine.loops)
    else:
        fail("expected --shares or --depths")
    table = []
    for rows in args.rows:
        cell = {"rows": rows}
        for schedule in SCHEDULES:
            depths = Recorded(recorded) if args.depths else Drawn(args.shares, args.keep, args.seed)
            lengths = lengths_of(args.tokens, args.spread, args.seed)
            found = simulate(machine, schedule, rows, depths, lengths, args.requests * rows, args.rest)
            cell[schedule] = found.rate()
        cell["mean_depth"] = found.mean_depth()
        cell["bound"] = bound_rate(machine, rows, found, args.rest)
        table.append(cell)
    if args.json:
        return print(json.dumps(table, indent=1))
    print("tokens a second; bound: rows that never wait")
    print("rows  depth   sequence     cohort     refill  depthwise      bound  over sequence  over the best other")
    for cell in table:
        best = max(cell[schedule] for schedule in SCHEDULES[:3])
        print(f"{cell['rows']:4} {cell['mean_depth']:6.2f} " + " ".join(
            f"{cell[schedule]:10.1f}" for schedule in SCHEDULES + ("bound",)) +
            f" {cell['depthwise'] / cell['sequence']:14.3f} {cell['depthwise'] / best:20.3f}")
    return None


if __name__ == "__main__":
    main()
