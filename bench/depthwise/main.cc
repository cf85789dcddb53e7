// Continuous depth-wise batching beside other ways to run the same requests, in pairs in one run, and beside the bound
// that the measured times of its parts give. docs/benchmarks.md explains the figures.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <random>

#include "backend/factory.h"
#include "base/error.h"
#include "base/json.h"
#include "engine/loaded_model.h"
#include "load.h"
#include "looped_model.h"

namespace reprise::bench {
namespace {

struct Options {
  std::vector<std::string> shapes = {"0.5b-x3", "1.8b-x3", "ouro-1.4b"};
  std::string model, text;  // a real model instead of the shapes, and what its prompts are cut from
  std::vector<int64_t> rows = {1, 4, 8, 16, 64};
  std::vector<double> shares;  // by loop; empty: by the number of loops
  std::string exit = "gate:0.5";
  std::string exit_kv = "propagate";
  int pairs = 9;
  int64_t tokens = 12;  // of a row in a window
  int64_t prompt = 128, decode = 256;
  int64_t stall_prompt = 4000;
  int threads = 0;
  std::string isa;
  bool quick = false, json = false;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1,
                         static_cast<size_t>(share * static_cast<double>(values.size())))];
}

// A median and the interval that holds it with 95% (bootstrap).
struct Ratio {
  double middle = 0, low = 0, high = 0;
};
Ratio ratio_of(const std::vector<double>& pairs) {
  constexpr int kDraws = 2000;
  std::mt19937_64 random(1);
  std::vector<double> medians, drawn(pairs.size());
  for (int i = 0; i < kDraws; ++i) {
    for (double& value : drawn) value = pairs[random() % pairs.size()];
    medians.push_back(median(drawn));
  }
  return {median(pairs), percentile(medians, 0.025), percentile(medians, 0.975)};
}
Json to_json(const Ratio& ratio) {
  return {{"median", ratio.middle}, {"low", ratio.low}, {"high", ratio.high}};
}
std::string shown(const Ratio& ratio) {
  return fmt::format("{:.3f} ({:.3f} to {:.3f})", ratio.middle, ratio.low, ratio.high);
}

