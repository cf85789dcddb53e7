// Starts of looped models that are weighed by a text: the least squares behind them, their
// calibration, and what can't be done.
#include <gmock/gmock.h>

#include <cmath>
#include <numeric>

#include "backend/factory.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "convert/looped/convert_looped.h"
#include "convert/looped/weighted.h"
#include "formats/safetensors.h"
#include "support/golden.h"
#include "support/paths.h"
#include "support/tiny_models.h"
#include "text/tokenizer/tokenizer_files.h"
#include "unit/formats/test_files.h"

namespace reprise::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<double> random_matrix(int64_t rows, int64_t columns, uint64_t stream) {
  const Philox random(5, stream);
  std::vector<double> m(static_cast<size_t>(rows * columns));
  for (size_t i = 0; i < m.size(); ++i) m[i] = random.normal(i);
  return m;
}

// Second moments of 3 n random inputs whose components differ in size.
std::vector<float> random_moments(int64_t n, uint64_t stream) {
  const int64_t inputs = 3 * n;
  const std::vector<double> x = random_matrix(inputs, n, stream);
  std::vector<float> c(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t t = 0; t < inputs; ++t)
        sum += x[static_cast<size_t>(t * n + i)] * x[static_cast<size_t>(t * n + j)];
      c[static_cast<size_t>(i * n + j)] =
          static_cast<float>(sum / static_cast<double>(inputs) * (1 + static_cast<double>(i)) *
                             (1 + static_cast<double>(j)));
    }
  return c;
}

std::vector<float> identity(int64_t n) {
  std::vector<float> c(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) c[static_cast<size_t>(i * (n + 1))] = 1;
  return c;
}

// tr(m c m^T), number by number.
double slow_squares(const std::vector<double>& m, int64_t in, const std::vector<float>& c) {
  double sum = 0;
  for (size_t row = 0; row < m.size(); row += static_cast<size_t>(in))
    for (int64_t i = 0; i < in; ++i)
      for (int64_t j = 0; j < in; ++j)
        sum += m[row + static_cast<size_t>(i)] * c[static_cast<size_t>(i * in + j)] *
               m[row + static_cast<size_t>(j)];
  return sum;
}

std::vector<double> without(std::vector<double> m, const LowRankFactors& f, int64_t in) {
  for (size_t at = 0; at < m.size(); ++at)
    for (int64_t r = 0; r < f.rank; ++r)
      m[at] -= double{f.b[at / static_cast<size_t>(in) * static_cast<size_t>(f.rank) +
                          static_cast<size_t>(r)]} *
               f.a[static_cast<size_t>(r * in) + at % static_cast<size_t>(in)];
  return m;
}

constexpr std::pair<int64_t, int64_t> kShapes[] = {{5, 9}, {9, 5}, {7, 7}};

TEST(WeightedLowRank, NoChangeOfItsFactorsIsBetter) {
  constexpr int64_t kRank = 3;
  for (const auto& [out, in] : kShapes) {
    SCOPED_TRACE(fmt::format("{} x {}", out, in));
    const std::vector<double> m = random_matrix(out, in, 1);
    const std::vector<float> c = random_moments(in, 2);
    const LowRankFactors f = weighted_low_rank(m, out, in, c, kRank, 1);
    ASSERT_EQ(f.rank, kRank);
    EXPECT_NEAR(weighted_squares(m, out, in, c), slow_squares(m, in, c), 1e-6 * f.residual);
    EXPECT_NEAR(f.residual * f.residual, slow_squares(m, in, c), 1e-6 * f.residual * f.residual);
    const double best = slow_squares(without(m, f, in), in, c);
    EXPECT_NEAR(best, f.residual * f.residual - f.kept * f.kept, 1e-5 * f.residual * f.residual);
    for (uint64_t change = 0; change < 40; ++change) {
      LowRankFactors other = f;
      const Philox random(change, 3);
      // Of A or B alone, and of both, large and small.
      const float size = change % 2 == 0 ? 1e-2f : 0.3f;
      if (change % 3 != 1)
        for (size_t i = 0; i < other.a.size(); ++i) other.a[i] += 0.1f * size * random.normal(i);
      if (change % 3 != 2)
        for (size_t i = 0; i < other.b.size(); ++i) other.b[i] += size * random.normal(1000 + i);
      EXPECT_GT(slow_squares(without(m, other, in), in, c), best);
    }
    // Nor are the plain decomposition's.
    EXPECT_GT(slow_squares(without(m, low_rank(m, out, in, kRank, 1), in), in, c), 1.001 * best);
  }
}

