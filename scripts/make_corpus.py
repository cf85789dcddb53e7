#!/usr/bin/env python3
"""Makes a corpus of plain English prose, about 28 MB, from packages of documentation in Debian 12.

The packages are fetched by `apt-get download` and unpacked by `dpkg-deb -x`: nothing is installed, and root is not
needed. Texts of python3.11-doc, postgresql-doc-15, git-doc, perl-doc and linux-doc-6.1 become train.txt,
validation.txt and test.txt (96, 2 and 2 percent of the bytes of each package, whole documents); those of anarchism, which
speak of other things in other words, become out_of_domain.txt. shipped-train.txt, shipped-validation.txt
and shipped-test.txt are the parts from python3.11-doc and postgresql-doc-15. corpus.json says what each is made of.

Form of the texts: UTF-8, a paragraph a line, an empty line between documents. Documents are in a random order, so
that the beginning of a file is a sample of it.

The same packages and options give the same bytes. A package that the cache holds is not fetched again; to make the same
corpus elsewhere, take the .deb files along.

Needs Python 3.11 (standard library only), apt-get and dpkg-deb.
"""
import argparse
import collections
import collections.abc
import dataclasses
import functools
import gzip
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
from corpus import prose, readers

ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Source:
    files: str  # pattern, below the package's root
    read: collections.abc.Callable[[str], list[str]]
    # Other languages, licences, and pages that list names only.
    left_out: str = r"$^"


@dataclasses.dataclass(frozen=True)
class Package:
    name: str
    licence: str  # SPDX expression
    stated: str  # the same as the package's copyright file says it for all files
    sources: tuple[Source, ...]
    shipped: bool = False
    licence_note: str = ""


def web(files, attribute, value, left_out=r"$^"):
    """Web pages: their text stands in the element whose attribute has that word."""
    return Source(files, functools.partial(readers.html_paragraphs, attribute=attribute, value=value), left_out)


# In this order: of two paragraphs that are alike the first is kept, so the shipped parts come first.
PACKAGES = (
    Package("python3.11-doc", "PSF-2.0", "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2", (
        web("usr/share/doc/python3.11/html/**/*.html", "role", "main", r"/(genindex|license|copyright)[^/]*\.html$"),), True),
    Package("postgresql-doc-15", "PostgreSQL", "PostgreSQL", (
        web("usr/share/doc/postgresql-doc-15/html/*.html", "id", "docContent", r"/(legalnotice|bookindex)\.html$"),), True),
    Package("git-doc", "GPL-2.0-only", "GPL-2", (web("usr/share/doc/git-doc/**/*.html", "id", "content"),)),
    Package("perl-doc", "GPL-1.0-or-later OR Artistic-1.0-Perl", "GPL-1+ or Artistic", (
        Source("usr/share/perl/*/pod/*.pod", readers.pod_paragraphs, r"/(perlgpl|perlartistic)\.pod$"),
        Source("usr/share/man/man3/*.gz", readers.man_paragraphs))),
    Package("linux-doc-6.1", "GPL-2.0-only", "GPL-2", (
        web("usr/share/doc/linux-doc-6.1/html/**/*.html", "role", "main", r"/translations/|/(genindex|search)\.html$"),),
        licence_note="most pages of userspace-api/media and a few others: GFDL-1.1-no-invariants-or-later, by their SPDX lines"),
)
OUT_OF_DOMAIN = Package("anarchism", "GPL-2.0-or-later", "GPL-2", (
    web("usr/share/doc/anarchism/html/*.html", "class", "content",
        r"/(biblio|\w*links|contact|index|new|pdf|translations)\.html$"),))


class Failure(Exception):
    pass


def progress(text: str, passing: bool = True):
    """A line about what is done at the moment, which on a terminal the next one is written over, or one that stays."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="" if passing else "\n", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def command(*words, cwd=None, hint="") -> str:
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    except FileNotFoundError:
        raise Failure(f"{words[0]} is needed (Debian 12)") from None
    if done.returncode:
        raise Failure(f"{' '.join(words)} failed:\n{done.stderr.strip()}{hint}")
    return done.stdout


# -------------------------------------------------------------------------------------- packages


def fetched(package: Package, cache: pathlib.Path) -> pathlib.Path:
    """The package's file in the cache, fetched if there is none."""
    found = sorted(cache.glob(f"{package.name}_*.deb"))
    if len(found) > 1:
        raise Failure(f"{cache} holds several versions of {package.name}: " + ", ".join(f.name for f in found))
    if found:
        return found[0]
    progress(f"downloading {package.name}")
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download.") as work:
        # apt's own user can't write here, which root would be warned of.
        command("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package.name, cwd=work,
                hint="\n(the lists of packages may be missing or old: apt-get update)")
        file, = pathlib.Path(work).glob("*.deb")
        return file.rename(cache / file.name)


def unpacked(file: pathlib.Path) -> pathlib.Path:
    folder = file.parent / "unpacked" / file.stem
    if not folder.exists():
        progress(f"unpacking {file.name}")
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".unpack.") as work:
            command("dpkg-deb", "-x", str(file), f"{work}/package")
            os.rename(f"{work}/package", folder)
    return folder


