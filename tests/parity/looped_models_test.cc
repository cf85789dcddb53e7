// Looped models as they are published against golden/looped: every tensor of every case, on every
// instruction set and on torch. A case is a changed copy of the model's folder, or options of the
// request under the names that the official code has for arguments of its call.
//
// Not compared by name: slots (their number is), exit_threshold (an input).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/file.h"
#include "base/json.h"
#include "convert/convert.h"
#include "engine/serve/prefix_tree.h"
#include "eval/compare.h"
#include "formats/gguf_writer.h"
#include "formats/safetensors.h"
#include "model/tensor_table.h"
#include "support/error_of.h"
#include "support/golden.h"
#include "support/test_models.h"
#include "train/loss_trace.h"

namespace reprise::test {
namespace {

using reprise::testing::edit_json;
using reprise::testing::edit_tensors;
using reprise::testing::TempFolder;
using ::testing::HasSubstr;

constexpr double kLogits = 3e-4, kHidden = 3e-4, kKv = 2e-4, kOdds = 2e-5;
constexpr int64_t kSteps = 10;
constexpr const char* kOuroGate = "model.early_exit_gate.";

std::filesystem::path looped(const std::string& model) { return golden_root() / "looped" / model; }

struct Case {
  std::string model, name;
  PlanOptions options = {};
  Json override = Json::object();
  bool own_gate = false;  // the case holds the gate's weights