TEST(WeightedLowRank, EqualWeightsGiveThePlainDecomposition) {
  for (const auto& [out, in] : kShapes) {
    const std::vector<double> m = random_matrix(out, in, 4);
    const LowRankFactors plain = low_rank(m, out, in, 2, 1);
    const LowRankFactors weighted = weighted_low_rank(m, out, in, identity(in), 2, 1);
    EXPECT_NEAR(weighted.residual, plain.residual, 1e-9);
    EXPECT_NEAR(weighted.kept, plain.kept, 1e-6);
    const std::vector<double> a = without(m, plain, in), b = without(m, weighted, in);
    for (size_t i = 0; i < m.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5);
  }
}

TEST(WeightedLowRank, FullRankAndZero) {
  for (const auto& [out, in] : kShapes) {
    const std::vector<double> m = random_matrix(out, in, 6);
    const std::vector<float> c = random_moments(in, 7);
    for (const double x : without(m, weighted_low_rank(m, out, in, c, 100, 1), in))
      EXPECT_NEAR(x, 0, 1e-4);
    const LowRankFactors none = weighted_low_rank(std::vector<double>(m.size()), out, in, c, 2, 1);
    EXPECT_EQ(none.b, std::vector<float>(none.b.size()));
    EXPECT_NE(none.a, std::vector<float>(none.a.size()));
    EXPECT_EQ(none.residual, 0);
  }
}

// The product is the same, rows of A are orthonormal, and columns of B at right angles to each other,
// the longest first.
TEST(SingularForm, OfWeightedFactors) {
  for (const auto& [out, in] : kShapes) {
    SCOPED_TRACE(fmt::format("{} x {}", out, in));
    const std::vector<double> m = random_matrix(out, in, 8);
    const LowRankFactors weighted = weighted_low_rank(m, out, in, random_moments(in, 9), 3, 1);
    const LowRankFactors f = in_singular_form(weighted, out, in);
    ASSERT_EQ(f.rank, 3);
    const std::vector<double> a = without(m, weighted, in), b = without(m, f, in);
    for (size_t i = 0; i < m.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5);
    std::vector<double> lengths;
    for (int64_t r = 0; r < 3; ++r)
      for (int64_t q = 0; q <= r; ++q) {
        double rows = 0, columns = 0;
        for (int64_t i = 0; i < in; ++i)
          rows +=
              double{f.a[static_cast<size_t>(r * in + i)]} * f.a[static_cast<size_t>(q * in + i)];
        for (int64_t j = 0; j < out; ++j)
          columns +=
              double{f.b[static_cast<size_t>(j * 3 + r)]} * f.b[static_cast<size_t>(j * 3 + q)];
        EXPECT_NEAR(rows, q == r ? 1 : 0, 1e-5);
        if (q == r)
          lengths.push_back(columns);
        else
          EXPECT_NEAR(columns, 0, 1e-4);
      }
    EXPECT_TRUE(std::ranges::is_sorted(lengths, std::greater<>()));
  }
}

