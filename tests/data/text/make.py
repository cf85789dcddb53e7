"""Makes the tokenizer and chat test data. Needs: tokenizers, transformers, jinja2.

  python make.py [--prompts GOLDEN]   GOLDEN: a folder with trol/prompts.json and phantom/prompts.json;
                                      without it chat_official.json stays as it is.

Writes <name>.json (a small tokenizer.json each), <name>.cases.json (texts with the ids and decoded
text of the `tokenizers` package), chat.json (what `transformers` renders) and chat_official.json.
The results are committed; run it again only to change them.
"""
import json
import pathlib
import sys

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

HERE = pathlib.Path(__file__).parent

CORPUS = """
The quick brown fox jumps over the lazy dog. She sells sea shells; they're hers, and I'll say it's
what we've had. DON'T SHOUT, I'LL LISTEN! He'd said that you'd better be there before the others.
There is nothing either good or bad, but thinking makes it so. In the beginning was the word.
def encode(self, text: str) -> list[int]:
    return [self.vocab[piece] for piece in self.split(text)]
for (int i = 0; i < 100; ++i) { sum += values[i] * weights[i]; }  // the sum of the products
    if not value:\n        raise ValueError("expected a value, found none")\n\n\n    return value\n
In 1984 there were 12345 people, 67.89% of them over 20 years; 1,000,000 more came in 2001 and 2023.
Der schnelle braune Fuchs springt über den faulen Hund. Größe, Straße, Übung, schön, für, Äpfel.
Le renard brun saute par-dessus le chien. L'été, où, déjà, ça, garçon, naïve, cœur, élève, être.
El zorro marrón salta sobre el perro perezoso. ¿Qué tal? ¡Mañana será otro día, señor!
Быстрая коричневая лиса прыгает через ленивую собаку. Привет, как дела? Хорошо, спасибо.
Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί. Καλημέρα κόσμε.
敏捷的棕色狐狸跳过了懒狗。今天天气很好，我们去公园散步吧。你好，世界！
素早い茶色の狐がのろまな犬を飛び越える。こんにちは世界。カタカナとひらがな。
빠른 갈색 여우가 게으른 개를 뛰어넘습니다. 안녕하세요 세계.
الثعلب البني السريع يقفز فوق الكلب الكسول. مرحبا بالعالم.
השועל החום המהיר קופץ מעל הכלב העצלן. שלום עולם.
तेज भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है। नमस्ते दुनिया।
รวดเร็ว สีน้ำตาล สุนัขจิ้งจอก กระโดด ข้าม สุนัขขี้เกียจ
🙂 🙂🙂 👍 🎉 ❤️ 🚀 the rocket 🚀 flies 👨‍👩‍👧‍👦 and 🏳️‍🌈 👩🏽‍💻
"""

