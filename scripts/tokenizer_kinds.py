"""Tokenizers of published kinds, small: trained here, with the normalizers, patterns, flags and post-processors that the releases'
tokenizer.json (or tokenizer.model) have. Needs tokenizers; sentencepiece for those that are SentencePiece's.

    import tokenizer_kinds
    tokenizer_kinds.KINDS["llama3"].build(folder, size=1500)
"""
import dataclasses
import io
import json
import pathlib
import random
import sys
from pydoc_data.topics import topics

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/data/text"))
from make import CORPUS, TEXTS  # noqa: E402 (texts in many scripts, and what tokenizers get wrong)

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LARGE, SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def case_pattern(endings, digits):
    before = r"[^\r\n\p{L}\p{N}]?"
    return (f"{before}{LARGE}*{SMALL}+{endings}|{before}{LARGE}+{SMALL}*{endings}|{digits}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


@dataclasses.dataclass
class ByteLevel:
    """tokenizer.json, BPE of bytes."""
    patterns: list          # of Split steps, in order; [] : ByteLevel's own
    pre: str                # tokenizer.ggml.pre
    special: list           # the first is <eos> and padding
    bos: str = None         # put in front of a text
    eos: str = None
    nfc: bool = False
    ignore_merges: bool = False
    digits: bool = False    # a step Digits in front
    added: tuple = ()       # not special
    normalized: bool = True  # of those
    cls: str = "PreTrainedTokenizerFast"

    judge = "tokenizers"

    def build(self, folder, size=1500):
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

        tok = Tokenizer(models.BPE(ignore_merges=self.ignore_merges))
        if self.nfc:
            tok.normalizer = normalizers.NFC()
        own = not self.patterns
        steps = [pre_tokenizers.Digits(individual_digits=True)] if self.digits else []
        steps += [pre_tokenizers.Split(Regex(p), "isolated") for p in self.patterns]
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own)
        tok.pre_tokenizer = pre_tokenizers.Sequence([*steps, last]) if steps else last
        tok.decoder = decoders.ByteLevel()
        tok.train_from_iterator(corpus(), trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
        tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in self.special])
        tok.add_tokens([AddedToken(t, special=False, normalized=self.normalized) for t in self.added])
        tok.post_processor = processors.ByteLevel(trim_offsets=False)
        if self.bos:
            tok.post_processor = processors.Sequence([
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(single=f"{self.bos} $A", pair=f"{self.bos} $A {self.bos}:1 $B:1",
                                              special_tokens=[(self.bos, tok.token_to_id(self.bos))])])
        tok.save(str(folder / "tokenizer.json"))
        config = dict(tokenizer_class=self.cls, eos_token=self.eos or self.special[0], bos_token=self.bos,
                      pad_token=self.special[0], unk_token=None, clean_up_tokenization_spaces=False,
                      model_max_length=64, added_tokens_decoder=added_decoder(tok))
        write_config(folder, config)
        return tok.get_vocab_size()


