// Phantom, "Phantom of Latent for Large Language and Vision Models" (arXiv 2409.14713).
//
// Attention's hidden dimension is doubled for a moment. With s the start-of-sequence token (the
// request's first) and x one of q, k, v after rope, three small cross attentions over the HEADS of
// s's own q, k, v (matrices [hd, hd] shared by all heads) give for every token
//   y = gelu(W_o softmax(gelu(W_q x) . gelu(W_k s) / sqrt(hd)) gelu(W_v s))
//   q* = eta y_q,  k* = eta y_k,  v* = v + eta y_v
// Attention runs on [q, q*], [k, k*], [v, v*] with the scale of the original width, 1 / sqrt(hd),
// and gives [o1, o2] per head; a gate returns to the original width:
//   w = sigmoid(f - g), f = Linear(o1), g = Linear(o2);  out = w o1 + (1 - w) o2
//
// Both halves share one attention pattern, so o2 = o1 + eta sum p y_v: the cache keeps [k, k*] and
// [v, y_v], each computed once per token. With eta = 1e-4, v + eta y would round to v in 16 bits; y
// does not. The sos token's part of the cross attentions is kept per request and KV row, so
// requests never disturb each other; a one-token prompt uses that token itself.
//
// Config (optional): "reprise": {"phantom": {"eta": 1e-4, "gate": true}}; without the gate w = 1/2,
// the paper's "phantom dimension only".
#include <array>
#include <cmath>
#include <map>

#include "backend/heads.h"
#include "base/error.h"
#include "base/json_object.h"
#include "model/config/vision_language.h"
#include "model/reuse/schemes.h"

namespace reprise {
namespace {

constexpr double kReleasedEta = 1e-4;  // a constant in the official code
constexpr double kMostEta = 1e6;       // of recipes: far beyond any use, a typing error ends here
constexpr const char* kCrossNames[] = {"xattn_query_phantom", "xattn_key_phantom",
                                       "xattn_value_phantom"};

struct CrossAttention {
  LinearWeight q, k, v, o;  // [hd, hd], no biases
};

struct PhantomWeights {
  CrossAttention cross[3];    // for queries, keys, values
  LinearWeight gate1, gate2;  // [1, hd]
};

// The sos token's side of one cross attention: gelu(W_k s), gelu(W_v s), each [heads, hd].
struct SosPart {
  Tensor k, v;
};

struct PhantomState : SchemeState {
  std::map<int, std::array<SosPart, 3>> sos;  // by KV row
  std::unique_ptr<SchemeState> clone() const override {
    return std::make_unique<PhantomState>(*this);
  }
  void truncate(int64_t length) override {
    if (length == 0) sos.clear();
  }
};

class Phantom : public Scheme {
 public:
  explicit Phantom(const ModelConfig& config) : Scheme(config), weights_(config.text.layers) {
    const JsonObject keys(config.scheme_config, config.where, "reprise.phantom.");
    keys.allow_only({"eta", "gate"});
    eta_ = static_cast<float>(keys.find_number("eta").value_or(kReleasedEta));
    gated_ = keys.find_bool("gate").value_or(true);
  }

  void visit_tensors(const TensorNames& names, const TensorVisitor& visitor) override {
    const int64_t hd = config_.text.head_dim;
    for (size_t layer = 0; layer < weights_.size(); ++layer) {
      PhantomWeights& w = weights_[layer];
      const std::string prefix = names.attention_prefix(static_cast<int>(layer));
      for (int i = 0; i < 3; ++i) {
        const std::pair<const char*, LinearWeight*> matrices[] = {{"linear_q", &w.cross[i].q},
                                                                  {"linear_k", &w.cross[i].k},
                                                                  {"linear_v", &w.cross[i].v},
                                                                  {"linear_o", &w.cross[i].o}};
        for (const auto& [name, weight] : matrices)
          visitor({prefix + kCrossNames[i] + "." + name + ".weight",
                   {hd, hd},
                   WeightUse::Matrix,
                   Role::Scheme,
                   &weight->weight,
                   /*flatten=*/false,
                   "phantom"});
      }
      const std::pair<const char*, LinearWeight*> gates[] = {{"gating_phantom_1", &w.gate1},
                                                             {"gating_phantom_2", &w.gate2}};
      for (const auto& [name, weight] : gates) {
        visitor(
            {prefix + name + ".weight", {1, hd}, WeightUse::Matrix, Role::Gate, &weight->weight});
        visitor({prefix + name + ".bias", {1}, WeightUse::Vector, Role::Gate, &weight->bias});
      }
    }
  }

