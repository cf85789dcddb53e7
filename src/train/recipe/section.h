// One mapping of a recipe: reads typed values, and remembers which keys were asked for, so that the
// rest can be refused. Every Error names file, line and key.
#pragma once

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

namespace reprise {

class Section {
 public:
  // node: a mapping, or null for a section that is left out. where: the file; name: the section's
  // key, "" for the recipe itself. Throws Error for anything else, and for a key given twice.
  Section(const YAML::Node& node, std::string where, std::string name);

  bool has(const std::string& key);  // given and not null
  // The value, if it is given; `expected` says what it should be.
  template <class T>
  void read(const std::string& key, T& value, const char* expected) {
    if (!has(key)) return;
    try {
      value = node_[key].as<T>();
    } catch (const YAML::Exception&) {
      bad(key, std::string("expected ") + expected);
    }
  }
  void read_int(const std::string& key, int64_t& value, int64_t low,
                int64_t high = int64_t{1} << 40);
  void read_number(const std::string& key, double& value, double low);  // finite
  // Above 0, as a float32 too.
  void read_positive(const std::string& key, double& value);
  // From 0 to below 1, as a float32 too.
  void read_share(const std::string& key, double& value);
  void read_strings(const std::string& key, std::vector<std::string>& values);
  // A relative path begins at `folder`.
  void read_path(const std::string& key, std::filesystem::path& value,
                 const std::filesystem::path& folder);
  YAML::Node node(const std::string& key);
  Section section(const std::string& key) { return Section(node(key), where_, key); }
  // Refuses keys that nobody asked for.
  void finish();
  [[noreturn]] void bad(const std::string& key, const std::string& message) const;

 private:
  YAML::Node node_;
  std::string where_;
  std::string name_;
  std::set<std::string> known_;
};

}  // namespace reprise
