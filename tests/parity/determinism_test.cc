// What a request computes never depends on how its work is sliced or on what runs beside it: on the
// cpu backend the same bits with one thread or many, alone or beside other requests in the same
// forward call (whatever their lengths, positions, and whether they are in their prompt or
// decoding), prompts in one piece or in chunks of any size, generated tokens one by one or several
// at once. For every scheme, on every instruction set, for float and quantized weights.
//
// The judge is each request run alone, on one thread, its prompt in one piece.
#include <gtest/gtest.h>

#include <cstring>

#include "base/json.h"
#include "model/save.h"
#include "support/golden.h"
#include "support/tiny_models.h"
#include "unit/formats/test_files.h"

namespace reprise::test {
namespace {

struct Request {
  std::vector<int32_t> tokens;
  int64_t prompt = 0;  // how many of them are the prompt's
};

// Part of a forward call: the next `count` tokens of a request.
struct Part {
  size_t request = 0;
  int64_t count = 0;
};
using Schedule = std::vector<std::vector<Part>>;  // forward calls

std::vector<Request> make_requests(int64_t vocab) {
  std::vector<Request> requests;
  uint64_t at = 0;
  const Philox random(11, 1);
  // Longer and shorter than a KV page, one token alone, and one that ends on a page's border.
  for (const auto& [prompt, total] : {std::pair{40, 45}, {1, 7}, {7, 12}, {32, 36}, {3, 40}}) {
    Request request;
    request.prompt = prompt;
    for (int i = 0; i < total; ++i)
      request.tokens.push_back(
          4 + static_cast<int32_t>(random.bits(at++) % static_cast<uint64_t>(vocab - 4)));
    requests.push_back(std::move(request));
  }
  return requests;
}

// Where a request stands while a schedule is made.
struct Progress {
  const Request* request;
  int64_t done = 0;
  bool finished() const { return done == static_cast<int64_t>(request->tokens.size()); }
  // At most `chunk` tokens of the prompt or `drafted` of the rest: never both in one part.
  int64_t next(int64_t chunk, int64_t drafted) const {
    const int64_t end =
        done < request->prompt ? request->prompt : static_cast<int64_t>(request->tokens.size());
    return std::min(end - done, done < request->prompt ? chunk : drafted);
  }
};

Schedule alone(const std::vector<Request>& requests, int64_t chunk, int64_t drafted = 1) {
  Schedule schedule;
  for (size_t i = 0; i < requests.size(); ++i)
    for (Progress p{&requests[i]}; !p.finished();) {
      const int64_t count = p.next(chunk, drafted);
      schedule.push_back({{i, count}});
      p.done += count;
    }
  return schedule;
}

// All requests side by side; request i begins with call i * stagger. Backwards in every other call.
Schedule together(const std::vector<Request>& requests, int64_t chunk, size_t stagger,
                  int64_t drafted = 1) {
  std::vector<Progress> progress;
  for (const Request& request : requests) progress.push_back({&request});
  Schedule schedule;
  for (bool left = true; left;) {
    left = false;
    std::vector<Part> call;
    for (size_t i = 0; i < requests.size(); ++i) {
      Progress& p = progress[i];
      if (p.finished()) continue;
      left = true;
      if (schedule.size() < i * stagger) continue;
      const int64_t count = p.next(chunk, drafted);
      call.push_back({i, count});
      p.done += count;
    }
    if (schedule.size() % 2) std::reverse(call.begin(), call.end());
    if (left) schedule.push_back(std::move(call));
  }
  return schedule;
}

// Final state and logits of every token of every request.
using Results = std::vector<std::vector<float>>;

Results run(Model& model, const PlanOptions& options, const std::vector<Request>& requests,
            const Schedule& schedule) {
  Backend& be = model.backend();
  const Plan prefill = model.prefill_plan(options), decode = model.decode_plan(options);
  std::vector<Sequence> sequences(requests.size());
  Results results(requests.size());
  for (const std::vector<Part>& call : schedule) {
    // Requests whose next steps differ can't share a forward call; where the plans are the same,
    // all do.
    std::vector<Part> by_plan[2];
    for (const Part& part : call) {
      const int64_t prompt = requests[part.request].prompt;
      const bool prefills =
          prefill == decode || (prompt > 1 && sequences[part.request].length < prompt);
      by_plan[prefills ? 0 : 1].push_back(part);
    }
    for (const bool prefills : {true, false}) {
      const std::vector<Part>& parts = by_plan[prefills ? 0 : 1];
      if (parts.empty()) continue;
      Rows rows;
      std::vector<int32_t> ids;
      for (const Part& part : parts) {
        const Request& request = requests[part.request];
        Sequence& sequence = sequences[part.request];
        const int64_t end = sequence.length + part.count;
        ids.insert(ids.end(), request.tokens.begin() + sequence.length,
                   request.tokens.begin() + end);
        const bool in_prompt = sequence.length < request.prompt;
        rows.append(sequence, part.count, in_prompt ? request.prompt : end);
      }
      const Tensor state = model.forward(prefills ? prefill : decode, rows, model.embed(ids));
      const std::vector<float> logits = be.to_host(model.logits(model.final_norm(state)));
      const std::vector<float> hidden = be.to_host(state);
      const size_t n = ids.size(), d = hidden.size() / n, vocab = logits.size() / n;
      size_t row = 0;
      for (const Part& part : parts) {
        std::vector<float>& out = results[part.request];
        for (int64_t i = 0; i < part.count; ++i, ++row) {
          out.insert(out.end(), hidden.begin() + static_cast<std::ptrdiff_t>(row * d),
                     hidden.begin() + static_cast<std::ptrdiff_t>((row + 1) * d));
          out.insert(out.end(), logits.begin() + static_cast<std::ptrdiff_t>(row * vocab),
                     logits.begin() + static_cast<std::ptrdiff_t>((row + 1) * vocab));
        }
        Sequence& sequence = sequences[part.request];
        if (sequence.length == requests[part.request].prompt) sequence.end_prompt(prefill);
      }
    }
  }
  return results;
}

::testing::AssertionResult same_bits(const Results& expected, const Results& found) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i].size() != found[i].size())
      return ::testing::AssertionFailure() << "request " << i << " has another size";
    if (expected[i].empty() || !std::isfinite(expected[i].back()))
      return ::testing::AssertionFailure() << "request " << i << " has no finite results";
    for (size_t k = 0; k < expected[i].size(); ++k)
      if (std::memcmp(&expected[i][k], &found[i][k], sizeof(float)) != 0)
        return ::testing::AssertionFailure()
               << "request " << i << ", value " << k << " of " << expected[i].size() << ": "
               << found[i][k] << " instead of " << expected[i][k];
  }
  return ::testing::AssertionSuccess();
}

