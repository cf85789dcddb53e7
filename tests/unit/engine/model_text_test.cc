// What a model's files say about its text, where model and text meet.
#include "base/json.h"
#include "engine/model_text.h"

#include <gtest/gtest.h>

#include "model/scheme_type.h"

namespace reprise {
namespace {

// Schemes name formats that src/text keeps: each must be there, and take pictures as its release.
TEST(ModelText, ChatFormatsOfReleasesAreKnown) {
  int formats = 0;
  for (const SchemeType* type : scheme_types()) {
    for (const auto& [decoder, name] : type->release.chat_formats) {
      EXPECT_EQ(chat_format(name).name, name);
      EXPECT_TRUE(chat_format(name).has_images) << name;
      const Json config = {{"architectures", {type->release.architecture}},
                           {"llm_config", {{"model_type", decoder}}}};
      ModelConfig model;
      model.source = config;
      EXPECT_EQ(find_chat_format("", model, nullptr, "model")->name, name);
      ++formats;
    }
  }
  EXPECT_GE(formats, 5);
}

}  // namespace
}  // namespace reprise
