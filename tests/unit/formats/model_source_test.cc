// One answer to the same question, from a folder and from a GGUF file.
#include "formats/model_source.h"

#include <gmock/gmock.h>

#include "base/json.h"
#include "formats/gguf_writer.h"
#include "formats/safetensors_writer.h"
#include "test_files.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;

TensorView tensor(const std::string& name) {
  const std::vector<float> values = {1, 2, 3};
  return make_view(name, {3}, values);
}

TEST(ModelSource, AFolder) {
  const ModelSource source = ModelSource::open(data_path("sharded"));
  EXPECT_EQ(source.kind(), ModelSource::Kind::Folder);
  EXPECT_EQ(source.format(), "Hugging Face");
  EXPECT_EQ(source.path(), data_path("sharded"));
  EXPECT_EQ(source.weights().tensors().size(), 3u);
  EXPECT_EQ(source.weights().where(), data_path("sharded").string());
  EXPECT_EQ((**source.config_json())["model_type"], "llama");
  EXPECT_EQ(source.config_where(), (data_path("sharded") / "config.json").string());
  EXPECT_NE(source.folder(), nullptr);
  EXPECT_EQ(source.gguf(), nullptr);
}

TEST(ModelSource, AGgufFileOfOurs) {
  const TempFolder folder;
  GgufMetadata metadata;
  metadata.set("reprise.config", std::string(R"({"model_type": "trol"})"));
  write_gguf(folder / "m.gguf", metadata, std::vector<GgufTensor>{{tensor("a"), DType::F32}});
  ModelSource source = ModelSource::open(folder / "m.gguf");
  EXPECT_EQ(source.kind(), ModelSource::Kind::OwnGguf);
  EXPECT_EQ(source.format(), "GGUF v3");
  EXPECT_EQ((**source.config_json())["model_type"], "trol");
  EXPECT_THAT(source.config_where(), AllOf(HasSubstr("m.gguf"), HasSubstr("'reprise.config'")));

  source.add_tensors({tensor("b")});
  EXPECT_THAT(source.weights().tensors(),
              ElementsAre(Field(&TensorView::name, "a"), Field(&TensorView::name, "b")));
  EXPECT_THAT(error_of([&] { source.add_tensors({tensor("a")}); }),
              AllOf(HasSubstr("m.gguf"), HasSubstr("'a'"), HasSubstr("twice")));

  metadata.set("reprise.config", std::string("{"));
  write_gguf(folder / "bad.gguf", metadata, std::vector<GgufTensor>{});
  EXPECT_THAT(error_of([&] { ModelSource::open(folder / "bad.gguf").config_json(); }),
              AllOf(HasSubstr("bad.gguf"), HasSubstr("'reprise.config'")));
}

TEST(ModelSource, AGgufFileOfAnotherProgram) {
  const ModelSource source = ModelSource::open(data_path("small.gguf"));
  EXPECT_EQ(source.kind(), ModelSource::Kind::OtherGguf);
  EXPECT_FALSE(source.config_json());
  EXPECT_FALSE(source.may_be_unread("anything"));
  EXPECT_NE(source.weights().find("f32"), nullptr);
  const auto split = test::data_dir() / "cases/gguf-split/m-00001-of-00002.gguf";
  EXPECT_EQ(ModelSource::open(split).format(), "GGUF v3, 2 parts");
  EXPECT_EQ(ModelSource::open(split).weights().tensors().size(), 12u);
}

TEST(ModelSource, WhatIsWrongIsThrownOrNoted) {
  const TempFolder folder;
  EXPECT_THAT(error_of([&] { ModelSource::open(folder / "nowhere"); }),
              AllOf(HasSubstr("nowhere"), HasSubstr("Hugging Face folder or a GGUF file")));
  EXPECT_THAT(error_of([&] { ModelSource::open(folder.path()); }), HasSubstr("config.json"));
  Problems problems;
  const ModelSource source = ModelSource::open(folder.path(), &problems);
  EXPECT_EQ(problems.list().size(), 2u);  // no config, no weights
  EXPECT_TRUE((*source.config_json())->is_null());
  EXPECT_TRUE(source.may_be_unread("anything"));
}

TEST(ModelSource, NothingAtAll) {
  const ModelSource source;
  EXPECT_EQ(source.kind(), ModelSource::Kind::None);
  EXPECT_FALSE(source.config_json());
  EXPECT_TRUE(source.weights().tensors().empty());
}

}  // namespace
}  // namespace reprise
