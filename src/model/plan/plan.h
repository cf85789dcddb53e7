// Depth as data. A model owns blocks (weights); a plan is the flat list of steps that says in what
// order blocks are visited, which KV row each visit reads and writes, and what happens in between.
//
// A plan can be printed, drawn, checked, given on the command line and stored in a model file. Many
// requests share one plan; a row of work is a token with a position in its plan.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/json_fwd.h"

namespace reprise {

// Runs one block. `write` is the KV row that gets this visit's keys and values (-1: none keeps
// them), `read` the one its queries attend to; `adapter` selects the low-rank adapters of the
// block's matrices (-1: none).
struct Visit {
  int block = 0;
  int read = 0;
  int write = 0;
  int adapter = -1;
  // The queries attend to what `read` holds of positions before this call, and to the keys and
  // values of this very visit for the call's own positions: loops that share one KV row see the
  // past of the loop that writes it. The result then depends on how a prompt is cut into calls.
  bool past = false;
  // Where `read` lacks entries of earlier positions (tokens that left before it), the queries attend
  // to this row's past and the visit's own keys and values instead; -1: to the entries that are
  // there. No visit writes such a row: a token's entries of the last visit before it left the loops
  // are copied there.
  int deepest = -1;
  bool operator==(const Visit&) const = default;
};

enum class MixTokens { All, Image, Text };

// Blends the last visit's input and output per token: x = in + w (out - in), w from the scheme's
// gate number `gate` applied to the input (TroL). Since w is known before the visit, tokens with
// w < skip_below can leave it out and go on with `in` (adaptive traversal): they only give the
// others their keys and values. 0 skips none and is exact. Tokens of another kind than `tokens`
// leave it out too.
struct Mix {
  int gate = 0;
  float skip_below = 0;
  MixTokens tokens = MixTokens::All;
  // Whether tokens may leave the visit out.
  bool skips() const { return skip_below > 0 || tokens != MixTokens::All; }
  bool operator==(const Mix&) const = default;
};

// Keeps the state in a register of the row.
struct Save {
  int reg = 0;
  bool operator==(const Save&) const = default;
};

// x = reg + alpha (x - reg): the fraction alpha of the update made since Save (damped replay).
struct Combine {
  int reg = 0;
  float alpha = 1;
  bool operator==(const Combine&) const = default;
};

// x = x + scale * reg (looped models that get the state before the loops again in every loop).
struct Add {
  int reg = 0;
  float scale = 1;
  bool operator==(const Add&) const = default;
};

// x = the scheme's own function number `index` of the state and a kept one, such as a matrix over
// both ([x, reg] -> x): Scheme::inject.
struct Inject {
  int reg = 0;
  int index = 0;
  bool operator==(const Inject&) const = default;
};

// x = norm(x): the model's final norm, or with index >= 0 the scheme's norm of this number
// (Scheme::step_norm).
struct Norm {
  int index = -1;
  bool operator==(const Norm&) const = default;
};

// x = the scheme's initial state number `index` (Scheme::initial_state): zeros, a learned vector, a
// random draw. The state before is gone unless it was saved.
struct Initial {
  int index = 0;
  float scale = 1;  // of a draw
  bool operator==(const Initial&) const = default;
};

// The state is handed to the scheme, which keeps with the request what its next tokens need of it:
// Scheme::carry.
struct Carry {
  int index = 0;
  bool operator==(const Carry&) const = default;
};

// A place where a token may leave, with the state before the final norm; `norm`: apply the final
// norm to the state that goes on. A token that leaves goes on at step `coda`: the layers behind the
// loops, which every token runs. -1: there is none, it has its final state.
struct LoopEnd {
  int loop = 0;
  bool norm = false;
  int coda = -1;
  bool operator==(const LoopEnd&) const = default;
};

struct Step {
  std::variant<Visit, Mix, Save, Combine, Add, Inject, Norm, Initial, Carry, LoopEnd> op;
  // Name of the state after this step for traces ("layer.3.out"); empty: not shown.
  std::string label;
  bool operator==(const Step&) const = default;
};

// How long a KV row's entries are kept.
enum class Lifetime {
  Request,  // as long as the request
  Prompt,   // until its prompt is done (TroL's second pass)
};

struct KvDecl {
  Lifetime lifetime = Lifetime::Request;
  bool operator==(const KvDecl&) const = default;
};

struct Plan {
  std::vector<Step> steps;
  std::vector<KvDecl> kv_rows;  // by row number
  int registers = 0;

  // Builders. A visit without rows of its own choosing gets a new KV row for itself.
  void visit(int block, int kv, int adapter, std::string label);
  void mix(const Mix& mix, std::string label);
  void loop_end(int loop, bool norm = false);
  int add_kv_row(Lifetime lifetime = Lifetime::Request);

  int visits() const;  // effective depth
  int unique_blocks() const;
  int loops() const;       // number of LoopEnd steps
  bool shares_kv() const;  // whether a visit reads another row than the one it writes
  // Whether a prompt must be run in one piece, since its result depends on how it is cut.
  bool whole_prompts() const;
  // The block of which a token that leaves at some loop end has no entry that its deeper visits
  // could share; -1: there is none.
  int unshared_block() const;
  const Initial* initial() const;  // the first Initial step; null where there is none

  // By KV row the step that writes it; -1: none does. (No row is written twice.)
  std::vector<int> writers() const;

  // Throws Error ("<where>: step 7: ...") unless: blocks, rows and registers are in range; every
  // row is written before (or by the visit that) reads it, one whose past alone is read anywhere in
  // the plan; no row is written twice, and a visit that writes none reads another's; every Mix
  // follows a visit and skips below 0 to 1; every register is saved before it is used; a coda lies
  // behind its loop end and reads nothing that a token leaving there doesn't have.
  void check(int blocks, const std::string& where) const;

  bool operator==(const Plan&) const = default;
};

// One visit a block, in order: every ordinary decoder.
Plan dense_plan(int blocks);
// All blocks so many times over, every visit with a KV row of its own: row loop * blocks + block.
// norm: what goes on from loop to loop is the final norm of the state.
Plan looped_plan(int blocks, int loops, bool norm);

// "0-23,10-14" -> visits of blocks 0..23, then 10..14 again, each visit with a KV row of its own.
// A range may run backwards ("5-3") and a block may stand alone ("7"). Damped replay
// (arXiv 2605.23872): "0-9,10-14*3,15-29" runs 10..14 three times and takes a third of each update:
// x <- x + (F(x) - x) / 3. "0-14,10-14@0.1,15-29" runs them a second time and takes a tenth of that
// update, "10-14*2@0.1" does so twice. A factor of 1 is the plain visit, and a range with a factor
// of 0 isn't run. Throws Error naming `where` and the offending piece.
Plan parse_plan(std::string_view text, int blocks, const std::string& where);

std::string mix_tokens_name(MixTokens kind);  // "all", "image", "text"
// Throws Error naming `where` for any other text.
MixTokens parse_mix_tokens(std::string_view name, const std::string& where);

// A table for people, one line a step.
std::string plan_table(const Plan& plan);
// The short form that parse_plan reads, where the plan can be written so; else "(scheme's own)".
std::string plan_summary(const Plan& plan);

Json plan_to_json(const Plan& plan);
Plan plan_from_json(const Json& json, const std::string& where);

}  // namespace reprise
