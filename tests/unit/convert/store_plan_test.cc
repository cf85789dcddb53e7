// A plan kept in a model: that of all requests that name none.
#include "convert/store_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/factory.h"
#include "convert/convert.h"
#include "formats/gguf.h"
#include "model/model.h"
#include "support/error_of.h"
#include "support/test_models.h"

namespace reprise::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kPlan = "0-2,1-2@0.1,3-5";  // of the six layers of the golden Llama

class StorePlan : public ::testing::Test {
 protected:
  StorePlan() {
    testing::copy_model("rrt/llama", dense_);
    convert_to_gguf(open_source(dense_), own_, {});
  }
  // The plan of a request that names none.
  std::string plan_of(const std::filesystem::path& model, const std::string& asked = "") const {
    const auto loaded = Model::load(model, *backend_);
    PlanOptions options;
    if (!asked.empty()) options.set("plan", asked);
    EXPECT_EQ(plan_summary(loaded->decode_plan(options)),
              plan_summary(loaded->prefill_plan(options)));
    return plan_summary(loaded->decode_plan(options));
  }
  std::string store_error(const std::filesystem::path& model, const std::string& plan,
                          const std::filesystem::path& target) const {
    return error_of([&] { store_plan(model, plan, target); });
  }

  testing::TempFolder folder_;
  const std::filesystem::path dense_ = folder_ / "dense", own_ = folder_ / "own.gguf",
                              target_ = folder_ / "target", file_ = folder_ / "target.gguf";
  std::unique_ptr<Backend> backend_ = make_backend("cpu", {.threads = 1});
};

TEST_F(StorePlan, InAFolderOfItsOwn) {
  store_plan(dense_, kPlan, target_);
  EXPECT_EQ(plan_of(target_), kPlan);
  EXPECT_EQ(plan_of(target_, "0-5"), "0-5") << "a request's own";
  EXPECT_EQ(plan_of(dense_), "0-5") << "as it was";
  EXPECT_TRUE(std::filesystem::exists(target_ / "tokenizer.json"));
  store_plan(target_, "", folder_ / "plain");
  EXPECT_EQ(plan_of(folder_ / "plain"), "0-5");
  const Json plain = load_json(folder_ / "plain/config.json");
  EXPECT_EQ(plain, load_json(dense_ / "config.json"));
}

TEST_F(StorePlan, InAFolderAsItIs) {
  store_plan(dense_, kPlan, dense_);
  EXPECT_EQ(plan_of(dense_), kPlan);
  store_plan(dense_, "0-5,5", dense_);
  EXPECT_EQ(plan_of(dense_), "0-5,5");
}

TEST_F(StorePlan, InOurGguf) {
  store_plan(own_, kPlan, file_);
  EXPECT_EQ(plan_of(file_), kPlan);
  const GgufFile file = open_gguf(file_);
  EXPECT_EQ(file.metadata.find_string(kPlanKey), kPlan);
  const auto before = Model::load(own_, *backend_), after = Model::load(file_, *backend_);
  EXPECT_EQ(before->parameters(), after->parameters());
  store_plan(file_, "", folder_ / "plain.gguf");
  EXPECT_EQ(plan_of(folder_ / "plain.gguf"), "0-5");
  EXPECT_FALSE(open_gguf(folder_ / "plain.gguf").metadata.has(kPlanKey));
}

TEST_F(StorePlan, InLlamaCppsGguf) {
  const auto source = testing::test_data("parity/llama.gguf");
  const int layers = Model::load(source, *backend_)->config().text.layers;
  const std::string plan = fmt::format("0-{},0@0.2", layers - 1);
  store_plan(source, plan, file_);
  EXPECT_EQ(plan_of(file_), plan);
  const GgufFile before = open_gguf(source), after = open_gguf(file_);
  EXPECT_EQ(after.metadata.entries().size(), before.metadata.entries().size() + 1);
  EXPECT_FALSE(after.metadata.has(kConfigKey));
  // In the form of a folder it is kept.
  convert_to_folder(open_source(file_), target_, {});
  EXPECT_EQ(plan_of(target_), plan);
  store_plan(file_, "", folder_ / "plain.gguf");
  EXPECT_EQ(open_gguf(folder_ / "plain.gguf").metadata.entries().size(),
            before.metadata.entries().size());
}

