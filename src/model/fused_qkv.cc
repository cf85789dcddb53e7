#include "model/fused_qkv.h"

#include "base/error.h"

namespace reprise {

std::vector<int64_t> fused_qkv_rows(const TextConfig& config, const std::string& key) {
  REPRISE_CHECK(config.fused_qkv && (key == "q" || key == "k" || key == "v"), "{}", key);
  // One group of all heads, or a group a KV head: its q heads, its k heads, its v heads.
  const int64_t groups = config.grouped_qkv ? config.kv_heads : 1;
  const int64_t q = config.heads / groups, kv = config.kv_heads / groups;
  const int64_t first = key == "q" ? 0 : key == "k" ? q : q + kv;
  const int64_t heads = key == "q" ? q : kv;
  std::vector<int64_t> rows;
  for (int64_t group = 0; group < groups; ++group)
    for (int64_t i = 0; i < heads * config.head_dim; ++i)
      rows.push_back((group * (q + 2 * kv) + first) * config.head_dim + i);
  return rows;
}

}  // namespace reprise
