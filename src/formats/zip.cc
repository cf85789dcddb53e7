#include "formats/zip.h"

#include <zlib.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/byte_reader.h"

namespace reprise {
namespace {

constexpr uint32_t kLocalMagic = 0x04034b50;
constexpr uint32_t kEntryMagic = 0x02014b50;
constexpr uint32_t kEndMagic = 0x06054b50;
constexpr uint32_t kEnd64Magic = 0x06064b50;
constexpr uint32_t kLocator64Magic = 0x07064b50;
constexpr size_t kEndBytes = 22;
constexpr size_t kLocator64Bytes = 20;
constexpr size_t kEntryBytes = 46;
constexpr size_t kMaxComment = 0xffff;
constexpr uint64_t kMaxInflated = uint64_t{1} << 30;
constexpr uint64_t kMaxDeflateRatio = 1032;  // no deflate stream expands more

struct Directory {
  uint64_t entries = 0;
  uint64_t bytes = 0;
  uint64_t offset = 0;
};

// Position of the end record: the last one whose comment reaches exactly to the end of the file.
std::optional<size_t> find_end(std::span<const std::byte> bytes, const std::string& where) {
  if (bytes.size() < kEndBytes) return std::nullopt;
  const size_t last = bytes.size() - kEndBytes;
  const size_t first = last > kMaxComment ? last - kMaxComment : 0;
  for (size_t at = last + 1; at-- > first;) {
    ByteReader in(bytes.subspan(at), where);
    if (in.read<uint32_t>("magic") != kEndMagic) continue;
    in.take(16, "end record");
    if (in.read<uint16_t>("comment length") == in.remaining()) return at;
  }
  return std::nullopt;
}

Directory read_end64(std::span<const std::byte> bytes, size_t end, const std::string& where) {
  if (end < kLocator64Bytes) fail("{}: zip64 locator is missing", where);
  ByteReader locator(bytes.subspan(end - kLocator64Bytes), where);
  if (locator.read<uint32_t>("locator") != kLocator64Magic)
    fail("{}: zip64 locator is missing", where);
  locator.read<uint32_t>("disk");
  const auto offset = locator.read<uint64_t>("end record offset");
  if (offset > end - kLocator64Bytes) fail("{}: zip64 end record is outside the file", where);
  ByteReader in(bytes.subspan(offset), where);
  if (in.read<uint32_t>("zip64 end record") != kEnd64Magic)
    fail("{}: zip64 end record is damaged", where);
  in.take(8 + 2 + 2, "zip64 end record");
  const auto disk = in.read<uint32_t>("disk");
  const auto first_disk = in.read<uint32_t>("disk");
  Directory directory;
  const auto entries_here = in.read<uint64_t>("entries");
  directory.entries = in.read<uint64_t>("entries");
  directory.bytes = in.read<uint64_t>("directory size");
  directory.offset = in.read<uint64_t>("directory offset");
  if (disk != 0 || first_disk != 0 || entries_here != directory.entries)
    fail("{}: archives split over several files are not supported", where);
  return directory;
}

Directory read_end(std::span<const std::byte> bytes, const std::string& where) {
  const std::optional<size_t> end = find_end(bytes, where);
  if (!end) fail("{}: is not a zip archive, or is cut off: no end record", where);
  ByteReader in(bytes.subspan(*end + 4), where);
  const auto disk = in.read<uint16_t>("disk");
  const auto first_disk = in.read<uint16_t>("disk");
  const auto entries_here = in.read<uint16_t>("entries");
  Directory directory;
  directory.entries = in.read<uint16_t>("entries");
  directory.bytes = in.read<uint32_t>("directory size");
  directory.offset = in.read<uint32_t>("directory offset");
  if (directory.entries == 0xffff || directory.bytes == 0xffffffff ||
      directory.offset == 0xffffffff)
    directory = read_end64(bytes, *end, where);
  else if (disk != 0 || first_disk != 0 || entries_here != directory.entries)
    fail("{}: archives split over several files are not supported", where);
  if (directory.offset > *end || directory.bytes > *end - directory.offset)
    fail("{}: central directory is outside the file", where);
  if (directory.entries > directory.bytes / kEntryBytes)
    fail("{}: claims {} entries, more than its directory holds", where, directory.entries);
  return directory;
}

// Replaces the fields that are all ones by those of the zip64 extra field, which holds just these.
void apply_zip64(std::span<const std::byte> extra, ZipEntry* entry, const std::string& where) {
  ByteReader in(extra, where);
  while (in.remaining() >= 4) {
    const auto id = in.read<uint16_t>("extra field");
    const auto size = in.read<uint16_t>("extra field");
    ByteReader field(in.take(size, "extra field"), where);
    if (id != 1) continue;
    for (uint64_t* value : {&entry->bytes, &entry->stored_bytes, &entry->offset})
      if (*value == 0xffffffff) *value = field.read<uint64_t>("zip64 extra field");
    return;
  }
}

ZipEntry read_entry(ByteReader& in) {
  if (in.read<uint32_t>("directory entry") != kEntryMagic)
    fail("{}: central directory is damaged", in.where());
  ZipEntry entry;
  in.take(4, "versions");
  const auto flags = in.read<uint16_t>("flags");
  entry.method = in.read<uint16_t>("method");
  in.take(4, "time");
  entry.crc = in.read<uint32_t>("crc");
  entry.stored_bytes = in.read<uint32_t>("size");
  entry.bytes = in.read<uint32_t>("size");
  const auto name_bytes = in.read<uint16_t>("name length");
  const auto extra_bytes = in.read<uint16_t>("extra length");
  const auto comment_bytes = in.read<uint16_t>("comment length");
  in.take(8, "attributes");
  entry.offset = in.read<uint32_t>("offset");
  entry.name = in.take_text(name_bytes, "entry name");
  apply_zip64(in.take(extra_bytes, "extra fields"), &entry, in.where());
  in.take(comment_bytes, "entry comment");
  if (flags & 1) fail("{}: entry '{}' is encrypted", in.where(), entry.name);
  return entry;
}

std::vector<std::byte> inflate_all(std::span<const std::byte> packed, uint64_t bytes,
                                   const std::string& where, const std::string& name) {
  std::vector<std::byte> out(bytes + 1);  // one more byte, to notice a stream that goes on
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) fail("{}: zlib can't be started", where);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(packed.data()));
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  size_t in_left = packed.size();
  size_t out_left = out.size();
  int status = Z_OK;
  while (status == Z_OK && out_left > 0) {  // zlib counts in 32 bits: feed it in pieces
    const auto in_piece = static_cast<uInt>(std::min<size_t>(in_left, 1u << 30));
    const auto out_piece = static_cast<uInt>(std::min<size_t>(out_left, 1u << 30));
    stream.avail_in = in_piece;
    stream.avail_out = out_piece;
    status = inflate(&stream, Z_NO_FLUSH);
    in_left -= in_piece - stream.avail_in;
    out_left -= out_piece - stream.avail_out;
  }
  inflateEnd(&stream);
  if (status != Z_STREAM_END || in_left != 0 || out_left != 1)
    fail("{}: entry '{}' is damaged: it does not inflate to {} bytes", where, name, bytes);
  out.resize(bytes);
  return out;
}