TEST_F(StorePlan, ConversionsKeepIt) {
  store_plan(dense_, kPlan, target_);
  convert_to_gguf(open_source(target_), file_, {});
  EXPECT_EQ(plan_of(file_), kPlan);
  EXPECT_EQ(open_gguf(file_).metadata.find_string(kPlanKey), kPlan);
  convert_to_folder(open_source(file_), folder_ / "back", {});
  EXPECT_EQ(plan_of(folder_ / "back"), kPlan);
}

TEST_F(StorePlan, WhatCantBe) {
  EXPECT_THAT(store_error(dense_, "0-9", target_),
              AllOf(HasSubstr("'0-9'"), HasSubstr("no block 9"), HasSubstr("0 to 5")));
  EXPECT_THAT(store_error(dense_, "zero", target_), HasSubstr("'zero'"));
  EXPECT_THAT(store_error(dense_, kPlan, file_), HasSubstr("expected a folder"));
  EXPECT_THAT(store_error(own_, kPlan, target_), HasSubstr("ends in .gguf"));
  EXPECT_THAT(store_error(folder_ / "nothing", kPlan, target_), HasSubstr("nothing"));
  EXPECT_THAT(store_error(dense_, kPlan, dense_ / "inside"), HasSubstr("lies inside"));
  EXPECT_FALSE(std::filesystem::exists(target_));
  store_plan(dense_, kPlan, target_);
  EXPECT_THAT(store_error(dense_, kPlan, target_), HasSubstr("target"));
  EXPECT_THAT(store_error(own_, kPlan, own_), HasSubstr("own.gguf"));
  testing::copy_model("trol/phi3-vit", folder_ / "trol");
  EXPECT_THAT(store_error(folder_ / "trol", "0-1", folder_ / "other"),
              AllOf(HasSubstr("scheme 'trol'"), HasSubstr("plan of its own"), HasSubstr("dense")));
}

TEST_F(StorePlan, FilesThatSayItWrong) {
  const auto load_error = [&](const Json& plan) {
    testing::edit_json(dense_ / "config.json",
                       [&](Json& config) { config["reprise"]["plan"] = plan; });
    return error_of([&] { Model::load(dense_, *backend_); });
  };
  EXPECT_THAT(load_error("0-6"), AllOf(HasSubstr("config.json"), HasSubstr("'reprise.plan'"),
                                       HasSubstr("no block 6")));
  EXPECT_THAT(load_error(7), HasSubstr("plan"));
  testing::edit_json(dense_ / "config.json", [](Json& config) {
    config["reprise"] = {
        {"scheme", "recursive"}, {"recursive", {{"loops", 2}, {"lora_rank", 0}}}, {"plan", "0-5"}};
  });
  EXPECT_THAT(error_of([&] { Model::load(dense_, *backend_); }),
              AllOf(HasSubstr("'reprise.plan'"), HasSubstr("scheme 'recursive'")));
  // Our GGUF file says it twice.
  store_plan(own_, kPlan, file_);
  ConvertOptions options;
  options.keys[kPlanKey] = "0-5";
  EXPECT_THAT(error_of([&] {
                convert_to_gguf(open_source(file_), folder_ / "two.gguf", options);
                Model::load(folder_ / "two.gguf", *backend_);
              }),
              AllOf(HasSubstr("reprise.plan"), HasSubstr("0-5"), HasSubstr(kPlan)));
}

}  // namespace
}  // namespace reprise::test
