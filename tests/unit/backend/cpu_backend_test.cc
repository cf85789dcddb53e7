// The cpu backend's own promises: memory, errors, choice of instruction set.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "backend/cpu/memory/memory_pool.h"
#include "backend/cpu/memory/packing.h"
#include "backend/factory.h"
#include "base/quant/rows.h"
#include "support/error_of.h"
#include "unit/backend/random_inputs.h"

namespace reprise::testing {
namespace {

using test::error_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(CpuBackend, DescribesItself) {
  EXPECT_EQ(make_cpu_backend({.threads = 1, .isa = "scalar"})->description(),
            "cpu: scalar, 1 thread, int8 activations");
  EXPECT_EQ(make_cpu_backend({.threads = 3, .activations = Activations::F32, .isa = "scalar"})
                ->description(),
            "cpu: scalar, 3 threads, f32 activations");
}

TEST(CpuBackend, TheEnvironmentForcesAnInstructionSet) {
  const char* before = std::getenv("REPRISE_ISA");
  const std::string kept = before ? before : "";
  ::setenv("REPRISE_ISA", "scalar", 1);
  EXPECT_THAT(make_cpu_backend({})->description(), HasSubstr("scalar"));
  ::setenv("REPRISE_ISA", "sse9", 1);
  EXPECT_THAT(error_of([] { make_cpu_backend({}); }),
              AllOf(HasSubstr("REPRISE_ISA 'sse9'"), HasSubstr("scalar"), HasSubstr("built:")));
  EXPECT_NO_THROW(make_cpu_backend({.isa = "scalar"}));  // the option comes first
  if (before)
    ::setenv("REPRISE_ISA", kept.c_str(), 1);
  else
    ::unsetenv("REPRISE_ISA");
}

TEST(CpuBackend, ChoosesNoEmulatedInstructionSetByItself) {
  if (std::getenv("REPRISE_ISA")) GTEST_SKIP() << "REPRISE_ISA is set";
  EXPECT_THAT(make_cpu_backend({})->description(), ::testing::Not(HasSubstr("simde")));
}

TEST(CpuBackend, RefusesWhatItCannotDo) {
  EXPECT_THAT(error_of([] { make_cpu_backend({.threads = -1}); }), HasSubstr("threads"));
  EXPECT_THAT(error_of([] { make_backend("gpu", {}); }),
              AllOf(HasSubstr("'gpu'"), HasSubstr("cpu"), HasSubstr("torch")));
  const auto be = make_cpu_backend({.threads = 1});
  Inputs in(50);
  EXPECT_THAT(error_of([&] {
                be->bind(in.host(DType::F64, {2, 2}), WeightUse::Matrix);
              }),
              HasSubstr("F64"));
  EXPECT_THAT(error_of([&] { be->bind(in.host(DType::Q8_0, {32}), WeightUse::Vector); }),
              HasSubstr("Q8_0"));
  EXPECT_THAT(error_of([&] {
                be->bind(in.host(DType::Q8_0, {2, 2, 32}), WeightUse::Matrix);
              }),
              HasSubstr("[2, 2, 32]"));
  EXPECT_THAT(
      error_of([&] { be->new_page({.heads = 1, .k_dim = 1, .v_dim = 1, .type = DType::BF16}); }),
      HasSubstr("BF16"));
}

TEST(CpuBackend, MismatchedShapesAreBugs) {
  const auto be = make_cpu_backend({.threads = 1});
  Inputs in(51);
  const Tensor a = in.tensor(*be, {2, 3}), b = in.tensor(*be, {2});
  EXPECT_THROW(be->add(a, b), InternalError);
  EXPECT_THROW(be->mul(a, b), InternalError);
  EXPECT_THROW(be->reshape(a, {4}), InternalError);
  EXPECT_THROW(be->slice(a, 1, 2, 4), InternalError);
  const int32_t outside[] = {2}, twice[] = {1, 1};
  EXPECT_THROW(be->gather_rows(a, outside), InternalError);
  EXPECT_THROW(be->replace_rows(a, twice, a), InternalError);
  EXPECT_THROW(be->scale(Tensor(), 1), InternalError);
  const LinearWeight w = {.weight = in.matrix(*be, DType::F32, {4, 5})};
  EXPECT_THROW(be->linear(a, w), InternalError);
  EXPECT_THROW(be->norm(a, {}), InternalError);  // no eps
}

TEST(CpuBackend, AttentionChecksPositions) {
  const auto be = make_cpu_backend({.threads = 1});
  Inputs in(52);
  const AttentionSpec spec = {1, 1, 4, 4, 0.5f, 0};
  const Tensor x = in.tensor(*be, {2, 1, 4});
  KvRow row = {.spec = {.heads = 1, .k_dim = 4, .v_dim = 4}};
  const auto run = [&](std::vector<int32_t> positions, KvRow* write, KvRow* read) {
    const AttentionSegment segment[] = {{0, 2, positions, write, read}};
    be->attention(spec, x, x, x, segment);
  };
  EXPECT_THROW(run({3, 3}, &row, &row), InternalError);
  run({3, 4}, &row, &row);
  EXPECT_THROW(run({4, 5}, &row, &row), InternalError);     // not behind the last
  EXPECT_THROW(run({1, 2}, nullptr, &row), InternalError);  // sees nothing
  EXPECT_THROW(run({5, 6}, &row, nullptr), InternalError);
  EXPECT_EQ(row.filled(), 2);
}

TEST(CpuBackend, WeightsAreReleasedOrStayWhereTheyAre) {
  const auto be = make_cpu_backend({.threads = 1});
  Inputs in(53);
  int released = 0;
  const auto bind = [&](DType type, WeightUse use) {
    HostTensor host = in.host(type, {32, 64});
    host.release = [&] { ++released; };
    return std::pair{be->bind(host, use), std::weak_ptr<const void>(host.owner)};
  };
  {
    const auto [mapped, owner] = bind(DType::BF16, WeightUse::Matrix);
    EXPECT_EQ(released, 0);
    EXPECT_FALSE(owner.expired());
    EXPECT_EQ(be->stats().weight_bytes, 32 * 64 * 2);
  }
  EXPECT_EQ(be->stats().weight_bytes, 0);
  const auto [packed, packed_owner] = bind(DType::Q8_0, WeightUse::Matrix);
  EXPECT_EQ(released, 1);
  EXPECT_TRUE(packed_owner.expired());
  const auto [vector, vector_owner] = bind(DType::F16, WeightUse::Vector);
  EXPECT_EQ(released, 2);
  EXPECT_TRUE(vector_owner.expired());
  EXPECT_EQ(vector.dtype(), DType::F32);
}

// Matrices of every type take about the bytes of their file and give its values.
TEST(CpuBackend, QuantizedTablesKeepValuesAndSize) {
  const auto be = make_cpu_backend({.threads = 2});
  Inputs in(55);
  for (const DType type : quantized_types()) {
    const int64_t k = 3 * block_values(type);
    HostTensor host = in.host(type, {48, k});
    bool released = false;
    host.release = [&] { released = true; };
    std::vector<float> expected(static_cast<size_t>(48 * k));
    dequantize_row(type, host.bytes.data(), expected.data(), 48 * k);
    const int64_t before = be->stats().weight_bytes;
    const Tensor w = be->bind(host, WeightUse::Table);
    EXPECT_TRUE(released);
    EXPECT_EQ(w.dtype(), type);
    const std::vector<float> found = be->to_host(w);
    EXPECT_EQ(std::memcmp(found.data(), expected.data(), expected.size() * 4), 0);
    const int64_t held = be->stats().weight_bytes - before;
    EXPECT_LE(held, tensor_bytes(type, {48, k}) * 104 / 100 + 64) << dtype_name(type);
    const int32_t ids[] = {7, 0};
    const std::vector<float> rows = be->to_host(be->embed(w, ids));
    EXPECT_EQ(std::memcmp(rows.data(), expected.data() + 7 * k, static_cast<size_t>(k) * 4), 0);
    EXPECT_EQ(std::memcmp(rows.data() + k, expected.data(), static_cast<size_t>(k) * 4), 0);
  }
}

TEST(CpuBackend, MemoryGoesBackAtTheLastUse) {
  const auto be = make_cpu_backend({.threads = 1});
  Inputs in(54);
  {
    Tensor x = in.tensor(*be, {100, 10});
    const Tensor view = be->reshape(be->slice(x, 0, 10, 20), {100});
    EXPECT_EQ(be->stats().workspace_bytes, 4000);  // views share
    x = Tensor();
    EXPECT_EQ(be->stats().workspace_bytes, 4000);
    const Tensor y = be->scale(view, 2);
    EXPECT_EQ(be->stats().workspace_bytes, 4400);
  }
  EXPECT_EQ(be->stats().workspace_bytes, 0);
  EXPECT_EQ(be->stats().workspace_peak, 4400);
  KvRow row = {.spec = {.heads = 2, .k_dim = 8, .v_dim = 4, .type = DType::F16}};
  row.pages.push_back(be->new_page(row.spec));
  EXPECT_EQ(be->stats().kv_bytes, kKvPageTokens * 2 * (8 + 4) * 2);
  row.pages.clear();
  EXPECT_EQ(be->stats().kv_bytes, 0);
}

TEST(MemoryPool, KeepsABoundedAmountOfFreedMemory) {
  const auto pool = cpu::MemoryPool::make();
  const std::byte* first = nullptr;
  {
    const auto block = pool->allocate(1000, cpu::Account::Workspace);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block.get()) % 64, 0u);
    first = block.get();
  }
  EXPECT_GE(pool->cached_bytes(), 1000);
  EXPECT_EQ(pool->allocate(990, cpu::Account::Kv).get(), first);  // of the same class
  { const auto large = pool->allocate(int64_t{1} << 30, cpu::Account::Workspace); }
  EXPECT_LT(pool->cached_bytes(), int64_t{1} << 30);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int64_t i = 0; i < 1000; ++i) {
        const auto a = pool->allocate(i * 7, cpu::Account::Workspace);
        const auto b = pool->allocate(i * 5, cpu::Account::Kv);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool->usage(cpu::Account::Workspace).now, 0);
  EXPECT_EQ(pool->usage(cpu::Account::Kv).now, 0);
}