// A component of no weight stays one, with a row that training can begin from; a product of zero stays
// as it is.
TEST(SingularForm, OfRankBelowItsOwn) {
  LowRankFactors f = zero_low_rank(6, 5, 3, 1);
  const LowRankFactors zero = in_singular_form(f, 6, 5);
  EXPECT_EQ(zero.a, f.a);
  EXPECT_EQ(zero.b, f.b);
  for (size_t j = 0; j < 6; ++j) f.b[j * 3 + 1] = static_cast<float>(j);
  const LowRankFactors one = in_singular_form(f, 6, 5);
  const std::vector<double> none(30);
  const std::vector<double> a = without(none, f, 5), b = without(none, one, 5);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5);
  for (size_t r = 0; r < 3; ++r) {
    double row = 0, column = 0;
    for (size_t i = 0; i < 5; ++i) row += double{one.a[r * 5 + i]} * one.a[r * 5 + i];
    for (size_t j = 0; j < 6; ++j) column += double{one.b[j * 3 + r]} * one.b[j * 3 + r];
    EXPECT_NEAR(row, 1, 1e-5);
    EXPECT_EQ(column > 1e-8, r == 0);
  }
}

std::vector<FitTarget> targets(int count, int64_t out, int64_t in,
                               const std::vector<std::vector<float>>& c) {
  std::vector<FitTarget> list;
  for (int l = 0; l < count; ++l) {
    const std::vector<double> m = random_matrix(out, in, 10 + static_cast<uint64_t>(l));
    list.push_back({std::vector<float>(m.begin(), m.end()), c[static_cast<size_t>(l)]});
  }
  return list;
}

TEST(SharedFit, EveryRoundLowersTheObjective) {
  for (const auto& [out, in] : kShapes)
    for (const auto& [count, start] : {std::pair{2, FitStart::Split}, std::pair{2, FitStart::Mean},
                                       std::pair{3, FitStart::Mean}}) {
      std::vector<std::vector<float>> c;
      for (int l = 0; l < count; ++l)
        c.push_back(random_moments(in, 20 + static_cast<uint64_t>(l)));
      const std::vector<FitTarget> layers = targets(count, out, in, c);
      const SharedFit fit = fit_shared(layers, out, in, 2, start, 4, 1);
      ASSERT_EQ(fit.objective.size(), 5u);
      for (size_t i = 1; i < fit.objective.size(); ++i)
        EXPECT_LE(fit.objective[i], fit.objective[i - 1] * (1 + 1e-6));
      EXPECT_LT(fit.objective.back(), fit.objective.front());
      // It is what it says.
      double sum = 0;
      for (int l = 0; l < count; ++l) {
        const auto at = static_cast<size_t>(l);
        std::vector<double> error(layers[at].matrix.begin(), layers[at].matrix.end());
        const double whole = slow_squares(error, in, c[at]);
        EXPECT_NEAR(fit.norms[at], std::sqrt(whole), 1e-6 * fit.norms[at]);
        for (size_t i = 0; i < error.size(); ++i) error[i] -= fit.shared[i];
        sum += slow_squares(without(error, fit.adapters[at], in), in, c[at]) / whole / count;
      }
      EXPECT_NEAR(sum, fit.objective.back(), 1e-5);
    }
}

TEST(SharedFit, WithoutAdaptersItIsTheWeightedMean) {
  // Inputs of one size for each layer: weights are 1 / |M|^2.
  const std::vector<std::vector<float>> c = {identity(5), identity(5)};
  const std::vector<FitTarget> layers = targets(2, 4, 5, c);
  const SharedFit fit = fit_shared(layers, 4, 5, 0, FitStart::Mean, 1, 1);
  const auto weight = [](const std::vector<float>& m) {
    return 1 / std::inner_product(m.begin(), m.end(), m.begin(), 0.0);
  };
  const double a = weight(layers[0].matrix), b = weight(layers[1].matrix);
  for (size_t i = 0; i < fit.shared.size(); ++i)
    EXPECT_NEAR(fit.shared[i], (a * layers[0].matrix[i] + b * layers[1].matrix[i]) / (a + b), 1e-6);
}

