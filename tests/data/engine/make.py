"""Makes the tokenizer that the end-to-end tests put beside the golden models (which have none): byte-level BPE with
320 tokens, the golden models' special ids where they are (2 ends a text, 5 is the image placeholder). Needs `tokenizers`.
The merges are learned from a few sentences; what they are does not matter."""

import json
import pathlib

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>", "<|user|>", "<|assistant|>",
           "<|end|>", "<|system|>"]
TEXT = ["the question is what shape is in the picture and what colour has the shape in the picture",
        "is there a red circle in the image? yes, there is a red circle; no, there is not a blue one"]
CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")

here = pathlib.Path(__file__).parent / "tokenizer"
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, show_progress=False,
                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
tokenizer.train_from_iterator(TEXT, trainer)
assert tokenizer.get_vocab_size() == 320
tokenizer.save(str(here / "tokenizer.json"))
config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHATML}
(here / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
