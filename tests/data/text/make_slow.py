"""Makes the data of the tokenizers without a tokenizer.json, and of Llama-type tokenizer.json files.

  python make_slow.py      needs: transformers 4.57, sentencepiece, protobuf, tokenizers

Trains small SentencePiece models (spm-bpe.model, spm-unigram.model) and a byte-level vocabulary, and
writes slow.json: folders (file name -> contents; "@x" is the file x beside slow.json) with the ids and
texts that the slow tokenizers of `transformers` make of them (decoded: true is the text itself), and metaspace.json: the same for
tokenizer.json files of the fast ones. The results are committed; run it again only to change them.
"""
import io
import json
import pathlib
import tempfile

import sentencepiece as spm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer, LlamaTokenizerFast, PreTrainedTokenizer, Qwen2Tokenizer

from make import CORPUS, HERE, TEXTS, write

MORE = [
    "<s>[UNUSED_TOKEN_146]user\nHow many?[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n",
    "[UNUSED_TOKEN_145][UNUSED_TOKEN_145] [UNUSED_TOKEN_145]", "[UNUSED_TOKEN_14", "[UNUSED_TOKEN_1455]",
    "<|user|>\nHow many?<|end|>\n<|assistant|>\n", "<|end|>  \n\t x", "<|end|><|user|> \u3000 <|end|>\u00a0y",
    "x <|end|> y <|user|>z", " <|user|>", "<|user|>", "<|user|> ", "<s>", "<s> ", " <s>", "</s>x</s> y <unk> z<unk>",
    "<s><s>Hello", "<img><IMG_CONTEXT><IMG_CONTEXT></img>What?", "a<ab>b<abc>c<ab <abcd>", "<0x0A>", "\x1c<|end|>\x1d\x1e z",
    "\u2581Hello\u2581 world", "\u2581", "\u2581\u2581 ", " \u2581<s>\u2581", "<|im_start|>user\nx<|im_end|><|im_start|>assistant\n",
    "<|im_end|>\u0338", "a\u0338<|im_end|>", "\ufb01ne \uff21\uff22 caf\u00e9 \u2460", "<ls>", "x  <ls> y\t<ls>", "\n<ls>\x1f<ls>",
    "Hello  <|im_end|>  there", "<tool>x</tool> <tool>",
]
ALL = TEXTS + MORE


def train_spm(name, lines=CORPUS.splitlines(), **options):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([line for line in lines if line.strip()] * 4), model_writer=model,
        add_dummy_prefix=True, remove_extra_whitespaces=False, num_threads=1, minloglevel=2, hard_vocab_limit=False,
        **options)
    (HERE / name).write_bytes(model.getvalue())


def train_all():
    # As Llama-2's and InternLM2's: no normalization, digits one by one, bytes for what is unknown.
    train_spm("spm-bpe.model", model_type="bpe", vocab_size=700, byte_fallback=True, split_digits=True,
              normalization_rule_name="identity", character_coverage=0.98, allow_whitespace_only_pieces=True,
              user_defined_symbols=["[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]"])
    # As few pieces as the golden InternLM2 models of TroL have, whose next id is "<image>".
    train_spm("spm-tiny.model", CORPUS.splitlines()[:4], model_type="bpe", vocab_size=320, byte_fallback=True, split_digits=True,
              normalization_rule_name="identity", character_coverage=0.98,
              user_defined_symbols=["[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]"])
    # A small map of characters stands for the usual 240 kB one.
    rules = HERE / "rules.tsv"
    rules.write_text("FB01\t66 69\nFF21\t41\nFF22\t42\n3000\t20\n65 301\tE9\n2460\t31\n200B\t\n", encoding="ascii")
    train_spm("spm-unigram.model", model_type="unigram", vocab_size=420, normalization_rule_tsv=str(rules),
              character_coverage=0.98)
    rules.unlink()


