// Conversations of several turns, with pictures that belong to their turns: as a JSON file, and as
// typed line by line in a chat.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"
#include "engine/prompt.h"

namespace reprise {

// Key "images" of an object, an array of file names, which may be missing; relative to `folder`.
// Throws Error naming the key.
std::vector<std::filesystem::path> read_picture_names(const JsonObject& object,
                                                      const std::filesystem::path& folder);
// A message as a file has it: its pictures are not read yet.
struct FileMessage {
  std::string role;  // "system", "user", "assistant"
  std::string text;
  std::vector<std::filesystem::path> images;
};
// Messages [{"role": ..., "content": ...[, "images": [...]]}, ...] as below, whoever has the last
// word.
std::vector<FileMessage> parse_messages(const Json& json, const std::string& where,
                                        const std::filesystem::path& folder);
// [{"role": "user", "content": "What is this?", "images": ["a.png"]}, ...]: roles system, user and
// assistant, pictures of user messages only, their paths relative to `folder`. The last message
// must be the user's: it is what the model answers. Throws Error beginning with `where` and naming
// entry and key, or as Picture::read.
std::vector<ChatTurn> parse_conversation(const Json& json, const std::string& where,
                                         const std::filesystem::path& folder);
// The same from a file; pictures are relative to its folder.
std::vector<ChatTurn> load_conversation(const std::filesystem::path& path);

// A chat as it is typed. A question goes to the model with all that came before it; it stays in the
// conversation once it has been answered.
class Conversation {
 public:
  // system may be empty; `images` go with the first question.
  Conversation(std::string system, std::vector<Picture> images);

  // A line typed: a command that was carried out, with an answer for the user (may be empty), or a
  // question for the model.
  struct Line {
    bool question = false;
    std::string answer;
  };
  //   /image FILE   shows a picture with the next question; may be repeated
  //   /clear        forgets everything but the system message
  //   /help         lists the commands
  // Throws Error when a command is incomplete or its file can't be read.
  Line enter(std::string_view line);

  // The turns for a question, its pictures included.
  std::vector<ChatTurn> ask(const std::string& text) const;
  // Keeps question and answer.
  void answered(const std::string& question, const std::string& answer);

  const std::vector<Picture>& pending_images() const { return pending_; }
  const std::vector<ChatTurn>& turns() const { return turns_; }
  static std::string help();

 private:
  std::string system_;
  std::vector<ChatTurn> turns_;
  std::vector<Picture> pending_;  // for the next question
};

}  // namespace reprise