struct Case {
  std::string name;
  Json config;
  PlanOptions options = {};
  DType type = DType::F32;  // of the matrices; others than F32 go through a GGUF file
  Activations activations = Activations::F32;
  DType kv_type = DType::F32;
  bool drafts = true;  // several generated tokens at once: not where rope depends on the length
};

Json own(const std::string& scheme, Json keys) {
  return {{"scheme", scheme}, {scheme, std::move(keys)}};
}

std::vector<Case> cases() {
  std::vector<Case> list;
  const auto text = [](const std::string& name, const TinyShape& shape = {}) {
    return tiny_text_config(name + "ForCausalLM", shape);
  };
  const auto with = [](Json json, const std::string& key, Json value) {
    json[key] = std::move(value);
    return json;
  };
  list.push_back({"dense", text("Llama")});
  list.push_back({"f16_kv", text("Qwen2")});
  list.back().kv_type = DType::F16;
  list.push_back({"window", with(text("Phi3"), "sliding_window", 9)});
  Json longrope = text("Phi3");
  longrope["original_max_position_embeddings"] = 16;  // between the requests' lengths
  longrope["rope_scaling"] = {{"type", "longrope"},
                              {"short_factor", {1.0, 1.1, 1.2, 1.3, 1.4}},
                              {"long_factor", {1.5, 2.0, 2.5, 3.0, 4.0}}};
  list.push_back({"longrope", longrope});
  list.back().drafts = false;
  list.push_back({"trol", tiny_vision_language_config("trol", text("Phi3"))});
  list.push_back(
      {"trol_3_passes", tiny_vision_language_config("trol", text("Qwen2")), {{"passes", 3}}});
  list.push_back({"trol_adaptive",
                  tiny_vision_language_config("trol", text("Phi3")),
                  {{"passes", 3}, {"adaptive", 0.5}}});
  Json some_windows = text("Qwen3");  // on one layer of two
  some_windows["use_sliding_window"] = true;
  some_windows["sliding_window"] = 9;
  some_windows["max_window_layers"] = 1;
  some_windows["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}};
  list.push_back({"qwen3", some_windows});
  list.push_back({"smollm3", with(text("SmolLM3"), "no_rope_layers", {1, 0})});
  list.push_back({"olmo2", text("Olmo2")});
  list.push_back({"mistral", with(text("Mistral"), "sliding_window", 7)});
  list.push_back(
      {"gemma2", with(with(text("Gemma2"), "sliding_window", 7), "attn_logit_softcapping", 1.5)});
  list.push_back({"gemma3", with(text("Gemma3"), "sliding_window", 7)});
  list.push_back({"gemma", with(text("Gemma"), "hidden_act", "gelu")});
  list.push_back({"internlm2", with(text("InternLM2"), "bias", false)});
  list.push_back({"gpt_neox", tiny_neox_config()});
  list.push_back({"recursive_gpt_neox", with(tiny_neox_config(), "reprise",
                                             {{"qkv", "separate"},
                                              {"scheme", "recursive"},
                                              {"recursive", {{"loops", 3}, {"lora_rank", 5}}}})});
  Json phantom = tiny_vision_language_config("phantom", text("Qwen2"));
  phantom["reprise"] = {{"phantom", {{"eta", 0.5}}}};
  list.push_back({"phantom", phantom});
  list.push_back({"recursive", with(text("Llama"), "reprise",
                                    own("recursive", {{"loops", 3}, {"lora_rank", 5}}))});
  list.push_back({"ouro", with(text("Ouro"), "total_ut_steps", 3)});
  list.push_back({"replay", text("Llama"), {{"plan", "0-1,0,1-0"}}});
  Json shared = with(text("Nanbeige"), "enable_double_loop_split", true);
  shared["loop_share_kv"] = true;
  list.push_back({"loop_split_shared", shared});
  list.push_back({"damped", text("Llama"), {{"plan", "0,0-1*3,1"}}});
  list.push_back({"factors", text("Llama"), {{"plan", "0-1,0-1*2@0.3,1@0.6"}}});
  list.push_back(
      {"stored_replay", with(text("Phi3"), "reprise", own("replay", {{"plan", "0-1,1*2"}}))});
  for (const DType type : {DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1}) {
    for (const Activations activations : {Activations::F32, Activations::Int8}) {
      Case c{std::string(dtype_name(type)), text("Llama", kQuantizable)};
      if (activations == Activations::Int8) c.name += "_int8";
      c.type = type;
      c.activations = activations;
      list.push_back(c);
    }
  }
  Case quantized{"trol_q8_0_int8", tiny_vision_language_config("trol", text("Phi3", kQuantizable))};
  quantized.type = DType::Q8_0;
  quantized.activations = Activations::Int8;
  list.push_back(quantized);
  quantized.name = "phantom_q4_0_int8";
  quantized.config = tiny_vision_language_config("phantom", text("Qwen2", kQuantizable));
  quantized.type = DType::Q4_0;
  list.push_back(quantized);
  quantized.name = "recursive_q8_0_int8";
  quantized.config = with(text("Llama", kQuantizable), "reprise",
                          own("recursive", {{"loops", 2}, {"lora_rank", 8}}));
  quantized.type = DType::Q8_0;
  list.push_back(quantized);
  quantized.name = "ouro_q8_0_int8";
  quantized.config = with(text("Ouro", kQuantizable), "total_ut_steps", 2);
  list.push_back(quantized);
  return list;
}

struct Param {
  Case model;
  Machine machine;
};
void PrintTo(const Param& param, std::ostream* out) { *out << param.model.name; }

class Determinism : public testing::TestWithParam<Param> {};

TEST_P(Determinism, SameBitsHoweverTheWorkIsSliced) {
  const Case& c = GetParam().model;
  const Machine& machine = GetParam().machine;
  const TempFolder folder;
  const auto path = folder / "model.gguf";
  {
    const auto be = make_backend_of({"cpu", "scalar"}, 1);
    SaveOptions save;
    save.type = c.type;
    save_gguf(*tiny_model(c.config, *be), path, save);
  }
  const bool emulated = machine.isa.ends_with("simde");  // slow: one number of threads is enough
  const std::vector<Request> requests = make_requests(
      c.config.contains("vocab_size") ? c.config["vocab_size"].get<int64_t>()
                                      : c.config["llm_config"]["vocab_size"].get<int64_t>());
  Results expected;
  for (const int threads : emulated ? std::vector{1, 2} : std::vector{1, 2, 5}) {
    const auto be = make_backend_of(machine, threads, c.activations);
    const auto model = Model::load(path, *be, {.kv_type = c.kv_type});
    const auto results = [&](const Schedule& schedule) {
      return run(*model, c.options, requests, schedule);
    };
    if (expected.empty()) expected = results(alone(requests, 1000));
    SCOPED_TRACE(fmt::format("{} threads", threads));
    EXPECT_TRUE(same_bits(expected, results(alone(requests, 1000)))) << "in one piece";
    for (const int64_t chunk : {1, 2, 3, 7}) {
      if (emulated && chunk != 3) continue;
      EXPECT_TRUE(same_bits(expected, results(alone(requests, chunk)))) << "chunks of " << chunk;
    }
    EXPECT_TRUE(same_bits(expected, results(together(requests, 1000, 0)))) << "together";
    EXPECT_TRUE(same_bits(expected, results(together(requests, 5, 2)))) << "one after the other";
    EXPECT_TRUE(same_bits(expected, results(together(requests, 13, 1)))) << "staggered";
    if (c.drafts) {
      EXPECT_TRUE(same_bits(expected, results(alone(requests, 1000, 3)))) << "three at once";
      EXPECT_TRUE(same_bits(expected, results(together(requests, 7, 1, 4)))) << "four at once";
    }
  }
}

std::vector<Param> all() {
  std::vector<Param> params;
  for (const Case& c : cases())
    for (const Machine& machine : cpu_machines()) params.push_back({c, machine});
  return params;
}

INSTANTIATE_TEST_SUITE_P(All, Determinism, testing::ValuesIn(all()), [](const auto& info) {
  return info.param.model.name + "_" + info.param.machine.name();
});

// The harness itself must be able to fail: another plan, another token, another weight type.
TEST(DeterminismHarness, SeesDifferences) {
  const auto be = make_backend_of({"cpu", "scalar"}, 1);
  const auto model = tiny_model(tiny_text_config("LlamaForCausalLM"), *be);
  std::vector<Request> requests = make_requests(46);
  const Results expected = run(*model, {}, requests, alone(requests, 1000));
  EXPECT_FALSE(same_bits(expected, run(*model, {{"plan", "0,1,1"}}, requests, alone(requests, 7))));
  requests[3].tokens[30] ^= 1;
  EXPECT_FALSE(same_bits(expected, run(*model, {}, requests, alone(requests, 1000))));
}

}  // namespace
}  // namespace reprise::test
