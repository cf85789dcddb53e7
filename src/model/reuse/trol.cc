// TroL, "Traversal of Layers for Large Language and Vision Models" (arXiv 2406.12246).
//
// Over a prompt every layer L is visited twice and the results are mixed per token:
//   y = (1 - w) L(x) + w L(L(x)),   w = 0.5 tanh(g . L(x) + b) + 0.5 = sigmoid(2 (g . L(x) + b))
// Generated tokens (and a prompt of one token) make one plain visit a layer and attend to the first
// visits' keys and values. The second visit's are needed only while the prompt runs: kept until it
// is done, a prompt can be cut into chunks of any size and stays exact.
//
// Config (all optional, for experiments): "reprise": {"trol": {"passes": 1 to 4, "mix": M}}, M one
// of "learned" (the gate), "uniform" (w = 1/2), "random" (w uniform per token): the paper's
// ablations.
//
// Adaptive traversal (ours): w depends on L(x) only and is known before the second visit. A token
// with w below a threshold leaves that visit's attention output and MLP out, y = L(x), but still
// gives the others its exact second-visit keys and values, which depend on L(x) only too.
//
// The released models share one gate over all layers. More passes (the paper's ablation has no
// formula; this rule is ours): y_p = (1 - w) y_{p-1} + w L(y_{p-1}), w from the gate on y_{p-1}.
#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/json_object.h"
#include "base/rng.h"
#include "formats/pickle.h"
#include "formats/pickle_writer.h"
#include "model/arch/architecture.h"
#include "model/config/architecture.h"
#include "model/config/config_parts.h"
#include "model/config/vision_language.h"
#include "model/reuse/schemes.h"

namespace reprise {
namespace {

constexpr int kMostPasses = 4;
constexpr const char* kGateFile = "trol_gating.pt";
constexpr const char* kGateTensors[] = {"trol_gating.weight", "trol_gating.bias"};

// Equal values; a NaN is equal to itself, so that what is said of it is that it is one.
bool same_values(const TensorView& a, const TensorView& b) {
  return std::ranges::equal(to_floats(a), to_floats(b), [](float x, float y) {
    return x == y || std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y);
  });
}

class Trol : public Scheme {
 public:
  explicit Trol(const ModelConfig& config) : Scheme(config) {
    const JsonObject keys(config.scheme_config, config.where, "reprise.trol.");
    keys.allow_only({"passes", "mix"});
    if (keys.has("passes")) passes_ = static_cast<int>(keys.get_int("passes", 1, kMostPasses));
    const std::string mixing = keys.find_string("mix").value_or("learned");
    if (mixing == "uniform")
      mixing_ = Mixing::Uniform;
    else if (mixing == "random")
      mixing_ = Mixing::Random;
    else if (mixing != "learned")
      keys.fail_at("mix", "expected learned, uniform or random, found '" + mixing + "'");
  }

  // On InternLM2 (TroL-1.8B and 7B) every matrix of a block has one adapter, for image tokens only.
  void attach(std::vector<Block>& blocks) override {
    blocks_ = &blocks;
    if (config_.text.image_lora_rank == 0) return;
    for (Block& block : blocks)
      for (auto& [key, weight] : block.matrices(config_.text)) weight->adapters.resize(1);
  }

  std::vector<int32_t> row_adapters(const Rows& rows) const override {
    if (config_.text.image_lora_rank == 0 || rows.is_image.empty()) return {};
    std::vector<int32_t> adapters;
    for (const uint8_t image : rows.is_image) adapters.push_back(image ? 0 : -1);
    return adapters;
  }

  void visit_tensors(const TensorNames& names, const TensorVisitor& visitor) override {
    visitor({kGateTensors[0], {1, config_.text.d}, WeightUse::Matrix, Role::Gate, &gate_.weight});
    visitor({kGateTensors[1], {1}, WeightUse::Vector, Role::Gate, &gate_.bias});
    const int64_t rank = config_.text.image_lora_rank;
    for (size_t k = 0; rank > 0 && k < blocks_->size(); ++k) {
      for (auto& [key, weight] : (*blocks_)[k].matrices(config_.text)) {
        const auto [out, in] = matrix_shape(config_.text, key);
        const std::string name = names.of(key, static_cast<int>(k)) + ".lora_";
        LowRank& adapter = weight->adapters[0];
        visitor({name + "A.weight", {rank, in}, WeightUse::Matrix, Role::Adapter, &adapter.a});
        visitor({name + "B.weight", {out, rank}, WeightUse::Matrix, Role::Adapter, &adapter.b});
      }
    }
  }

