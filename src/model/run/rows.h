// Rows of work: tokens that run together, grouped into segments of one request each.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/plan/plan.h"

namespace reprise {

class Cohort;

// What a scheme keeps per request beside KV (Phantom's start-of-sequence token). Each derives its
// own.
struct SchemeState {
  virtual ~SchemeState() = default;
  virtual std::unique_ptr<SchemeState> clone() const = 0;
  // Forgets what tokens from position `length` on have left.
  virtual void truncate(int64_t length) = 0;
};

// Where a request's initial states (Initial steps) come from.
struct InitialStates {
  uint64_t seed = 0;
  bool drawn = true;         // false: zeros where none is given
  std::vector<float> given;  // of the first positions, [positions, d], as they are
  bool operator==(const InitialStates&) const = default;
};

// A request's state as the model sees it. One thread at a time may run a request.
struct Sequence {
  std::map<int, KvRow> kv;                       // by KV row of the plan; made at the first write
  std::unique_ptr<SchemeState> scheme;           // made by the scheme at the first call
  std::shared_ptr<const InitialStates> initial;  // null: drawn with seed 0
  std::shared_ptr<KvAccount> account;            // for rows made from now on; null: uncounted
  int64_t length = 0;  // tokens that have been started; the next one's position
  // Cohorts under way that hold tokens of this request, in the order of their positions (kept by
  // Cohort). A sequence must not move while there are any.
  std::vector<Cohort*> under_way;

  // A sequence that goes on by itself from this one's first `tokens` tokens. Full pages are shared,
  // a partial last one is copied, and so is the scheme's state: as it is now, so it must not depend
  // on the tokens left out. account: of the copies and of what is added later; null: that of this
  // one's rows.
  Sequence fork(Backend& be, int64_t tokens, std::shared_ptr<KvAccount> account = nullptr) const;
  Sequence fork(Backend& be) const { return fork(be, length); }
  // Drops rows whose lifetime in `plan` is the prompt.
  void end_prompt(const Plan& plan);
  // Forgets all tokens from position `new_length` on: as if they had never been run.
  void truncate(int64_t new_length);
  // The KV row of this number, to be read or appended to; an empty one is made for these entries.
  KvRow& row(int number, const KvSpec& spec);
  int64_t kv_bytes() const;
};

// Bytes of the KV pages they hold, each page once, however many rows share it.
int64_t kv_bytes_held(std::span<const Sequence> sequences);

// Consecutive rows that belong to one request.
struct RowSegment {
  Sequence* sequence = nullptr;  // null: functional (training), nothing is kept
  int64_t first_row = 0;
  int64_t rows = 0;
  // Length of the request that rope's scaling is chosen by: the whole prompt's length for each of
  // its chunks, position + 1 in decode. Never the length of a chunk.
  int64_t total_length = 0;
  int prefix = -1;  // functional only: see AttentionSegment
};

struct Rows {
  std::vector<RowSegment> segments;
  std::vector<int32_t> positions;  // [rows]
  std::vector<uint8_t> is_image;   // [rows], or empty where there are none: image tokens
  int64_t size() const { return static_cast<int64_t>(positions.size()); }

  // Appends the next `count` tokens of a request.
  void append(Sequence& sequence, int64_t count, int64_t total_length);
};

}  // namespace reprise
