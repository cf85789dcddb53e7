// Reads zip archives (stored and deflated entries, zip64) from a mapping. Format: PKWARE
// APPNOTE.TXT 6.3.10, sections 4.3 to 4.5. Nothing is ever extracted to disk.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/file.h"

namespace reprise {

struct ZipEntry {
  std::string name;
  uint16_t method = 0;  // 0 stored, 8 deflated
  uint32_t crc = 0;
  uint64_t stored_bytes = 0;
  uint64_t bytes = 0;   // once inflated
  uint64_t offset = 0;  // of the local header
};

class ZipArchive {
 public:
  // Reads and checks the central directory. Throws Error naming the file when it is no zip archive,
  // is split, or has entries that lie outside the file or have the same name.
  static ZipArchive open(const std::filesystem::path& path);

  const std::vector<ZipEntry>& entries() const { return entries_; }
  const ZipEntry* find(const std::string& name) const;  // nullptr when there is none

  struct Content {
    std::span<const std::byte> data;
    std::shared_ptr<const void> owner;
    const MappedFile* file = nullptr;  // set where data lies in the mapping
  };
  // A stored entry comes as a view into the file, a deflated one as a copy. The checksum is
  // checked. Throws Error for encrypted or otherwise packed entries, for damaged ones, and when all
  // that was inflated from this archive exceeds 1 GiB.
  Content read(const ZipEntry& entry);

 private:
  std::shared_ptr<const MappedFile> file_;
  std::string where_;
  uint64_t directory_ = 0;  // entries' data ends before it
  std::vector<ZipEntry> entries_;
  std::unordered_map<std::string, size_t> index_;
  uint64_t inflated_ = 0;
};

}  // namespace reprise
