// Early exit as it is asked for: when a token leaves a looped model before its last loop, and what
// it then has as keys and values of the loops left out. On the command line "confidence:0.9"; in a
// model's config
//   "reprise": {"exit": {"kind": "confidence", "threshold": 0.9, "kv": "exact"}}
#pragma once

#include <string>
#include <string_view>

#include "base/json_fwd.h"

namespace reprise {

class JsonObject;

// What a token that left early has as keys and values at the depths it did not run.
enum class ExitKv {
  Propagate,  // those its exit state gives there: each deeper visit's own projection of it
  Exact,      // those of the full depth: the deeper steps run for it later
  Share,      // copies of the entries of the last visit of the same block before the exit
  Missing,    // none: later tokens attend there to those alone that have been that deep
};

// A token leaves at the first loop end where
enum class ExitKind {
  None,        // (it never leaves early)
  Confidence,  // the largest probability of this loop's logits is >= threshold
  Entropy,     // their entropy in nats is <= threshold
  Similarity,  // the cosine of this and the last loop's state is >= threshold; from the second on
  Gate,        // the sigmoid of the scheme's exit gate is >= threshold (Scheme::exit_gate)
  Depth,       // it has run `threshold` loops
  Step,        // the loop's number, from 0, is `threshold`
  Cdf,         // the gates up to here make it leave with a probability >= threshold (ExitOdds)
  Weighted,    // it doesn't: its logits are the mean of all loops' by those probabilities
  // What the loop changed is small, against the loop before; in the first one against what is said
  // at each. Logits are those that leaving here gives, with layers behind the loops.
  Kl,               // KL(probabilities before || now) < threshold; first: uniform ones
  MinPKl,           // the same of probabilities cut below a tenth of the largest
  EntropyDiff,      // |entropy now - before| < threshold, in nats; first: 100
  ArgmaxStability,  // the likeliest token has been the same `threshold` times in a row
  LatentDiff,       // |state now - before| / |state now| < threshold; first: the initial state
  Cosine,           // 1 - their cosine < threshold; first: the initial state
};

// What leaving means.
enum class ExitMode {
  Skip,    // the loops left out aren't run (but for what `kv` says)
  Select,  // all loops are run; the rule only chooses whose state the head reads
};

struct ExitConfig {
  ExitKind kind = ExitKind::None;
  double threshold = 0;  // of its kind; of Depth and Step: loops, a whole number
  ExitKv kv = ExitKv::Exact;
  ExitMode mode = ExitMode::Skip;  // of a request, not stored; Weighted: Select
  // Of a request, not stored: a prompt leaves too, as a whole, by its last position (LatentDiff and
  // Cosine: by the mean over its positions). It is then run in one piece.
  bool prompts = false;

  bool active() const { return kind != ExitKind::None; }
  bool operator==(const ExitConfig&) const = default;
};

std::string exit_kind_name(ExitKind kind);  // "confidence"
std::string exit_kv_name(ExitKv kv);        // "exact"
std::string exit_mode_name(ExitMode mode);  // "select"
// "confidence, entropy, ... or cosine"
std::string exit_kind_list();

// Throw Error that says what was expected and found. Thresholds: confidence above 0 to 1, entropy
// from 0, similarity -1 to 1, gate 0 to 1, depth from 1, step from 0 (how many loops there are a
// plan says), argmax-stability from 1, cdf and all others from 0; weighted has none.
ExitKind parse_exit_kind(std::string_view name);
ExitKv parse_exit_kv(std::string_view name);
ExitMode parse_exit_mode(std::string_view name);
// "confidence:0.9", "depth:2", "none"; policy for KV and mode are left as they are by default.
ExitConfig parse_exit(std::string_view text);
// What is wrong with a threshold: "expected ..., found ..."; "" for nothing.
std::string exit_threshold_problem(ExitKind kind, double threshold);

std::string exit_text(const ExitConfig& exit);  // as parse_exit reads it

// The object "reprise.exit". Errors name file and key.
ExitConfig read_exit_config(const JsonObject& json);
Json exit_config_to_json(const ExitConfig& exit);

}  // namespace reprise
