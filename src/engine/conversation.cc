#include "engine/conversation.h"

#include "base/error.h"
#include "base/json.h"

namespace reprise {
namespace {

constexpr std::string_view kSpaces = " \t";

std::string_view trimmed(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kSpaces), text.size()));
  return text.substr(0, text.find_last_not_of(kSpaces) + 1);
}

void require_file(const std::filesystem::path& path, const std::string& where) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored))
    fail("{}: {}: no such picture file", where, path.string());
}

FileMessage read_message(const JsonObject& object, const std::filesystem::path& folder) {
  FileMessage message;
  message.role = object.get_string("role");
  if (message.role != "system" && message.role != "user" && message.role != "assistant")
    object.fail_at("role", "expected system, user or assistant, found '" + message.role + "'");
  message.text = object.get_string("content");
  for (const auto& item : object.json().items()) {
    if (item.key() != "role" && item.key() != "content" && item.key() != "images")
      object.fail_at(item.key(), "is not known, expected role, content or images");
  }
  message.images = read_picture_names(object, folder);
  if (!message.images.empty() && message.role != "user")
    object.fail_at("images", "only user messages may have pictures");
  return message;
}

}  // namespace

std::vector<std::filesystem::path> read_picture_names(const JsonObject& object,
                                                      const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> names;
  if (!object.has("images")) return names;
  const Json& list = object.json()["images"];
  if (!list.is_array()) object.fail_at("images", "expected an array of file names");
  for (const Json& name : list) {
    if (!name.is_string()) object.fail_at("images", "expected an array of file names");
    names.push_back(folder / name.get<std::string>());
  }
  return names;
}

std::vector<FileMessage> parse_messages(const Json& json, const std::string& where,
                                        const std::filesystem::path& folder) {
  if (!json.is_array() || json.empty())
    fail("{}: expected a list of messages, found {}", where,
         json.is_array() ? "an empty one" : json.type_name());
  std::vector<FileMessage> messages;
  for (size_t i = 0; i < json.size(); ++i) {
    messages.push_back(read_message(JsonObject(json[i], where, fmt::format("[{}].", i)), folder));
    if (messages[i].role == "system" && i > 0)
      fail("{}: key '[{}].role': a system message is only possible as the first", where, i);
    for (const auto& image : messages[i].images)
      require_file(image, fmt::format("{}: key '[{}].images'", where, i));
  }
  return messages;
}

std::vector<ChatTurn> parse_conversation(const Json& json, const std::string& where,
                                         const std::filesystem::path& folder) {
  const std::vector<FileMessage> messages = parse_messages(json, where, folder);
  if (messages.back().role != "user")
    fail("{}: key '[{}].role': expected the last message to be the user's, found '{}'", where,
         json.size() - 1, messages.back().role);
  std::vector<ChatTurn> turns;
  for (const FileMessage& message : messages) {
    turns.push_back({message.role, message.text, {}});
    for (const auto& image : message.images) turns.back().images.push_back(Picture::read(image));
  }
  return turns;
}

std::vector<ChatTurn> load_conversation(const std::filesystem::path& path) {
  return parse_conversation(load_json(path), path.string(), path.parent_path());
}

Conversation::Conversation(std::string system, std::vector<Picture> images)
    : system_(std::move(system)), pending_(std::move(images)) {}

std::string Conversation::help() {
  return "/image FILE  shows a picture (PNG, JPEG, WebP, ...) with the next question; may be repeated\n"
         "/clear       forgets the conversation\n"
         "/help        this list";
}

Conversation::Line Conversation::enter(std::string_view line) {
  line = trimmed(line);
  const std::string_view command = line.substr(0, line.find_first_of(kSpaces));
  const std::string_view rest = trimmed(line.substr(command.size()));
  if (command == "/image") {
    if (rest.empty()) fail("/image: expected the name of a picture file behind it");
    require_file(rest, "/image");
    pending_.push_back(Picture::read(rest));
    return {false, fmt::format("{} picture{} for the next question", pending_.size(),
                               pending_.size() == 1 ? "" : "s")};
  }
  if (command == "/clear" && rest.empty()) {
    turns_.clear();
    pending_.clear();
    return {false, "a new conversation"};
  }
  if (command == "/help" && rest.empty()) return {false, help()};
  return {!line.empty(), ""};
}

std::vector<ChatTurn> Conversation::ask(const std::string& text) const {
  std::vector<ChatTurn> all;
  if (!system_.empty()) all.push_back({"system", system_, {}});
  all.insert(all.end(), turns_.begin(), turns_.end());
  all.push_back({"user", text, pending_});
  return all;
}

void Conversation::answered(const std::string& question, const std::string& answer) {
  turns_.push_back({"user", question, std::move(pending_)});
  pending_.clear();
  turns_.push_back({"assistant", answer, {}});
}

}  // namespace reprise
