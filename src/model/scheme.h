// A scheme owns all that is particular to one way of reusing layers. What is known of it without a
// model is its SchemeType (scheme_type.h); a model's Scheme is here: extra tensors, the plans for
// prefill and decode, its own attention and KV width, per-request state. One file each under
// reuse/, one line each in the registry (reuse/schemes.h). The defaults here are the ordinary
// decoder.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/block.h"
#include "model/config/config.h"
#include "model/plan/plan.h"
#include "model/scheme_options.h"

namespace reprise {

// What the user may ask for when a model is loaded.
struct LoadOptions {
  DType kv_type = DType::F32;
  SchemeOptions scheme;  // its options for loading
};

class Scheme {
 public:
  virtual ~Scheme() = default;

  // ---- Weights beside the blocks'.
  virtual void visit_tensors(const TensorNames&, const TensorVisitor&) {}
  // Attaches what belongs to a block's matrices (adapters) before they are visited.
  virtual void attach(std::vector<Block>&) {}

  // ---- Depth.
  // The plan for a prompt of more than one token, and for everything else. Options are checked
  // before (check_options): names and values are as the scheme's type declares them.
  virtual Plan prefill_plan(const PlanOptions& options) const { return decode_plan(options); }
  virtual Plan decode_plan(const PlanOptions& options) const;

  // ---- Computation.
  virtual KvSpec kv_spec() const;
  // Around attention: what is attended with and kept instead of a row's plain q, k, v (Phantom
  // doubles their width) ...
  virtual Qkv widen(Backend&, int /*block*/, const VisitRows&, const Qkv& qkv) const { return qkv; }
  virtual AttentionSpec attention_spec(int block) const;
  // ... and back from attention's result [rows, heads, v_dim] to [rows, heads, head_dim], for the
  // rows that attend; qkv and wide hold all rows.
  virtual Tensor narrow(Backend&, int /*block*/, const VisitRows&, const Qkv& /*qkv*/,
                        const Qkv& /*wide*/, const Tensor& attended) const {
    return attended;
  }
  // The weight of a Mix step, [rows, 1], from the input of the visit before it.
  virtual Tensor mix_weight(Backend& be, const Mix& mix, const Tensor& in) const;
  // Of an Inject step: the state that goes on, from the state and the kept one, both [rows, d].
  virtual Tensor inject(Backend& be, int index, const Tensor& x, const Tensor& kept) const;
  // Of a Norm step with index >= 0.
  virtual Tensor step_norm(Backend& be, int index, const Tensor& x) const;
  // The head's logits [rows, vocab] as they count, where they are scaled by token.
  virtual bool scales_logits() const { return false; }
  virtual Tensor scaled_logits(Backend& be, const Tensor& logits) const;
  // Of an Initial step: [rows, d]. Must depend on a row's request and position alone.
  virtual Tensor initial_state(Backend& be, const Initial& step, const Rows& rows) const;
  // Of a Carry step: keeps of the state x [rows, d] what next tokens need, in Sequence::scheme.
  virtual void carry(Backend& be, const Carry& step, const Rows& rows, const Tensor& x) const;

  // ---- Leaving loops early.
  // A learned exit rule: the logit of leaving at a loop end, [rows, 1], from the state there,
  // [rows, d]: before its norm, or after the final one where it reads that.
  virtual bool has_exit_gate() const { return false; }
  virtual bool exit_gate_reads_normed() const { return false; }
  virtual Tensor exit_gate(Backend& be, const Tensor& state) const;
  // The rule that the model's own code goes by: what its config says, and the arguments of its call
  // (SchemeOption::exit). nullopt: it has none. Throws Error naming option or key.
  virtual std::optional<ExitConfig> official_exit(const PlanOptions& options) const;
  // A rule that was asked for otherwise than by such arguments, with what its own code does beside
  // it. Throws Error naming the option that doesn't go with it.
  virtual ExitConfig own_exit(const ExitConfig& exit, const PlanOptions&) const { return exit; }
  // Whether its own code runs all loops for every token and chooses by position, those of a prompt
  // too, whose loop's state the head reads.
  virtual bool selects() const { return false; }

  // ---- For traces: the number that its own code's cache has for a KV row of a plan.
  virtual int kv_slot(const Plan&, int row) const { return row; }
  // How many entries it keeps there of a block's visits, the latest ones; 0: all.
  virtual int64_t kv_kept(int /*block*/) const { return 0; }
  // Its own name for the final norm; empty: none.
  virtual std::string final_norm_name(const Plan&) const { return ""; }

  // Adapter per row for schemes whose adapters follow the kind of token; empty: the visit's own.
  virtual std::vector<int32_t> row_adapters(const Rows&) const { return {}; }

 protected:
  explicit Scheme(const ModelConfig& config) : config_(config) {}
  ModelConfig config_;
};

// The scheme that config.scheme names. Throws Error listing the known ones.
std::unique_ptr<Scheme> make_scheme(const ModelConfig& config);

}  // namespace reprise
