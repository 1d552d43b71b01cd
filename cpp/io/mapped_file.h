// MappedFile: a whole file mapped read-only. Owns the mapping and the file descriptor.
#pragma once

#include <cstddef>
#include <string>

namespace s2ft {

/// A regular file mapped for reading; an empty one has size 0 and no data.
///
/// Hazard: if someone truncates the file while it is mapped, touching a page behind the
/// new end kills the process (SIGBUS). No check can close that window, only narrow it:
/// call `check_size` just before a long read. Replacing a file by rename, as this
/// package's writer does, is safe: the mapping keeps the old content.
class MappedFile {
 public:
  /// Throws IO when the path cannot be opened or mapped, or is no regular file.
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const unsigned char* data() const { return data_; }
  /// Bytes, as found when it was opened.
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }

  /// Throws IO when the file no longer has the size it was mapped with.
  void check_size() const;

  /// Hints that bytes [offset, offset + bytes) will be read once, from low to high.
  void advise_sequential(size_t offset, size_t bytes) const noexcept;
  /// Drops these bytes' pages from the process (they come back from the file if read
  /// again). A page cut by the end of the range stays, since what follows it is likely
  /// read next; a page cut by the start goes.
  void dont_need(size_t offset, size_t bytes) const noexcept;

 private:
  void close() noexcept;
  void advise(size_t offset, size_t end, int advice) const noexcept;

  std::string path_;
  unsigned char* data_ = nullptr;
  size_t size_ = 0;
  int fd_ = -1;
};

}  // namespace s2ft
