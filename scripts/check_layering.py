#!/usr/bin/env python3
"""Checks that includes follow the layers of docs/architecture.md: nothing points up.

Usage: check_layering.py [repository root]; exits with 1 and a line per wrong include.
"""
import pathlib
import re
import sys

# What each folder of src/ may include beside itself. train sees eval because it validates with
# the same preprocessing, prompts and scores that answers are judged with.
ALLOWED = {
    "base": set(),
    "formats": {"base"},
    "text": {"base", "formats"},
    "image": {"base"},
    "backend": {"base"},
    "model": {"base", "formats", "backend"},
    "convert": {"base", "formats", "backend", "model", "text"},
    "engine": {"base", "formats", "backend", "model", "text", "image"},
    "eval": {"base", "formats", "backend", "model", "text", "image", "engine"},
    "trace": {"base", "formats", "backend", "model", "text", "image", "engine"},
    "train": {"base", "formats", "backend", "model", "text", "image", "engine", "eval"},
}
# Headers that take long to compile or that must stay optional, and the only folders that see them.
CONFINED = {"ATen/": ["backend/torch"], "torch/": ["backend/torch"], "c10/": ["backend/torch"],
            "immintrin.h": ["backend/cpu", "base"], "simde/": ["backend/cpu"]}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.M)


def problems(root: pathlib.Path):
    src = root / "src"
    for path in sorted(src.rglob("*")):
        if path.suffix not in {".h", ".cc", ".inc"}:
            continue
        relative = path.relative_to(src)
        module = relative.parts[0]
        if module not in ALLOWED:
            yield f"src/{relative}: folder '{module}' is in no layer; add it to {__file__}"
            continue
        for kind, name in INCLUDE.findall(path.read_text()):
            for start, folders in CONFINED.items():
                if name.startswith(start) and not any(str(relative).startswith(f) for f in folders):
                    yield f"src/{relative}: includes <{name}>, which only {', '.join(folders)} may"
            target = name.split("/")[0]
            if kind == '"' and target in ALLOWED and target != module and target not in ALLOWED[module]:
                yield f"src/{relative}: includes \"{name}\", but {module} may not depend on {target}"
            if kind == '"' and target in {"tools", "tests", "bench", "support"}:
                yield f"src/{relative}: includes \"{name}\" from outside the library"


def main() -> int:
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    found = list(problems(root))
    print("\n".join(found) if found else "layering: ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