TEST(MemoryPool, KvBlocksArePartsOfSlabs) {
  const auto pool = cpu::MemoryPool::make();
  constexpr int64_t kPart = 64 << 10;
  std::vector<std::shared_ptr<std::byte>> parts;
  for (int i = 0; i < 100; ++i) {
    parts.push_back(pool->allocate(kPart - 100, cpu::Account::Kv));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(parts.back().get()) % 64, 0u);
    std::memset(parts.back().get(), i, kPart - 100);
  }
  for (int i = 0; i < 100; ++i)  // none overlaps another
    EXPECT_EQ(static_cast<int>(parts[static_cast<size_t>(i)].get()[kPart - 101]), i);
  const int64_t slabs = pool->slab_bytes();
  EXPECT_GE(slabs, 100 * kPart);
  EXPECT_LE(slabs, 100 * kPart + (4 << 20));
  parts.resize(50);
  for (int i = 0; i < 50; ++i) parts.push_back(pool->allocate(kPart, cpu::Account::Kv));
  EXPECT_EQ(pool->slab_bytes(), slabs) << "what was given back is used again";
  EXPECT_EQ(pool->idle_slab_bytes(), 0);
}

// The rule is told in slabs.h: about half of the most in use lately is kept.
TEST(MemoryPool, IdleSlabsGoBackOneByOne) {
  const auto pool = cpu::MemoryPool::make();
  constexpr int64_t kSlab = 2 << 20, kPart = kSlab / 16;
  const auto take = [&](std::vector<std::shared_ptr<std::byte>>& parts, int64_t slabs) {
    for (int64_t i = 0; i < 16 * slabs; ++i)
      parts.push_back(pool->allocate(kPart, cpu::Account::Kv));
  };
  std::vector<std::shared_ptr<std::byte>> request, prompt;
  for (int round = 0; round < 3; ++round) {
    take(request, 20);
    take(prompt, 20);  // a TroL prompt's second pass
    EXPECT_EQ(pool->slab_bytes(), 40 * kSlab);
    prompt.clear();
    EXPECT_GE(pool->slab_bytes(), 38 * kSlab) << "nearly all is kept for the next prompt";
    EXPECT_EQ(pool->slab_bytes(), 20 * kSlab + pool->idle_slab_bytes());
    take(prompt, 10);
    EXPECT_EQ(pool->slab_bytes(), 20 * kSlab + 10 * kSlab + pool->idle_slab_bytes());
    EXPECT_LE(pool->slab_bytes(), 40 * kSlab) << "idle slabs are taken first";
    prompt.clear();
    request.clear();
    EXPECT_LE(pool->slab_bytes(), 20 * kSlab);
    EXPECT_GE(pool->slab_bytes(), 16 * kSlab);
  }
  // One slab in use keeps no other from going.
  take(request, 20);
  take(prompt, 20);
  prompt.erase(prompt.begin() + 1, prompt.end());
  request.clear();
  EXPECT_LE(pool->slab_bytes(), 21 * kSlab);
  // What a rare long request needed is forgotten.
  prompt.clear();
  for (int i = 0; i < 1500; ++i) {
    take(prompt, 1);
    prompt.clear();
  }
  EXPECT_LE(pool->slab_bytes(), static_cast<int64_t>(cpu::Slabs::kLeastIdle));
}

