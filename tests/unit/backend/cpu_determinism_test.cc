// The cpu backend gives the same bits with one thread or many, alone or beside other rows, and for
// a prompt in one piece or in chunks of any size; and what was forked doesn't change its origin.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "backend/factory.h"
#include "backend/kv/check.h"
#include "unit/backend/conformance_operations.h"
#include "unit/backend/random_inputs.h"

namespace reprise::testing {
namespace {

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Rows [begin, end) of a result with `width` values per row.
std::vector<float> part(const std::vector<float>& all, int64_t begin, int64_t end, int64_t width) {
  return {all.begin() + begin * width, all.begin() + end * width};
}

// Runs `body` on every instruction set of this machine, with both kinds of activations.
template <class Body>
void on_every_backend(const Body& body) {
  for (const IsaInfo& info : cpu_instruction_sets())
    for (const Activations activations : {Activations::F32, Activations::Int8}) {
      if (!info.runs) continue;
      const BackendOptions options = {.threads = 2, .activations = activations, .isa = info.name};
      const auto backend = make_cpu_backend(options);
      SCOPED_TRACE(backend->description());
      body(*backend, options);
    }
}

// A small transformer block, so that the parts meet as they do in a model. x [rows, d].
class Block {
 public:
  static constexpr int kWidth = 96;

  Block(Backend& be, DType type) {
    Inputs in(40);
    norm_.weight = in.vector(be, {kWidth});
    norm_.eps = 1e-5f;
    const auto weight = [&](int64_t n, int64_t k) {
      return LinearWeight{.weight = in.matrix(be, type, {n, k}), .bias = in.vector(be, {n})};
    };
    q_ = weight(8 * 16, kWidth);
    k_ = weight(2 * 16, kWidth);
    v_ = weight(2 * 24, kWidth);
    out_ = weight(kWidth, 8 * 24);
    gate_ = weight(160, kWidth);
    up_ = weight(160, kWidth);
    down_ = weight(kWidth, 160);
    for (LinearWeight* w : {&q_, &down_})
      for (int id = 0; id < 2; ++id)
        w->adapters.push_back({.a = in.matrix(be, DType::F32, {4, w->weight.dim(1)}),
                               .b = in.matrix(be, DType::F32, {w->weight.dim(0), 4}),
                               .scale = 0.3f});
  }

  KvSpec kv(DType type) const { return {.heads = 2, .k_dim = 16, .v_dim = 24, .type = type}; }

  Tensor run(Backend& be, const Tensor& x, std::span<const AttentionSegment> segments,
             std::span<const int32_t> adapter_of_row) const {
    const int64_t rows = x.dim(0);
    const Tensor h = be.norm(x, norm_);
    const LinearWeight* const qkv[] = {&q_, &k_, &v_};
    const auto in = be.linear(h, qkv, adapter_of_row);
    const AttentionSpec spec = {8, 2, 16, 24, 0.25f, window};
    const Tensor a =
        be.attention(spec, be.reshape(in[0], {rows, 8, 16}), be.reshape(in[1], {rows, 2, 16}),
                     be.reshape(in[2], {rows, 2, 24}), segments);
    const Tensor y = be.add(x, be.linear(be.reshape(a, {rows, 8 * 24}), out_));
    const LinearWeight* const mlp[] = {&gate_, &up_};
    const auto wide = be.linear(be.norm(y, norm_), mlp, {});
    return be.add(y, be.linear(be.glu(wide[0], wide[1], Unary::Silu), down_, adapter_of_row));
  }

  int64_t window = 0;

