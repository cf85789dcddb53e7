#include "text/tokenizer/sentencepiece_trainer.h"

#include <sentencepiece_trainer.h>

#include <fstream>
#include <unordered_map>

#include "base/error.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

// Lines of several files. Longer ones than kLongest are cut at a space: the trainer would leave them
// out without a word.
class Lines : public sentencepiece::SentenceIterator {
 public:
  static constexpr size_t kLongest = 4000;  // bytes; the trainer's own bound is 4,192

  explicit Lines(const std::vector<std::filesystem::path>& files) : files_(files) { Next(); }
  bool done() const override { return done_; }
  const std::string& value() const override { return part_; }
  sentencepiece::util::Status status() const override { return {}; }
  void Next() override {
    do {
      while (at_ >= line_.size()) {
        if (!read_line()) {
          done_ = true;
          return;
        }
      }
      size_t count = std::min(kLongest, line_.size() - at_);
      if (at_ + count < line_.size()) {
        const size_t space = line_.rfind(' ', at_ + count);
        // Without a space at a character's first byte.
        if (space != std::string::npos && space > at_)
          count = space - at_;
        else
          while (count > 1 && (static_cast<unsigned char>(line_[at_ + count]) & 0xC0) == 0x80)
            --count;
      }
      part_ = line_.substr(at_, count);
      at_ += count;
    } while (part_.find_first_not_of(" \t\r") == std::string::npos);
  }

 private:
  static std::ifstream open(const std::filesystem::path& file) {
    std::error_code ignored;
    if (std::filesystem::is_directory(file, ignored))
      fail("{}: is a folder, expected a text file", file.string());
    std::ifstream stream(file);
    if (!stream) fail("{}: can't be read", file.string());
    return stream;
  }
  bool read_line() {
    at_ = 0;
    while (true) {
      if (stream_.is_open() && std::getline(stream_, line_)) {
        ++number_;
        // Other bytes would become characters that nobody wrote.
        if (line_.find('\0') != std::string::npos || !is_valid_utf8(line_))
          fail("{}:{}: is no text in UTF-8", files_[next_ - 1].string(), number_);
        if (!line_.empty()) return true;
        continue;
      }
      if (stream_.is_open() && stream_.bad()) fail("{}: can't be read", files_[next_ - 1].string());
      if (next_ == files_.size()) return false;
      stream_ = open(files_[next_]);
      number_ = 0;
      ++next_;
    }
  }

  const std::vector<std::filesystem::path>& files_;
  size_t next_ = 0;
  std::ifstream stream_;
  std::string line_, part_;
  int64_t number_ = 0;  // of the line
  size_t at_ = 0;
  bool done_ = false;
};

// The number behind `mark` in the trainer's message; 0 where it isn't there.
int64_t number_behind(const std::string& message, const std::string& mark) {
  const size_t at = message.find(mark);
  return at == std::string::npos ? 0
                                 : std::strtoll(message.c_str() + at + mark.size(), nullptr, 10);
}

// In our words: the trainer's are about its own source.
[[noreturn]] void fail_by(const SentencePieceTraining& training, const std::string& message) {
  const std::string texts =
      training.texts[0].string() +
      (training.texts.size() > 1 ? fmt::format(" and {} more", training.texts.size() - 1) : "");
  if (const int64_t most = number_behind(message, "Please set it to a value <= "); most > 0)
    fail("--vocab {}: {} has too little text for so many tokens, expected at most {}",
         training.vocab, texts, most);
  if (const int64_t least = number_behind(message, fmt::format("{} vs ", training.vocab));
      least > 0)
    fail("--vocab {}: the characters of {} alone take {} tokens, expected at least as many",
         training.vocab, texts, least);
  fail("{}: no tokenizer of {} tokens can be trained on this: {}", texts, training.vocab,
       message.substr(message.rfind(']') == std::string::npos ? 0 : message.rfind(']') + 1));
}

}  // namespace

std::string train_sentencepiece(const SentencePieceTraining& training) {
  REPRISE_CHECK(!training.texts.empty());
  Lines lines(training.texts);
  if (lines.done()) fail("{}: holds no text to train a tokenizer on", training.texts[0].string());
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(training.vocab)},
      {"byte_fallback", "true"},
      {"character_coverage", "0.9999"},  // the others are spelled in bytes
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"split_digits", "true"},
      {"num_threads", std::to_string(training.threads)},
      {"minloglevel", "2"}};
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &lines, &model);
  if (!status.ok()) fail_by(training, status.ToString());
  return model;
}

}  // namespace reprise