double seconds_of(int times, const std::function<void()>& work) {
  std::vector<double> seconds;
  for (int i = 0; i < times; ++i) {
    const Clock::time_point begin = Clock::now();
    work();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return median(seconds);
}

double embed_seconds(const Model& model, int64_t rows) {
  const std::vector<int32_t> ids(static_cast<size_t>(rows), 1);
  return seconds_of(9, [&] { (void)model.embed(ids); });
}

double head_seconds(const Model& model, int64_t rows) {
  const std::vector<int32_t> ids(static_cast<size_t>(rows), 1);
  const Tensor x = model.embed(ids);
  return seconds_of(5, [&] { (void)model.backend().to_host(model.logits(model.final_norm(x))); });
}

// One loop for tokens that left at the first one, without those that go on beside them.
double rest_seconds(const Model& model, int64_t rows, ExitKv policy) {
  const Plan plan = model.decode_plan();
  const std::vector<int32_t> ids(static_cast<size_t>(rows), 1);
  std::vector<double> seconds;
  for (int i = 0; i < 5; ++i) {
    const Runner runner(model);
    std::vector<Sequence> sequences(ids.size());
    Rows all;
    for (Sequence& sequence : sequences) {
      sequence.initial = std::make_shared<const InitialStates>();
      all.append(sequence, 1, 1);
    }
    const auto cohort = runner.start(plan, std::move(all), model.embed(ids));
    while (!cohort->loop_end()) runner.visit(*cohort);
    const auto rest = runner.leave(*cohort, policy);
    if (!rest) return 0;
    const Clock::time_point begin = Clock::now();
    while (!rest->done()) {
      if (rest->loop_end())
        runner.pass(*rest);
      else
        runner.visit(*rest);
    }
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return median(seconds) / (plan.loops() - 1);
}

// Rows of a window's length whose keys and values fit, as asked for or fewer.
int64_t fitting_prompt(const Model& model, const Options& options, int64_t rows) {
  constexpr double kMostBytes = 10e9;
  constexpr int64_t kLoads = 2, kLeast = 16;
  const TextConfig& text = model.config().text;
  const auto entries = static_cast<double>(model.decode_plan().kv_rows.size()) * 2 *
                       static_cast<double>(text.kv_heads * text.head_dim) *
                       2;  // bytes of a token, F16
  const auto most =
      static_cast<int64_t>(kMostBytes / (entries * static_cast<double>(rows * kLoads)));
  return std::clamp(most - options.decode, kLeast, options.prompt);
}

struct Cell {
  std::string depths;
  int64_t rows = 0, prompt = 0;
  Window full, cohort, depthwise;  // of the last pair
  // Of all pairs, by schedule.
  std::map<std::string, double> rates;  // tokens a second, the median
  double core_seconds = 0;              // of one loop over the blocks, all rows
  std::map<std::string, std::vector<double>> exits;
  Ratio over_by_sequence, over_by_cohort, cohort_over_by_sequence, without_exits;
  double bound_over_by_sequence = 0, bound_over_by_cohort = 0, bound_rate = 0;
  Ratio share_of_bound;
};

// Seconds by rows.
using RowTimes = std::map<int64_t, double>;
struct Times {
  // core: one loop over the blocks; rest: that of tokens that left, for their keys and values alone.
  RowTimes embed, core, head, rest;
};

double at_rows(const RowTimes& times, double rows) {
  const auto above = std::find_if(times.begin(), times.end(), [&](const auto& entry) {
    return static_cast<double>(entry.first) >= rows;
  });
  if (above == times.begin()) return above->second;
  if (above == times.end())
    return times.rbegin()->second * rows / static_cast<double>(times.rbegin()->first);
  const auto below = std::prev(above);
  const double part =
      (rows - static_cast<double>(below->first)) / static_cast<double>(above->first - below->first);
  return below->second + part * (above->second - below->second);
}

Cell measure_cell(const Model& model, const Options& options, const LoadOptions& with_exits,
                  const std::string& name, Times& times) {
  const int loops = model.decode_plan().loops();
  const bool exact = with_exits.exit.kv == ExitKv::Exact;
  LoadOptions without = with_exits;
  without.exit = {};
  without.depths = {};
  Cell cell{.depths = name, .rows = with_exits.rows, .prompt = with_exits.prompt};
  Load full(model, without), leaving(model, with_exits);
  full.start();
  leaving.start();
  const auto rows = static_cast<double>(cell.rows);
  const double embed = times.embed[cell.rows] = embed_seconds(model, cell.rows);
  if (!exact && loops > 1)
    times.rest[cell.rows] = rest_seconds(model, cell.rows, with_exits.exit.kv);
  const auto head_of = [&](double n) {
    const int64_t whole = std::max<int64_t>(1, std::llround(n));
    if (!times.head.contains(whole)) times.head[whole] = head_seconds(model, whole);
    return times.head[whole];
  };
  std::map<std::string, std::vector<double>> rates;
  std::vector<double> over_sequence, over_cohort, cohort_over, no_exits, shares, passes;
  for (int pair = 0; pair < options.pairs; ++pair) {
    const auto run = [&](bool with, Schedule schedule) {
      return (with ? leaving : full).measure(schedule, options.tokens);
    };
    Window ordinary;
    if (pair % 2 == 0) {
      cell.full = run(false, Schedule::Sequence);
      ordinary = run(false, Schedule::Depthwise);
      cell.cohort = run(true, Schedule::Cohort);
      cell.depthwise = run(true, Schedule::Depthwise);
    } else {
      cell.depthwise = run(true, Schedule::Depthwise);
      cell.cohort = run(true, Schedule::Cohort);
      ordinary = run(false, Schedule::Depthwise);
      cell.full = run(false, Schedule::Sequence);
    }
    const double pass = rows / cell.full.rate();  // all rows a token
    passes.push_back(pass);
    for (const auto& [schedule, window] : {std::pair(Schedule::Cohort, &cell.cohort),
                                           std::pair(Schedule::Depthwise, &cell.depthwise)}) {
      std::vector<double>& exits = cell.exits[schedule_name(schedule)];
      exits.resize(window->exits.size());
      for (size_t loop = 0; loop < exits.size(); ++loop)
        exits[loop] += static_cast<double>(window->exits[loop]);
      rates[schedule_name(schedule)].push_back(window->rate());
    }
    rates[schedule_name(Schedule::Sequence)].push_back(cell.full.rate());
    times.core[cell.rows] = (median(passes) - embed - head_of(rows)) / loops;
    over_sequence.push_back(cell.depthwise.rate() / cell.full.rate());
    over_cohort.push_back(cell.depthwise.rate() / cell.cohort.rate());
    cohort_over.push_back(cell.cohort.rate() / cell.full.rate());
    no_exits.push_back(ordinary.rate() / cell.full.rate());
    // A token of every row: d loops of `rows` rows, with what is left to do for those that left beside them, and the
    // head for all rows that are judged or chosen from.
    const double d = cell.depthwise.mean_depth();
    const double heads =
        cell.depthwise.head_rows_per_token() * rows / cell.depthwise.rows_per_head();
    const double work = exact ? rows * loops / d : rows;
    const double bound =
        embed + d * at_rows(times.core, work) + heads * head_of(cell.depthwise.rows_per_head());
    cell.bound_rate = rows / bound;
    cell.bound_over_by_sequence = pass / bound;
    cell.bound_over_by_cohort = cell.bound_rate / cell.cohort.rate();
    shares.push_back(cell.depthwise.rate() / cell.bound_rate);
    if (!full.has(2 * (options.tokens + 4)) || !leaving.has(4 * (options.tokens + 4))) break;
  }
  for (const auto& [schedule, list] : rates) cell.rates[schedule] = median(list);
  cell.core_seconds = times.core[cell.rows];
  cell.over_by_sequence = ratio_of(over_sequence);
  cell.over_by_cohort = ratio_of(over_cohort);
  cell.cohort_over_by_sequence = ratio_of(cohort_over);
  cell.without_exits = ratio_of(no_exits);
  cell.share_of_bound = ratio_of(shares);
  return cell;
}

Json to_json(const RowTimes& times) {
  Json list = Json::array();
  for (const auto& [rows, seconds] : times) list.push_back({rows, seconds});
  return list;
}

Json to_json(const Cell& cell) {
  return {{"depths", cell.depths},
          {"rows", cell.rows},
          {"prompt", cell.prompt},
          {"mean_depth", cell.depthwise.mean_depth()},
          {"tokens_per_second", cell.rates},
          {"exits", cell.exits},
          {"core_seconds", cell.core_seconds},
          {"rows_per_visit", cell.depthwise.rows_per_visit()},
          {"over_by_sequence", to_json(cell.over_by_sequence)},
          {"over_by_cohort", to_json(cell.over_by_cohort)},
          {"bound_over_by_sequence", cell.bound_over_by_sequence},
          {"bound_over_by_cohort", cell.bound_over_by_cohort},
          {"share_of_bound", to_json(cell.share_of_bound)},
          {"without_exits", to_json(cell.without_exits)}};
}

void print(const Cell& cell) {
  fmt::print(
      "  {:11} {:3} rows, depth {:.2f}: {:8.1f} tokens/s; over sequence {}, bound {:.3f}, share of it {}; over cohort {}, bound "
      "{:.3f}; nothing leaves {}\n",
      cell.depths, cell.rows, cell.depthwise.mean_depth(), cell.depthwise.rate(),
      shown(cell.over_by_sequence), cell.bound_over_by_sequence, shown(cell.share_of_bound),
      shown(cell.over_by_cohort), cell.bound_over_by_cohort, shown(cell.without_exits));
  std::fflush(stdout);
}

std::vector<double> default_shares(int loops) {
  std::vector<double> shares;
  double left = 1;
  for (int loop = 0; loop + 1 < loops; ++loop) {
    shares.push_back(left / 2);
    left /= 2;
  }
  shares.push_back(left);
  return shares;
}

Json measure_stalls(const Model& model, const Options& options, LoadOptions load) {
  Json stalls = Json::array();
  for (const Schedule schedule : {Schedule::Cohort, Schedule::Depthwise}) {
    const Latency calm = measure_latency(model, load, schedule, 0);
    const Latency long_one = measure_latency(model, load, schedule, options.stall_prompt);
    const double stall = percentile(long_one.between, 0.99) / percentile(calm.between, 0.99);
    stalls.push_back({{"schedule", schedule_name(schedule)},
                      {"rows", load.rows},
                      {"long_prompt", options.stall_prompt},
                      {"prompt_rows", load.prompt_rows},
                      {"first_p50", percentile(calm.first, 0.5)},
                      {"first_p99", percentile(calm.first, 0.99)},
                      {"between_p50", percentile(calm.between, 0.5)},
                      {"between_p99", percentile(calm.between, 0.99)},
                      {"between_p99_long_prompt", percentile(long_one.between, 0.99)},
                      {"prompt_stall", stall}});
    if (!options.json)
      fmt::print(
          "  {}, {} rows, {} prompt rows a sweep: first token p50 {:.2f} s, p99 {:.2f} s; between tokens p50 {:.1f} ms, p99 {:.1f} ms, "
          "with a prompt of {} arriving {:.1f} ms ({:.2f} times)\n",
          schedule_name(schedule), load.rows, load.prompt_rows, percentile(calm.first, 0.5),
          percentile(calm.first, 0.99), 1e3 * percentile(calm.between, 0.5),
          1e3 * percentile(calm.between, 0.99), options.stall_prompt,
          1e3 * percentile(long_one.between, 0.99), stall);
  }
  return stalls;
}

Json measure_model(const Model& model, const std::string& name, const Options& options,
                   const std::vector<std::vector<int32_t>>& prompts) {
  const int loops = model.decode_plan().loops();
  if (!options.json)
    fmt::print("{}: {} loops, {:.0f}M weights\n", name, loops,
               static_cast<double>(model.parameters()) / 1e6);
  LoadOptions load;
  load.exit = parse_exit(options.exit);
  load.exit.kv = parse_exit_kv(options.exit_kv);
  load.prompts = prompts;
  std::vector<std::pair<std::string, Depths>> kinds = {{"real", {}}};
  if (prompts.empty()) {
    const std::vector<double> shares =
        options.shares.empty() ? default_shares(loops) : options.shares;
    if (static_cast<int>(shares.size()) != loops)
      fail("--shares: expected {} numbers for {}, found {}", loops, name, shares.size());
    kinds = {{"independent", independent_depths(shares, 1)},
             {"correlated", correlated_depths(shares, 1)}};
  }
  Json cells = Json::array(), stalls = Json::array();
  Times times;
  for (const auto& [kind, depths] : kinds)
    for (const int64_t rows : options.rows) {
      load.rows = rows;
      load.depths = depths;
      load.decode = options.decode;
      load.prompt = fitting_prompt(model, options, rows);
      const Cell cell = measure_cell(model, options, load, kind, times);
      cells.push_back(to_json(cell));
      cells.back()["keeps"] = kind == "correlated" ? kKept : 0;
      if (!options.json) print(cell);
    }
  if (options.stall_prompt > 0) {
    load.rows = options.quick ? 4 : 8;
    load.decode = options.quick ? 16 : 64;
    load.prompt_rows = 64;
    load.depths = kinds[0].second;
    stalls = measure_stalls(model, options, load);
  }
  const Plan plan = model.decode_plan();
  const ExitRule rule(model, plan, load.exit);
  return {{"model", name},
          {"loops", loops},
          {"reads_logits", rule.reads_logits()},
          {"times",
           {{"embed", to_json(times.embed)},
            {"core", to_json(times.core)},
            {"head", to_json(times.head)},
            {"rest", to_json(times.rest)}}},
          {"cells", cells},
          {"latency", stalls}};
}

// Prompts of a text: pieces from all over it.
std::vector<std::vector<int32_t>> cut_prompts(LoadedModel& loaded, const Options& options) {
  std::ifstream file(options.text, std::ios::binary);
  if (!file) fail("--text {}: can't be read", options.text);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const std::vector<int32_t> ids = loaded.tokenizer().encode(text);
  const auto size = static_cast<size_t>(options.prompt);
  constexpr size_t kPrompts = 64;
  if (ids.size() < size + kPrompts)
    fail("--text {}: has {} tokens, expected {} or more", options.text, ids.size(),
         size + kPrompts);
  std::vector<std::vector<int32_t>> prompts;
  for (size_t i = 0; i < kPrompts; ++i) {
    const auto first = ids.begin() + static_cast<int64_t>(i * (ids.size() - size) / kPrompts);
    prompts.emplace_back(first, first + static_cast<int64_t>(size));
  }
  return prompts;
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app{"Depth-wise batching beside other schedules, and beside its bound"};
  app.add_option("--shapes", options.shapes, "Shapes of random weights")
      ->delimiter(',')
      ->check(CLI::IsMember(looped_shapes()));
  app.add_option("--model", options.model, "A looped model instead, with its own exits");
  app.add_option("--text", options.text, "What its prompts are cut from")->needs("--model");
  app.add_option("--rows", options.rows, "Requests at a time")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096));
  app.add_option("--shares", options.shares,
                 "Share of tokens that leave at each loop (default: half of those left)")
      ->delimiter(',');
  app.add_option("--exit", options.exit, "The rule; of random weights only what it computes counts")
      ->capture_default_str();
  app.add_option("--exit-kv", options.exit_kv)->capture_default_str();
  app.add_option("--pairs", options.pairs)->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--tokens", options.tokens, "Of a row in a window")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--prompt", options.prompt)->check(CLI::Range(1, 100000))->capture_default_str();
  app.add_option("--decode", options.decode)->check(CLI::Range(8, 100000))->capture_default_str();
  app.add_option("--stall-prompt", options.stall_prompt,
                 "Tokens of the long prompt; 0: not measured")
      ->capture_default_str();
  app.add_option("--threads", options.threads)->capture_default_str();
  app.add_option("--isa", options.isa, "Instruction set");
  app.add_flag("--quick", options.quick, "A small shape, few rows: a minute");
  app.add_flag("--json", options.json);
  CLI11_PARSE(app, argc, argv);
  if (options.quick) {
    if (!app.count("--shapes")) options.shapes = {"tiny"};
    if (!app.count("--rows")) options.rows = {1, 4};
    if (!app.count("--pairs")) options.pairs = 3;
    if (!app.count("--tokens")) options.tokens = 6;
    if (!app.count("--stall-prompt")) options.stall_prompt = 512;
  }
  const BackendOptions backend_options{.threads = options.threads, .isa = options.isa};
  Json found = Json::array();
  std::string machine;
  if (!options.model.empty()) {
    if (options.text.empty()) fail("--model: expected --text, which its exits depend on");
    LoadedModelOptions load{.model = options.model, .compute = backend_options};
    load.load.kv_type = DType::F16;
    const std::unique_ptr<LoadedModel> loaded = LoadedModel::load(load);
    found.push_back(
        measure_model(loaded->model(), options.model, options, cut_prompts(*loaded, options)));
    machine = loaded->backend().description();
  } else {
    for (const std::string& shape : options.shapes) {
      const std::unique_ptr<Backend> backend = make_cpu_backend(backend_options);
      const std::unique_ptr<Model> model = make_looped_model(shape, *backend);
      machine = backend->description();
      found.push_back(measure_model(*model, shape, options, {}));
    }
  }
  if (options.json)
    fmt::print("{}\n", Json{{"machine", machine},
                            {"exit", options.exit},
                            {"exit_kv", options.exit_kv},
                            {"pairs", options.pairs},
                            {"models", found}}
                           .dump(1));
  else
    fmt::print("{}\n", machine);
  return 0;
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  try {
    return reprise::bench::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_depthwise: error: {}\n", error.what());
    return 1;
  }
}