// ---- Models: that of golden/rrt with a tokenizer of as many tokens.
class WeightedStart : public ::testing::Test {
 protected:
  WeightedStart() {
    std::filesystem::create_directory(dense());
    for (const auto& from : {golden_root() / "rrt/llama/model", data_dir() / "engine/tokenizer"})
      for (const auto& entry : std::filesystem::directory_iterator(from))
        std::filesystem::copy_file(entry.path(), dense() / entry.path().filename());
    std::string text;
    for (int i = 0; i < 600; ++i)
      text += fmt::format("The {} of {} things is {}.\n", i * 7 % 13, i, i * i % 101);
    write_file_atomically(text_file(), text);
  }
  std::filesystem::path dense() const { return folder_ / "dense"; }
  std::filesystem::path text_file() const { return folder_ / "text.txt"; }

  LoopedResult convert(const std::string& name, const LoopOptions& loop,
                       const std::filesystem::path& model = {}) const {
    return convert_looped(open_source(model.empty() ? dense() : model), folder_ / name,
                          /*gguf=*/false, loop, {.threads = 2});
  }
  CalibrationOptions calibration() const { return {.text = text_file(), .tokens = 1024}; }

  std::string error_of(const LoopOptions& loop, const std::filesystem::path& model = {}) const {
    try {
      convert("x", loop, model);
    } catch (const Error& error) {
      EXPECT_FALSE(std::filesystem::exists(folder_ / "x"));
      return error.what();
    }
    return "";
  }

  // Mean over matrices of the outputs' relative squared errors.
  static double objective(const LoopedResult& result) {
    double sum = 0;
    for (const AdapterReport& adapter : result.adapters)
      sum += adapter.weighted_missing * adapter.weighted_missing;
    return sum / static_cast<double>(result.adapters.size());
  }
  // Mean squared difference of the state before the head from the dense model's, on the text.
  double distance_of_states(const std::string& name) const {
    const std::unique_ptr<Backend> backend =
        make_backend("cpu", {.threads = 2, .activations = Activations::F32});
    const auto states = [&](const std::filesystem::path& path) {
      const auto model = Model::load(path, *backend);
      const std::vector<int32_t> ids =
          tokenizer_from_model(dense())->encode(read_file(text_file()).substr(0, 200));
      Sequence sequence;
      Rows rows;
      rows.append(sequence, static_cast<int64_t>(ids.size()), static_cast<int64_t>(ids.size()));
      return backend->to_host(model->forward(model->prefill_plan(), rows, model->embed(ids)));
    };
    const std::vector<float> a = states(dense()), b = states(folder_ / name);
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    return sum / static_cast<double>(a.size());
  }

  TempFolder folder_;
};

TEST_F(WeightedStart, FittedIsBelowWeightedIsBelowPlain) {
  constexpr int64_t kRank = 8;
  convert("plain", {.start = LoopStart::Average, .rank = kRank, .fold_norms = true});
  const LoopedResult weighted = convert("weighted", {.start = LoopStart::Average,
                                                     .rank = kRank,
                                                     .adapters = LoopAdapters::Weighted,
                                                     .calibrate = calibration(),
                                                     .fold_norms = true});
  const LoopedResult split = convert("split", {.start = LoopStart::Average,
                                               .rank = kRank,
                                               .adapters = LoopAdapters::SplitWeighted,
                                               .calibrate = calibration(),
                                               .fold_norms = true});
  const LoopedResult fitted =
      convert("fitted", {.start = LoopStart::Fitted, .rank = kRank, .calibrate = calibration()});
  EXPECT_EQ(fitted.calibration_tokens, 1024);
  EXPECT_LT(objective(split), objective(weighted));
  EXPECT_LT(objective(fitted), objective(split));
  EXPECT_EQ(fitted.fits.size(), size_t{3 * 7});
  for (const FitReport& fit : fitted.fits) EXPECT_LE(fit.end, fit.start * (1 + 1e-6));
  EXPECT_TRUE(weighted.fits.empty());
  const Json report = looped_report(fitted);
  EXPECT_EQ(report["init"], "fitted");
  EXPECT_TRUE(report["adapters"][0].contains("weighted_missing"));
  // Models that run, whose outputs follow.
  EXPECT_LT(distance_of_states("weighted"), distance_of_states("plain"));
  EXPECT_LT(distance_of_states("fitted"), distance_of_states("weighted"));
}