class InternLM2Tokenizer(PreTrainedTokenizer):
    """What the releases' own class does, as far as ids and plain decoding go: pieces of the model, BOS in front."""
    vocab_files_names = {"vocab_file": "tokenizer.model"}

    def __init__(self, vocab_file, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>",
                 add_bos_token=True, add_eos_token=False, **kwargs):
        self.model = spm.SentencePieceProcessor(model_file=vocab_file)
        self.around = ([self.model.bos_id()] if add_bos_token else [], [self.model.eos_id()] if add_eos_token else [])
        super().__init__(unk_token=unk_token, bos_token=bos_token, eos_token=eos_token, pad_token=pad_token, **kwargs)

    vocab_size = property(lambda self: self.model.get_piece_size())

    def get_vocab(self):
        return {self.convert_ids_to_tokens(i): i for i in range(self.vocab_size)} | self.added_tokens_encoder

    def _tokenize(self, text):
        return self.model.encode(text, out_type=str)

    def _convert_token_to_id(self, token):
        return self.model.piece_to_id(token)

    def _convert_id_to_token(self, index):
        return self.model.id_to_piece(index)

    def convert_tokens_to_string(self, tokens):
        return self.model.decode(tokens)

    def build_inputs_with_special_tokens(self, ids, pair=None):
        return self.around[0] + ids + self.around[1]