TEXTS = [
    "", " ", "  ", "\n", "\t", "a", " a", "a ", "Hello", "Hello, world!", " Hello world ",
    "The quick brown fox jumps over the lazy dog.",
    "it's I'll we've they're he'd I'm don't", "IT'S I'LL WE'VE THEY'RE HE'D I'M DON'T",
    "It'S i'Ll x'\u017f x'S '\u017f 'tis 'twas rock 'n' roll ''' 's", "'", "''", "can't've",
    "l\u2019\u00e9t\u00e9 it\u2019s", "0", "7 42 123 1234 12345 1234567890", "3.14159 1,000,000 1e-5 0x1F",
    "a1b2c3 v2.0 2nd 100% $5 #1", "\u0661\u0662\u0663\u0664 \u00b2\u00b3 \u00bd \u2163 \u2460\u2461 \u4e00\u4e8c\u4e09",
    "line one\nline two\n\nline four\n\n\n\nend", "\r\n\r\nwindows\r\nlines\r", "tab\tseparated\t\tvalues",
    "    indented\n        more\n\t\ttabs", "trailing spaces   \nnext", "spaces     in      between", " \n \n ",
    "\n \n\n  x", "x  \n\n  y", "  \t  \t", "a\u00a0b\u00a0\u00a0c", "\u2003em\u2003space\u3000wide", "zero\u200bwidth\u200djoin\ufeffbom",
    "mongolian\u180evowel \u180e\u180e x", "next\u0085line \u0085\u0085", "sep\u2028line\u2029para", "\x0b\x0c vertical\x0bform\x0c",
    "\x1c\x1d\x1e\x1f fs gs", "nul\x00inside", "\x01\x02\x03\x04\x05\x06\x07\x08\x0e\x0f\x10\x13\x14\x16\x1b[31mred\x7f",
    "\u00fcber Gr\u00f6\u00dfe Stra\u00dfe \u00c4\u00d6\u00dc", "u\u0308ber Gro\u0308\u00dfe cafe\u0301 A\u030a \u212b \u1e9b\u0323", "e\u0323\u0302 e\u0302\u0323 \u1ec7 q\u0307\u0323 q\u0323\u0307",
    "\u1112\u1161\u11ab\u1100\u1173\u11af \ud55c\uae00", "\u0344 \u0958 \u2126 \ufb01 \uff21\uff22", "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324\u031e\u0349\u035a\u032f\u031e\u0320\u034da\u036b\u0357\u0334\u0362\u0335\u031c\u0330\u0354l\u0368\u0367\u0369\u0358\u0320g\u0311\u0357\u030e\u0305\u035b\u0341\u0334\u033b\u0348\u034d\u0354\u0339o\u0342\u030c\u030c\u0358\u0328\u0335\u0339\u033b\u031d\u0333",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002", "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c \u30ab\u30bf\u30ab\u30ca \u534a\u89d2\uff76\uff85 \uff11\uff12\uff13", "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u064e\u064f\u0650\u0651 \u0644\u0627", "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0915\u094d\u0937\u093f", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0419 \u0438\u0306",
    "\U0001f642", "\U0001f642\U0001f642 \U0001f44d\U0001f3fd x\U0001f680y", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f469\U0001f3fd\u200d\U0001f4bb \U0001f1e9\U0001f1ea \u2764\ufe0f 1\ufe0f\u20e3",
    "\U0001d54f\U0001d4ea \U0001f9ff \U00020000\U0002a6d6 \U000e0041 \U0010ffff \uffff \ue000", "\ufffd \u00ad \u061c \u2066x\u2069",
    "!!! ??? ... --- === *** ((())) [[]] {{}} <<>> //\\\\", "foo_bar __init__ snake_case camelCase kebab-case a.b.c", "http://example.com/path?q=1&r=a+b#frag user@host.tld",
    "def f(x):\n    return x ** 2  # square\n\n\nprint(f(3))", "<html>\n  <body class=\"x\">text</body>\n</html>", "{\"key\": [1, 2.5, null, true], \"s\": \"a\\nb\"}",
    "\u2581\u2581x \u0120the \u010a \u0100\u0143", "\u20ac\u00a3\u00a5 \u2122\u00ae\u00a9 \u2211\u222b\u221a \u2192\u21d2 \u00ab\u00bb \u201e\u201c",
    "<|endoftext|>", "a<|endoftext|>b", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|><|endoftext|>  <|endoftext|>",
    "<|im_start|", "<|im_start|>>", "<<|im_start|>", "<|IM_START|>", "<|im_start|><|im_", "<|begin_of_text|><|eot_id|>",
    "x <mask> y", "x   <mask>   y", "<mask><mask>", "\n\t <mask>\n\t y", "x<rs>   y", "x <rs>\u3000\n y", "<rs><mask>", "<rs>  <mask> <rs>", "<both>", " a  <both>  b ", "<both> <both>  <both>",
    "foo word bar", "sword words word_ _word word", "word", "\u00e9word word\u0301 word. (word)", "<tool>x</tool>", "Caf\u00e9 Cafe\u0301 caf\u00e9", "<tool><tool_call>", "<tool_call",
    "ab abc abcd", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "the" * 200, "ababab" * 100 + "c", "x" * 999, "\u4e00" * 150, " " * 300 + "x", "\n" * 100, "!?" * 200, "1" * 100, "\U0001f642" * 40,
    "<" * 60, "<|" * 50 + "endoftext|>",
]

GPT2_LIKE = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|", r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = r"\p{N}".join(GPT2_LIKE)
LLAMA3 = r"\p{N}{1,3}".join(GPT2_LIKE)


def train(pre, size, special, alphabet=True, normalizer=None):
    tok = Tokenizer(models.BPE())
    if normalizer:
        tok.normalizer = normalizer
    tok.pre_tokenizer = pre
    tok.decoder = decoders.ByteLevel()
    initial = pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    tok.train_from_iterator(CORPUS.splitlines(keepends=True), trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=initial, show_progress=False))
    return tok


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior=behavior, invert=invert)