TEST_F(WeightedStart, OfFullRankIsTheDenseModel) {
  for (const int64_t refit : {0, 512}) {
    const std::string name = fmt::format("fitted-{}", refit);
    const LoopedResult result = convert(name, {.start = LoopStart::Fitted,
                                               .rank = 1000,
                                               .calibrate = calibration(),
                                               .refit_tokens = refit});
    EXPECT_EQ(result.refit_tokens, refit);
    EXPECT_LT(distance_of_states(name), 1e-8);
  }
}

// Norms behind attention and MLP have to be shared; here they are alike.
TEST_F(WeightedStart, OfFullRankWithNormsBehind) {
  const std::unique_ptr<Backend> backend = make_backend("cpu", {.threads = 1});
  for (const char* architecture : {"Olmo2ForCausalLM", "Gemma2ForCausalLM"}) {
    SCOPED_TRACE(architecture);
    Json config = tiny_text_config(architecture, {.vocab = 320, .layers = 4});
    const auto model =
        Model::create(config_from_json(config, "config"), *backend, [](const TensorSlot& slot) {
          TensorSlot alike = slot;
          if (const size_t at = slot.name.find("layers."); at != std::string::npos)
            if (slot.use == WeightUse::Vector) alike.name[at + 7] = '0';
          return tiny_values(alike);
        });
    std::vector<TensorView> tensors;
    model->read_tensors([&](const TensorSlot& slot, const Tensor& tensor) {
      tensors.push_back(make_view(slot.name, slot.shape, backend->to_host(tensor)));
    });
    for (const char* file : {"model.safetensors", "config.json"})
      std::filesystem::remove(dense() / file);
    write_safetensors(dense() / "model.safetensors", tensors);
    write_file_atomically(dense() / "config.json", config.dump());
    for (const int64_t refit : {0, 512}) {
      const std::string name = fmt::format("{}-{}", architecture, refit);
      convert(name, {.start = LoopStart::Fitted,
                     .rank = 1000,
                     .calibrate = calibration(),
                     .refit_tokens = refit});
      EXPECT_LT(distance_of_states(name), 1e-8) << refit;
    }
  }
}

TEST_F(WeightedStart, ARefitBringsTheStateNearer) {
  for (const int kept : {0, 1}) {
    for (const int64_t refit : {0, 1024})
      convert(fmt::format("{}-{}", kept, refit), {.start = LoopStart::Fitted,
                                                  .keep_first = kept,
                                                  .keep_last = kept,
                                                  .rank = 8,
                                                  .calibrate = calibration(),
                                                  .refit_tokens = refit});
    EXPECT_LT(distance_of_states(fmt::format("{}-1024", kept)),
              0.98 * distance_of_states(fmt::format("{}-0", kept)));
  }
}

TEST(MatrixForInputs, SolvesTheLeastSquares) {
  // New inputs x = 2 y: half the matrix gives the same outputs.
  constexpr int64_t out = 3, in = 5;
  const std::vector<double> m = random_matrix(out, in, 30);
  const std::vector<float> wide(m.begin(), m.end());
  std::vector<float> cross = random_moments(in, 31), c = cross;
  for (float& value : cross) value *= 2;
  for (float& value : c) value *= 4;
  const std::vector<double> half = matrix_for_inputs(wide, out, in, c, 0, cross, {});
  for (size_t i = 0; i < half.size(); ++i) EXPECT_NEAR(half[i], m[i] / 2, 1e-4);
  // Damping draws it to the matrix as it was.
  for (int64_t i = 0; i < in; ++i) c[static_cast<size_t>(i * (in + 1))] += 1e6f;
  const std::vector<double> same = matrix_for_inputs(wide, out, in, c, 1e6, cross, {});
  for (size_t i = 0; i < same.size(); ++i) EXPECT_NEAR(same[i], m[i], 1e-3);
}