@dataclasses.dataclass
class SentencePiece:
    """tokenizer.model, and beside it tokenizer.json as the release has it."""
    special: list                # control tokens behind the vocabulary
    rstrip: tuple = ()           # control tokens that take the white space on their right
    model: dict = dataclasses.field(default_factory=dict)  # of the trainer
    bos: str = "<s>"
    eos: str = "</s>"
    add_bos: bool = True
    prefix: str = "always"       # "▁" in front: always, first (of a whole text), never
    split_spaces: bool = False   # Gemma's step of no effect
    cls: str = "PreTrainedTokenizerFast"
    json: bool = True

    @property
    def judge(self):
        return "tokenizers" if self.json else "sentencepiece"

    pre = "default"

    def build(self, folder, size=1500):
        import sentencepiece

        out = io.BytesIO()
        options = dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", split_digits=True,
                       remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
                       add_dummy_prefix=self.prefix != "never", character_coverage=0.99) | self.model
        size += 200 if options["byte_fallback"] else 0
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(line for part in corpus() for line in part.split("\n") if line.strip()),
            model_writer=out, vocab_size=size, hard_vocab_limit=False, minloglevel=2, num_threads=1, **options)
        (folder / "tokenizer.model").write_bytes(out.getvalue())
        config = dict(tokenizer_class=self.cls, bos_token=self.bos, eos_token=self.eos, unk_token="<unk>", pad_token=None,
                      add_bos_token=self.add_bos, add_eos_token=False, clean_up_tokenization_spaces=False, model_max_length=64)
        if not self.json:
            sp = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
            added = {str(i): dict(content=sp.id_to_piece(i), lstrip=False, rstrip=False, normalized=False, single_word=False,
                                  special=True)
                     for i in range(sp.vocab_size()) if sp.is_control(i) or sp.is_unknown(i)}
            write_config(folder, config | dict(added_tokens_decoder=added))
            return sp.vocab_size()
        tok = self.tokenizer_json(out.getvalue())
        tok.save(str(folder / "tokenizer.json"))
        write_config(folder, config | dict(added_tokens_decoder=added_decoder(tok)))
        return tok.get_vocab_size()

    def tokenizer_json(self, proto):
        """As transformers' converters make it of tokenizer.model."""
        import sentencepiece
        from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

        sp = sentencepiece.SentencePieceProcessor(model_proto=proto)
        ids = range(sp.vocab_size())
        plain = {sp.id_to_piece(i): i for i in ids}
        mergeable = {sp.id_to_piece(i): sp.get_score(i) for i in ids
                     if not (sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i) or sp.is_unused(i))}
        merges = []
        for piece, score in mergeable.items():
            parts = [(piece[:i], piece[i:], score) for i in range(1, len(piece))
                     if piece[:i] in mergeable and piece[i:] in mergeable]
            merges += sorted(parts, key=lambda m: (plain[m[0]], plain[m[1]]))
        merges = [m[:2] for m in sorted(merges, key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)]
        tok = Tokenizer(models.BPE(plain, merges, unk_token="<unk>", fuse_unk=True,
                                   byte_fallback=any(sp.is_byte(i) for i in ids)))
        spaces = normalizers.Replace(" ", "▁")
        strip = [decoders.Strip(content=" ", left=1)] if self.prefix != "never" else []
        tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
        if self.prefix == "always":
            tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
        elif self.prefix == "first":
            tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
        else:
            tok.normalizer = spaces
        if self.split_spaces:
            tok.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        own = [sp.id_to_piece(i) for i in ids if sp.is_control(i) or sp.is_unknown(i)]
        tok.add_special_tokens([AddedToken(t, special=True, normalized=False, rstrip=t in self.rstrip) for t in [*own, *self.special]])
        defined = self.model.get("user_defined_symbols", [])
        tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in defined])
        if self.add_bos:
            tok.post_processor = processors.TemplateProcessing(
                single=f"{self.bos} $A", pair=f"{self.bos} $A {self.bos}:1 $B:1",
                special_tokens=[(self.bos, tok.token_to_id(self.bos))])
        return tok


def added_decoder(tok):
    return {str(i): dict(content=t.content, lstrip=t.lstrip, rstrip=t.rstrip, normalized=t.normalized,
                         single_word=t.single_word, special=t.special)
            for i, t in sorted(tok.get_added_tokens_decoder().items())}


def write_config(folder, config):
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def corpus():
    yield CORPUS
    yield CORPUS.upper()
    for _, topic in sorted(topics.items()):  # Python's own manual: prose and code
        yield topic