  KvSpec kv_spec() const override {
    const int width = 2 * config_.text.head_dim;
    return {config_.text.kv_heads, width, width};
  }

  // [q, q*], [k, k*], [v, y]
  Qkv widen(Backend& be, int block, const VisitRows& rows, const Qkv& qkv) const override {
    const PhantomWeights& w = weights_[static_cast<size_t>(block)];
    const Sos sos = sos_tokens(be, w, rows, qkv);
    const Tensor* const inputs[] = {&qkv.q, &qkv.k, &qkv.v};
    std::array<HeadCross, 3> parts;
    for (size_t c = 0; c < 3; ++c)
      parts[c] = {.x = *inputs[c],
                  .q = &w.cross[c].q,
                  .o = &w.cross[c].o,
                  .keys = sos.keys[c],
                  .values = sos.values[c],
                  .factor = c < 2 ? eta_ : 1.0f};  // of v the cache keeps y itself
    const float scale = 1.0f / std::sqrt(static_cast<float>(config_.text.head_dim));
    std::vector<Tensor> wide = cross_heads(be, parts, scale, sos.of_row);
    return {std::move(wide[0]), std::move(wide[1]), std::move(wide[2])};
  }

  // The scale stays that of the original width.
  AttentionSpec attention_spec(int block) const override {
    AttentionSpec spec = Scheme::attention_spec(block);
    spec.k_dim = spec.v_dim = 2 * config_.text.head_dim;
    return spec;
  }

  // both: [rows, heads, 2 hd], o1, then sum p y_v
  Tensor narrow(Backend& be, int block, const VisitRows& rows, const Qkv& qkv, const Qkv& wide,
                const Tensor& both) const override {
    if (!gated_) {
      const int64_t hd = config_.text.head_dim;
      return be.add(be.slice(both, 2, 0, hd), be.slice(both, 2, hd, 2 * hd), 0.5f * eta_);
    }
    const PhantomWeights& w = weights_[static_cast<size_t>(block)];
    const auto [out, gate] = gate_halves(be, both, eta_, w.gate1, w.gate2);
    if (rows.watch) show(be, rows, qkv, wide, both, gate);
    return out;
  }

 private:
  // The sos tokens of a call's requests, as cross_heads wants them.
  struct Sos {
    std::vector<Tensor> keys[3], values[3];  // by request: [heads, hd]
    std::vector<int32_t> of_row;             // which request each row belongs to
  };

  void show(Backend& be, const VisitRows& rows, const Qkv& qkv, const Qkv& wide, const Tensor& both,
            const Tensor& gate) const {
    const TextConfig& config = config_.text;
    const int64_t n = gate.dim(0), hd = config.head_dim;
    const auto second = [&](const Tensor& x) { return be.slice(x, 2, hd, 2 * hd); };
    const auto per_head = [&](const Tensor& x) {  // [rows, kv_heads, hd] -> [rows, heads, hd]
      if (!config.trace_repeats_kv) return x;
      const int64_t group = config.heads / config.kv_heads;
      std::vector<int32_t> from;
      for (int64_t i = 0; i < n * config.heads; ++i)
        from.push_back(static_cast<int32_t>(i / group));
      const Tensor flat = be.reshape(x, {n * config.kv_heads, hd});
      return be.reshape(be.gather_rows(flat, from), {n, config.heads, hd});
    };
    rows.watch.value("qstar", second(wide.q));
    rows.watch.value("kstar", per_head(second(wide.k)));
    rows.watch.value("vstar", per_head(be.add(qkv.v, second(wide.v), eta_)));
    const Tensor o1 = be.slice(both, 2, 0, hd);
    rows.watch.value("o1", o1);
    rows.watch.value("o2", be.add(o1, second(both), eta_));
    rows.watch.value("gate_w", be.reshape(gate, {n, config.heads}));
  }

  // The sos side for every request of the call, computed at its first token and kept with it.
  Sos sos_tokens(Backend& be, const PhantomWeights& w, const VisitRows& rows,
                 const Qkv& qkv) const {
    const auto& segments = rows.segments;
    Sos out;
    std::map<int, int32_t> request_of_segment;  // of segments that begin a request
    for (size_t i = 0; i < segments.size(); ++i) {
      const VisitSegment& segment = segments[i];
      int32_t request;
      if (segment.prefix >= 0) {  // training: the sos token is the shared prefix's
        request = request_of_segment.at(segment.prefix);
      } else {
        request = static_cast<int32_t>(out.keys[0].size());
        const std::array<SosPart, 3> parts = sos_of(be, w, segment, qkv);
        for (size_t c = 0; c < 3; ++c) {
          out.keys[c].push_back(parts[c].k);
          out.values[c].push_back(parts[c].v);
        }
      }
      request_of_segment[static_cast<int>(i)] = request;
      out.of_row.insert(out.of_row.end(), static_cast<size_t>(segment.rows), request);
    }
    return out;
  }