def stated_licence(copyright_file: str) -> str:
    """The licence of all files not mentioned elsewhere in Debian's machine-readable form; else the text itself."""
    match = re.search(r"^Files: \*\n(?:(?!\n\n).)*?^License: *([^\n]+)", copyright_file, re.M | re.S)
    return match[1] if match else copyright_file


def check_licence(package: Package, folder: pathlib.Path):
    file = folder / "usr/share/doc" / package.name / "copyright"
    if not file.exists():
        raise Failure(f"{package.name} has no copyright file")
    stated = stated_licence(readers.decode(file.read_bytes()))
    if stated != package.stated and not (len(stated.split("\n")) > 1 and package.stated in stated):
        raise Failure(f"the copyright file of {package.name} no longer says '{package.stated}': see {file}")


# ------------------------------------------------------------------------------------- documents


@dataclasses.dataclass
class Document:
    path: str  # the package's name, then the file's path in it
    paragraphs: list[str]

    @property
    def size(self) -> int:
        return sum(len(p.encode()) + 1 for p in self.paragraphs)


def documents(package: Package, folder: pathlib.Path, counts: collections.Counter) -> list[Document]:
    """The prose of every file, in the order of their paths; `counts` gets how many paragraphs were read, and left out why."""
    result = []
    for source in package.sources:
        files = sorted(f for f in folder.glob(source.files) if f.is_file() and not f.is_symlink())
        if not files:
            raise Failure(f"{package.name} has no files {source.files}")
        for at, file in enumerate(files):
            if at % 50 == 0 and sys.stderr.isatty():
                progress(f"{package.name}: {at} of {len(files)} files read")
            path = f"{package.name}/{file.relative_to(folder)}"
            if re.search(source.left_out, path):
                continue
            data = file.read_bytes()
            document = Document(path, [])
            for paragraph in source.read(readers.decode(gzip.decompress(data) if file.suffix == ".gz" else data)):
                text = prose.normalized(paragraph)
                reason = prose.rejection(text)
                if reason:
                    counts[reason] += 1
                else:
                    document.paragraphs.append(text)
            result.append(document)
    return result


class Repetitions:
    """Leaves out paragraphs that are in documents seen before, as they are or nearly."""

    def __init__(self):
        self.texts: set[bytes] = set()
        self.shingles: set[bytes] = set()

    def removed(self, document: Document, counts: collections.Counter) -> Document:
        kept = []
        for text in document.paragraphs:
            digest = hashlib.sha256(text.encode()).digest()
            of_text = prose.shingles(text)
            if digest in self.texts:
                counts["exact duplicate"] += 1
            elif prose.is_near_duplicate(of_text, self.shingles):
                counts["near duplicate"] += 1
            else:
                kept.append(text)
                self.shingles.update(of_text)
            self.texts.add(digest)
        return Document(document.path, kept)


def sample(documents: list[Document], limit: int, seed: int) -> list[Document]:
    """Documents in a random order, up to the limit; one that would go beyond it by more than it stays below is left out."""
    result, size = [], 0
    for document in sorted(documents, key=lambda d: prose.rank(d.path, seed)):
        if size + document.size / 2 <= limit:
            result.append(document)
            size += document.size
    return result


def without_copies(held_out: list[Document], known: set[bytes], counts: collections.Counter) -> list[Document]:
    result = []
    for document in held_out:
        kept = []
        for text in document.paragraphs:
            of_text = prose.shingles(text)
            if prose.is_near_duplicate(of_text, known) or prose.is_copied(of_text, known):
                counts["held out, but in another split"] += 1
            else:
                kept.append(text)
        if kept:
            result.append(Document(document.path, kept))
    return result


# ---------------------------------------------------------------------------------------- corpus


def measures(documents: list[Document]) -> dict:
    return {"documents": len(documents), "paragraphs": sum(len(d.paragraphs) for d in documents),
            "bytes": sum(d.size for d in documents)}


def as_text(documents: list[Document], seed: int) -> bytes:
    ordered = sorted(documents, key=lambda d: prose.rank(d.path, seed))
    return "\n".join("".join(p + "\n" for p in d.paragraphs) for d in ordered).encode()