def plain_bytes():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def gpt2():
    """As GPT-2: merges as "a b" strings; added tokens with every strip flag."""
    tok = train(pre_tokenizers.ByteLevel(add_prefix_space=False), 900, ["<|endoftext|>"])
    tok.add_special_tokens([AddedToken("<mask>", lstrip=True), AddedToken("<rs>", rstrip=True),
                            AddedToken("<both>", lstrip=True, rstrip=True)])
    tok.add_tokens([AddedToken("word", single_word=True)])
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    data = json.loads(tok.to_str())
    data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    return data


def qwen2():
    """As Qwen2: NFC, its own regex, ids of added tokens after the vocabulary, one normalized."""
    tok = train(pre_tokenizers.Sequence([split(QWEN2), plain_bytes()]), 1000, [],
                normalizer=normalizers.NFC())
    tok.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tok.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<tool_call>", normalized=False),
                    AddedToken("Cafe\u0301", normalized=True)])
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    return json.loads(tok.to_str())


def llama3():
    """As Llama-3: ignore_merges with whole words no merge leads to, BOS by the post-processor."""
    tok = train(pre_tokenizers.Sequence([split(LLAMA3), plain_bytes()]), 900, [])
    tok.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    bos = tok.token_to_id("<|begin_of_text|>")
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A",
                                      pair="<|begin_of_text|> $A <|begin_of_text|> $B",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    data = json.loads(tok.to_str())
    data["model"]["ignore_merges"] = True
    data["model"]["merges"] = [m for i, m in enumerate(data["model"]["merges"]) if i % 7]
    return data


def smollm2():
    """As SmolLM2: digits one by one; bytes that the corpus lacks have no token and are dropped."""
    tok = train(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                         pre_tokenizers.ByteLevel(add_prefix_space=False)]),
                800, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], alphabet=False)
    return json.loads(tok.to_str())


def variants():
    """Everything else that is read: prefix space, contiguous digits, kept matches, literal splits,
    an unknown token."""
    pre = pre_tokenizers.Sequence([
        pre_tokenizers.Split("[.](", behavior="isolated"), pre_tokenizers.Digits(),
        split(r"\S+| +", behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=True)])
    tok = train(pre, 500, ["<unk>", "<s>", "</s>"], alphabet=False,
                normalizer=normalizers.Sequence([normalizers.NFC()]))
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    data = json.loads(tok.to_str())
    data["model"]["unk_token"] = "<unk>"
    return data


def neox():
    """As GPT-NeoX and Pythia: NFC, GPT-2's pieces, and runs of 24 to 2 spaces that are added tokens,
    normalized and not special, behind the vocabulary."""
    tok = train(pre_tokenizers.ByteLevel(add_prefix_space=False), 500,
                ["<|endoftext|>", "<|padding|>"], normalizer=normalizers.NFC())
    tok.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    tok.post_processor = processors.ByteLevel(trim_offsets=True)
    return json.loads(tok.to_str())


SPACES = ["a" + " " * n + "b" for n in (*range(1, 30), 47, 48, 49, 50, 73)] + [
    "  a", "   ", " " * 25 + "\n", "\n" + " " * 26 + "x", "\t  \t   x", "e\u0301  e\u0301",
    "\u00a0  \u3000   x", "  <|endoftext|>   <|padding|>", "if x:\n    y = 1\n        # deep\n"]


def write(name, data, indent=None):
    text = json.dumps(data, ensure_ascii=False, indent=indent, separators=None if indent else (",", ":"))
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def tokenizers_data():
    for make in (gpt2, qwen2, llama3, smollm2, variants, neox):
        name = make.__name__
        write(name + ".json", make())
        tok = Tokenizer.from_file(str(HERE / (name + ".json")))
        cases = []
        for text in TEXTS + (SPACES if make is neox else []):
            tok.encode_special_tokens = False
            ids = tok.encode(text, add_special_tokens=False).ids
            whole = tok.encode(text, add_special_tokens=True).ids
            tok.encode_special_tokens = True
            plain = tok.encode(text, add_special_tokens=False).ids
            case = {"text": text, "ids": ids}
            if plain != ids:
                case["plain"] = plain
            if whole != ids:
                case["with_special"] = [whole[:2], whole[-2:], len(whole)]
            # The package decodes an added token as if it were written in the byte alphabet; tokens
            # outside ASCII then fall apart. Ours gives the token's text.
            if not any("\u0301" in (tok.id_to_token(i) or "") for i in ids):
                case["decoded"] = tok.decode(ids, skip_special_tokens=False)
                skipped = tok.decode(ids, skip_special_tokens=True)
                if skipped != case["decoded"]:
                    case["skipped"] = skipped
                if case["decoded"] == text:
                    del case["decoded"]
            cases.append(case)
        write(name + ".cases.json", cases)