  std::array<SosPart, 3> sos_of(Backend& be, const PhantomWeights& w, const VisitSegment& segment,
                                const Qkv& qkv) const {
    PhantomState* state = nullptr;
    if (segment.sequence) {
      if (!segment.sequence->scheme) segment.sequence->scheme = std::make_unique<PhantomState>();
      state = static_cast<PhantomState*>(segment.sequence->scheme.get());
      const auto it = state->sos.find(segment.write);
      if (it != state->sos.end()) return it->second;
    }
    REPRISE_CHECK(segment.first_position == 0, "a request must begin with its first token");
    const Tensor* const inputs[] = {&qkv.q, &qkv.k, &qkv.v};
    std::array<SosPart, 3> parts;
    for (int c = 0; c < 3; ++c) {
      const Tensor s = be.slice(*inputs[c], 0, segment.first_row, segment.first_row + 1);
      const LinearWeight* const weights[] = {&w.cross[c].k, &w.cross[c].v};
      const std::vector<Tensor> kv = be.linear(be.reshape(s, {s.dim(1), s.dim(2)}), weights, {});
      parts[c] = {be.unary(kv[0], Unary::Gelu), be.unary(kv[1], Unary::Gelu)};
    }
    if (state) state->sos[segment.write] = parts;
    return parts;
  }

  std::vector<PhantomWeights> weights_;  // by block
  float eta_ = 0;
  bool gated_ = true;
};

bool is_release(const Json& config) { return string_or_empty(config, "model_type") == "phantom"; }

void read_release(const JsonObject& json, ModelConfig& config) {
  read_wrapped_decoder(json, config);
  config.image_token = json.get_int("image_token_index", 0, config.text.embed_rows - 1);
  config.presets.push_back("phantom release: eta 1e-4 unless configured");
}

std::vector<SchemeMeasure> measures() {
  return {
      {.source = SchemeMeasure::Source::HeadGate,
       .key = "gate",
       .name = "Phantom gate w",
       .question = "Where does the model rely on its phantom dimension?",
       .about =
           "Phantom doubles attention's hidden dimension for a moment. Each head then has two "
           "results: o1 in the original dimension and o2 in the phantom one, and a gate joins them "
           "for every token: w·o1 + (1 − w)·o2. w = 1 keeps the original alone, w = 0 the phantom "
           "alone. Choose a head, or see the mean over all heads. The last token of the answer was "
           "chosen but never run, so it is shown hatched.",
       .bounded = true,
       .low = "phantom",
       .high = "original"},
      {.source = SchemeMeasure::Source::HeadEffect,
       .key = "phantom",
       .name = "What the phantom half changed",
       .question = "How much did the phantom dimension change?",
       .about =
           "How far the phantom half moved the result of attention, over all heads of a token: "
           "‖(1 − w)·(o2 − o1)‖ / ‖o1‖. With a small eta (1e-4 in the released models) o2 can "
           "be so close to o1 that the gate hardly matters; this is the effect itself. The last token of "
           "the answer was chosen but never run, so it is shown hatched.",
       .low = "changed little",
       .high = "changed much"}};
}

}  // namespace

const SchemeType& phantom_scheme() {
  static const SchemeType type = {
      .name = "phantom",
      .summary = "Phantom: attention's hidden dimension doubled for a moment",
      .make = make_as<Phantom>,
      .options = {plan_option(),
                  {.name = "eta",
                   .when = SchemeOption::When::Assembly,
                   .type = SchemeOption::Type::Number,
                   .help = "How much of the cross attentions is added to q, k and v",
                   .low = 0,
                   .high = kMostEta,
                   .fallback = "1e-4, the releases'",
                   .in_config = true}},
      .stored_plan = true,
      .release = {.architecture = "PhantomForCausalLM",
                  .recognises = is_release,
                  .read = read_release,
                  .chat_formats = {{"internlm2", "phantom-internlm2"},
                                   {"internlm", "phantom-internlm2"},
                                   {"qwen2", "phantom-qwen2"},
                                   {"phi3", "phantom-phi3"}}},
      .assembly = {.possible = true},
      .measures = measures()};
  return type;
}

}  // namespace reprise
