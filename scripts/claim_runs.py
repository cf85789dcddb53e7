"""What scripts that make docs/claims.md have in common: results in a JSON file, of runs by variant and seed."""
import concurrent.futures
import json
import pathlib


def load(path: pathlib.Path, empty: dict) -> dict:
    return json.loads(path.read_text()) if path.exists() else empty


def save(path: pathlib.Path, results: dict) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    temporary.replace(path)


def missing(results: dict, names: list, seeds: int) -> list:
    """(name, seed) without a result: seed by seed, so that every variant has a first one before any has a second."""
    return [(name, seed) for seed in range(1, seeds + 1) for name in names
            if str(seed) not in results["runs"].get(name, {})]


def run_all(pool: concurrent.futures.Executor, todo: list, run, shown, path: pathlib.Path, results: dict) -> None:
    """run(name, seed) of all, each result kept as soon as it is there; shown(result) is printed."""
    jobs = {pool.submit(run, name, seed): (name, seed) for name, seed in todo}
    for job in concurrent.futures.as_completed(jobs):
        name, seed = jobs[job]
        results["runs"].setdefault(name, {})[str(seed)] = job.result()
        save(path, results)
        print(f"{name} seed {seed}: {shown(job.result())}", flush=True)