  Plan decode_plan(const PlanOptions& options) const override {
    check(options);
    return dense_plan(config_.text.layers);
  }

  // KV rows 0..L-1 are the first visits', the same as in the decode plan.
  Plan prefill_plan(const PlanOptions& options) const override {
    check(options);
    const int passes = passes_of(options);
    const int layers = config_.text.layers;
    if (passes == 1) return dense_plan(layers);
    const Mix mix = mix_of(options);
    Plan plan;
    for (int layer = 0; layer < layers; ++layer) plan.add_kv_row(Lifetime::Request);
    for (int layer = 0; layer < layers; ++layer) {
      const std::string name = fmt::format("layer.{}", layer);
      plan.visit(layer, layer, -1, name + ".pass1");
      for (int pass = 2; pass <= passes; ++pass) {
        plan.visit(layer, plan.add_kv_row(Lifetime::Prompt), -1,
                   fmt::format("{}.pass{}", name, pass));
        plan.mix(mix, pass == passes ? name + ".out" : fmt::format("{}.mix{}", name, pass));
      }
    }
    return plan;
  }

  Tensor mix_weight(Backend& be, const Mix&, const Tensor& in) const override {
    if (mixing_ == Mixing::Learned)
      return be.unary(be.scale(be.linear(in, gate_), 2.0f), Unary::Sigmoid);
    std::vector<float> w(static_cast<size_t>(in.dim(0)), 0.5f);
    if (mixing_ == Mixing::Random) {
      const std::vector<float> rows = be.to_host(in);
      const auto width = static_cast<size_t>(in.cols());
      for (size_t i = 0; i < w.size(); ++i)
        w[i] = random_weight(std::span(rows).subspan(i * width, width));
    }
    return be.from_host(w, {in.dim(0), 1});
  }

 private:
  enum class Mixing { Learned, Uniform, Random };

  // Uniform in [0, 1), drawn from the bits of the token's state: fresh for every token, layer and
  // training step, and the same however the work is sliced.
  static float random_weight(std::span<const float> state) {
    return Philox(hash_floats(state), 0).uniform(0);
  }

  int passes_of(const PlanOptions& options) const {
    const auto passes = static_cast<int>(options.integer("passes").value_or(0));
    return passes == 0 ? passes_ : passes;
  }

  static Mix mix_of(const PlanOptions& options) {
    return {.gate = 0,
            .skip_below = static_cast<float>(options.number("adaptive").value_or(0)),
            .tokens = parse_mix_tokens(options.text("traverse").value_or("all"), "--traverse")};
  }

  void check(const PlanOptions& options) const {
    if (passes_of(options) > 1) return;
    const Mix mix = mix_of(options);
    if (mix.skip_below > 0)
      fail("--adaptive {}: with one pass there is no second visit to leave out", mix.skip_below);
    if (mix.tokens != MixTokens::All)
      fail("--traverse {}: with one pass no token makes a second visit",
           mix_tokens_name(mix.tokens));
  }

