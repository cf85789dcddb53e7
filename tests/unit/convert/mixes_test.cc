// Which type llama.cpp's mixes give to which matrix: tables by its published rules.
#include "convert/mixes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace reprise {
namespace {

using ::testing::ElementsAre;

DType type_of(const char* mix, const char* key, int layer, const MixModel& model = {24, 2, false},
              int64_t row = 1024) {
  TensorSlot slot;
  slot.role = key == std::string("down") ? Role::Mlp : Role::Attention;
  slot.key = key;
  slot.layer = layer;
  return mixed_type(*find_mix(mix), slot, row, model);
}
DType type_of(const char* mix, Role role, bool tied, int64_t row = 1024) {
  TensorSlot slot;
  slot.role = role;
  return mixed_type(*find_mix(mix), slot, row, {24, 2, tied});
}
std::vector<int> layers_with(const char* mix, const char* key, DType type, int layers) {
  std::vector<int> found;
  for (int layer = 0; layer < layers; ++layer)
    if (type_of(mix, key, layer, {layers, 2, false}) == type) found.push_back(layer);
  return found;
}

TEST(Mixes, LayersWithMoreBits) {
  for (const char* key : {"v", "qkv", "down"}) {
    for (const char* mix : {"q4_k_m", "q5_k_m"}) {
      EXPECT_THAT(layers_with(mix, key, DType::Q6_K, 24),
                  ElementsAre(0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23));
      // 18: as a published Q4_K_M file of Gemma 3 270M has it.
      EXPECT_THAT(layers_with(mix, key, DType::Q6_K, 18),
                  ElementsAre(0, 1, 4, 7, 10, 13, 15, 16, 17));
      EXPECT_THAT(layers_with(mix, key, DType::Q6_K, 30),
                  ElementsAre(0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29));
      EXPECT_THAT(layers_with(mix, key, DType::Q6_K, 2), ElementsAre(1));
    }
  }
  EXPECT_THAT(layers_with("q4_k_s", "v", DType::Q5_K, 24), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(layers_with("q4_k_s", "down", DType::Q5_K, 24), ElementsAre(0, 1, 2));
  EXPECT_THAT(layers_with("q3_k_m", "v", DType::Q5_K, 24), ElementsAre(0, 1));
  EXPECT_THAT(layers_with("q3_k_m", "down", DType::Q5_K, 32), ElementsAre(0, 1));
  EXPECT_EQ(type_of("q3_k_m", "v", 5), DType::Q4_K);
  EXPECT_EQ(type_of("q3_k_m", "down", 5), DType::Q4_K);
}

TEST(Mixes, TheOtherMatrices) {
  for (const char* key : {"q", "k", "gate", "up", "gate_up"}) {
    EXPECT_EQ(type_of("q4_k_m", key, 0), DType::Q4_K);
    EXPECT_EQ(type_of("q5_k_s", key, 0), DType::Q5_K);
    EXPECT_EQ(type_of("q6_k", key, 0), DType::Q6_K);
    EXPECT_EQ(type_of("q2_k", key, 0), DType::Q2_K);
  }
  EXPECT_EQ(type_of("q4_k_m", "o", 0), DType::Q4_K);
  EXPECT_EQ(type_of("q3_k_m", "o", 0), DType::Q4_K);
  EXPECT_EQ(type_of("q3_k_l", "o", 0), DType::Q5_K);
  EXPECT_EQ(type_of("q3_k_s", "o", 0), DType::Q3_K);
  EXPECT_EQ(type_of("q2_k", "o", 0), DType::Q3_K);
  EXPECT_EQ(type_of("q2_k", "down", 7), DType::Q3_K);
  EXPECT_EQ(type_of("q2_k", "v", 7), DType::Q3_K);
  EXPECT_EQ(type_of("q2_k", "v", 7, {24, 4, false}), DType::Q4_K);
  EXPECT_EQ(type_of("q4_k_m", "v", 11, {80, 8, false}), DType::Q5_K);
}

TEST(Mixes, EmbeddingAndHead) {
  for (const TypeMix& mix : type_mixes()) {
    const char* name = mix.name.data();
    EXPECT_EQ(type_of(name, Role::Head, false), DType::Q6_K) << name;
    EXPECT_EQ(type_of(name, Role::Embedding, true), DType::Q6_K) << name;
    EXPECT_EQ(type_of(name, Role::Embedding, false), mix.base) << name;
    EXPECT_EQ(type_of(name, Role::Head, false, 576), DType::Q8_0) << name;
    EXPECT_EQ(type_of(name, Role::Embedding, true, 576), DType::Q8_0) << name;
  }
}

}  // namespace
}  // namespace reprise
