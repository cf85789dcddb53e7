#include "train/data/examples.h"

#include <map>
#include <optional>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "engine/conversation.h"
#include "image/decode.h"
#include "train/data/easy_vqa.h"

namespace reprise {
namespace {

// The pictures of a file of examples, decoded once as far as memory is granted.
class Pictures {
 public:
  explicit Pictures(int64_t most_bytes) : most_bytes_(most_bytes) {}

  // Decodes it the first time it is seen, so that a broken one is found before training begins.
  void add(const std::filesystem::path& path) {
    if (!kept_.emplace(path, std::nullopt).second) return;
    Image image = load_image(path);
    const auto bytes = static_cast<int64_t>(image.pixels.size());
    if (bytes > most_bytes_ - kept_bytes_) return;
    kept_bytes_ += bytes;
    kept_[path] = std::move(image);
  }
  Image get(const std::filesystem::path& path) const {
    const auto it = kept_.find(path);
    return it != kept_.end() && it->second ? *it->second : load_image(path);
  }

 private:
  int64_t most_bytes_;
  int64_t kept_bytes_ = 0;
  std::map<std::filesystem::path, std::optional<Image>> kept_;  // unset: decoded at every use
};

// One line of the file; its pictures as paths.
struct Line {
  std::vector<std::filesystem::path> images;
  QuestionAnswer turn;                    // set where the conversation is empty
  std::vector<ChatMessage> conversation;  // as Example's
  std::string rejected;                   // of the conversation
};

std::vector<std::filesystem::path> read_images(const JsonObject& object,
                                               const std::filesystem::path& folder) {
  const auto image = object.find_string("image");
  if (!image) return read_picture_names(object, folder);
  if (object.has("images"))
    object.fail_at("images", "is given beside 'image', expected one of them");
  return {folder / *image};
}

Line read_line(const std::string& text, const std::string& where,
               const std::filesystem::path& folder) {
  const Json json = parse_json(text, where);
  const JsonObject object(json, where);
  Line line;
  const std::string rejected = object.find_string("rejected").value_or("");
  std::string answer;
  if (object.has("messages")) {
    for (const char* key : {"question", "answer", "image", "images"})
      if (object.has(key)) object.fail_at(key, "is given beside 'messages'");
    for (const FileMessage& turn :
         parse_messages(json["messages"], where + ": key 'messages'", folder)) {
      line.conversation.push_back({turn.role, turn.text, static_cast<int>(turn.images.size())});
      line.images.insert(line.images.end(), turn.images.begin(), turn.images.end());
    }
    const ChatMessage& last = line.conversation.back();
    if (last.role != "assistant")
      object.fail_at("messages",
                     "expected the last to be the assistant's, found '" + last.role + "'");
    answer = last.content;
    line.rejected = rejected;
  } else {
    line.turn = {object.get_string("question"), object.get_string("answer"), rejected};
    line.images = read_images(object, folder);
    answer = line.turn.answer;
  }
  if (rejected == answer && object.has("rejected"))
    object.fail_at("rejected", "is the right answer, expected a wrong one");
  return line;
}

class QuestionFile : public ExampleSource {
 public:
  QuestionFile(const std::filesystem::path& file, const std::filesystem::path& images,
               int64_t most_picture_bytes)
      : pictures_(most_picture_bytes) {
    constexpr size_t kMostBytes = size_t{1} << 30;
    std::istringstream lines(read_file(file, kMostBytes));
    std::map<std::vector<std::filesystem::path>, size_t> by_images;
    int64_t number = 0;
    for (std::string text; std::getline(lines, text);) {
      ++number;
      if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
      const std::string where = fmt::format("{}:{}", file.string(), number);
      Line line = read_line(text, where, images);
      for (const auto& image : line.images) {
        try {
          pictures_.add(image);
        } catch (const Error& error) {
          fail("{}: {}", where, error.what());
        }
      }
      size_t index = entries_.size();
      const bool shares = line.conversation.empty() && !line.images.empty();
      if (shares) index = by_images.try_emplace(line.images, index).first->second;
      if (index == entries_.size()) {
        Entry entry;
        entry.images = std::move(line.images);
        entry.example.conversation = std::move(line.conversation);
        entry.example.rejected = std::move(line.rejected);
        entries_.push_back(std::move(entry));
      }
      Example& example = entries_[index].example;
      if (example.conversation.empty()) example.turns.push_back(std::move(line.turn));
    }
    if (entries_.empty()) fail("{}: holds no questions", file.string());
  }
  int64_t size() const override { return static_cast<int64_t>(entries_.size()); }
  Example get(int64_t i) const override {
    const Entry& entry = entries_[static_cast<size_t>(i)];
    Example example = entry.example;
    for (const auto& path : entry.images) example.images.push_back(pictures_.get(path));
    return example;
  }
  Example texts(int64_t i, size_t* pictures) const override {
    const Entry& entry = entries_[static_cast<size_t>(i)];
    *pictures = entry.images.size();
    return entry.example;
  }

 private:
  struct Entry {
    Example example;  // without its pictures
    std::vector<std::filesystem::path> images;
  };
  Pictures pictures_;
  std::vector<Entry> entries_;
};

class WithWrongAnswers : public ExampleSource {
 public:
  WithWrongAnswers(std::unique_ptr<ExampleSource> source, uint64_t seed)
      : source_(std::move(source)), seed_(seed) {}
  int64_t size() const override { return source_->size(); }
  Example get(int64_t i) const override { return answered_wrongly(source_->get(i), i); }
  Example texts(int64_t i, size_t* pictures) const override {
    return answered_wrongly(source_->texts(i, pictures), i);
  }

 private:
  Example answered_wrongly(Example example, int64_t i) const {
    const auto wrong = [&](const QuestionAnswer& turn) {
      return confusing_easy_vqa_answer(turn, seed_, static_cast<uint64_t>(i));
    };
    for (QuestionAnswer& turn : example.turns)
      if (turn.rejected.empty()) turn.rejected = wrong(turn);
    const std::vector<ChatMessage>& messages = example.conversation;
    if (messages.size() > 1 && example.rejected.empty())
      example.rejected = wrong({messages[messages.size() - 2].content, messages.back().content});
    return example;
  }

  std::unique_ptr<ExampleSource> source_;
  uint64_t seed_;
};

class EasyVqaGenerator : public ExampleSource {
 public:
  EasyVqaGenerator(uint64_t seed, int64_t turns) : seed_(seed), turns_(static_cast<int>(turns)) {}
  int64_t size() const override { return 0; }
  Example get(int64_t i) const override { return draw_easy_vqa(seed_, i, turns_); }

 private:
  uint64_t seed_;
  int turns_;
};

}  // namespace

std::unique_ptr<ExampleSource> load_question_file(const std::filesystem::path& file,
                                                  const std::filesystem::path& images,
                                                  int64_t most_picture_bytes) {
  return std::make_unique<QuestionFile>(file, images, most_picture_bytes);
}

std::unique_ptr<ExampleSource> with_wrong_answers(std::unique_ptr<ExampleSource> source,
                                                  const std::string& name, uint64_t seed) {
  if (name != "easy-vqa") fail("wrong answers '{}' are unknown; this program knows easy-vqa", name);
  return std::make_unique<WithWrongAnswers>(std::move(source), seed);
}

std::unique_ptr<ExampleSource> make_generator(const std::string& name, uint64_t seed,
                                              int64_t most_turns) {
  if (name != "easy-vqa") fail("generator '{}' is unknown; this program knows easy-vqa", name);
  return std::make_unique<EasyVqaGenerator>(seed, most_turns);
}

}  // namespace reprise
