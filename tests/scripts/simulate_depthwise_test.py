"""scripts/simulate_depthwise.py against what can be computed by hand."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts/simulate_depthwise.py"
sys.path.insert(0, str(SCRIPT.parent))
import simulate_depthwise as sim  # noqa: E402


def machine(core, embed=0.001, head=0.002, loops=3):
    times = {"embed": [[1, embed], [64, embed]], "core": core, "head": [[1, head], [64, head]]}
    return sim.Machine({"loops": loops, "times": times}, "test")


def rate(what, schedule, shares, rows=8, keep=0.0, lengths=lambda: 200, rest=0.0):
    return sim.simulate(what, schedule, rows, sim.Drawn(shares, keep, 3), lengths, 6 * rows, rest)


class Simulation(unittest.TestCase):
    flat = machine([[1, 0.01], [64, 0.01]])  # as long whatever runs

    def test_sequence_is_the_sum_of_its_parts(self):
        self.assertAlmostEqual(rate(self.flat, "sequence", [1, 0, 0]).rate(), 8 / (0.001 + 3 * 0.01 + 0.002))

    def test_nothing_leaves(self):
        rates = {schedule: rate(self.flat, schedule, [0, 0, 1]).rate() for schedule in sim.SCHEDULES}
        for schedule, found in rates.items():
            self.assertAlmostEqual(found, rates["sequence"], msg=schedule)

    def test_depthwise_waits_for_nobody(self):
        found = rate(self.flat, "depthwise", [0.5, 0.25, 0.25])
        self.assertAlmostEqual(found.mean_depth(), 1.75, delta=0.06)
        # Every sweep has all rows, a token that starts and one that leaves.
        self.assertAlmostEqual(found.rate(), 8 / found.mean_depth() / 0.013, delta=1)
        self.assertLess(rate(self.flat, "refill", [0.5, 0.25, 0.25]).rate(), found.rate())

    def test_the_bound_is_not_passed(self):
        for rows in (1, 4, 16):
            for keep in (0.0, 0.9):
                what = machine([[1, 0.01], [4, 0.012], [64, 0.1]])
                found = rate(what, "depthwise", [0.5, 0.25, 0.25], rows, keep)
                share = found.rate() / sim.bound_rate(what, rows, found, 0)
                self.assertGreater(share, 0.95)
                self.assertLess(share, 1.01)

    def test_refilling_matters_where_lengths_differ(self):
        lengths = sim.lengths_of(100, 0.9, 1)
        self.assertGreater(rate(self.flat, "refill", [0, 0, 1], lengths=lengths).rate(),
                           1.2 * rate(self.flat, "cohort", [0, 0, 1], lengths=lengths).rate())

    def test_deeper_rows_of_those_that_left_cost(self):
        line = machine([[1, 0.001], [64, 0.064]], embed=0, head=0)
        found = rate(line, "depthwise", [1, 0, 0], rest=1.0)
        self.assertAlmostEqual(found.rate(), 1000 / 3, delta=5)  # as many rows as at full depth

    def test_correlated_depths_have_the_same_shares(self):
        depths = list(sim.Drawn([0.5, 0.25, 0.25], 0.9, 1).request(40000))
        self.assertAlmostEqual(depths.count(1) / len(depths), 0.5, delta=0.03)
        kept = sum(a == b for a, b in zip(depths, depths[1:])) / len(depths)
        self.assertAlmostEqual(kept, 0.9 + 0.1 * 0.375, delta=0.01)

    def test_times_between_and_beyond_the_measured(self):
        times = sim.Times([[4, 2.0], [1, 1.0], [8, 3.0]], "core")
        self.assertEqual([times(n) for n in (0, 1, 2.5, 6, 16)], [0, 1, 1.5, 2.5, 5])


class Program(unittest.TestCase):
    def call(self, *args):
        return subprocess.run([sys.executable, SCRIPT, *map(str, args)], capture_output=True, text=True, check=False)

    def test_check_and_errors(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "bench.json"
            times = {"embed": [[4, 0.001]], "core": [[4, 0.01]], "head": [[4, 0.002]]}
            cell = {"depths": "independent", "rows": 4, "keeps": 0,
                    "tokens_per_second": {"sequence": 4 / 0.033, "cohort": 200, "depthwise": 250},
                    "exits": {"cohort": [2, 1, 1], "depthwise": [2, 1, 1]}}
            model = {"model": "m", "loops": 3, "reads_logits": False, "times": times, "cells": [cell]}
            path.write_text(json.dumps({"exit_kv": "propagate", "models": [model]}))
            done = self.call("--check", path, "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            cells = json.loads(done.stdout)
            self.assertEqual([c["schedule"] for c in cells], ["sequence", "cohort", "depthwise"])
            self.assertAlmostEqual(cells[0]["error"], 0)
            self.assertIn("depthwise", self.call("--check", path).stdout)

            depths = pathlib.Path(folder) / "depths.json"
            depths.write_text("[[1, 1, 2], [3]]")
            done = self.call(path, "--depths", depths, "--rows", 2, "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertAlmostEqual(json.loads(done.stdout)[0]["sequence"], 2 / 0.033)
            for wrong, args in (("expected 3 numbers", [path, "--shares", 1, 2]),
                                ("depths from 1 to 3", [path, "--depths", path]),
                                ("no model 'x'", [path, "--model", "x", "--shares", 1, 1, 1]),
                                ("--shares or --depths", [path]), ("key 'times'", [depths.with_name("e.json")])):
                depths.with_name("e.json").write_text('{"loops": 2}')
                done = self.call(*args)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(wrong, done.stderr)


if __name__ == "__main__":
    unittest.main()
