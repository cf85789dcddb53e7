// What schemes declare: options and who refuses them, releases, chat formats, files.
#include "base/json.h"
#include "model/scheme.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "model/scheme_type.h"

namespace reprise {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using When = SchemeOption::When;

template <class Step>
std::string error_of(const Step& step) {
  try {
    step();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string refusal(const std::string& scheme, const SchemeOptions& options,
                    When when = When::Request) {
  return error_of([&] { check_options(scheme, when, options); });
}

TEST(SchemeTypes, NamesAreUniqueAndTheFirstIsTheOrdinaryDecoder) {
  std::set<std::string> names;
  for (const SchemeType* type : scheme_types()) {
    EXPECT_TRUE(names.insert(type->name).second) << type->name;
    EXPECT_EQ(find_scheme(type->name), type);
    EXPECT_FALSE(type->summary.empty()) << type->name;
    EXPECT_EQ(type->files.read == nullptr, type->files.write == nullptr) << type->name;
    EXPECT_EQ(type->files.names.empty(), type->files.tensors.empty()) << type->name;
    EXPECT_EQ(type->release.recognises == nullptr, type->release.read == nullptr) << type->name;
    // An assembled model is written as a release.
    EXPECT_TRUE(!type->assembly.possible || type->release.read) << type->name;
  }
  EXPECT_EQ(default_scheme().name, "dense");
  EXPECT_EQ(find_scheme("densely"), nullptr);
  ModelConfig config;
  config.where = "config.json";
  config.scheme = "densely";
  EXPECT_THAT(error_of([&] { make_scheme(config); }),
              AllOf(HasSubstr("config.json: unknown scheme 'densely'"), HasSubstr("recursive")));
}

TEST(SchemeTypes, OptionsAreDeclaredWhole) {
  for (const When when : {When::Request, When::Load, When::Assembly}) {
    for (const DeclaredOption& known : declared_options(when)) {
      const SchemeOption& option = known.option();
      EXPECT_THAT(option.name, testing::MatchesRegex("[a-z_]+"));
      EXPECT_FALSE(option.help.empty()) << option.name;
      EXPECT_EQ(option.type == SchemeOption::Type::Choice, !option.choices.empty()) << option.name;
      const bool numbers =
          option.type == SchemeOption::Type::Integer || option.type == SchemeOption::Type::Number;
      EXPECT_EQ(numbers, option.low < option.high) << option.name;
    }
  }
}

// Every option on every scheme: either it is declared, or it is refused by name, whatever its
// value.
TEST(SchemeTypes, OptionsOfOtherSchemesAreRefused) {
  int taken = 0, refused = 0;
  for (const SchemeType* type : scheme_types()) {
    for (const When when : {When::Request, When::Load}) {
      for (const DeclaredOption& known : declared_options(when)) {
        const std::string& name = known.option().name;
        for (const OptionValue& value :
             {OptionValue(true), OptionValue(int64_t{1}), OptionValue("all")}) {
          const std::string message = refusal(type->name, {{name, value}}, when);
          if (type->option(name, when)) {
            taken += message.empty();
            continue;
          }
          ++refused;
          EXPECT_THAT(message, AllOf(HasSubstr(option_flag(name)), HasSubstr("'" + type->name),
                                     HasSubstr(known.schemes.front()->name)));
        }
      }
    }
  }
  EXPECT_GT(taken, 0);
  EXPECT_GT(refused, 0);
  EXPECT_EQ(refusal("recursive", {{"adaptive", 0.5}}),
            "--adaptive: is no option of this model, whose scheme is 'recursive'; scheme trol has "
            "it");
  EXPECT_THAT(refusal("dense", {{"passes", 1}}), HasSubstr("--passes"));
  EXPECT_THAT(refusal("trol", {{"plan", "0-1"}}),
              HasSubstr("schemes dense, replay, phantom and recursive have it"));
  EXPECT_THAT(refusal("trol", {{"last_gate", true}}), HasSubstr("no scheme has it"))
      << "it belongs to loading, not to a request";
  EXPECT_THAT(refusal("trol", {{"turns", 3}}), HasSubstr("no scheme has it"));
}

TEST(SchemeTypes, ValuesAreChecked) {
  EXPECT_EQ(refusal("trol", {{"passes", 0}, {"adaptive", 1}, {"traverse", "image"}}), "");
  EXPECT_EQ(refusal("trol", {{"passes", 4}, {"adaptive", 0.25}}), "");
  EXPECT_EQ(refusal("trol", {{"last_gate", true}}, When::Load), "");
  EXPECT_EQ(refusal("trol", {{"passes", 5}}),
            "--passes 5: expected an integer from 0 to 4, found '5'");
  for (const SchemeOptions& wrong : {SchemeOptions{{"passes", -1}}, SchemeOptions{{"passes", 1.0}},
                                     SchemeOptions{{"passes", "two"}}})
    EXPECT_THAT(refusal("trol", wrong), HasSubstr("an integer from 0 to 4"));
  for (const double wrong : {-0.1, 1.5, std::numeric_limits<double>::quiet_NaN()})
    EXPECT_THAT(refusal("trol", {{"adaptive", wrong}}), HasSubstr("a number from 0 to 1"));
  EXPECT_THAT(refusal("trol", {{"traverse", "none"}}), HasSubstr("expected all, image or text"));
  EXPECT_THAT(refusal("trol", {{"last_gate", "yes"}}, When::Load), HasSubstr("true or false"));
  EXPECT_THAT(refusal("dense", {{"plan", 3}}), HasSubstr("a text"));
}

TEST(SchemeOptions, TextsAreParsedByType) {
  const SchemeOption passes = *find_scheme("trol")->option("passes", When::Request);
  EXPECT_EQ(parse_option(passes, "3"), OptionValue(int64_t{3}));
  const SchemeOption adaptive = *find_scheme("trol")->option("adaptive", When::Request);
  EXPECT_EQ(parse_option(adaptive, "0.5"), OptionValue(0.5));
  EXPECT_EQ(parse_option(adaptive, "1"), OptionValue(1.0));
  EXPECT_EQ(parse_option(adaptive, "1e-3"), OptionValue(1e-3));
  const SchemeOption flag = *find_scheme("trol")->option("last_gate", When::Load);
  EXPECT_EQ(parse_option(flag, "true"), OptionValue(true));
  for (const char* text : {"", "5", "-1", "1.5", "3 ", "three", "0x1", "99999999999999999999"})
    EXPECT_THAT(error_of([&] { parse_option(passes, text); }),
                HasSubstr(fmt::format("found '{}'", text)));
  for (const char* text : {"", "nan", "inf", "1.01", "0,5"})
    EXPECT_NE(error_of([&] { parse_option(adaptive, text); }), "") << text;
  const SchemeOptions options = {{"passes", 3}, {"last_gate", true}, {"plan", "0-3"}};
  EXPECT_EQ(options.command_line(), " --last-gate --passes 3 --plan 0-3");
  EXPECT_EQ(options.number("passes"), 3.0);
  EXPECT_EQ(options.integer("loops"), std::nullopt);
  EXPECT_TRUE(options.flag("last_gate"));
  EXPECT_FALSE(options.flag("loops"));
}

// The keys that tell the releases apart, as their config.json has them.
TEST(SchemeTypes, ReleaseChatFormatsByConfig) {
  const auto format = [](const char* config) {
    return release_chat_format(parse_json(config, "config.json"));
  };
  // TroL-1.8B and 7B: flat, the backbone's model_type
  EXPECT_EQ(format(R"({"architectures": ["TroLForCausalLM"], "model_type": "internlm"})"),
            "trol-internlm2");
  EXPECT_EQ(format(R"({"architectures": ["TroLForCausalLM"], "model_type": "trol",
                       "llm_config": {"model_type": "phi3"}})"),
            "trol-phi3");
  for (const std::string backbone : {"qwen2", "internlm2", "phi3"})
    EXPECT_EQ(release_chat_format({{"architectures", {"PhantomForCausalLM"}},
                                   {"model_type", "phantom"},
                                   {"llm_config", {{"model_type", backbone}}}}),
              "phantom-" + backbone);
  EXPECT_EQ(format(R"({"model_type": "phantom", "llm_config": {"model_type": "llama"}})"), "");
  EXPECT_EQ(format(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})"), "");
  EXPECT_EQ(format(R"({"architectures": [], "model_type": 3})"), "");
  EXPECT_EQ(release_chat_format(Json()), "");
}

}  // namespace
}  // namespace reprise
