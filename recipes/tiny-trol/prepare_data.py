#!/usr/bin/env python3
"""Turns the easy-vqa package (PyPI, MIT) into the JSON lines that `reprise train` and `reprise eval` read.

Usage: prepare_data.py PACKAGE_FOLDER OUT_FOLDER
PACKAGE_FOLDER is the folder that holds data/train and data/test. Writes OUT/train.jsonl, OUT/test.jsonl
and links OUT/train, OUT/test to the pictures.
"""
import json
import pathlib
import sys

package, out = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
for split in ("train", "test"):
    questions = json.loads((package / "data" / split / "questions.json").read_text())
    with open(out / f"{split}.jsonl", "w") as lines:
        for question, answer, image in sorted(questions, key=lambda q: q[2]):
            lines.write(json.dumps({"image": f"{image}.png", "question": question, "answer": answer}) + "\n")
    link = out / split
    if not link.exists():
        link.symlink_to(package / "data" / split / "images")
    print(f"{split}: {len(questions)} questions")
