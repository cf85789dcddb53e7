// Conformance cases of attention on pages and without, full attention, and KV rows.
#include <numeric>

#include "unit/backend/conformance_operations.h"
#include "unit/backend/random_inputs.h"

namespace reprise::testing {
namespace {

struct Setup {
  AttentionSpec spec;
  int64_t rows;
  DType type = DType::F32;  // of the KV entries
};

std::string name_of(const Setup& s) {
  return fmt::format("{} rows, {} heads on {}, {} + {} wide, window {}, cap {}, {}", s.rows,
                     s.spec.heads, s.spec.kv_heads, s.spec.k_dim, s.spec.v_dim, s.spec.window,
                     s.spec.softcap, dtype_name(s.type));
}

std::vector<Setup> setups() {
  std::vector<Setup> list;
  const auto add = [&](int heads, int kv_heads, int k_dim, int v_dim, int64_t window,
                       int64_t rows, float softcap = 0) {
    const float scale = 1 / std::sqrt(static_cast<float>(k_dim));
    for (const DType type : {DType::F32, DType::F16})
      list.push_back({{heads, kv_heads, k_dim, v_dim, scale, window, softcap}, rows, type});
  };
  add(1, 1, 1, 1, 0, 1);
  add(2, 2, 16, 16, 0, 5);
  add(4, 2, 24, 40, 0, 33);
  add(9, 3, 64, 64, 0, 70);
  add(8, 1, 80, 16, 7, 41);
  add(3, 1, 7, 33, 1, 66);
  add(6, 2, 96, 96, 40, 130);
  add(7, 1, 128, 128, 0, 45);
  add(4, 2, 256, 253, 0, 37);
  add(6, 3, 20, 20, 0, 70, 1.5f);
  add(4, 2, 48, 16, 9, 43, 0.4f);
  return list;
}

KvSpec kv_spec(const Setup& s) {
  return {.heads = s.spec.kv_heads, .k_dim = s.spec.k_dim, .v_dim = s.spec.v_dim, .type = s.type};
}

// Ascending positions with holes.
std::vector<int32_t> positions(Inputs& in, int64_t count, int32_t first) {
  std::vector<int32_t> list;
  for (int64_t i = 0; i < count; ++i) {
    list.push_back(first);
    first += 1 + static_cast<int32_t>(in.below(3));
  }
  return list;
}

struct Qkv {
  Tensor q, k, v;
};
Qkv inputs(Backend& be, Inputs& in, const AttentionSpec& spec, int64_t rows) {
  return {in.tensor(be, {rows, spec.heads, spec.k_dim}, 3),
          in.tensor(be, {rows, spec.kv_heads, spec.k_dim}),
          in.tensor(be, {rows, spec.kv_heads, spec.v_dim})};
}

Operation serving() {
  Operation op = {"attention on KV rows", 2e-5, {}};
  for (const Setup& s : setups())
    op.cases.push_back(
        {name_of(s), [=](Backend& be) -> Results {
           Inputs in(30);
           KvRow first = {.spec = kv_spec(s)}, second = first;
           // Two requests of unlike length in one call, then one more token each.
           const auto at = positions(in, s.rows, 3), other = positions(in, 4, 0);
           const Qkv x = inputs(be, in, s.spec, s.rows + 4);
           const AttentionSegment prompt[] = {{0, s.rows, at, &first, &first},
                                              {s.rows, 4, other, &second, &second}};
           const Tensor y = be.attention(s.spec, x.q, x.k, x.v, prompt);
           const int32_t next[] = {at.back() + 1, other.back() + 5};
           const Qkv z = inputs(be, in, s.spec, 2);
           const AttentionSegment step[] = {{0, 1, {next, 1}, &first, &first},
                                            {1, 1, {next + 1, 1}, &second, &second}};
           return {be.to_host(y), be.to_host(be.attention(s.spec, z.q, z.k, z.v, step))};
         }});
  return op;
}

// A row that is read but not written (traversal), and one that is written beside the one read.
Operation reading() {
  Operation op = {"attention to another row", 2e-5, {}};
  for (const Setup& s : setups())
    op.cases.push_back({name_of(s), [=](Backend& be) -> Results {
                          Inputs in(31);
                          KvRow kept = {.spec = kv_spec(s)}, other = kept;
                          const auto at = positions(in, s.rows, 0);
                          const Qkv x = inputs(be, in, s.spec, s.rows);
                          const Qkv z = inputs(be, in, s.spec, s.rows);
                          const AttentionSegment write[] = {{0, s.rows, at, &kept, &kept}};
                          be.attention(s.spec, x.q, x.k, x.v, write);
                          const AttentionSegment read[] = {{0, s.rows, at, nullptr, &kept}};
                          const AttentionSegment both[] = {{0, s.rows, at, &other, &kept}};
                          const Tensor a = be.attention(s.spec, z.q, z.k, z.v, read);
                          const Tensor b = be.attention(s.spec, z.q, z.k, z.v, both);
                          const auto [k, v] = be.read_kv(other, 0, other.filled());
                          return {be.to_host(a), be.to_host(b), be.to_host(k), be.to_host(v)};
                        }});
  return op;
}

// Past entries of a row and the segment's own, in chunks, and a row that grows without attention.
Operation own_entries() {
  Operation op = {"attention to own entries behind a row's", 2e-5, {}};
  for (const Setup& s : setups())
    op.cases.push_back(
        {name_of(s), [=](Backend& be) -> Results {
           Inputs in(35);
           KvRow past = {.spec = kv_spec(s)}, other = past;
           const auto at = positions(in, s.rows, 4);
           const Qkv x = inputs(be, in, s.spec, s.rows);
           const Qkv z = inputs(be, in, s.spec, s.rows);
           const AttentionSegment fill[] = {{0, s.rows, at, &past}};
           be.append_kv(x.k, x.v, fill);
           Results results;
           for (int64_t begin = 0; begin < s.rows;) {
             const int64_t rows = std::min<int64_t>(s.rows - begin, 1 + begin);
             const auto cut = [&](const Tensor& t) { return be.slice(t, 0, begin, begin + rows); };
             AttentionSegment own[] = {
                 {0, rows,
                  std::span(at).subspan(static_cast<size_t>(begin), static_cast<size_t>(rows)),
                  begin % 2 == 0 ? &other : nullptr, &past}};
             own[0].own_entries = true;
             results.push_back(be.to_host(be.attention(s.spec, cut(z.q), cut(z.k), cut(z.v), own)));
             begin += rows;
           }
           for (const KvRow* row : {&past, &other}) {
             const auto [k, v] = be.read_kv(*row, 0, row->filled());
             results.push_back(be.to_host(k));
             results.push_back(be.to_host(v));
           }
           return results;
         }});
  return op;
}

Operation aliases() {
  Operation op = {"alias_kv", 1e-6, {}};
  for (const Setup& s : setups())
    op.cases.push_back({name_of(s), [=](Backend& be) -> Results {
                          Inputs in(36);
                          KvRow from = {.spec = kv_spec(s)}, lined_up = from, some = from;
                          const auto at = positions(in, s.rows, 0);
                          const Qkv x = inputs(be, in, s.spec, s.rows);
                          const AttentionSegment fill[] = {{0, s.rows, at, &from}};
                          be.append_kv(x.k, x.v, fill);
                          be.alias_kv(from, at, lined_up);
                          std::vector<int32_t> picked;
                          for (const int32_t position : at)
                            if (in.below(4) != 0) picked.push_back(position);
                          be.alias_kv(from, picked, some);
                          Results results;
                          for (KvRow* row : {&lined_up, &some}) {
                            const int32_t next[] = {at.back() + 2};
                            const Qkv z = inputs(be, in, s.spec, 1);
                            const AttentionSegment step[] = {{0, 1, next, row, row}};
                            results.push_back(
                                be.to_host(be.attention(s.spec, z.q, z.k, z.v, step)));
                            const auto [k, v] = be.read_kv(*row, 0, row->filled());
                            results.push_back(be.to_host(k));
                            results.push_back(be.to_host(v));
                          }
                          return results;
                        }});
  return op;
}

Operation functional() {
  Operation op = {"attention without KV rows", 2e-5, {}};
  for (const Setup& s : setups()) {
    if (s.type != DType::F32) continue;
    op.cases.push_back({name_of(s), [=](Backend& be) -> Results {
                          Inputs in(32);
                          const auto at = positions(in, s.rows, 2);
                          const auto after = positions(in, 3, at.back() + 1);
                          const auto other = positions(in, 2, at.back() + 2);
                          const Qkv x = inputs(be, in, s.spec, s.rows + 5);
                          const AttentionSegment segments[] = {
                              {0, s.rows, at},
                              {s.rows, 3, after, nullptr, nullptr, 0},
                              {s.rows + 3, 2, other, nullptr, nullptr, 0}};
                          return {be.to_host(be.attention(s.spec, x.q, x.k, x.v, segments))};
                        }});
  }
  return op;
}

Operation rows() {
  Operation op = {"read_kv and fork", 1e-6, {}};
  for (const Setup& s : setups())
    op.cases.push_back({name_of(s), [=](Backend& be) -> Results {
                          Inputs in(33);
                          KvRow row = {.spec = kv_spec(s)};
                          const auto at = positions(in, s.rows, 0);
                          const Qkv x = inputs(be, in, s.spec, s.rows);
                          const AttentionSegment prompt[] = {{0, s.rows, at, &row, &row}};
                          be.attention(s.spec, x.q, x.k, x.v, prompt);
                          KvRow copy = be.fork(row);
                          Results results;
                          for (KvRow* one : {&row, &copy}) {  // go on differently
                            const int32_t next[] = {at.back() + 1};
                            const Qkv z = inputs(be, in, s.spec, 1);
                            const AttentionSegment step[] = {{0, 1, next, one, one}};
                            results.push_back(
                                be.to_host(be.attention(s.spec, z.q, z.k, z.v, step)));
                          }
                          for (const KvRow* one : {&row, &copy}) {
                            const auto [k, v] = be.read_kv(*one, s.rows / 2, one->filled());
                            results.push_back(be.to_host(k));
                            results.push_back(be.to_host(v));
                          }
                          return results;
                        }});
  return op;
}

Operation full() {
  Operation op = {"full_attention", 2e-5, {}};
  struct Dims {
    int64_t batch, m, n, heads, dim, v_dim;
  };
  for (const Dims& d :
       {Dims{1, 1, 1, 1, 1, 1}, Dims{2, 17, 17, 3, 24, 24}, Dims{1, 50, 50, 4, 64, 64},
        Dims{3, 5, 99, 2, 72, 40}, Dims{1, 130, 33, 1, 16, 8}})
    op.cases.push_back(
        {fmt::format("[{}, {}, {}, {}] to {} keys", d.batch, d.m, d.heads, d.dim, d.n),
         [=](Backend& be) -> Results {
           Inputs in(34);
           const Tensor q = in.tensor(be, {d.batch, d.m, d.heads, d.dim}, 3);
           const Tensor k = in.tensor(be, {d.batch, d.n, d.heads, d.dim});
           const Tensor v = in.tensor(be, {d.batch, d.n, d.heads, d.v_dim});
           std::vector<int32_t> of(static_cast<size_t>(d.batch));
           for (int32_t& source : of) source = static_cast<int32_t>(in.below(d.batch));
           return {be.to_host(be.full_attention(q, k, v, 0.2f, {})),
                   be.to_host(be.full_attention(q, k, v, 0.2f, of))};
         }});
  return op;
}

}  // namespace

std::vector<Operation> attention_operations() {
  return {serving(), reading(), own_entries(), aliases(), functional(), rows(), full()};
}

}  // namespace reprise::testing
