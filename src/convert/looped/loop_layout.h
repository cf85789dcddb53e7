// Which layers of a dense decoder become which blocks of a looped one (Relaxed Recursive
// Transformers, arXiv 2410.20672).
//
// L dense layers: `first` and `last` of them are kept as they are, the others are tied, B of them to
// each of K blocks: depth first + loop * K + k runs block k and stands for that dense layer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json_fwd.h"

namespace reprise {

// What a block's weights are to begin with.
enum class LoopStart {
  Stepwise,  // layers at fixed intervals, the first and the last of the looped ones among them
  Average,   // the mean of the tied layers
  Lower,     // the first K of the looped layers
  Random,    // new weights
  Fitted,    // matrices fitted to the tied layers together with the adapters; else their mean
  Untied,  // nothing: one block of zeros, looped once for every layer, whose adapters are all there
           // is of it. The low-rank model without sharing that looped ones are measured by
};
// "stepwise, average, lower, random, fitted, untied"
std::string loop_start_names();
std::string loop_start_name(LoopStart start);
// Throws Error that lists them; `option` begins the message.
LoopStart parse_loop_start(const std::string& name, const std::string& option);

struct LoopLayout {
  LoopStart start = LoopStart::Stepwise;
  int dense = 0;  // L
  int first = 0, last = 0;
  int blocks = 0, loops = 0;              // K, B
  std::vector<std::vector<int>> sources;  // by block: dense layers (from 0) whose mean it is

  int layers() const { return first + blocks + last; }  // that the looped model stores
  bool looped(int layer) const { return layer >= first && layer < first + blocks; }
  // The dense layer that a depth of the loops stands for.
  int tied(int loop, int block) const { return first + loop * blocks + block; }
};

// Throws Error naming the model and the options where B doesn't divide the layers that are left to
// loop, or there are fewer of them than loops.
LoopLayout make_loop_layout(LoopStart start, int dense_layers, int loops, int first, int last,
                            const std::string& model);

// {"L", "K", "B", "init", "blocks": by block its dense layers, counted from 1}
Json loop_layout_json(const LoopLayout& layout);

}  // namespace reprise