LOOP = "{% for message in messages %}"
CHATML = "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
CHATML_ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"


def chatml_default(text):
    return (LOOP + "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n" + text +
            "<|im_end|>\\n' }}{% endif %}" + CHATML + CHATML_ASK)


QWEN2_5 = (HERE / "qwen2.5.jinja").read_text()
LLAMA3_LOOP = ("{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
               "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + "
               "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
               "{{ content }}{% endfor %}")
LLAMA3_ASK = "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
PHI3 = (LOOP + "{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\n' + message['content'] + "
        "'<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
        "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}")
ZEPHYR = (LOOP + "\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
          "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
          "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
          "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}")
ALTERNATE = ("{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles "
             "must alternate user/assistant/user/assistant/...') }}{% endif %}")
GEMMA = ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
         "{% endif %}" + LOOP + ALTERNATE + "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
         "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + "
         "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}")
MISTRAL = ("{{ bos_token }}" + LOOP + ALTERNATE + "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
           "' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}"
           "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}")
# The same as chatml, spelled in another way.
CHATML_SPELLED = """{#- a comment -#}
{%- for message in messages -%}
    {{- "<|im_start|>" + message.role + "\\n" + message.content + "<|im_end|>\\n" -}}
{%- endfor -%}

{%- if add_generation_prompt -%}
    {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
"""
CHATML_LINES = ("  {% for message in messages %}\n    {{-'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
                "'<|im_end|>\\n' -}}\n  {% endfor %}\n  {% if add_generation_prompt %}\n{{ '<|im_start|>assistant\\n' }}"
                "{% endif %}\n")

