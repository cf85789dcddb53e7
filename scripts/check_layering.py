#!/usr/bin/env python3
"""Checks that includes follow the layers of docs/architecture.md, nothing pointing up, and that
nothing outside src/model/reuse knows a scheme by name, nor outside src/model/arch an architecture.

Usage: check_layering.py [repository root]; exits with 1 and a line per wrong include or name.
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
    "api": {"base", "formats", "backend", "model", "text", "image", "engine"},
    "eval": {"base", "formats", "backend", "model", "text", "image", "engine"},
    "trace": {"base", "formats", "backend", "model", "text", "image", "engine"},
    "train": {"base", "formats", "backend", "model", "text", "image", "engine", "eval"},
}
# Headers that take long to compile or that must stay optional, and the only folders that see them.
CONFINED = {"ATen/": ["backend/torch"], "torch/": ["backend/torch"], "c10/": ["backend/torch"],
            "immintrin.h": ["backend/cpu", "base"], "simde/": ["backend/cpu"]}

# Where schemes are known by name, and the registry that lists them: one X(name) a line, the first
# of which is the ordinary decoder, which is no way of reuse and may be spoken of anywhere.
REUSE = "src/model/reuse"
REGISTRY = f"{REUSE}/schemes.h"
# Strings that may hold the name of a scheme all the same, and why. Code may nowhere; comments may
# everywhere.
NAMES_IN_STRINGS = [
    # Chat formats are named after the release that was trained with them, and say its name.
    ("src/text/chat/formats.cc", r"(trol|phantom)-(internlm2|qwen2|phi3)|name is TroL"),
    # The word, as in "replay, loops, traversal": what a page says of blocks that are visited again.
    ("src/trace/trace_measures.cc", r"\(replay, "),
    # The model and the recipe that come with this program.
    ("tools/", r"\btiny-trol\b"),
]

# The same for architectures: one entry(name) a line. Chat formats and tokenizers have names of their
# own that are often the same; releases are made of certain architectures.
ARCH = "src/model/arch"
ARCH_REGISTRY = f"{ARCH}/registry.cc"
NAMES_ARCHITECTURES = ["src/text/", REUSE]
ROPE_SCALING = re.compile(r"llama3", re.I)  # a kind of rope, whoever has it
# Programs that are called after one, as messages name them.
PROGRAM = re.compile(r"llama\.cpp|llama-export-lora|convert_(?:llama|mistral)_\w+|ExLlamaV2")

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


# Comments, then strings (raw ones too) and characters.
TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'',
                   re.S)


def without_comments(text: str, string=lambda literal: literal) -> str:
    """The same lines; `string` says what is left of each string."""
    def keep(match: re.Match) -> str:
        if match[0].startswith(("//", "/*")):
            return "\n" * match[0].count("\n")
        return string(match[0])

    return TOKEN.sub(keep, text)


def named_architectures(root: pathlib.Path):
    names = re.findall(r"^\s+entry\((\w+)\)", (root / ARCH_REGISTRY).read_text(), re.M)
    if len(names) < 2:
        sys.exit(f"{ARCH_REGISTRY}: expected the architectures, a line entry(name) each")
    # gpt_neox is GPTNeoX in config.json and gptneox in GGUF files.
    name = re.compile("|".join(n.replace("_", "_?") for n in names), re.I)
    for path in sorted(p for folder in ("src", "tools") for p in (root / folder).rglob("*")):
        relative = path.relative_to(root).as_posix()
        if path.suffix not in {".h", ".cc", ".inc"} or relative.startswith(ARCH) or \
                any(relative.startswith(start) for start in NAMES_ARCHITECTURES):
            continue
        for number, line in enumerate(without_comments(path.read_text()).split("\n"), 1):
            if found := name.search(PROGRAM.sub("", ROPE_SCALING.sub("", line))):
                yield (f"{relative}:{number}: names the architecture '{found[0]}': ask "
                       f"model/arch/architecture.h, or move it to {ARCH}")


def scheme_names(root: pathlib.Path) -> list[str]:
    names = re.findall(r"^\s+X\((\w+)\)", (root / REGISTRY).read_text(), re.M)
    if len(names) < 2:
        sys.exit(f"{REGISTRY}: expected the schemes, a line X(name) each")
    return names[1:]


def names_scheme(text: str, names: list[str]) -> str | None:
    """The scheme that a piece of text names: the word itself or a part of a longer name (kTrolFile,
    trol_gating, PhantomForCausalLM), but neither 'control' nor 'replayed'."""
    for name in names:
        for match in re.finditer(name, text, re.I):
            before, after = text[match.start() - 1:match.start()], text[match.end():match.end() + 1]
            inside = before.islower() and match[0][0].islower() or after.islower()
            if not inside:
                return name
    return None


def named_schemes(root: pathlib.Path):
    names = scheme_names(root)
    for path in sorted(p for folder in ("src", "tools") for p in (root / folder).rglob("*")):
        relative = path.relative_to(root).as_posix()
        if path.suffix not in {".h", ".cc", ".inc", ".js", ".html", ".css", ".txt"}:
            continue
        if relative.startswith(REUSE):
            continue
        text = path.read_text()
        allowed = [pattern for start, pattern in NAMES_IN_STRINGS if relative.startswith(start)]

        def string(literal: str) -> str:
            for pattern in allowed:
                literal = re.sub(pattern, "", literal)
            return literal

        # Line by line what isn't comment, strings without what may stand in them.
        code = without_comments(text, string) if path.suffix not in {".html", ".txt"} else text
        code = re.sub(r"\bstd::(filesystem::)?recursive_\w+", "", code)
        for number, line in enumerate(code.split("\n"), 1):
            if name := names_scheme(line, names):
                yield (f"{relative}:{number}: names the scheme '{name}': ask model/scheme_type.h, or "
                       f"move it to {REUSE}")


def main() -> int:
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    found = list(problems(root)) + list(named_schemes(root)) + list(named_architectures(root))
    print("\n".join(found) if found else "layering: ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