 private:
  NormWeight norm_;
  LinearWeight q_, k_, v_, out_, gate_, up_, down_;
};

constexpr int64_t kRows = 75;  // two full pages and a partial one

std::vector<int32_t> ascending(int64_t count, int32_t step) {
  std::vector<int32_t> list(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) list[static_cast<size_t>(i)] = static_cast<int32_t>(i) * step;
  return list;
}

std::vector<int32_t> adapters(int64_t count) {  // -1, 0, 1, -1, ...
  std::vector<int32_t> list(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    list[static_cast<size_t>(i)] = static_cast<int32_t>(i % 3) - 1;
  return list;
}

std::vector<float> whole_prompt(Backend& be, const Block& block, DType kv_type) {
  const Tensor x = Inputs(41).tensor(be, {kRows, Block::kWidth});
  const auto at = ascending(kRows, 2);
  KvRow row = {.spec = block.kv(kv_type)};
  const AttentionSegment segment[] = {{0, kRows, at, &row, &row}};
  return be.to_host(block.run(be, x, segment, adapters(kRows)));
}

TEST(CpuDeterminism, AnyNumberOfThreads) {
  on_every_backend([](Backend&, BackendOptions options) {
    for (const DType type : {DType::BF16, DType::Q8_0, DType::Q4_1}) {
      std::vector<float> expected;
      for (const int threads : {1, 2, 5}) {
        options.threads = threads;
        const auto backend = make_cpu_backend(options);
        const auto found = whole_prompt(*backend, Block(*backend, type), DType::F32);
        if (expected.empty()) expected = found;
        EXPECT_TRUE(same_bits(expected, found)) << threads << " threads, " << dtype_name(type);
      }
    }
  });
}

TEST(CpuDeterminism, EveryOperationAtAnyNumberOfThreads) {
  const auto one = make_cpu_backend({.threads = 1});
  const auto five = make_cpu_backend({.threads = 5});
  for (const Operation& operation : conformance_operations())
    for (const Case& each : operation.cases) {
      const Results expected = each.run(*one), found = each.run(*five);
      ASSERT_EQ(expected.size(), found.size());
      for (size_t i = 0; i < found.size(); ++i)
        EXPECT_TRUE(same_bits(expected[i], found[i])) << operation.name << ": " << each.name;
    }
}

TEST(CpuDeterminism, PromptInOnePieceOrInChunks) {
  on_every_backend([](Backend& be, const BackendOptions&) {
    for (const DType type : {DType::F32, DType::F16, DType::Q8_0, DType::Q4_0})
      for (const DType kv_type : {DType::F32, DType::F16})
        for (const int64_t window : {0, 29}) {
          Block block(be, type);
          block.window = window;
          const std::vector<float> expected = whole_prompt(be, block, kv_type);
          const Tensor x = Inputs(41).tensor(be, {kRows, Block::kWidth});
          const auto at = ascending(kRows, 2);
          const auto ids = adapters(kRows);
          for (const int64_t chunk : {1, 2, 3, 7, 64}) {
            KvRow row = {.spec = block.kv(kv_type)};
            std::vector<float> found;
            for (int64_t begin = 0; begin < kRows; begin += chunk) {
              const int64_t rows = std::min(chunk, kRows - begin);
              const auto here = std::span(at).subspan(begin, rows);
              const AttentionSegment segment[] = {{0, rows, here, &row, &row}};
              const auto y = be.to_host(block.run(be, be.slice(x, 0, begin, begin + rows), segment,
                                                  std::span(ids).subspan(begin, rows)));
              found.insert(found.end(), y.begin(), y.end());
            }
            EXPECT_TRUE(same_bits(expected, found))
                << dtype_name(type) << ", KV " << dtype_name(kv_type) << ", window " << window
                << ", chunks of " << chunk;
          }
        }
  });
}

TEST(CpuDeterminism, AloneOrBesideOtherRows) {
  on_every_backend([](Backend& be, const BackendOptions&) {
    for (const DType type : {DType::BF16, DType::Q8_0, DType::Q4_0}) {
      const Block block(be, type);
      const std::vector<float> expected = whole_prompt(be, block, DType::F32);
      // The same rows as the second of three requests.
      Inputs in(42);
      const int64_t before = 5, after = 33, rows = before + kRows + after;
      const Tensor parts[] = {in.tensor(be, {before, Block::kWidth}),
                              Inputs(41).tensor(be, {kRows, Block::kWidth}),
                              in.tensor(be, {after, Block::kWidth})};
      const auto first_at = ascending(before, 1), at = ascending(kRows, 2),
                 last_at = ascending(after, 3);
      KvRow kv[3];
      for (KvRow& row : kv) row.spec = block.kv(DType::F32);
      const AttentionSegment segments[] = {{0, before, first_at, &kv[0], &kv[0]},
                                           {before, kRows, at, &kv[1], &kv[1]},
                                           {before + kRows, after, last_at, &kv[2], &kv[2]}};
      std::vector<int32_t> ids(static_cast<size_t>(rows), 1);
      const auto own = adapters(kRows);
      std::copy(own.begin(), own.end(), ids.begin() + before);
      const auto all = be.to_host(block.run(be, be.concat(parts, 0), segments, ids));
      EXPECT_TRUE(same_bits(expected, part(all, before, before + kRows, Block::kWidth)))
          << dtype_name(type);
      const KvRow* const rows_of_all[] = {&kv[0], &kv[1], &kv[2]};
      EXPECT_NO_THROW(check_kv(rows_of_all));
    }
  });
}

TEST(CpuDeterminism, OneRowOfALinear) {
  on_every_backend([](Backend& be, const BackendOptions&) {
    for (const DType type :
         {DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1}) {
      Inputs in(43);
      const LinearWeight w = {.weight = in.matrix(be, type, {83, 352})};
      const Tensor x = in.tensor(be, {131, 352});
      const auto all = be.to_host(be.linear(x, w));
      for (int64_t rows : {1, 2, 3, 4, 5, 6, 7, 9, 17})
        for (const int64_t begin : {int64_t{0}, int64_t{50}, 131 - rows}) {
          const auto found = be.to_host(be.linear(be.slice(x, 0, begin, begin + rows), w));
          EXPECT_TRUE(same_bits(part(all, begin, begin + rows, 83), found))
              << dtype_name(type) << ", rows " << begin << " to " << begin + rows;
        }
    }
  });
}

// Attention to a row's past and the segment's own entries: the same bits as by way of the row.
TEST(CpuDeterminism, OwnEntriesAsIfTheRowHeldThem) {
  on_every_backend([](Backend& be, const BackendOptions&) {
    for (const DType kv_type : {DType::F32, DType::F16})
      for (const int64_t window : {0, 29}) {
        Block block(be, DType::F32);
        block.window = window;
        const std::vector<float> expected = whole_prompt(be, block, kv_type);
        const Tensor x = Inputs(41).tensor(be, {kRows, Block::kWidth});
        const auto at = ascending(kRows, 2);
        const auto ids = adapters(kRows);
        for (const int64_t chunk : {1, 3, 31, 75})
          for (const bool keep : {false, true}) {
            // The row that is read holds other entries at the chunk's own positions.
            KvRow row = {.spec = block.kv(kv_type)}, copy = row;
            std::vector<float> found;
            for (int64_t begin = 0; begin < kRows; begin += chunk) {
              const int64_t rows = std::min(chunk, kRows - begin);
              const auto here = std::span(at).subspan(begin, rows);
              const auto part_ids = std::span(ids).subspan(begin, rows);
              const Tensor part_x = be.slice(x, 0, begin, begin + rows);
              const KvRow past = row;
              const AttentionSegment ordinary[] = {{0, rows, here, &row, &row}};
              block.run(be, part_x, ordinary, part_ids);
              KvRow unseen = past;
              const AttentionSegment later[] = {{0, rows, here, &unseen, &unseen}};
              block.run(be, be.scale(part_x, -3), later, part_ids);
              AttentionSegment own[] = {{0, rows, here, keep ? &copy : nullptr, &unseen}};
              own[0].own_entries = true;
              const auto y = be.to_host(block.run(be, part_x, own, part_ids));
              found.insert(found.end(), y.begin(), y.end());
            }
            EXPECT_TRUE(same_bits(expected, found))
                << "KV " << dtype_name(kv_type) << ", window " << window << ", chunks of " << chunk;
            if (!keep) continue;
            const auto [k, v] = be.read_kv(row, 0, kRows);
            const auto [own_k, own_v] = be.read_kv(copy, 0, kRows);
            EXPECT_TRUE(same_bits(be.to_host(k), be.to_host(own_k)));
            EXPECT_TRUE(same_bits(be.to_host(v), be.to_host(own_v)));
          }
      }
  });
}

// The keys of a past that isn't what the row would have made of these tokens: against functional
// attention, whose prefix it is; beside other segments too.
TEST(CpuDeterminism, OwnEntriesBehindAnotherRowsPast) {
  on_every_backend([](Backend& be, const BackendOptions&) {
    constexpr int64_t kPast = 45, kOwn = 20, kAll = kPast + kOwn;
    for (const int64_t window : {0, 17}) {
      const AttentionSpec spec = {4, 2, 16, 24, 0.25f, window};
      Inputs in(48);
      const Tensor q = in.tensor(be, {kAll, 4, 16}, 3), k = in.tensor(be, {kAll, 2, 16}),
                   v = in.tensor(be, {kAll, 2, 24});
      const auto at = ascending(kAll, 3);
      const auto past_at = std::span(at).first(kPast), own_at = std::span(at).subspan(kPast);
      const AttentionSegment functional[] = {{0, kPast, past_at},
                                             {kPast, kOwn, own_at, nullptr, nullptr, 0}};
      const auto expected =
          part(be.to_host(be.attention(spec, q, k, v, functional)), kPast, kAll, 4 * 24);
      const auto cut = [&](const Tensor& x, int64_t begin, int64_t end) {
        return be.slice(x, 0, begin, end);
      };
      KvRow past = {.spec = {.heads = 2, .k_dim = 16, .v_dim = 24}}, other = past;
      const AttentionSegment fill[] = {{0, kPast, past_at, &past}};
      be.append_kv(cut(k, 0, kPast), cut(v, 0, kPast), fill);
      AttentionSegment alone[] = {{0, kOwn, own_at, nullptr, &past}};
      alone[0].own_entries = true;
      const auto found = be.to_host(
          be.attention(spec, cut(q, kPast, kAll), cut(k, kPast, kAll), cut(v, kPast, kAll), alone));
      EXPECT_TRUE(same_bits(expected, found)) << window;
      // The same behind a request that fills a row of its own and one that has no past.
      AttentionSegment beside[] = {{0, kPast, past_at, &other, &other},
                                   {kPast, kOwn, own_at, &other, &past}};
      beside[1].own_entries = true;
      const auto both = be.to_host(be.attention(spec, q, k, v, beside));
      EXPECT_TRUE(same_bits(expected, part(both, kPast, kAll, 4 * 24))) << window;
      EXPECT_EQ(other.filled(), kAll);
      EXPECT_EQ(past.filled(), kPast);
      AttentionSegment first[] = {{0, kPast, past_at}};
      first[0].own_entries = true;
      const auto nothing = be.to_host(
          be.attention(spec, cut(q, 0, kPast), cut(k, 0, kPast), cut(v, 0, kPast), first));
      EXPECT_TRUE(same_bits(part(both, 0, kPast, 4 * 24), nothing)) << window;
      const KvRow* const rows[] = {&past, &other};
      EXPECT_NO_THROW(check_kv(rows));
    }
  });
}

TEST(CpuDeterminism, AppendingWithoutAttending) {
  on_every_backend([](Backend& be, const BackendOptions&) {
    for (const DType type : {DType::F32, DType::F16}) {
      Inputs in(49);
      const Tensor q = in.tensor(be, {kRows, 4, 16}), k = in.tensor(be, {kRows, 2, 16}),
                   v = in.tensor(be, {kRows, 2, 300});  // wider than what is rounded at a time
      const auto at = ascending(kRows, 2);
      const KvSpec spec = {.heads = 2, .k_dim = 16, .v_dim = 300, .type = type};
      KvRow whole = {.spec = spec}, pieces = whole;
      const AttentionSegment all[] = {{0, kRows, at, &whole, &whole}};
      be.attention({4, 2, 16, 300, 0.25f, 0}, q, k, v, all);
      for (int64_t begin = 0; begin < kRows;) {
        const int64_t rows = std::min<int64_t>(kRows - begin, 1 + in.below(40));
        const AttentionSegment some[] = {
            {0, rows, std::span(at).subspan(static_cast<size_t>(begin), static_cast<size_t>(rows)),
             &pieces}};
        be.append_kv(be.slice(k, 0, begin, begin + rows), be.slice(v, 0, begin, begin + rows),
                     some);
        begin += rows;
      }
      const auto [k1, v1] = be.read_kv(whole, 0, kRows);
      const auto [k2, v2] = be.read_kv(pieces, 0, kRows);
      EXPECT_TRUE(same_bits(be.to_host(k1), be.to_host(k2)));
      EXPECT_TRUE(same_bits(be.to_host(v1), be.to_host(v2)));
      const KvRow* const rows[] = {&whole, &pieces};
      EXPECT_NO_THROW(check_kv(rows));
    }
  });
}

TEST(CpuKv, AForkGoesItsOwnWay) {
  const auto be = make_cpu_backend({.threads = 1});
  const Block block(*be, DType::F32);
  for (const int64_t filled : {1, 32, 45, 64}) {
    const auto at = ascending(filled, 1);
    const Tensor x = Inputs(44).tensor(*be, {filled, Block::kWidth});
    KvRow row = {.spec = block.kv(DType::F32)};
    const AttentionSegment prompt[] = {{0, filled, at, &row, &row}};
    block.run(*be, x, prompt, {});
    const auto [k, v] = be->read_kv(row, 0, filled);
    const int64_t bytes = be->stats().kv_bytes;
    KvRow copy = be->fork(row);
    // Full pages are shared, a partial one is copied.
    const int64_t page = kKvPageTokens * row.spec.bytes_per_token();
    EXPECT_EQ(be->stats().kv_bytes, bytes + (filled % kKvPageTokens ? page : 0));
    const int32_t next[] = {static_cast<int32_t>(filled)};
    const Tensor y = Inputs(45).tensor(*be, {1, Block::kWidth});
    const AttentionSegment of_copy[] = {{0, 1, next, &copy, &copy}};
    const auto from_copy = be->to_host(block.run(*be, y, of_copy, {}));
    EXPECT_EQ(row.filled(), filled);
    EXPECT_TRUE(same_bits(be->to_host(k), be->to_host(be->read_kv(row, 0, filled).first)));
    EXPECT_TRUE(same_bits(be->to_host(v), be->to_host(be->read_kv(copy, 0, filled).second)));
    const AttentionSegment of_row[] = {{0, 1, next, &row, &row}};
    EXPECT_TRUE(same_bits(from_copy, be->to_host(block.run(*be, y, of_row, {}))));
    const KvRow* const rows[] = {&row, &copy};
    EXPECT_NO_THROW(check_kv(rows));
  }
}

// A row that was cut back into a page which another row still reads doesn't write over it.
TEST(CpuKv, CuttingBackASharedPage) {
  const auto be = make_cpu_backend({.threads = 1});
  const Block block(*be, DType::F32);
  const auto at = ascending(64, 1);
  KvRow row = {.spec = block.kv(DType::F32)};
  const AttentionSegment prompt[] = {{0, 64, at, &row, &row}};
  block.run(*be, Inputs(46).tensor(*be, {64, Block::kWidth}), prompt, {});
  const auto before = be->to_host(be->read_kv(row, 0, 64).first);
  KvRow copy = be->fork(row);
  copy.truncate(40);
  const int32_t next[] = {40};
  const AttentionSegment step[] = {{0, 1, next, &copy, &copy}};
  block.run(*be, Inputs(47).tensor(*be, {1, Block::kWidth}), step, {});
  EXPECT_TRUE(same_bits(before, be->to_host(be->read_kv(row, 0, 64).first)));
}

}  // namespace
}  // namespace reprise::testing