def token(text, **flags):
    return {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": True} | flags


def phi3_decoder(size):
    """Phi-3's: stop and role tokens that take the white space on their right with them."""
    names = ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    decoder = {"0": token("<unk>"), "1": token("<s>"), "2": token("</s>", rstrip=True, special=False)}
    for i, name in enumerate(names):
        decoder[str(size + i)] = token(name, rstrip=name != "<|endoftext|>")
    decoder[str(size + 5)] = token("<ls>", lstrip=True)
    decoder[str(size + 7)] = token("<IMG_CONTEXT>", special=False)
    return decoder


def byte_level():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.train_from_iterator(CORPUS.splitlines(keepends=True), trainers.BpeTrainer(
        vocab_size=800, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(tok.to_str())["model"]
    merges = "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in model["merges"])
    return json.dumps(model["vocab"], ensure_ascii=False), merges


def folders():
    size = spm.SentencePieceProcessor(model_file=str(HERE / "spm-bpe.model")).get_piece_size()
    bpe, unigram = {"tokenizer.model": "@spm-bpe.model"}, {"tokenizer.model": "@spm-unigram.model"}
    config = lambda **keys: {"tokenizer_config.json": json.dumps(keys)}
    roles = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>", "pad_token": "<|endoftext|>"}
    phi3 = roles | {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": phi3_decoder(size),
                    "additional_special_tokens": ["<|end|>", "<|user|>"], "add_bos_token": True}
    vocab, merges = byte_level()
    qwen_size = len(json.loads(vocab))
    qwen = {"vocab.json": vocab, "merges.txt": merges}
    chat = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    llama = LlamaTokenizer
    # name, class, files
    yield "trol-internlm2", InternLM2Tokenizer, bpe  # as TroL-1.8B: nothing beside the model
    yield "internlm2-added", InternLM2Tokenizer, bpe | config(
        tokenizer_class="InternLM2Tokenizer", add_bos_token=False, add_eos_token=True, added_tokens_decoder={
            "0": token("<unk>"), "1": token("<s>"), "2": token("</s>"),
            # over pieces of the model, as <|im_end|> lies over [UNUSED_TOKEN_145] in the releases
            "3": token("<|im_end|>"), "4": token("<|im_start|>")} | {
                str(size + i): token(name) for i, name in enumerate(["<img>", "</img>", "<IMG_CONTEXT>", "<ab>", "<abc>"])})
    yield "internlm2-legacy-files", InternLM2Tokenizer, bpe | config(
        tokenizer_class="InternLM2Tokenizer", additional_special_tokens=["<|im_start|>", "<new>"]) | {
            "added_tokens.json": json.dumps({"<|im_end|>": size + 1, "<|im_start|>": size, "<tool>": size + 2}),
            "special_tokens_map.json": json.dumps({"eos_token": {"content": "<|im_end|>", "lstrip": False, "rstrip": False,
                                                                 "single_word": False, "normalized": False},
                                                   "pad_token": "</s>"})}
    yield "phi3", llama, bpe | config(legacy=False, **phi3)
    yield "phi3-legacy", llama, bpe | config(**phi3)
    yield "llama-no-prefix", llama, bpe | config(tokenizer_class="LlamaTokenizerFast", legacy=False, add_prefix_space=False,
                                                 add_eos_token=True)
    yield "llama-legacy-files", llama, bpe | config(tokenizer_class="LlamaTokenizer", add_bos_token=False, pad_token=None) | {
        "added_tokens.json": json.dumps({"<|end|>": size, "<pad>": size + 1}),
        "special_tokens_map.json": json.dumps({"bos_token": token("<s>"), "pad_token": "<pad>"})}
    yield "unigram", InternLM2Tokenizer, unigram
    yield "unigram-llama", llama, unigram | config(tokenizer_class="LlamaTokenizer", legacy=False)
    yield "qwen2", Qwen2Tokenizer, qwen | config(
        tokenizer_class="Qwen2Tokenizer", bos_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        added_tokens_decoder={str(qwen_size + i): token(name) for i, name in enumerate(chat)} | {
            str(qwen_size + 3): token("<tool>", special=False), str(qwen_size + 4): token("<IMG_CONTEXT>"),
            str(qwen_size + 5): token("<ls>", lstrip=True)})
    yield "qwen2-bare", Qwen2Tokenizer, qwen | config(tokenizer_class="Qwen2Tokenizer",
                                                      additional_special_tokens=["<|im_start|>", "<|im_end|>"])


def save(folder, files):
    for name, text in files.items():
        if text.startswith("@"):
            (folder / name).write_bytes((HERE / text[1:]).read_bytes())
        else:
            (folder / name).write_text(text, encoding="utf-8")


def cases_of(tok, texts, decode, fast=False):
    cases = []
    for text in texts:
        ids = tok.encode(text, add_special_tokens=False)
        whole = tok.encode(text)
        case = {"text": text, "ids": ids, "around": [len(whole) and whole[:whole.index(ids[0])] if ids else whole,
                                                     len(whole) - len(ids)]}
        # Around special tokens the slow classes put spaces in the text that were never there.
        added = tok.get_added_vocab().values()
        if fast or not any(i in added for i in ids):
            case["decoded"] = decode(ids)
            if case["decoded"] == text:
                case["decoded"] = True
        cases.append(case)
    return cases


def slow_data():
    out = []
    for name, cls, files in folders():
        with tempfile.TemporaryDirectory() as temp:
            save(pathlib.Path(temp), files)
            tok = cls.from_pretrained(temp)
            roles = {role: getattr(tok, role + "_token_id") for role in ("bos", "eos", "pad")}
            # LlamaTokenizer takes the first space away twice (legacy), or half of a token of several spaces (not
            # legacy): the library's own decoding is what counts.
            model = getattr(tok, "sp_model", None)
            if model and getattr(tok, "add_prefix_space", False):
                model = spm.SentencePieceProcessor(model_file=str(pathlib.Path(temp) / "tokenizer.model"))
            decode = model.decode if model else (lambda ids: tok.decode(ids, clean_up_tokenization_spaces=False))
            out.append({"name": name, "files": files, "size": max(tok.get_vocab().values()) + 1, "roles": roles, "cases": cases_of(tok, ALL, decode)})
    write("slow.json", out)


def metaspace_data():
    """Fast Llama tokenizers: legacy ones normalize by Prepend and Replace, later ones have a Metaspace step."""
    size = spm.SentencePieceProcessor(model_file=str(HERE / "spm-bpe.model")).get_piece_size()
    out = []
    for name, keys in (("phi3-fast", {"added_tokens_decoder": phi3_decoder(size), "eos_token": "<|endoftext|>"}),
                       ("llama-fast", {"legacy": False}), ("llama-fast-no-prefix", {"legacy": False, "add_prefix_space": False})):
        with tempfile.TemporaryDirectory() as temp:
            folder = pathlib.Path(temp)
            save(folder, {"tokenizer.model": "@spm-bpe.model", "tokenizer_config.json": json.dumps(
                {"tokenizer_class": "LlamaTokenizer"} | keys)})
            tok = LlamaTokenizerFast.from_pretrained(temp)
            data = json.loads(tok.backend_tokenizer.to_str())
            decode = lambda ids: Tokenizer.from_str(json.dumps(data)).decode(ids, skip_special_tokens=True)
            out.append({"name": name, "json": data, "cases": cases_of(tok, ALL, decode, fast=True)})
    for name, split, fallback in (("words", True, False), ("words-bytes", True, True)):
        tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=fallback))
        tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=split)
        tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                         decoders.Strip(" ", 1, 0)]) if fallback else decoders.Metaspace()
        special = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] * fallback
        tok.train_from_iterator([line for line in CORPUS.splitlines()[:12]], trainers.BpeTrainer(
            vocab_size=500 + 256 * fallback, special_tokens=special, show_progress=False))
        data = json.loads(tok.to_str())
        data["added_tokens"] = data["added_tokens"][:3]
        data["added_tokens"][1]["normalized"] = True
        tok = Tokenizer.from_str(json.dumps(data))
        cases = [{"text": t, "ids": tok.encode(t, add_special_tokens=False).ids} for t in ALL]
        for case in cases:
            case["decoded"] = tok.decode(case["ids"], skip_special_tokens=True)
            if case["decoded"] == case["text"]:
                case["decoded"] = True
        out.append({"name": name, "json": data, "cases": cases})
    write("metaspace.json", out)


