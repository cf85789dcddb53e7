// Some requests that a scheduler runs, and what a stretch of it takes.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/serve/scheduler.h"

namespace reprise::bench {

using Clock = std::chrono::steady_clock;

// The loop (0-based) at whose end a request's token leaves; negative: as its rule says.
using Depths = std::function<int(int64_t request, int64_t token)>;

// Drawn for every token anew: shares[l] leave at loop l.
Depths independent_depths(std::vector<double> shares, uint64_t seed);
// The same shares, but a request's token leaves where the one before it left, so often.
inline constexpr double kKept = 0.9;
Depths correlated_depths(std::vector<double> shares, uint64_t seed);

struct LoadOptions {
  int64_t rows = 1;      // requests at a time
  int64_t prompt = 128;  // tokens of each
  int64_t decode = 256;
  ExitConfig exit;  // none: full depth
  Depths depths;    // none: as `exit` says
  int64_t prompt_rows = 512;
  // Prompts to begin with, in turns; empty: random tokens.
  std::vector<std::vector<int32_t>> prompts;
};

// What went on between two points in time.
struct Window {
  double seconds = 0;
  int64_t tokens = 0;
  int64_t loops = 0;           // that these tokens ran live
  std::vector<int64_t> exits;  // by loop how many left there
  SchedulerStats stats;

  double rate() const { return static_cast<double>(tokens) / seconds; }
  double mean_depth() const { return static_cast<double>(loops) / static_cast<double>(tokens); }
  // Of norm + head calls: by token, and in a call.
  double head_rows_per_token() const;
  double rows_per_head() const;
  double rows_per_visit() const;
};

// Requests that begin together and are measured while all of them decode.
class Load {
 public:
  // The model must outlive it.
  Load(const Model& model, const LoadOptions& options);

  // Sweeps until every request has its first token.
  void start();
  // Changes to the schedule, lets every request make a token or more under it, and measures until each has made
  // `tokens` more.
  Window measure(Schedule schedule, int64_t tokens);
  // Whether every request has at least so many tokens to go.
  bool has(int64_t tokens) const;

 private:
  void sweep_until_each_has(int64_t more);

  const int64_t decode_;
  Scheduler scheduler_;
  std::vector<int64_t> made_;  // tokens by request
  int64_t tokens_ = 0;
  std::vector<int64_t> exits_;  // by loop
  std::vector<std::string> errors_;
};

// Times as people see them, in seconds.
struct Latency {
  std::vector<double> first;    // from a request's arrival to its first token
  std::vector<double> between;  // tokens of a request
};
// Twice `rows` requests, rows of them at a time. long_prompt: one of so many tokens arrives when a
// quarter of all tokens is made; its own times aren't counted.
Latency measure_latency(const Model& model, const LoadOptions& options, Schedule schedule,
                        int64_t long_prompt);

}  // namespace reprise::bench