TEST(MemoryPool, IdleSlabsHaveABoundAndAnySizeOfParts) {
  const auto pool = cpu::MemoryPool::make();
  std::vector<std::shared_ptr<std::byte>> parts;
  for (int i = 0; i < 400; ++i) parts.push_back(pool->allocate(4 << 20, cpu::Account::Kv));
  EXPECT_GE(pool->slab_bytes(), int64_t{1600} << 20);
  parts.clear();
  EXPECT_LE(pool->slab_bytes(), static_cast<int64_t>(cpu::Slabs::kMostIdle));
  EXPECT_GE(pool->slab_bytes(), int64_t{400} << 20);
  EXPECT_EQ(pool->slab_bytes(), pool->idle_slab_bytes());
  EXPECT_EQ(pool->usage(cpu::Account::Kv).now, 0);

  const auto other = cpu::MemoryPool::make();
  for (int i = 0; i < 64; ++i) parts.push_back(other->allocate(64 << 10, cpu::Account::Kv));
  const int64_t slabs = other->slab_bytes();
  parts.erase(parts.begin(), parts.begin() + 32);  // the first slab
  EXPECT_GT(other->idle_slab_bytes(), 0);
  parts.push_back(other->allocate(100 << 10, cpu::Account::Kv));
  EXPECT_EQ(other->slab_bytes(), slabs) << "an idle slab is cut anew";
  EXPECT_EQ(other->idle_slab_bytes(), 0);
}

