#!/usr/bin/env python3
"""Makes tokenizer.json of the tiny TroL: byte-level BPE whose merges come from the words of the
training questions and answers only, so that every one of them is a single token and any other text
still has tokens (bytes). Needs `pip install tokenizers`; the result is in the repository.

Usage: make_tokenizer.py QUESTIONS.jsonl > tokenizer.json
"""
import json
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

words = set()
for line in open(sys.argv[1]):
    example = json.loads(line)
    for i, word in enumerate(example["question"].rstrip("?").split()):
        words.add((" " if i else "") + word)
    words.add(example["answer"])

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=10_000,
    min_frequency=1,
    special_tokens=["<image>", "<|endoftext|>"],
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
)
tokenizer.train_from_iterator(sorted(words), trainer)
text = tokenizer.to_str(pretty=False)
sys.stdout.write(text + "\n")
