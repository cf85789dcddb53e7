#include "convert/store_plan.h"

#include "base/error.h"
#include "base/file.h"
#include "base/folder.h"
#include "base/json.h"
#include "convert/convert.h"
#include "convert/store_key.h"
#include "model/scheme_type.h"

namespace reprise {
namespace {

namespace fs = std::filesystem;

constexpr const char* kName = "plan";  // below "reprise"

std::string config_with(const std::string& config, const std::string& where,
                        const std::string& plan) {
  const Json value = plan;
  return with_own_key(config, where, kName, plan.empty() ? nullptr : &value);
}

// What is in `from` and the folders in it; links as what they lead to.
void copy_files(const fs::path& from, const fs::path& to) {
  for (const fs::directory_entry& entry : fs::directory_iterator(from)) {
    const fs::path copy = to / entry.path().filename();
    if (entry.is_directory()) {
      fs::create_directory(copy);
      copy_files(entry.path(), copy);
    } else {
      fs::copy_file(entry.path(), copy);
    }
  }
}

void store_in_folder(const fs::path& model, const std::string& plan, const fs::path& target) {
  const fs::path file = model / "config.json";
  const std::string config = config_with(read_file(file), file.string(), plan);
  std::error_code ignored;
  if (fs::equivalent(model, target, ignored)) {
    write_file_atomically(file, config);
    return;
  }
  const fs::path inside = fs::weakly_canonical(target, ignored)
                              .lexically_relative(fs::weakly_canonical(model, ignored));
  if (!inside.empty() && *inside.begin() != "..")
    fail("{}: lies inside {}, of which it would be a copy", target.string(), model.string());
  write_folder_atomically(target, /*replace=*/false, [&](const fs::path& folder) {
    try {
      copy_files(model, folder);
    } catch (const fs::filesystem_error& error) {
      fail("{}: {}: {}", target.string(), error.path1().string(), error.code().message());
    }
    write_file_atomically(folder / "config.json", config);
  });
}

void store_in_gguf(const ConversionSource& source, const std::string& plan,
                   const fs::path& target) {
  ConvertOptions options;
  auto& key = options.keys[kPlanKey];
  if (!plan.empty()) key = plan;
  if (source.model.kind() == ModelSource::Kind::OwnGguf)
    options.keys[kConfigKey] = config_with(source.config_text, source.model.config_where(), plan);
  convert_to_gguf(source, target, options);
}

}  // namespace

void store_plan(const fs::path& model, const std::string& plan, const fs::path& target) {
  const ConversionSource source = open_source(model);
  if (!source.config) fail("{}", source.unknown);
  if (!plan.empty()) check_stored_plan(*source.config, plan, source.path() + ": plan");
  const bool to_gguf = target.extension() == ".gguf";
  if (to_gguf == (source.model.folder() != nullptr))
    fail("{}: expected {}, since {} is {} ('reprise convert' changes the form and keeps the plan)",
         target.string(), to_gguf ? "a folder" : "a name that ends in .gguf", model.string(),
         to_gguf ? "a folder" : "a GGUF file");
  if (to_gguf)
    store_in_gguf(source, plan, target);
  else
    store_in_folder(model, plan, target);
}

}  // namespace reprise