TEST(MemoryPool, SlabsOfManyThreads) {
  const auto pool = cpu::MemoryPool::make();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::vector<std::pair<std::shared_ptr<std::byte>, int64_t>> held;
      for (int i = 0; i < 2000; ++i) {
        const int64_t bytes = (16 << 10) << ((i * 7 + t) % 4);
        held.emplace_back(pool->allocate(bytes, cpu::Account::Kv), bytes);
        std::memset(held.back().first.get(), t, 64);
        std::memset(held.back().first.get() + bytes - 64, t, 64);
        if (i % 3 == 0) held.erase(held.begin() + i * 11 % static_cast<int64_t>(held.size()));
        if (i % 300 == 299) {
          for (const auto& [part, size] : held) {
            EXPECT_EQ(static_cast<int>(part.get()[0]), t);
            EXPECT_EQ(static_cast<int>(part.get()[size - 1]), t);
          }
          held.clear();
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool->usage(cpu::Account::Kv).now, 0);
  EXPECT_EQ(pool->slab_bytes(), pool->idle_slab_bytes());
}

TEST(TorchLoader, SaysHowToGetTheBackend) {
  const char* before = std::getenv("REPRISE_PLUGIN_DIR");
  const std::string kept = before ? before : "";
  ::setenv("REPRISE_PLUGIN_DIR", "/nonexistent/folder", 1);
  EXPECT_FALSE(torch_plugin_path());
  EXPECT_THAT(error_of([] { make_backend("torch", {}); }),
              AllOf(HasSubstr("/nonexistent/folder"), HasSubstr("torch==2.13.0")));
  if (before)
    ::setenv("REPRISE_PLUGIN_DIR", kept.c_str(), 1);
  else
    ::unsetenv("REPRISE_PLUGIN_DIR");
}

}  // namespace
}  // namespace reprise::testing