  std::filesystem::path file() const { return looped(model) / (name + ".safetensors"); }
  void write_model(const std::filesystem::path& folder) const {
    std::filesystem::copy(looped(model) / "model", folder);
    edit_json(folder / "config.json", [&](Json& config) { config.update(override); });
    if (!own_gate) return;
    const WeightFile golden = open_safetensors(file()).weights;
    edit_tensors(folder / "model.safetensors", [&](TensorView& tensor) {
      if (tensor.name.starts_with(kOuroGate)) tensor = golden.get(tensor.name);
    });
  }
  // The rule that `reprise trace` goes by.
  ExitConfig exit(const Model& model) const {
    ExitConfig exit = model.scheme().official_exit(options).value_or(ExitConfig());
    if (model.scheme().selects()) exit.mode = ExitMode::Select;
    return exit;
  }
};

bool is_input(const std::string& name) {
  static const std::set<std::string> inputs = {"input_ids",      "attention_mask", "labels",
                                               "exit_threshold", "slots",          "num_steps",
                                               "input_states",   "decode.states"};
  return inputs.contains(name) || name.starts_with(kOuroGate);
}

double tolerance(const std::string& name) {
  if (name.ends_with("logits")) return kLogits;
  if (name.starts_with("kv.")) return kKv;
  if (name.starts_with("exit.") || name.ends_with("cdf") || name == "loss") return kOdds;
  return kHidden;
}

// What a criterion has seen: differences of nearly equal numbers. NaN where there was nothing to
// compare with.
void compare_values(const std::vector<float>& given, const std::vector<float>& expected) {
  ASSERT_EQ(given.size(), expected.size());
  for (size_t i = 0; i < given.size(); ++i) {
    if (std::isnan(expected[i]))
      EXPECT_TRUE(std::isnan(given[i])) << i;
    else
      EXPECT_NEAR(given[i], expected[i], 1e-3 * std::max(0.1f, std::abs(expected[i]))) << i;
  }
}

// keys: of the cache, too.
void compare_all(const Case& c, const std::vector<TensorView>& traced, bool keys = true) {
  std::map<std::string, TensorView> found;
  for (const TensorView& tensor : traced) found.emplace(tensor.name, tensor);
  const WeightFile golden = open_safetensors(c.file()).weights;
  int compared = 0;
  for (const TensorView& expected : golden.tensors()) {
    const std::string& name = expected.name;
    if (is_input(name) || (!keys && name.starts_with("kv.") && name.ends_with(".k"))) continue;
    const auto given = found.find(name);
    if (given == found.end()) {
      ADD_FAILURE() << name << " has no counterpart";
      continue;
    }
    ++compared;
    Shape shape = expected.shape;
    if (name != "loss" && name != "decode.steps" && name != "exit.values")
      shape.erase(shape.begin());
    EXPECT_EQ(given->second.shape, shape) << name;
    if (expected.type == DType::I64) {
      EXPECT_EQ(to_ints(given->second), to_ints(expected)) << name;
    } else if (name == "exit.values") {
      compare_values(to_floats(given->second), to_floats(expected));
    } else {
      EXPECT_LE(distance(to_floats(given->second), to_floats(expected)), tolerance(name)) << name;
    }
  }
  EXPECT_GE(compared, 1);
  if (const TensorView* slots = golden.find("slots")) {
    const auto rows = std::ranges::count_if(found, [](const auto& entry) {
      return entry.first.starts_with("kv.") && entry.first.ends_with(".k");
    });
    EXPECT_EQ(rows, to_ints(*slots)[0]);
  }
}

std::vector<TensorView> run_case(const Case& c, LoadedModel& loaded) {
  const WeightFile golden = open_safetensors(c.file()).weights;
  if (golden.find("labels")) return trace_loss(loaded, c.file());
  TraceOptions options = {.plan = c.options, .steps = golden.find("decode.tokens") ? kSteps : 0};
  options.exit = c.exit(loaded.model());
  return trace(loaded, read_token_inputs(c.file()), options);
}

const Json kSplit = {{"enable_double_loop_split", true}, {"loop_middle_layers", 2}};
const Json kSplitShare = {
    {"enable_double_loop_split", true}, {"loop_middle_layers", 2}, {"loop_share_kv", true}};

const Json kLastLoop = {{"recurrent_kv_cache_mode", "last_loop"}};

PlanOptions steps(int64_t n) { return {{"num_steps", n}}; }

Case adaptive(const std::string& criterion, const std::string& lookup) {
  const Case plain = {"huginn", "case-adaptive-" + criterion + "-" + lookup};
  const WeightFile golden = open_safetensors(plain.file()).weights;
  PlanOptions options = steps(to_ints(golden.get("num_steps"))[0]);
  options.set("criterion", criterion);
  options.set("exit_threshold", double{to_floats(golden.get("exit_threshold"))[0]});
  options.set("cache_lookup_strategy", lookup);
  return {plain.model, plain.name, options};
}

std::vector<Case> cases() {
  const auto threshold = [](double t) { return Json{{"early_exit_threshold", t}}; };
  const auto loops = [](int n) { return Json{{"total_ut_steps", n}}; };
  return {{"ouro", "case-text"},
          {"ouro", "case-threshold-0.35", {}, threshold(0.35)},
          {"ouro", "case-threshold-0.6", {}, threshold(0.6)},
          {"ouro", "case-threshold-0.85", {{"exit_threshold", 0.85}}},
          {"ouro", "case-step-1", {{"exit_at_step", int64_t{1}}}},
          {"ouro", "case-step-1", {}, {{"early_exit_step", 1}}},
          {"ouro", "case-loops-1", {}, loops(1)},
          {"ouro", "case-loops-2", {{"loops", int64_t{2}}}},
          {"ouro", "case-loops-6", {}, loops(6)},
          {"ouro", "case-weighted"},
          {"ouro", "case-saturated", {}, Json::object(), /*own_gate=*/true},
          {"nanbeige", "case-text"},
          {"nanbeige", "case-skip-norm", {}, {{"skip_loop_final_norm", true}}},
          {"nanbeige", "case-loops-1", {}, {{"num_loops", 1}}},
          {"nanbeige", "case-loops-3", {{"loops", int64_t{3}}}},
          {"nanbeige", "case-loss-weights", {}, {{"loop_loss_weights", {0.2, 0.2}}}},
          {"nanbeige", "case-split", {}, kSplit},
          {"nanbeige", "case-split-share", {}, kSplitShare},
          {"huginn", "case-state"},
          {"huginn", "case-zero-1", steps(1)},
          {"huginn", "case-zero-3", {{"loops", int64_t{3}}}},
          {"huginn", "case-zero-5"},
          {"huginn", "case-zero-9", {}, {{"mean_recurrence", 9}}},
          {"huginn", "case-continuous", {{"continuous_compute", true}, {"init_scale", 0.0}}},
          adaptive("kl", "full"),
          adaptive("kl", "skip"),
          adaptive("kl", "latest-m4"),
          adaptive("kl", "always-last-m4"),
          adaptive("latent-diff", "latest-m4"),
          adaptive("cosine", "latest-m4"),
          adaptive("entropy-diff", "latest-m4"),
          adaptive("argmax-stability", "latest-m4"),
          {"raven-llama", "case-state"},
          {"raven-llama", "case-zero-1", steps(1)},
          {"raven-llama", "case-zero-4"},
          {"raven-llama", "case-zero-9", steps(9)},
          {"dory", "case-text"},
          {"dory", "case-loops-1", {}, {{"n_recurrent_loops", 1}}},
          {"dory", "case-loops-4", {{"loops", int64_t{4}}}},
          {"dory", "case-last-loop", {}, kLastLoop}};
}

struct Param {
  size_t at;  // in cases()
  Machine machine;
};
void PrintTo(const Param& param, std::ostream* out) {
  *out << cases()[param.at].model << " " << cases()[param.at].name;
}

class LoopedModels : public ::testing::TestWithParam<Param> {};

TEST_P(LoopedModels, EveryTensor) {
  const Case c = cases()[GetParam().at];
  const TempFolder folder;
  c.write_model(folder.path());
  const auto loaded = load_model(folder.path(), GetParam().machine);
  compare_all(c, run_case(c, *loaded));
}

std::vector<Param> params() {
  std::vector<Param> list;
  for (size_t at = 0; at < cases().size(); ++at)
    for (const Machine& machine : machines()) list.push_back({at, machine});
  return list;
}

INSTANTIATE_TEST_SUITE_P(Golden, LoopedModels, ::testing::ValuesIn(params()), [](const auto& info) {
  const Case c = cases()[info.param.at];
  std::string name =
      fmt::format("{}_{}_{}_{}", c.model, c.name, info.param.at, info.param.machine.name());
  for (char& ch : name)
    if (!isalnum(static_cast<unsigned char>(ch))) ch = '_';
  return name;
});

// Without the loops that it doesn't need, a token gets the logits that selecting gives it; exact
// keys and values are those of all loops.
TEST(LoopedModelsSkip, GivesWhatSelectingGives) {
  for (const double threshold : {0.35, 0.6, 0.85}) {
    const Case c = {"ouro", "case-text", {{"exit_threshold", threshold}}};
    const auto loaded = load_model(looped("ouro") / "model", {"cpu", "scalar"});
    Model& model = loaded->model();
    const TokenPrompt prompt = token_prompt(*loaded, read_token_inputs(c.file()));
    const auto plans = make_plans(model, c.options);
    ExitConfig exit = c.exit(model);
    Session select(model, plans, 512, exit);
    exit.mode = ExitMode::Skip;
    Session skip(model, plans, 5, exit);
    EXPECT_EQ(select.prefill(prompt), skip.prefill(prompt));
    EXPECT_EQ(select.prompt_loops().back(), skip.prompt_loops().back());
    std::set<int> loops;
    for (int32_t token = 7; token < 40; ++token) {
      const LoopExit a = select.decode_exit(token), b = skip.decode_exit(token);
      EXPECT_EQ(a.loop, b.loop);
      EXPECT_EQ(a.logits, b.logits);
      loops.insert(a.loop);
    }
    EXPECT_GE(loops.size(), 2u);
    skip.finish_exits();
    const auto cache = [&](const Session& session) {
      std::vector<std::vector<float>> rows;
      for (const KvEntries& entries : kv_by_depth(model, plans->decode, session.sequence())) {
        rows.push_back(entries.k);
        rows.push_back(entries.v);
      }
      return rows;
    };
    EXPECT_EQ(cache(select), cache(skip));
  }
}

// What a request draws is its own: no chunks, no company and no prefix change it.
TEST(LoopedModelsStates, FollowSeedAndPositionAlone) {
  const auto loaded = load_model(looped("huginn") / "model", {"cpu", "scalar"});
  Model& model = loaded->model();
  const Case c = {"huginn", "case-zero-3"};
  const TokenPrompt prompt = token_prompt(*loaded, read_token_inputs(c.file()));
  for (const bool continuous : {false, true}) {
    const auto plans =
        make_plans(model, {{"loops", int64_t{3}}, {"continuous_compute", continuous}});
    const auto run = [&](uint64_t seed, int64_t chunk, PrefixTree* prefix = nullptr) {
      Session session(model, plans, chunk);
      session.set_initial(std::make_shared<const InitialStates>(InitialStates{.seed = seed}));
      std::vector<std::vector<float>> logits = {session.prefill(prompt, prefix)};
      for (int32_t token = 5; token < 9; ++token) logits.push_back(session.decode(token));
      EXPECT_EQ(session.prefix_tokens() > 0, prefix && seed == 1 && chunk == 3);
      return logits;
    };
    PrefixTree prefix(model, {.bytes = int64_t{1} << 40, .least_tokens = 1});
    const auto alone = run(1, 512, &prefix);
    EXPECT_EQ(run(1, 4), alone);
    EXPECT_EQ(run(1, 3, &prefix), alone);
    EXPECT_NE(run(2, 3, &prefix), alone)
        << "another seed takes nothing from the first one's prefix";
  }
}

// A prompt may be cut and begin with another's, but where loops see the last loop's past: it is then
// run in one piece and takes nothing.
TEST(LoopedModelsPrompts, AreCutWhereThatChangesNothing) {
  for (const bool last_loop : {false, true}) {
    const Case c = {"dory", "case-text", {}, last_loop ? kLastLoop : Json::object()};
    const TempFolder folder;
    c.write_model(folder.path());
    const auto loaded = load_model(folder.path(), {"cpu", "scalar"});
    Model& model = loaded->model();
    const auto plans = make_plans(model, c.options);
    const TokenPrompt prompt = token_prompt(*loaded, read_token_inputs(c.file()));
    PrefixTree prefix(model, {.bytes = int64_t{1} << 40, .least_tokens = 1});
    const auto run = [&](int64_t chunk) {
      Session session(model, plans, chunk);
      std::vector<std::vector<float>> logits = {session.prefill(prompt, &prefix)};
      for (int32_t token = 5; token < 9; ++token) logits.push_back(session.decode(token));
      EXPECT_EQ(session.prefix_tokens() > 0, !last_loop && chunk < 512);
      return logits;
    };
    const auto alone = run(512);
    EXPECT_EQ(run(4), alone);
  }
}

// Each criterion with other requests beside it: loops, scores and logits are those alone, whatever
// later tokens see of those that left.
TEST(LoopedModelsCriteria, CompanyChangesNothing) {
  const auto loaded = load_model(looped("huginn") / "model", {"cpu", "scalar"});
  Model& model = loaded->model();
  for (const char* rule : {"kl:0.1", "minp-kl:0.1", "entropy-diff:0.2", "argmax-stability:2",
                           "latent-diff:0.4", "cosine:0.1"}) {
    for (const char* lookup : {"full", "latest-m4", "always-last-m4"}) {
      const PlanOptions options = {{"num_steps", int64_t{9}}, {"cache_lookup_strategy", lookup}};
      const auto plans = make_plans(model, options);
      const ExitConfig exit = model.scheme().own_exit(parse_exit(rule), options);
      constexpr int kRequests = 3;
      struct Seen {
        std::vector<int> loops;
        std::vector<float> logits;
        bool operator==(const Seen&) const = default;
      };
      const auto run = [&](std::vector<int> requests) {
        EarlyExits exits(model, plans->decode, exit);
        std::vector<Sequence> sequences(requests.size());
        std::vector<Seen> seen(requests.size());
        for (int step = 0; step < 5; ++step) {
          Rows rows;
          std::vector<int32_t> ids;
          for (size_t i = 0; i < requests.size(); ++i) {
            const int count = step == 0 ? 4 + requests[i] : 1;  // the prompt first
            rows.append(sequences[i], count, sequences[i].length + count);
            for (int t = 0; t < count; ++t)
              ids.push_back((requests[i] * 31 + step * 7 + t * 3) % 300);
          }
          const std::vector<LoopExit> left = exits.run(std::move(rows), model.embed(ids));
          for (size_t i = 0; i < requests.size(); ++i) {
            seen[i].loops.push_back(left[i].loop);
            seen[i].logits.insert(seen[i].logits.end(), left[i].logits.begin(),
                                  left[i].logits.end());
          }
        }
        return seen;
      };
      const std::vector<Seen> together = run({0, 1, 2});
      std::set<int> loops;
      for (int request = 0; request < kRequests; ++request) {
        const Seen& one = together[static_cast<size_t>(request)];
        EXPECT_EQ(run({request})[0], one) << rule << " " << lookup << " request " << request;
        loops.insert(one.loops.begin(), one.loops.end());
      }
      EXPECT_GE(loops.size(), 2u) << rule;
    }
  }
}

// Folder, GGUF, folder: the same bits; Q8_0 keeps gate and loops.
class LoopedConversion : public ::testing::TestWithParam<Case> {};

TEST_P(LoopedConversion, ThereAndBack) {
  const Case c = GetParam();
  const TempFolder folder;
  c.write_model(folder / "model");
  convert_to_gguf(open_source(folder / "model"), folder / "model.gguf", {});
  convert_to_folder(open_source(folder / "model.gguf"), folder / "again", {});
  EXPECT_EQ(read_file(folder / "again/config.json"), read_file(folder / "model/config.json"));
  const WeightFile before = open_safetensors(folder / "model/model.safetensors").weights;
  const WeightFile after = open_safetensors(folder / "again/model.safetensors").weights;
  ASSERT_EQ(before.tensors().size(), after.tensors().size());
  for (const TensorView& tensor : before.tensors())
    EXPECT_TRUE(std::ranges::equal(after.get(tensor.name).data, tensor.data)) << tensor.name;
  const auto loaded = load_model(folder / "model.gguf", {"cpu", "scalar"});
  compare_all(c, run_case(c, *loaded));

  ConvertOptions options;
  options.types.type = DType::Q8_0;
  convert_to_gguf(open_source(folder / "model"), folder / "q8.gguf", options);
  const auto quantized = load_model(folder / "q8.gguf", {"cpu", "scalar"});
  const Model& model = quantized->model();
  EXPECT_EQ(model.decode_plan(), loaded->model().decode_plan());
  EXPECT_EQ(model.scheme().has_exit_gate(), loaded->model().scheme().has_exit_gate());
  EXPECT_EQ(c.exit(model), c.exit(loaded->model()));
  int gates = 0;
  model.read_tensors([&](const TensorSlot& slot, const Tensor& bound) {
    if (slot.role != Role::Gate) return;
    ++gates;
    EXPECT_EQ(model.backend().to_host(bound), to_floats(before.get(slot.name))) << slot.name;
  });
  EXPECT_EQ(gates, model.scheme().has_exit_gate() ? 2 : 0);
  const Comparison comparison = compare_on_inputs(*loaded, *quantized, read_token_inputs(c.file()));
  EXPECT_LT(comparison.kl_mean, 0.02);
  // And back from there, as F32.
  convert_to_folder(open_source(folder / "q8.gguf"), folder / "dequantized", {});
  const auto back = load_model(folder / "dequantized", {"cpu", "scalar"});
  EXPECT_EQ(back->model().decode_plan(), loaded->model().decode_plan());
  const Comparison same = compare_on_inputs(*quantized, *back, read_token_inputs(c.file()));
  EXPECT_LT(same.largest_logit, 1e-3);
}

INSTANTIATE_TEST_SUITE_P(
    Golden, LoopedConversion,
    ::testing::Values(Case{"ouro", "case-text"},
                      Case{"ouro", "case-threshold-0.6", {}, Json{{"early_exit_threshold", 0.6}}},
                      Case{"nanbeige", "case-text"},
                      Case{"nanbeige", "case-split-share", {}, kSplitShare},
                      Case{"huginn", "case-zero-5"}, Case{"raven-llama", "case-zero-4"},
                      Case{"dory", "case-text"}, Case{"dory", "case-last-loop", {}, kLastLoop}),
    [](const auto& info) {
      std::string name = info.param.model + std::to_string(info.index);
      std::erase(name, '-');
      return name;
    });

// A file as llama.cpp's converter writes it: its names and keys, rows of q and k permuted for pairs.
void write_llama_cpp(const std::filesystem::path& folder, const std::filesystem::path& path,
                     const std::function<void(GgufMetadata&)>& more) {
  const Json config = load_json(folder / "config.json");
  const auto number = [&](const char* key) { return config[key].get<uint32_t>(); };
  GgufMetadata metadata;
  metadata.set("general.architecture", std::string("nanbeige"));
  const auto set = [&](const char* key, GgufValue value) {
    metadata.set(std::string("nanbeige.") + key, std::move(value));
  };
  set("block_count", number("num_hidden_layers"));
  set("context_length", number("max_position_embeddings"));
  set("embedding_length", number("hidden_size"));
  set("feed_forward_length", number("intermediate_size"));
  set("attention.head_count", number("num_attention_heads"));
  set("attention.head_count_kv", number("num_key_value_heads"));
  set("attention.key_length", number("head_dim"));
  set("attention.value_length", number("head_dim"));
  set("attention.layer_norm_rms_epsilon", config["rms_norm_eps"].get<float>());
  set("rope.freq_base", config["rope_theta"].get<float>());
  set("rope.dimension_count", number("head_dim"));
  set("vocab_size", number("vocab_size"));
  more(metadata);
  const WeightFile from = open_safetensors(folder / "model.safetensors").weights;
  const TensorNames hf, gguf{.table = &gguf_names()};
  std::vector<OutputTensor> tensors;
  const auto add = [&](const std::string& own, const std::string& other, int64_t heads = 0) {
    TensorView tensor = from.get(other + ".weight");
    tensor.name = own + ".weight";
    if (heads > 0) {
      const std::vector<float> values = to_floats(tensor);
      std::vector<float> rows;
      const int64_t in = tensor.shape[1], hd = tensor.shape[0] / heads;
      for (int64_t row = 0; row < tensor.shape[0]; ++row) {
        const int64_t i = row % hd;  // of a head: pair i / 2, half i % 2
        const auto begin = values.begin() + (row - i + i % 2 * (hd / 2) + i / 2) * in;
        rows.insert(rows.end(), begin, begin + in);
      }
      tensor = make_view(tensor.name, tensor.shape, rows);
    }
    tensors.push_back({tensor, DType::F32});
  };
  for (const char* key : {"embed", "head", "final_norm"}) add(gguf.of(key), hf.of(key));
  for (int layer = 0; layer < static_cast<int>(number("num_hidden_layers")); ++layer)
    for (const char* key : {"attn_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down"})
      add(gguf.of(key, layer), hf.of(key, layer),
          key == std::string("q")   ? number("num_attention_heads")
          : key == std::string("k") ? number("num_key_value_heads")
                                    : 0);
  write_gguf(path, metadata, tensors);
}

TEST(LoopedGguf, NanbeigeAsLlamaCppWritesIt) {
  const TempFolder folder;
  const auto write = [&](const std::function<void(GgufMetadata&)>& more) {
    write_llama_cpp(looped("nanbeige") / "model", folder / "model.gguf", more);
    return load_model(folder / "model.gguf", {"cpu", "scalar"});
  };
  const auto skips = [&](int loops, bool skip) {
    return write([=](GgufMetadata& metadata) {
      metadata.set("nanbeige.num_loops", static_cast<uint32_t>(loops));
      metadata.set("nanbeige.skip_loop_final_norm", skip);
    });
  };
  // Keys and values of permuted rows are in another order.
  const auto compare_but_keys = [](const Case& c, LoadedModel& loaded) {
    compare_all(c, run_case(c, loaded), /*keys=*/false);
  };
  compare_but_keys({"nanbeige", "case-text"}, *skips(2, false));
  compare_but_keys({"nanbeige", "case-loops-3"}, *skips(3, false));
  compare_but_keys({"nanbeige", "case-skip-norm"}, *skips(2, true));
  compare_but_keys({"nanbeige", "case-loops-1"}, *write([](GgufMetadata&) {}));
  EXPECT_THAT(error_of([&] { skips(0, false); }), HasSubstr("key 'num_loops'"));
}

}  // namespace
}  // namespace reprise::test
