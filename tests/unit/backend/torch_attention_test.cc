// Functional attention of the torch backend for many layouts of segments, against a plain host
// formula, against serving attention, and its gradients.
#include <limits>

#include "unit/backend/torch_support.h"

namespace reprise::testing {
namespace {

// Segments with memory for their positions.
struct Layout {
  std::vector<std::vector<int32_t>> positions;
  std::vector<AttentionSegment> segments;
  int64_t rows = 0;

  void add(std::vector<int32_t> at, int prefix = -1) {
    positions.reserve(1000);  // spans into the inner vectors must stay valid
    positions.push_back(std::move(at));
    const auto count = static_cast<int64_t>(positions.back().size());
    segments.push_back(
        {.first_row = rows, .rows = count, .positions = positions.back(), .prefix = prefix});
    rows += count;
  }
};

struct Qkv {
  std::vector<float> q, k, v;
};

Qkv random_qkv(Inputs& in, const AttentionSpec& s, int64_t rows) {
  return {in.values(rows * s.heads * s.k_dim, 2), in.values(rows * s.kv_heads * s.k_dim),
          in.values(rows * s.kv_heads * s.v_dim)};
}

// softmax(scale q.k) v over the keys that each query sees, one at a time, in double.
std::vector<float> plain_attention(const AttentionSpec& s, const Qkv& x, const Layout& layout) {
  std::vector<float> out;
  for (size_t i = 0; i < layout.segments.size(); ++i) {
    const AttentionSegment& own = layout.segments[i];
    for (int64_t r = 0; r < own.rows; ++r)
      for (int h = 0; h < s.heads; ++h) {
        const int kv_head = h / (s.heads / s.kv_heads);
        const int32_t query = own.positions[static_cast<size_t>(r)];
        std::vector<int64_t> seen;
        for (int which : {own.prefix, static_cast<int>(i)}) {
          if (which < 0) continue;
          const AttentionSegment& keys = layout.segments[static_cast<size_t>(which)];
          for (int64_t j = 0; j < keys.rows; ++j) {
            const int64_t back = int64_t{query} - keys.positions[static_cast<size_t>(j)];
            if (back >= 0 && (s.window == 0 || back < s.window))
              seen.push_back(keys.first_row + j);
          }
        }
        std::vector<double> scores;
        for (int64_t j : seen) {
          double dot = 0;
          for (int c = 0; c < s.k_dim; ++c)
            dot +=
                double{
                    x.q[static_cast<size_t>(((own.first_row + r) * s.heads + h) * s.k_dim + c)]} *
                x.k[static_cast<size_t>((j * s.kv_heads + kv_head) * s.k_dim + c)];
          double score = dot * s.scale;
          if (s.softcap > 0) score = s.softcap * std::tanh(score / s.softcap);
          scores.push_back(std::exp(score));
        }
        const double total = std::accumulate(scores.begin(), scores.end(), 0.0);
        for (int c = 0; c < s.v_dim; ++c) {
          double sum = 0;
          for (size_t j = 0; j < seen.size(); ++j)
            sum += scores[j] / total *
                   x.v[static_cast<size_t>((seen[j] * s.kv_heads + kv_head) * s.v_dim + c)];
          out.push_back(static_cast<float>(sum));
        }
      }
  }
  return out;
}

Layout regular(int sequences, int length) {
  Layout layout;
  for (int i = 0; i < sequences; ++i) layout.add(iota(length));
  return layout;
}

// Prefixes with children behind each of them.
Layout trees(const std::vector<int>& prefixes, const std::vector<std::vector<int>>& children) {
  Layout layout;
  for (size_t i = 0; i < prefixes.size(); ++i) {
    const auto root = static_cast<int>(layout.segments.size());
    layout.add(iota(prefixes[i]));
    for (int rows : children[i]) layout.add(iota(rows, prefixes[i]), root);
  }
  return layout;
}

// All prefixes first, their children in turn, some positions left out, a chain, an empty segment.
Layout irregular() {
  Layout layout;
  layout.add({0, 1, 2, 5, 9});
  layout.add({3, 4});
  layout.add({});
  layout.add({10, 12}, 0);
  layout.add({5, 6, 7, 20}, 1);
  layout.add({10}, 0);
  layout.add({4, 6, 11}, 0);  // a child whose positions interleave with its prefix
  layout.add({8, 21}, 4);     // a child of a child sees that child only
  layout.add({1, 2}, 2);      // the prefix has no rows
  return layout;
}

std::vector<std::pair<std::string, Layout>> layouts() {
  std::vector<std::pair<std::string, Layout>> list;
  list.emplace_back("one row", regular(1, 1));
  list.emplace_back("one sequence", regular(1, 40));
  list.emplace_back("equal sequences", regular(5, 7));
  Layout ragged;
  for (int length : {3, 9, 1, 40, 8, 10, 9}) ragged.add(iota(length, length));
  list.emplace_back("ragged sequences", std::move(ragged));
  list.emplace_back("equal trees", trees({30, 30, 30}, {{4, 3}, {4, 3}, {4, 3}}));
  list.emplace_back("ragged trees", trees({30, 28, 9}, {{4, 3, 2}, {5, 3}, {8, 8, 8, 8}}));
  list.emplace_back("small prefix, long children", trees({2, 2}, {{33, 30}, {40, 41}}));
  list.emplace_back("irregular", irregular());
  return list;
}

std::vector<AttentionSpec> specs() {
  return {{2, 2, 8, 8, 0.4f, 0},
          {4, 2, 6, 10, 0.3f, 0},
          {3, 1, 12, 5, 0.3f, 0},
          {2, 2, 8, 8, 0.4f, 3},
          {2, 1, 8, 8, 0.4f, 12},
          {4, 2, 6, 10, 0.3f, 5, 0.8f},
          {3, 1, 8, 8, 0.3f, 0, 0.8f}};
}

Tensor attend(Backend& be, const AttentionSpec& s, const Qkv& x, const Layout& layout) {
  return be.attention(s, be.from_host(x.q, {layout.rows, s.heads, s.k_dim}),
                      be.from_host(x.k, {layout.rows, s.kv_heads, s.k_dim}),
                      be.from_host(x.v, {layout.rows, s.kv_heads, s.v_dim}), layout.segments);
}

TEST(TorchAttention, FunctionalEqualsPlainFormula) {
  const auto be = torch_backend();
  Inputs in(3);
  for (const auto& [name, layout] : layouts())
    for (const AttentionSpec& spec : specs()) {
      SCOPED_TRACE(fmt::format("{}, window {}, cap {}", name, spec.window, spec.softcap));
      const Qkv x = random_qkv(in, spec, layout.rows);
      expect_near(plain_attention(spec, x, layout), be->to_host(attend(*be, spec, x, layout)),
                  1e-5);
    }
}

TEST(TorchAttention, FunctionalGradients) {
  const auto be = torch_backend();
  Inputs in(4);
  std::vector<std::pair<std::string, Layout>> small;
  small.emplace_back("equal sequences", regular(2, 3));
  small.emplace_back("ragged trees", trees({3, 4}, {{2, 1}, {1}}));
  small.emplace_back("irregular", irregular());
  for (const auto& [name, layout] : small)
    for (const AttentionSpec& s :
         {AttentionSpec{2, 1, 3, 4, 0.5f, 0}, AttentionSpec{2, 2, 4, 2, 0.5f, 2},
          AttentionSpec{2, 1, 3, 4, 0.5f, 2, 0.9f}, AttentionSpec{2, 1, 4, 4, 0.5f, 0, 0.9f}}) {
      SCOPED_TRACE(fmt::format("{}, window {}, cap {}", name, s.window, s.softcap));
      const Tensor weights[] = {trainable(*be, in, {layout.rows, s.heads, s.k_dim}),
                                trainable(*be, in, {layout.rows, s.kv_heads, s.k_dim}),
                                trainable(*be, in, {layout.rows, s.kv_heads, s.v_dim})};
      check_gradients(*be, weights, [&] {
        return be->attention(s, weights[0], weights[1], weights[2], layout.segments);
      });
    }
}

TEST(TorchAttention, ServingEqualsFunctional) {
  const auto be = torch_backend();
  Inputs in(5);
  const Layout layout = regular(1, 75);
  for (const AttentionSpec& s : specs()) {
    SCOPED_TRACE(s.window);
    const Qkv x = random_qkv(in, s, layout.rows);
    const std::vector<float> expected = be->to_host(attend(*be, s, x, layout));
    // Pieces of different sizes over page borders: 31, 2, then one at a time, then the rest.
    KvRow row = {.spec = {.heads = s.kv_heads, .k_dim = s.k_dim, .v_dim = s.v_dim}};
    const Tensor q = be->from_host(x.q, {75, s.heads, s.k_dim});
    const Tensor k = be->from_host(x.k, {75, s.kv_heads, s.k_dim});
    const Tensor v = be->from_host(x.v, {75, s.kv_heads, s.v_dim});
    std::vector<float> found;
    int64_t done = 0;
    for (int64_t count : {31, 2, 1, 1, 40}) {
      const std::vector<int32_t> at = iota(count, static_cast<int32_t>(done));
      const AttentionSegment piece[] = {{0, count, at, &row, &row}};
      const std::vector<float> y = be->to_host(
          be->attention(s, be->slice(q, 0, done, done + count), be->slice(k, 0, done, done + count),
                        be->slice(v, 0, done, done + count), piece));
      found.insert(found.end(), y.begin(), y.end());
      done += count;
    }
    expect_near(expected, found, 1e-5);
  }
}

// The layouts are kept between calls; one that differs in positions alone must not be taken.
TEST(TorchAttention, KeptLayoutsAreTold) {
  const auto be = torch_backend();
  Inputs in(6);
  const AttentionSpec plain = {1, 1, 4, 4, 0.5f, 0}, windowed = {1, 1, 4, 4, 0.5f, 3};
  const Qkv x = random_qkv(in, plain, 6);
  for (int round = 0; round < 2; ++round)
    for (int gap = 1; gap < 8; ++gap) {
      Layout layout;
      layout.add({0, 1, 2});
      layout.add({0 + gap, 3 + gap, 4 + gap}, 0);
      for (const AttentionSpec& s : {plain, windowed})
        expect_near(plain_attention(s, x, layout), be->to_host(attend(*be, s, x, layout)), 1e-5);
    }
}

// Cutting a row back into a page it shares with a fork must not change the fork.
TEST(TorchAttention, CutBackRowsDoNotWriteIntoSharedPages) {
  const auto be = torch_backend();
  Inputs in(8);
  const AttentionSpec s = {1, 1, 2, 2, 1, 0};
  KvRow row = {.spec = {.heads = 1, .k_dim = 2, .v_dim = 2}};
  const auto append = [&](KvRow& to, int64_t count) {
    const std::vector<int32_t> at = iota(count, static_cast<int32_t>(to.filled()));
    const AttentionSegment piece[] = {{0, count, at, &to, &to}};
    be->attention(s, in.tensor(*be, {count, 1, 2}), in.tensor(*be, {count, 1, 2}),
                  in.tensor(*be, {count, 1, 2}), piece);
  };
  append(row, kKvPageTokens);
  KvRow fork = be->fork(row);
  const std::vector<float> before = be->to_host(be->read_kv(row, 0, kKvPageTokens).first);
  fork.truncate(5);
  append(fork, 10);
  EXPECT_EQ(before, be->to_host(be->read_kv(row, 0, kKvPageTokens).first));
  EXPECT_NE(before[5 * 2], be->to_host(be->read_kv(fork, 0, 15).first)[5 * 2]);
}

}  // namespace
}  // namespace reprise::testing