  int passes_ = 2;
  Mixing mixing_ = Mixing::Learned;
  LinearWeight gate_;                     // [1, d]
  std::vector<Block>* blocks_ = nullptr;  // the model's; outlives the scheme's use
};

// ---- trol_gating.pt -----------------------------------------------------------------------------

// The file holds the list of gates, "0.weight", "0.bias", "1.weight", ...: one Linear, L times.
// The official loader puts them all into that one Linear, so that the last entry counts.
std::vector<TensorView> read_gate(const ModelConfig& config, const std::filesystem::path& folder,
                                  const SchemeOptions& options) {
  const auto path = folder / kGateFile;
  if (!std::filesystem::exists(path))
    fail("{}: is missing; a TroL model keeps its gate there", path.string());
  const WeightFile file = open_pt(path);
  const int layers = config.text.layers;
  if (layers == 0) return {};  // not known (config_from_json)
  const bool last_gate = options.flag("last_gate");
  Problems problems;
  if (const size_t expected = 2 * static_cast<size_t>(layers); file.tensors().size() != expected)
    problems.add(
        fmt::format("{}: {} entries, expected {}: <layer>.weight and <layer>.bias of {} "
                    "layers",
                    path.string(), file.tensors().size(), expected, layers));
  std::vector<TensorView> gate;
  for (const char* part : {"weight", "bias"}) {
    TensorView last;
    for (int layer = 0; layer < layers; ++layer) {
      const std::string key = fmt::format("{}.{}", layer, part);
      const TensorView* entry = file.find(key);
      if (!entry) {
        problems.add(fmt::format("{}: key '{}' is missing", path.string(), key));
        break;
      }
      if (layer > 0 && !last_gate && !same_values(last, *entry)) {
        problems.add(fmt::format(
            "{}: key '{}' differs from '{}': expected one gate shared by all layers (--last-gate "
            "uses the last entry for every layer, as the official loader does)",
            path.string(), key, last.name));
        break;
      }
      last = *entry;
    }
    last.name = fmt::format("trol_gating.{}", part);
    gate.push_back(last);
  }
  problems.raise();
  return gate;
}

// As the official code's state_dict of the list of gates: every layer's entry, one storage.
void write_gate(const ModelConfig& config, const std::vector<TensorView>& tensors,
                const std::filesystem::path& folder) {
  std::vector<TensorView> entries;
  for (int layer = 0; layer < config.text.layers; ++layer) {
    for (TensorView entry : tensors) {
      entry.name = std::to_string(layer) + entry.name.substr(entry.name.rfind('.'));
      entries.push_back(std::move(entry));
    }
  }
  write_pt(folder / kGateFile, entries);
}

// ---- The releases' config.json ------------------------------------------------------------------

constexpr const char* kArchitecture = "TroLForCausalLM";
constexpr int kOfficialImageLoraRank = 256;  // alpha 256 too, hence scale 1

// TroL-1.8B and 7B: one flat config of InternLM2's keys. The vision tower, the adapters at image
// tokens and the placeholder are constants in the official code; "vision_config" and
// "image_token_index" are read where they are there.
void read_internlm2(const JsonObject& json, ModelConfig& config) {
  if (const std::string type = string_or_empty(json.json(), "model_type"); type != "internlm")
    json.problem_at(
        "model_type",
        "expected \"internlm\" for a TroLForCausalLM without llm_config, found \"" + type + "\"");
  TextConfig& text = config.text;
  text = read_text_config(json, Dialect::Release, *find_architecture("InternLM2ForCausalLM"),
                          "TroLForCausalLM (InternLM2)");
  if (text.qkv_bias) json.problem_at("bias", "true is not supported here: expected false");
  text.embed_rows = text.vocab + 1;  // one more for <image>, which can't be generated
  text.image_lora_rank = kOfficialImageLoraRank;
  config.presets.push_back("TroL-InternLM2: adapters of rank 256 at image tokens");
  if (const auto vision = json.find_object("vision_config")) {
    config.vision = read_vision_config(*vision);
    if (config.vision->kind != VisionConfig::Kind::Clip) {
      vision->problem_at("model_type", "expected \"clip_vision_model\" beside model_type internlm");
      config.vision->layers = 0;
    }
  } else {
    config.vision = {.kind = VisionConfig::Kind::Clip,
                     .d = 1024,
                     .layers = 24,
                     .heads = 16,
                     .ffn = 4096,
                     .patch = 14,
                     .image_size = 490,
                     .norm_eps = 1e-5f,
                     .activation = Unary::QuickGelu};
    config.presets.push_back("TroL-InternLM2: CLIP ViT-L/14 at 490 x 490");
  }
  config.vision->projector_hidden = text.d;
  config.image = clip_image(config.vision->image_size);
  if (json.has("image_token_index")) {
    config.image_token = json.get_int("image_token_index", 0, text.vocab);
  } else {
    config.image_token = text.vocab;
    config.presets.push_back("TroL-InternLM2: image token behind the vocabulary");
  }
}

bool is_internlm2(const Json& config) {
  const auto llm = config.find("llm_config");
  return has_architecture(config, kArchitecture) && (llm == config.end() || llm->is_null());
}

bool is_release(const Json& config) {
  return is_internlm2(config) || string_or_empty(config, "model_type") == "trol";
}

void read_release(const JsonObject& json, ModelConfig& config) {
  if (is_internlm2(json.json())) return read_internlm2(json, config);
  read_wrapped_decoder(json, config, " (TroL on InternLM2 has model_type \"internlm\")");
  if (json.has("image_token_index"))
    config.image_token = json.get_int("image_token_index", 0, config.text.embed_rows - 1);
  else
    config.presets.push_back("TroL: image token looked up in the tokenizer");  // as officially
}

bool knows_release_decoder(const Json& config) {
  return is_internlm2(config) || knows_decoder(decoder_part(config));
}

// ---- Training -----------------------------------------------------------------------------------

constexpr double kMostGateBias = 1000;

// Zero weights and one bias: at the start w is the same for every token.
std::optional<std::vector<float>> initial_values(const TensorSlot& slot,
                                                 const SchemeOptions& options) {
  if (slot.name == kGateTensors[0])
    return std::vector<float>(static_cast<size_t>(num_elements(slot.shape)));
  if (slot.name == kGateTensors[1])
    return std::vector<float>{static_cast<float>(options.number("gate_bias").value_or(0))};
  return std::nullopt;
}

// ---- What it is called and what it offers -------------------------------------------------------

std::vector<SchemeOption> options() {
  using Type = SchemeOption::Type;
  using When = SchemeOption::When;
  return {{.name = "passes",
           .type = Type::Integer,
           .help = "Traversals of each layer in a prompt; 1: off, 0: the model's own",
           .low = 0,
           .high = kMostPasses},
          {.name = "adaptive",
           .type = Type::Number,
           .help = "Tokens whose mixing weight is below this leave the second visit of a layer "
                   "out; 0: none, exact",
           .low = 0,
           .high = 1,
           .placeholder = "W"},
          {.name = "traverse",
           .type = Type::Choice,
           .help = "Tokens of a prompt that make the second visit",
           .choices = {"all", "image", "text"},
           .fallback = "all"},
          {.name = "last_gate",
           .when = When::Load,
           .type = Type::Flag,
           .help = "Where the entries of trol_gating.pt differ, use the last one for every layer, "
                   "as the official loader does"},
          {.name = "gate_bias",
           .when = When::Assembly,
           .type = Type::Number,
           .help = "w = sigmoid(2 gate_bias) at the start, for every token",
           .low = -kMostGateBias,
           .high = kMostGateBias,
           .fallback = "0"}};
}

std::vector<SchemeMeasure> measures() {
  return {{.source = SchemeMeasure::Source::MixWeight,
           .key = "mix",
           .name = "Mixing weight w",
           .question = "Where does the model look twice?",
           .about = "TroL runs every layer L twice over a prompt and mixes the two results token "
                    "by token: y = (1 − w)·L(x) + w·L(L(x)). A small gate computes w from L(x), "
                    "the result of the first look. w = 0 keeps the first look alone, w = 1 takes "
                    "the second one alone. Generated tokens make a single pass, so they have no w "
                    "and are shown hatched.",
           .bounded = true,
           .low = "first look",
           .high = "second look"},
          {.source = SchemeMeasure::Source::MixEffect,
           .key = "second_look",
           .name = "What the second look changed",
           .question = "How much did looking twice change?",
           .about = "How far mixing in the second look moved each token's state: ‖y − L(x)‖ / "
                    "‖L(x)‖ with the mixed state y = (1 − w)·L(x) + w·L(L(x)). A large w means "
                    "little where L(L(x)) is close to L(x); this is the effect itself. Generated "
                    "tokens make a single pass and are shown hatched.",
           .low = "changed little",
           .high = "changed much"}};
}

}  // namespace

const SchemeType& trol_scheme() {
  static const SchemeType type = {
      .name = "trol",
      .summary = "TroL: every layer traversed twice over a prompt, mixed token by token",
      .make = make_as<Trol>,
      .options = options(),
      .files = {.names = {kGateFile},
                .tensors = {std::begin(kGateTensors), std::end(kGateTensors)},
                .read = read_gate,
                .write = write_gate},
      .release = {.architecture = kArchitecture,
                  .recognises = is_release,
                  .read = read_release,
                  .knows_decoder = knows_release_decoder,
                  .chat_formats = {{"internlm", "trol-internlm2"},
                                   {"internlm2", "trol-internlm2"},
                                   {"phi3", "trol-phi3"}}},
      .assembly = {.possible = true, .initial_values = initial_values},
      .measures = measures()};
  return type;
}

}  // namespace reprise
