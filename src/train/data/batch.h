// What one forward call trains on: rows of work, and which of them are to predict what.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "model/run/rows.h"

namespace reprise {

// One answer's targets: [first, first + count) of a batch's.
struct AnswerTargets {
  int64_t first = 0;
  int64_t count = 0;
  bool rejected = false;  // a wrong one; it stands right behind the right one
};

// A picture and the text in front of it are one segment, which the segments of its questions have
// as prefix: causal attention makes that the same as repeating the picture in front of every
// question, at a fraction of the cost. Text alone leaves the pictures' fields empty.
struct Batch {
  Rows rows;
  std::vector<int32_t> ids;         // [rows]
  std::vector<int32_t> image_rows;  // rows that hold picture tokens, in order
  int64_t tiles = 0;
  std::vector<float> pixels;                        // [tiles, 3, size, size]
  std::function<std::vector<float>()> make_pixels;  // the same ones again; empty: they are kept

  std::vector<int32_t> target_rows;    // rows whose logits count
  std::vector<int32_t> targets;        // the token each of them should predict
  std::vector<AnswerTargets> answers;  // cover all targets in order

  int64_t right_targets() const;  // targets of right answers
  int64_t pairs() const;          // right answers that a wrong one follows

  // Gives back the memory of what make_inputs can make again. The pixels of a step of hundreds of
  // pictures are gigabytes, so a step of several calls has those of one at a time.
  void drop_inputs();
  void make_inputs();
};

}  // namespace reprise