def make(cache: pathlib.Path, megabytes: float, seed: int) -> tuple[dict[str, bytes], dict]:
    """The files by name, and what corpus.json says."""
    every = (*PACKAGES, OUT_OF_DOMAIN)
    description = {"megabytes": megabytes, "seed": seed, "form": "a paragraph a line, an empty line between documents",
                   "packages": {}, "files": {}}
    counts, texts = {p.name: collections.Counter() for p in every}, {}
    repetitions = Repetitions()
    for package in every:
        file = fetched(package, cache)
        folder = unpacked(file)
        check_licence(package, folder)
        # Version and licence first, so that corpus.json begins with what the texts are.
        description["packages"][package.name] = {
            "version": command("dpkg-deb", "-f", str(file), "Version").strip(), "licence": package.licence,
            **({"licence_note": package.licence_note} if package.licence_note else {}), "shipped": package.shipped,
            "package_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        found = documents(package, folder, counts[package.name])
        texts[package.name] = [d for d in (repetitions.removed(d, counts[package.name]) for d in found) if d.paragraphs]
        size = sum(d.size for d in texts[package.name])
        progress(f"{package.name}: {len(found)} files, {size / 1e6:.2f} MB of prose", passing=False)

    sizes = {p.name: sum(d.size for d in texts[p.name]) for p in PACKAGES}
    parts = {split: {} for split in prose.SPLITS}
    for name, limit in prose.limits(sizes, int(megabytes * 1e6)).items():
        chosen = sample(texts[name], limit, seed) if limit < sizes[name] else texts[name]
        description["packages"][name]["documents_left_out_for_size"] = len(texts[name]) - len(chosen)
        by_path = prose.split({d.path: d.size for d in chosen})
        for split in prose.SPLITS:
            parts[split][name] = [d for d in chosen if by_path[d.path] == split]

    # Where one of two similar paragraphs was longer, the shorter may have come first and both be there. So what is held
    # out is compared once more, with all that is trained on and then with the other held-out texts.
    known: set[bytes] = set()

    def learn(documents):
        known.update(s for d in documents for text in d.paragraphs for s in prose.shingles(text))
    for name in sizes:
        learn(parts["train"][name])
    for split in prose.SPLITS[1:]:
        for name in sizes:
            parts[split][name] = without_copies(parts[split][name], known, counts[name])
        for name in sizes:
            learn(parts[split][name])
    other = without_copies(texts[OUT_OF_DOMAIN.name], known, counts[OUT_OF_DOMAIN.name])

    shipped = [p.name for p in PACKAGES if p.shipped]
    files = {f"{s}.txt": [d for name in sizes for d in parts[s][name]] for s in prose.SPLITS}
    files["out_of_domain.txt"] = other
    files |= {f"shipped-{s}.txt": [d for name in shipped for d in parts[s][name]] for s in prose.SPLITS}
    for package in every:
        entry = description["packages"][package.name]
        entry["paragraphs_left_out"] = dict(sorted(counts[package.name].items()))
        entry |= {"out_of_domain": measures(other)} if package == OUT_OF_DOMAIN else {
            split: measures(parts[split][package.name]) for split in prose.SPLITS}
    outputs = {}
    for name, content in files.items():
        outputs[name] = as_text(content, seed)
        description["files"][name] = measures(content) | {
            "bytes": len(outputs[name]), "words": len(outputs[name].split()), "sha256": hashlib.sha256(outputs[name]).hexdigest()}
    return outputs, description


def write(out: pathlib.Path, outputs: dict[str, bytes]):
    """All files are complete before the first takes its place; corpus.json, which has their hashes, is the last."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".make.") as work:
        for name, data in outputs.items():
            (pathlib.Path(work) / name).write_bytes(data)
        for name in outputs:
            os.replace(f"{work}/{name}", out / name)


def summary(description: dict, megabytes: float):
    columns = (*prose.SPLITS, "out_of_domain")
    print(f"{'bytes':<22}" + "".join(f"{c:>14}" for c in columns) + f"{'documents':>11}{'duplicates':>12}  licence")
    total = collections.Counter()
    for name, entry in description["packages"].items():
        row = {c: entry[c]["bytes"] for c in columns if c in entry}
        total.update(row)
        duplicates = sum(n for reason, n in entry["paragraphs_left_out"].items() if "duplicate" in reason)
        print(f"{name:<22}" + "".join(f"{row.get(c, 0):>14,}" for c in columns)
              + f"{sum(entry[c]['documents'] for c in row):>11,}{duplicates:>12,}  {entry['licence']}")
    print(f"{'all':<22}" + "".join(f"{total[c]:>14,}" for c in columns))
    made = sum(total[s] for s in prose.SPLITS)
    if made < 0.97 * megabytes * 1e6:
        print(f"note: the packages have {made / 1e6:.1f} MB of such prose, less than the {megabytes:g} asked for")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=pathlib.Path, help="folder for the texts and corpus.json")
    parser.add_argument("--cache", type=pathlib.Path, default=ROOT / ".cache/corpus", metavar="DIR",
                        help="folder for the packages, 70 MB, and what is in them, 350 MB (default: .cache/corpus)")
    parser.add_argument("--megabytes", type=float, default=28, metavar="N",
                        help="train.txt, validation.txt and test.txt together, in 10^6 bytes (default: 28)")
    parser.add_argument("--seed", type=int, default=0, metavar="N",
                        help="which documents are left out where there are too many, and the order of all (default: 0)")
    args = parser.parse_args()
    if not args.megabytes > 0:
        parser.error("--megabytes must be positive")
    try:
        args.cache.mkdir(parents=True, exist_ok=True)
        outputs, description = make(args.cache.resolve(), args.megabytes, args.seed)
        outputs["corpus.json"] = (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode()
        write(args.out, outputs)
    except (Failure, OSError) as failure:
        sys.exit(f"error: {failure}")
    summary(description, args.megabytes)


if __name__ == "__main__":
    main()