# (format, template, bos, eos)
TEMPLATES = [
    ("chatml", LOOP + CHATML + CHATML_ASK, "", "<|im_end|>"),
    ("chatml", CHATML_SPELLED, "", ""),
    ("chatml", CHATML_LINES, "", ""),
    ("chatml", "{{ bos_token }}" + LOOP + CHATML + CHATML_ASK, "<s>", "</s>"),
    ("smollm2", chatml_default("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
     "<|im_start|>", "<|im_end|>"),
    ("qwen2", chatml_default("You are a helpful assistant."), "", "<|im_end|>"),
    ("qwen2.5", QWEN2_5, "", "<|im_end|>"),
    ("llama3", LLAMA3_LOOP + LLAMA3_ASK, "<|begin_of_text|>", "<|eot_id|>"),
    ("llama3", LLAMA3_LOOP + "{% if add_generation_prompt %}" + LLAMA3_ASK + "{% endif %}", "<|begin_of_text|>", "<|eot_id|>"),
    ("phi3", PHI3, "<s>", "<|endoftext|>"),
    ("phi3", PHI3.replace(" and message['content']", ""), "<s>", "<|endoftext|>"),
    ("zephyr", ZEPHYR, "<s>", "</s>"),
    ("zephyr", ZEPHYR, "<|endoftext|>", "<|endoftext|>"),
    ("gemma", GEMMA, "<bos>", "<eos>"),
    ("gemma", GEMMA.removeprefix("{{ bos_token }}"), "<bos>", "<eos>"),
    ("mistral-instruct", MISTRAL, "<s>", "</s>"),
    ("plain-qa", LOOP + "{{ message['content'] + '\\n' }}{% endfor %}", "", ""),
]

# One change each to a known template, and kinds that are not known: none may be recognised.
UNKNOWN = [
    "", "{{ messages }}", "chatml", LOOP, "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    LOOP + CHATML,
    LOOP + CHATML + CHATML_ASK + "{{ '<think>\\n' }}",
    LOOP + CHATML + CHATML_ASK + "<think>",
    LOOP + CHATML.replace("message['content']", "message['content'] | trim") + CHATML_ASK,
    LOOP + CHATML.replace("+ '\\n'}}", "}}") + CHATML_ASK,
    LOOP + CHATML.replace("}}", "}}\n") + CHATML_ASK,
    LOOP + CHATML.replace("'<|im_start|>' +", "'<|im_start|> ' +") + CHATML_ASK,
    LOOP + CHATML + CHATML_ASK.replace("assistant", "bot"),
    chatml_default("You are a pirate."), chatml_default("You are a helpful assistant"),
    chatml_default("You are a helpful assistant.").replace("loop.first and ", ""),
    QWEN2_5.replace("You are a helpful assistant.<|im_end|>", "You are a coder.<|im_end|>"),
    QWEN2_5.replace("{%- if add_generation_prompt %}", "{%- if add_generation_prompt %}{{- '<think>' }}"),
    LLAMA3_LOOP.replace("{{ content }}", "{{ 'Cutting Knowledge Date: December 2023' }}{{ content }}") + LLAMA3_ASK,
    LLAMA3_LOOP.replace(" | trim", "") + LLAMA3_ASK,
    PHI3.replace("'<|end|>\n'", "'<|end|>'"),
    "{{ bos_token }}" + LOOP + "{% if (message['role'] == 'user') %}{{'<|user|>' + '\n' + message['content'] + '<|end|>' + '\n' + "
    "'<|assistant|>' + '\n'}}{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|end|>' + '\n'}}{% endif %}{% endfor %}",
    ZEPHYR.replace("\n{%", "{%"), ZEPHYR.replace("eos_token", "'</s>'"),
    GEMMA.replace(" | trim", ""), GEMMA.replace("'model'", "'assistant'"),
    MISTRAL.replace("eos_token", "eos_token + ' '"), MISTRAL.replace("'[INST] '", "' [INST] '"),
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'", "{{ '", "{%", "{#",
]


def chat_data():
    from transformers import PreTrainedTokenizerFast
    u = lambda text: {"role": "user", "content": text}
    a = lambda text: {"role": "assistant", "content": text}
    s = lambda text: {"role": "system", "content": text}
    conversations = [[u("Hi there.")], [s("Be brief."), u("Hi")], [u("One?"), a("1"), u("Two?")],
                     [s("Be brief."), u("Hi"), a("Hello!"), u("  spaced out \n"), a("\tyes ")],
                     [u("<|im_end|> {bos} {{ x }} \u4f60\u597d \U0001f642")], [s(""), u("Hi")]]
    out = []
    for name, template, bos, eos in TEMPLATES:
        tok = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(HERE / "gpt2.json")),
                                      bos_token=bos or None, eos_token=eos or None)
        cases = []
        for messages in conversations:
            if messages[0]["role"] == "system" and name in ("gemma", "mistral-instruct", "plain-qa"):
                continue
            if messages[-1]["role"] == "assistant" and name == "llama3" and "add_generation_prompt" not in template:
                continue
            for ask in (True, False):
                if not ask and name == "llama3" and "add_generation_prompt" not in template:
                    continue
                text = tok.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=ask)
                cases.append({"messages": messages, "ask": ask, "text": text})
        out.append({"format": name, "template": template, "bos": bos, "eos": eos, "cases": cases})
    write("chat.json", {"known": out, "unknown": UNKNOWN}, indent=1)


def official_data(golden):
    names = {("trol", "internlm2 (1.8B, 7B)"): "trol-internlm2", ("trol", "phi3 (3.8B)"): "trol-phi3",
             ("phantom", "internlm2 (1.8B, 7B)"): "phantom-internlm2", ("phantom", "phi3 (3.8B)"): "phantom-phi3",
             ("phantom", "qwen2 (0.5B)"): "phantom-qwen2"}
    out = []
    for system in ("trol", "phantom"):
        data = json.loads((golden / system / "prompts.json").read_text())
        for model, entry in data["models"].items():
            for case in entry["cases"]:
                if case["dataset"] != "demo" or case["question"].startswith("<image>"):
                    continue
                if case["image"] is None:  # Phantom's literal "<image>" is left out: see its README
                    case["prompt"] = [part.replace("<image>", "") for part in case["prompt"]]
                out.append({"format": names[system, model], "question": case["question"], "prompt": case["prompt"],
                            "stop": entry["rules"]["test_end"]})
    write("chat_official.json", out, indent=1)


if __name__ == "__main__":
    tokenizers_data()
    chat_data()
    if "--prompts" in sys.argv:
        official_data(pathlib.Path(sys.argv[sys.argv.index("--prompts") + 1]))