TEST_F(WeightedStart, ThreeLoopsKeptLayersAndRanksByMatrix) {
  const LoopedResult fitted = convert("fitted", {.start = LoopStart::Fitted,
                                                 .loops = 2,
                                                 .keep_first = 1,
                                                 .keep_last = 1,
                                                 .rank = 4,
                                                 .rank_of = {{"q", 9}, {"down", 0}},
                                                 .calibrate = calibration()});
  EXPECT_EQ(fitted.fits.size(), size_t{2 * 7});
  EXPECT_EQ(fitted.adapters.size(), size_t{2 * 2 * 6});
  EXPECT_GT(distance_of_states("fitted"), 0);
  const LoopedResult three = convert(
      "three", {.start = LoopStart::Fitted, .loops = 3, .rank = 4, .calibrate = calibration()});
  EXPECT_EQ(three.adapters.size(), size_t{2 * 3 * 7});
  const LoopedResult stepwise = convert("stepwise", {.start = LoopStart::Stepwise,
                                                     .loops = 3,
                                                     .rank = 4,
                                                     .adapters = LoopAdapters::Weighted,
                                                     .calibrate = calibration()});
  EXPECT_LT(objective(three), objective(stepwise));
}

TEST_F(WeightedStart, ResultsDontDependOnThreads) {
  for (const int threads : {1, 3})
    convert_looped(open_source(dense()), folder_ / std::to_string(threads), /*gguf=*/false,
                   {.start = LoopStart::Fitted, .rank = 4, .calibrate = calibration()},
                   {.threads = threads});
  EXPECT_EQ(read_file(folder_ / "1/model.safetensors"), read_file(folder_ / "3/model.safetensors"));
}

TEST_F(WeightedStart, WhatCannotBeDone) {
  EXPECT_THAT(error_of({.start = LoopStart::Fitted, .rank = 4}),
              AllOf(HasSubstr("--init fitted"), HasSubstr("--calibrate TEXT"),
                    HasSubstr(dense().string())));
  EXPECT_THAT(error_of({.rank = 4, .adapters = LoopAdapters::Weighted}),
              AllOf(HasSubstr("--adapters weighted"), HasSubstr("--calibrate TEXT")));
  EXPECT_THAT(error_of({.start = LoopStart::Average, .rank = 4, .calibrate = calibration()}),
              AllOf(HasSubstr("--calibrate " + text_file().string()), HasSubstr("--init fitted")));
  EXPECT_THAT(error_of({.start = LoopStart::Average,
                        .loops = 3,
                        .rank = 2,
                        .adapters = LoopAdapters::SplitWeighted,
                        .calibrate = calibration()}),
              AllOf(HasSubstr("--adapters split-weighted"), HasSubstr("--loops 2")));
  const auto fitted = [&](const std::filesystem::path& text) {
    return LoopOptions{
        .start = LoopStart::Fitted, .rank = 4, .calibrate = CalibrationOptions{.text = text}};
  };
  write_file_atomically(folder_ / "short.txt", "A few words.\n");
  EXPECT_THAT(error_of(fitted(folder_ / "short.txt")),
              AllOf(HasSubstr("--calibrate"), HasSubstr("short.txt: has "),
                    HasSubstr("one window of 256")));
  EXPECT_THAT(error_of(fitted(folder_ / "none.txt")),
              AllOf(HasSubstr("--calibrate"), HasSubstr("none.txt"), HasSubstr("can't be read")));
  EXPECT_THAT(error_of(fitted(text_file()), golden_root() / "rrt/llama/model"),
              AllOf(HasSubstr("--calibrate " + text_file().string()), HasSubstr("no tokenizer")));
}

}  // namespace
}  // namespace reprise::test
