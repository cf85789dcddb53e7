// A tokenizer made from text can be loaded, gives any text back and is the same every time.
#include "text/tokenizer/sentencepiece_trainer.h"

#include <gmock/gmock.h>

#include "base/error.h"
#include "base/file.h"
#include "formats/hf_folder.h"
#include "text/tokenizer/tokenizer_files.h"
#include "unit/formats/test_files.h"

namespace reprise::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string sample_text() {
  std::string text;
  for (int i = 0; i < 400; ++i)
    text += fmt::format(
        "The {}th layer of the model is visited again, and a token that left at "
        "loop {} keeps the keys and values of the loops before it.\n",
        i * 7919 % 1000, i % 5);
  return text;
}

TEST(SentencePieceTraining, TextsComeBack) {
  const TempFolder folder;
  write_file_atomically(folder / "text.txt", sample_text());
  const SentencePieceTraining training = {.texts = {folder / "text.txt"}, .vocab = 400};
  const std::string model = train_sentencepiece(training);
  EXPECT_EQ(train_sentencepiece(training), model);
  write_file_atomically(folder / "tokenizer.model", model);
  const auto tokenizer = tokenizer_from_files(tokenizer_files_from_folder(folder.path()));
  EXPECT_EQ(tokenizer->vocab_size(), 400);
  EXPECT_EQ(tokenizer->ids().bos, 1);
  EXPECT_EQ(tokenizer->ids().eos, 2);
  for (const std::string text :
       {"The layers are visited again.", "x = {1: \"é\"}  # naïve €", ""}) {
    const std::vector<int32_t> ids = tokenizer->encode(text, {});
    EXPECT_EQ(tokenizer->decode(ids), text);
  }
  EXPECT_LT(tokenizer->encode("The layer of the model is visited again", {}).size(), 20u);
}

TEST(SentencePieceTraining, LinesOfAnyLength) {
  const TempFolder folder;
  std::string text = sample_text();
  std::replace(text.begin(), text.end(), '\n', ' ');  // one line of tens of thousands of bytes
  write_file_atomically(folder / "text.txt", text + std::string(9000, 'z') + "\n");
  EXPECT_NO_THROW(train_sentencepiece({.texts = {folder / "text.txt"}, .vocab = 350}));
}

TEST(SentencePieceTraining, WrongInput) {
  const TempFolder folder;
  write_file_atomically(folder / "empty.txt", "\n \n");
  write_file_atomically(folder / "small.txt", "only a few words\n");
  const auto error = [&](const char* name, int64_t vocab) -> std::string {
    try {
      train_sentencepiece({.texts = {folder / name}, .vocab = vocab});
    } catch (const Error& found) {
      return found.what();
    }
    return "";
  };
  EXPECT_THAT(error("missing.txt", 400), HasSubstr("missing.txt"));
  EXPECT_THAT(error("empty.txt", 400), HasSubstr("no text"));
  EXPECT_THAT(error("small.txt", 4000),
              AllOf(HasSubstr("--vocab 4000"), HasSubstr("expected at most ")));
}

}  // namespace
}  // namespace reprise::test
