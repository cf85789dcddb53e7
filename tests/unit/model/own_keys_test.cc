// Keys of our own in a config: what isn't known is said.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"
#include "model/config/config.h"
#include "model/scheme.h"
#include "support/tiny_models.h"

namespace reprise {
namespace {

using ::testing::HasSubstr;

// A misspelt key would mean its default.
TEST(OwnKeys, UnknownOnesAreErrors) {
  const auto error = [](const Json& own) {
    Json config = test::tiny_text_config("LlamaForCausalLM");
    config["reprise"] = own;
    try {
      make_scheme(config_from_json(config, "m/config.json"));
    } catch (const Error& found) {
      return std::string(found.what());
    }
    return std::string();
  };
  const Json loops = {{"loops", 2}, {"lora_rank", 0}};
  EXPECT_EQ(error({{"scheme", "recursive"}, {"recursive", loops}}), "");
  EXPECT_EQ(error({{"scheme", "dense"}, {"recursive", loops}}), "") << "another scheme's";
  Json wrong = loops;
  wrong["exitgate"] = true;
  EXPECT_THAT(error({{"scheme", "recursive"}, {"recursive", wrong}}),
              ::testing::AllOf(HasSubstr("m/config.json: key 'reprise.recursive.exitgate'"),
                               HasSubstr("loops, lora_rank, first, last, exit_gate")));
  EXPECT_THAT(error({{"scheme", "recursive"}, {"recursive", loops}, {"exits", {}}}),
              HasSubstr("m/config.json: key 'reprise.exits': is unknown here"));
  EXPECT_THAT(error({{"scheme", "replay"}, {"replay", {{"plan", "0"}, {"damped", true}}}}),
              HasSubstr("'reprise.replay.damped'"));
  EXPECT_THAT(error({{"scheme", "dense"}, {"dense", {{"loops", 2}}}}),
              HasSubstr("'reprise.dense.loops'"));
}

}  // namespace
}  // namespace reprise
