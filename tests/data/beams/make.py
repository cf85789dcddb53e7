"""Makes the beam search data: tiny random Llama, Qwen2 and Phi-3 models as Hugging Face folders, and in cases.json what
transformers' `generate` returns for them with many choices of its beam options. Needs torch and transformers (made with
torch 2.13.0 on a CPU, transformers 4.57.6).

`llama` has twins: tokens 32..63 have the embedding and the head row of tokens 0..31, so that many continuations tie to the
bit and the order of equal scores decides. Models run in float64 and only their logits are float32: twins stay equal.

`--compare` also runs the scorer of transformers before 4.51 (BeamSearchScorer) and counts the cases that differ."""

import argparse
import json
import pathlib
import random
import warnings

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen2Config, Qwen2ForCausalLM

transformers.logging.set_verbosity_error()
warnings.filterwarnings("ignore")
HERE = pathlib.Path(__file__).parent
SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
             max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=1, pad_token_id=None)


def make_models():
    kinds = {"llama": (LlamaForCausalLM, LlamaConfig(**SHAPE, vocab_size=64, tie_word_embeddings=False)),
             "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, vocab_size=704, tie_word_embeddings=True)),
             "phi3": (Phi3ForCausalLM, Phi3Config(**SHAPE, vocab_size=96, tie_word_embeddings=False))}
    models = {}
    for seed, (name, (kind, config)) in enumerate(kinds.items()):
        torch.manual_seed(seed)
        model = kind(config)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "norm" in key:
                    weight.copy_(1 + 0.2 * torch.randn_like(weight))
                elif weight.dim() == 2:
                    size = 0.35 if name == "qwen2" else 1.0  # its embedding is the head too
                    fan_in = 1 if "embed" in key else weight.shape[1]
                    weight.copy_((size if "embed" in key else 1.5) * torch.randn_like(weight) / fan_in**0.5)
                else:
                    weight.copy_(0.2 * torch.randn_like(weight))
            if name == "llama":
                for table in (model.model.embed_tokens.weight, model.lm_head.weight):
                    table[32:] = table[:32]
        folder = HERE / name
        model.save_pretrained(folder, safe_serialization=True)
        (folder / "generation_config.json").unlink(missing_ok=True)
        models[name] = model.double().eval()
    return models


def generate(model, prompt, options):
    """The transformers of today: sequences without the prompt, and their scores."""
    with torch.no_grad():
        out = model.generate(torch.tensor([prompt]), do_sample=False, return_dict_in_generate=True, output_scores=True,
                             pad_token_id=0, **options)
    return [sequence[len(prompt):].tolist() for sequence in out.sequences], [float(s) for s in out.sequences_scores]


def greedy(model, prompt, options):
    """num_beams 1 has no scores in transformers: the sum of log-probabilities over length^penalty is what they would be (the
    repetition penalty works on logits here, before the softmax)."""
    options = dict(options)
    penalty = options.pop("length_penalty")
    for key in ("num_beams", "num_return_sequences", "early_stopping"):
        options.pop(key)
    with torch.no_grad():
        out = model.generate(torch.tensor([prompt]), do_sample=False, return_dict_in_generate=True, output_scores=True,
                             pad_token_id=0, **options)
    tokens = out.sequences[0, len(prompt):].tolist()
    total = sum(float(torch.log_softmax(step[0].float(), -1)[token]) for step, token in zip(out.scores, tokens))
    return [tokens], [total / len(tokens)**penalty]


def cut(tokens, ends):
    """Without what transformers pads shorter sequences with."""
    for i, token in enumerate(tokens):
        if token in ends:
            return tokens[:i + 1]
    return tokens


def generate_4_40(model, prompt, options):
    """The loop of transformers before 4.51 around its scorer, which 4.57 still has."""
    from transformers.generation.beam_search import BeamSearchScorer
    n, ends, longest = options["num_beams"], options["eos_token_id"], len(prompt) + options["max_new_tokens"]
    scorer = BeamSearchScorer(1, n, torch.device("cpu"), options["length_penalty"], options["early_stopping"],
                              options["num_return_sequences"], max_length=longest)
    penalty = transformers.RepetitionPenaltyLogitsProcessor(options["repetition_penalty"])
    ids = torch.tensor([prompt] * n)
    scores = torch.full((n,), -1e9)
    scores[0] = 0
    while True:
        with torch.no_grad():
            logits = model(ids).logits[:, -1].float()
        step = penalty(ids, torch.log_softmax(logits, -1)) + scores[:, None]
        top, index = torch.topk(step.view(1, -1), max(2, 1 + len(ends)) * n)
        beams = scorer.process(ids, top, index % logits.shape[1], index // logits.shape[1], pad_token_id=0, eos_token_id=ends,
                               decoder_prompt_len=len(prompt))
        scores, tokens, parents = beams["next_beam_scores"], beams["next_beam_tokens"], beams["next_beam_indices"]
        ids = torch.cat([ids[parents], tokens[:, None]], -1)
        if scorer.is_done or ids.shape[1] >= longest:
            break
    out = scorer.finalize(ids, scores, tokens, parents, pad_token_id=0, eos_token_id=ends, max_length=longest,
                          decoder_prompt_len=len(prompt))
    return [s[len(prompt):].tolist() for s in out["sequences"]], out["sequence_scores"].tolist()


def make_cases(models, compare):
    dice = random.Random(5)
    cases, differ, compared = [], 0, 0
    for name, model in models.items():
        vocab = model.config.vocab_size
        for beams in (1, 2, 3, 5):
            for penalty in (0.0, 0.5, 1.0, 2.0, -0.5):
                for early in (False, True, "never"):
                    prompt = [dice.randrange(2, vocab) for _ in range(dice.randint(2, 9))]
                    options = dict(num_beams=beams, length_penalty=penalty, early_stopping=early,
                                   num_return_sequences=dice.randint(1, beams), max_new_tokens=dice.choice([1, 2, 6, 12, 20]),
                                   repetition_penalty=dice.choice([1.0, 1.0, 1.3]), eos_token_id=[1])
                    # Tokens that the search likes become the ends, so that hypotheses do end, early and late.
                    run = greedy if beams == 1 else generate
                    liked = sorted({t for sequence in run(model, prompt, options)[0] for t in sequence})
                    options["eos_token_id"] = sorted(dice.sample(liked, min(len(liked), dice.randint(1, 3))))
                    sequences, scores = run(model, prompt, options)
                    ends = options["eos_token_id"]
                    cases.append({"model": name, "prompt": prompt, **options,
                                  "sequences": [cut(s, ends) for s in sequences], "scores": [round(s, 6) for s in scores]})
                    if compare and beams > 1:
                        compared += 1
                        old, old_scores = generate_4_40(model, prompt, options)
                        if [cut(s, ends)[:-1] for s in old] != [cut(s, ends)[:-1] for s in sequences]:
                            differ += 1
                            print(name, beams, penalty, early, scores, old_scores)
    if compare:
        print(f"{differ} of {compared} cases differ from the scorer before 4.51")
    return cases


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--compare", action="store_true")
    cases = make_cases(make_models(), parser.parse_args().compare)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (HERE / "cases.json").write_text(f"[\n{lines}\n]\n")
    print(f"{len(cases)} cases")


main()