def prompt_data():
    """The official prompts as ids: the whole text at once, pictures as a few placeholders."""
    size = spm.SentencePieceProcessor(model_file=str(HERE / "spm-bpe.model")).get_piece_size()
    bpe = {"tokenizer.model": "@spm-bpe.model"}
    config = lambda **keys: {"tokenizer_config.json": json.dumps(keys)}
    image = ["<img>", "</img>", "<IMG_CONTEXT>"]
    at = lambda start, names: {str(start + i): token(name) for i, name in enumerate(names)}
    roles = {"0": token("<unk>"), "1": token("<s>"), "2": token("</s>")}
    phi3 = {"tokenizer_class": "LlamaTokenizer", "eos_token": "<|endoftext|>", "additional_special_tokens": image,
            "added_tokens_decoder": phi3_decoder(size) | at(size + 7, image)}
    vocab, merges = byte_level()
    folders = {
        "trol-internlm2": (InternLM2Tokenizer, {"tokenizer.model": "@spm-tiny.model"} | config(
            tokenizer_class="InternLM2Tokenizer", added_tokens_decoder=roles | at(320, ["<image>"]))),
        "trol-phi3": (LlamaTokenizer, bpe | config(legacy=False, **phi3)),
        "phantom-internlm2": (InternLM2Tokenizer, bpe | config(
            tokenizer_class="InternLM2Tokenizer",
            added_tokens_decoder=roles | at(3, ["<|im_end|>", "<|im_start|>"]) | at(size, image))),
        "phantom-phi3": (LlamaTokenizer, bpe | config(**phi3)),
        "phantom-qwen2": (Qwen2Tokenizer, {"vocab.json": vocab, "merges.txt": merges} | config(
            tokenizer_class="Qwen2Tokenizer", eos_token="<|im_end|>", added_tokens_decoder=at(
                len(json.loads(vocab)), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + image))),
    }
    out = []
    for case in json.loads((HERE / "chat_official.json").read_text()):
        cls, files = folders[case["format"]]
        with tempfile.TemporaryDirectory() as temp:
            save(pathlib.Path(temp), files)
            tok = cls.from_pretrained(temp)
            count = 0
            text = ""
            for part in case["prompt"]:
                if isinstance(part, dict):
                    count = 3
                    text += part["repeat"] * count
                else:
                    text += part
            out.append({"format": case["format"], "question": case["question"], "image_tokens": count,
                        "ids": tok.encode(text, add_special_tokens=False)})
    folders = [{"name": name, "files": files} for name, (_, files) in folders.items()]
    write("prompts.json", {"folders": folders, "cases": out})


if __name__ == "__main__":
    train_all()
    slow_data()
    prompt_data()
    metaspace_data()