uint32_t checksum(std::span<const std::byte> data) {
  return static_cast<uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(data.data()), data.size()));
}

}  // namespace

ZipArchive ZipArchive::open(const std::filesystem::path& path) {
  ZipArchive archive;
  archive.file_ = MappedFile::open(path);
  archive.where_ = path.string();
  const auto bytes = archive.file_->bytes();
  const Directory directory = read_end(bytes, archive.where_);
  archive.directory_ = directory.offset;
  ByteReader in(bytes.subspan(directory.offset, directory.bytes), archive.where_);
  for (uint64_t i = 0; i < directory.entries; ++i) {
    ZipEntry entry = read_entry(in);
    if (!archive.index_.emplace(entry.name, i).second)
      fail("{}: entry '{}' is there twice", archive.where_, entry.name);
    archive.entries_.push_back(std::move(entry));
  }
  return archive;
}

const ZipEntry* ZipArchive::find(const std::string& name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &entries_[it->second];
}

ZipArchive::Content ZipArchive::read(const ZipEntry& entry) {
  // Data ends before the directory, so no header of this archive can be taken for data.
  const auto area = file_->bytes().first(directory_);
  if (entry.offset > area.size()) fail("{}: entry '{}' is outside the file", where_, entry.name);
  ByteReader in(area.subspan(entry.offset), where_);
  if (in.read<uint32_t>("local header") != kLocalMagic)
    fail("{}: entry '{}' has no local header", where_, entry.name);
  in.take(22, "local header");
  const auto name_bytes = in.read<uint16_t>("name length");
  const auto extra_bytes = in.read<uint16_t>("extra length");
  if (in.take_text(name_bytes, "entry name") != entry.name)
    fail("{}: entry '{}' has another name in its local header", where_, entry.name);
  in.take(extra_bytes, "extra fields");
  const auto stored = in.take(entry.stored_bytes, "entry '" + entry.name + "'");

  Content content;
  if (entry.method == 0) {
    if (entry.bytes != entry.stored_bytes)
      fail("{}: entry '{}' is stored, but its sizes differ ({} and {})", where_, entry.name,
           entry.stored_bytes, entry.bytes);
    content = {stored, file_, file_.get()};
  } else if (entry.method == 8) {
    if (entry.bytes > kMaxInflated - inflated_ ||
        entry.bytes / kMaxDeflateRatio > entry.stored_bytes)
      fail("{}: entry '{}' claims to inflate from {} to {} bytes, which is refused", where_,
           entry.name, entry.stored_bytes, entry.bytes);
    inflated_ += entry.bytes;
    auto inflated = std::make_shared<const std::vector<std::byte>>(
        inflate_all(stored, entry.bytes, where_, entry.name));
    content.data = *inflated;
    content.owner = std::move(inflated);
  } else {
    fail("{}: entry '{}' is packed by method {}, expected 0 (stored) or 8 (deflated)", where_,
         entry.name, entry.method);
  }
  if (checksum(content.data) != entry.crc)
    fail("{}: entry '{}' is damaged: its checksum does not match", where_, entry.name);
  return content;
}

}  // namespace reprise