CHAT = ["<|im_end|>", "<|im_start|>"]
GEMMA = dict(model=dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", bos_piece="<bos>", eos_piece="<eos>",
                        user_defined_symbols=["<start_of_turn>", "<end_of_turn>", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁"]),
             bos="<bos>", eos="<eos>", prefix="never", split_spaces=True)
KINDS = {
    "gpt2": ByteLevel([], "gpt-2", ["<|endoftext|>"]),
    "llama3": ByteLevel([WORDS + r"\p{N}{1,3}" + REST], "llama-bpe", ["<|end_of_text|>", "<|begin_of_text|>", "<|eot_id|>"],
                        bos="<|begin_of_text|>", eos="<|eot_id|>", ignore_merges=True),
    "qwen2": ByteLevel([WORDS + r"\p{N}" + REST], "qwen2", ["<|endoftext|>", *CHAT], eos="<|im_end|>", nfc=True,
                       added=("<tool_call>", "</tool_call>", "<think>"), normalized=False, cls="Qwen2Tokenizer"),
    "smollm2": ByteLevel([], "smollm", ["<|endoftext|>", *CHAT], eos="<|im_end|>", digits=True),
    "gpt_neox": ByteLevel([], "olmo", ["<|endoftext|>", "<|padding|>"], nfc=True,
                          added=tuple(" " * n for n in range(24, 1, -1))),
    "gpt4o": ByteLevel([case_pattern("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r"\p{N}{1,3}")], "gpt-4o",
                       ["<|endoftext|>", "<|endofprompt|>"]),
    "dolma2": ByteLevel([WORDS + r"\p{N}{1,3}" + REST], "dbrx", ["<|endoftext|>", "<|pad|>"], eos="<|endoftext|>"),
    "tekken": ByteLevel([case_pattern("", r"\p{N}")], "tekken", ["</s>", "<s>", "[INST]", "[/INST]"], bos="<s>", eos="</s>",
                        ignore_merges=True),
    "llama2": SentencePiece([]),
    "phi3": SentencePiece(["<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>"],
                          rstrip=("</s>", "<|assistant|>", "<|end|>", "<|user|>")),
    "mistral": SentencePiece(["[INST]", "[/INST]", "[TOOL_CALLS]"], prefix="first"),
    "gemma": SentencePiece([], **GEMMA),
    "llama2-model": SentencePiece([], cls="InternLM2Tokenizer", json=False),
    "unigram-model": SentencePiece([], cls="InternLM2Tokenizer", json=False, model=dict(
        model_type="unigram", byte_fallback=False, normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True)),
}


def strings(count, special=(), seed=1):
    """Texts to judge tokenizers by: the tests' own, cuts of the corpus, and random ones of all that tokenizers treat apart."""
    r = random.Random(seed)
    texts = list(dict.fromkeys(TEXTS))
    parts = [p for p in corpus()]
    kinds = [
        lambda: " " * r.randint(1, 6), lambda: "\n" * r.randint(1, 4), lambda: r.choice("\t\r\x0b\x0c\u00a0\u2003\u3000\u200b\u200d\u2028\x85"),
        lambda: str(r.randint(0, 10 ** r.randint(1, 9))), lambda: r.choice(["'s", "'S", "'LL", "'ve", "’t", "'d", "'"]),
        lambda: "".join(r.choice("!?.,;:-_/\\()[]{}<>|=+*&^%$#@~`\"'") for _ in range(r.randint(1, 6))),
        lambda: "".join(chr(r.choice([r.randint(0x20, 0x7e), r.randint(0xa1, 0x24f)])) for _ in range(r.randint(1, 8))),
        lambda: "".join(chr(r.randint(*r.choice([(0x370, 0x52f), (0x5d0, 0x5ea), (0x620, 0x64a), (0x900, 0x97f), (0xe01, 0xe3a)])))
                        for _ in range(r.randint(1, 6))),
        lambda: "".join(chr(r.randint(*r.choice([(0x4e00, 0x9fff), (0x3041, 0x30ff), (0xac00, 0xd7a3)]))) for _ in range(r.randint(1, 5))),
        lambda: "".join(r.choice("aeouAEnu") + chr(r.randint(0x300, 0x36f)) for _ in range(r.randint(1, 3))),
        lambda: chr(r.randint(0x1f300, 0x1faff)) + r.choice(["", "\ufe0f", "\u200d\U0001f466", "\U0001f3fd"]),
        lambda: r.choice("aeiou xz▁-0") * r.randint(2, 30), lambda: r.choice(["camelCase", "HTTPServer", "snake_case", "iPhone", "ABCdef"]),
        lambda: chr(r.choice([0x180e, 0xfeff, 0x2028, 0x61c, 0xad, 0x10ffff, 0xe000, 0x1d7d8, 0x2160, 0xb2, 0x0])),
    ]
    special = list(special)
    while len(texts) < count:
        if r.random() < 0.4:
            part = r.choice(parts)
            at = r.randrange(len(part))
            text = part[at:at + r.randint(1, 200)]
        else:
            text = "".join(r.choice(kinds)() for _ in range(r.randint(1, 10)))
        if special and r.random() < 0.2:
            at = r.randint(0, len(text))
            text = text[:at] + r.choice(["", " ", "\n"]) + r.choice(special) + r.choice(["", " ", "  \n"]) + text[at:]
        texts.append(text)
    return texts[:count]
