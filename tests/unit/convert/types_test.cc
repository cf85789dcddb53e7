#include "convert/types.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "support/error_of.h"

namespace reprise {
namespace {

using test::error_of;
using ::testing::HasSubstr;

TensorView tensor(const std::string& name, DType type, Shape shape) {
  TensorView view;
  view.name = name;
  view.type = type;
  view.shape = std::move(shape);
  return view;
}
TensorSlot slot(Role role, WeightUse use = WeightUse::Matrix) {
  TensorSlot s;
  s.role = role;
  s.use = use;
  return s;
}

TEST(ChooseType, ByRole) {
  const TensorView matrix = tensor("m.weight", DType::BF16, {8, 64});
  TypeRules rules;
  const auto chosen = [&](Role role, WeightUse use = WeightUse::Matrix) {
    const TensorSlot s = slot(role, use);
    return choose_type(matrix, &s, rules).type;
  };
  for (const DType type : {DType::Q8_0, DType::Q4_0, DType::Q4_1}) {
    rules.type = type;
    EXPECT_EQ(chosen(Role::Attention), type);
    EXPECT_EQ(chosen(Role::Mlp), type);
    EXPECT_EQ(chosen(Role::Embedding, WeightUse::Table), DType::Q8_0);
    EXPECT_EQ(chosen(Role::Head), DType::Q8_0);
    EXPECT_EQ(chosen(Role::Adapter), DType::Q8_0);
    for (const Role role : {Role::Vision, Role::Projector, Role::Gate, Role::Scheme})
      EXPECT_EQ(chosen(role), DType::BF16) << static_cast<int>(role);
    EXPECT_EQ(chosen(Role::Norm, WeightUse::Vector), DType::BF16);
    EXPECT_EQ(choose_type(matrix, nullptr, rules).type, DType::BF16);  // nobody knows its use
  }
  rules.delicate = DType::F16;
  for (const Role role : {Role::Vision, Role::Projector, Role::Gate, Role::Scheme})
    EXPECT_EQ(chosen(role), DType::F16) << static_cast<int>(role);
  EXPECT_EQ(chosen(Role::Vision, WeightUse::Vector), DType::BF16);
}

TEST(ChooseType, PlainTypes) {
  const TensorSlot matrix = slot(Role::Mlp), norm = slot(Role::Norm, WeightUse::Vector),
                   gate = slot(Role::Gate), phantom = slot(Role::Scheme);
  const TensorView m = tensor("m", DType::F32, {8, 30}), v = tensor("v", DType::F32, {8});
  TypeRules rules;
  EXPECT_EQ(choose_type(m, &matrix, rules).type, DType::F32);
  for (const DType type : {DType::F16, DType::BF16}) {
    rules.type = type;
    EXPECT_EQ(choose_type(m, &matrix, rules).type, type);
    EXPECT_EQ(choose_type(m, nullptr, rules).type, type);
    EXPECT_EQ(choose_type(v, &norm, rules).type, DType::F32);
    EXPECT_EQ(choose_type(v, nullptr, rules).type, DType::F32);
    EXPECT_EQ(choose_type(m, &gate, rules).type, DType::F32);
    EXPECT_EQ(choose_type(m, &phantom, rules).type, DType::F32);
    const TensorView ids = tensor("position_ids", DType::I64, {1, 77});
    EXPECT_EQ(choose_type(ids, nullptr, rules).type, DType::I64);
  }
  rules.type = DType::F32;
  EXPECT_EQ(choose_type(tensor("n", DType::F16, {8}), &norm, rules).type, DType::F32);
  EXPECT_EQ(choose_type(tensor("n", DType::Q4_0, {8, 32}), &matrix, rules).type, DType::F32);
}

TEST(ChooseType, RowsThatDontDivideStayIn16Bits) {
  const TensorSlot matrix = slot(Role::Mlp);
  TypeRules rules;
  rules.type = DType::Q4_0;
  for (const auto& [from, to] :
       {std::pair{DType::F32, DType::F16}, {DType::F16, DType::F16}, {DType::BF16, DType::BF16}}) {
    const TypeChoice choice = choose_type(tensor("m", from, {32, 48}), &matrix, rules);
    EXPECT_EQ(choice.type, to);
    EXPECT_EQ(choice.note, TypeNote::OddRows);
  }
}

TEST(ChooseType, RowsOfOddBlocksTakeSmallerOnes) {
  const TensorSlot matrix = slot(Role::Mlp);
  TypeRules rules;
  for (const auto& [type, instead] : {std::pair{DType::Q2_K, DType::Q4_0},
                                      {DType::Q3_K, DType::Q4_0},
                                      {DType::Q4_K, DType::Q5_0},
                                      {DType::Q5_K, DType::Q5_1},
                                      {DType::Q6_K, DType::Q8_0}}) {
    rules.type = type;
    EXPECT_EQ(choose_type(tensor("m", DType::F32, {4, 512}), &matrix, rules).type, type);
    const TypeChoice choice = choose_type(tensor("m", DType::F32, {4, 576}), &matrix, rules);
    EXPECT_EQ(choice.type, instead);
    EXPECT_EQ(choice.note, TypeNote::SmallerBlocks);
    EXPECT_EQ(choose_type(tensor("m", DType::F32, {4, 48}), &matrix, rules).type, DType::F16);
  }
}

TEST(ChooseType, QuantizedBefore) {
  const TensorSlot matrix = slot(Role::Mlp);
  TypeRules rules;
  const auto choose = [&](DType from, DType to) {
    rules.type = to;
    return choose_type(tensor("m", from, {4, 64}), &matrix, rules);
  };
  EXPECT_EQ(choose(DType::Q4_1, DType::Q8_0).type, DType::Q4_1);
  EXPECT_EQ(choose(DType::Q4_1, DType::Q8_0).note, TypeNote::AlreadySmaller);
  EXPECT_EQ(choose(DType::Q4_1, DType::Q4_0).type, DType::Q4_0);
  EXPECT_EQ(choose(DType::Q8_0, DType::Q4_1).type, DType::Q4_1);
  EXPECT_EQ(choose(DType::Q8_0, DType::Q4_1).note, TypeNote::None);
}

TEST(ChooseType, OverridesComeFirst) {
  const TensorSlot gate = slot(Role::Gate), matrix = slot(Role::Mlp);
  TypeRules rules;
  rules.type = DType::Q4_0;
  rules.overrides = {parse_override("*.down.weight=Q8_0", "--keep"),
                     parse_override("a.*=keep", "--keep"), parse_override("gate=f16", "--keep")};
  const auto choose = [&](const std::string& name, const TensorSlot* s) {
    return choose_type(tensor(name, DType::F32, {4, 64}), s, rules).type;
  };
  EXPECT_EQ(choose("a.down.weight", &matrix), DType::Q8_0);
  EXPECT_EQ(choose("a.up.weight", &matrix), DType::F32);
  EXPECT_EQ(choose("b.up.weight", &matrix), DType::Q4_0);
  EXPECT_EQ(choose("gate", &gate), DType::F16);
  rules.type.reset();
  EXPECT_EQ(choose("a.down.weight", &matrix), DType::Q8_0);
  EXPECT_EQ(choose("b.up.weight", &matrix), DType::F32);
}

TEST(ChooseType, OverridesDontQuantizeVectors) {
  TypeRules rules;
  rules.overrides = {{"*", DType::Q8_0}};
  const TensorView positions = tensor("positions", DType::F32, {1, 50, 64});
  const TensorSlot vector = slot(Role::Vision, WeightUse::Vector);
  EXPECT_EQ(choose_type(positions, &vector, rules).type, DType::F32);
  EXPECT_EQ(choose_type(positions, &vector, rules).note, TypeNote::Vector);
  EXPECT_EQ(choose_type(tensor("scale", DType::BF16, {64}), nullptr, rules).type, DType::BF16);
  rules.overrides = {{"*", DType::F16}};
  EXPECT_EQ(choose_type(positions, &vector, rules).type, DType::F16);
}

TEST(ParseType, NamesAndErrors) {
  EXPECT_EQ(parse_type("keep", "--type"), std::nullopt);
  EXPECT_EQ(parse_type("Q4_0", "--type"), DType::Q4_0);
  EXPECT_EQ(parse_type("bf16", "--type"), DType::BF16);
  for (const char* bad : {"q4_k_m", "", "i8", "f64"})
    EXPECT_THAT(error_of([&] { parse_type(bad, "--keep"); }),
                ::testing::AllOf(HasSubstr("--keep"), HasSubstr("q8_0"), HasSubstr("bf16")))
        << bad;
  TypeRules rules;
  for (const auto& [text, type, name] : {std::tuple{"Q4_K_M", DType::Q4_K, "Q4_K_M"},
                                         {"q4_k", DType::Q4_K, "Q4_K_M"},
                                         {"q6_k", DType::Q6_K, "Q6_K"},
                                         {"q5_0", DType::Q5_0, "Q5_0"},
                                         {"F32", DType::F32, "F32"}}) {
    set_type(rules, text, "--type");
    EXPECT_EQ(rules.type, type) << text;
    EXPECT_EQ(type_name(rules), name) << text;
    EXPECT_EQ(rules.mix != nullptr, block_values(type) == 256) << text;
  }
  set_type(rules, "keep", "--type");
  EXPECT_EQ(rules.type, std::nullopt);
  EXPECT_EQ(type_name(rules), "keep");
  for (const char* bad : {"q4_k_l", "", "iq4_nl", "mxfp4"})
    EXPECT_THAT(error_of([&] { set_type(rules, bad, "--type"); }),
                ::testing::AllOf(HasSubstr("--type"), HasSubstr("q8_0"), HasSubstr("q4_k_m")))
        << bad;
  EXPECT_EQ(parse_override("a=b=q8_0", "--keep").first, "a=b");
  for (const char* bad : {"q8_0", "=q8_0", "a=", "a=q9"})
    EXPECT_THAT(error_of([&] { parse_override(bad, "--keep"); }), HasSubstr("--keep")) << bad;
}

}  // namespace
}  // namespace reprise
