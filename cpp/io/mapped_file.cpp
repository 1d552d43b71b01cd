// The POSIX side of MappedFile.
#include "io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace s2ft {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Error("IO", "[mapped_file] " + path + ": " + what);
}

std::string errno_text(int code) {
  return std::generic_category().message(code);
}

size_t page_size() {
  static const size_t bytes = size_t(::sysconf(_SC_PAGESIZE));
  return bytes;
}

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  if (path.find('\0') != std::string::npos) {
    fail(path.c_str(), "expected a path without a zero byte");
  }
  // Without O_NONBLOCK, opening a pipe that nobody writes would hang for ever.
  do {
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) fail(path, "cannot open for reading: " + errno_text(errno));
  try {
    struct stat info;
    if (::fstat(fd_, &info) != 0) fail(path, "cannot stat: " + errno_text(errno));
    if (!S_ISREG(info.st_mode)) {
      fail(path, std::string("expected a regular file, found ") + kind_of(info.st_mode));
    }
    if (info.st_size < 0 ||
        uint64_t(info.st_size) > uint64_t(std::numeric_limits<ptrdiff_t>::max())) {
      fail(path,
           "the file is too large to map: " + std::to_string(info.st_size) + " bytes");
    }
    size_ = size_t(info.st_size);
    if (size_ == 0) return;  // mmap refuses an empty range
    void* p = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd_, 0);
    if (p == MAP_FAILED) {
      fail(path, "cannot map " + std::to_string(size_) + " bytes: " + errno_text(errno));
    }
    data_ = static_cast<unsigned char*>(p);
  } catch (...) {
    close();
    throw;
  }
}

MappedFile::MappedFile(MappedFile&& other) noexcept {
  *this = std::move(other);
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    close();
    path_ = std::move(other.path_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

MappedFile::~MappedFile() {
  close();
}

void MappedFile::close() noexcept {
  if (data_) ::munmap(data_, size_);
  if (fd_ >= 0) ::close(fd_);
  data_ = nullptr;
  size_ = 0;
  fd_ = -1;
}

void MappedFile::check_size() const {
  struct stat info;
  if (::fstat(fd_, &info) != 0) fail(path_, "cannot stat: " + errno_text(errno));
  if (uint64_t(info.st_size) != size_) {
    fail(path_, "changed while in use: expected " + std::to_string(size_) +
                    " bytes as when opened, found " + std::to_string(info.st_size));
  }
}

void MappedFile::advise(size_t offset, size_t end, int advice) const noexcept {
  offset -= offset % page_size();
  if (end > offset) (void)::madvise(data_ + offset, end - offset, advice);
}

void MappedFile::advise_sequential(size_t offset, size_t bytes) const noexcept {
  if (!data_ || offset >= size_) return;
  advise(offset, offset + std::min(bytes, size_ - offset), MADV_SEQUENTIAL);
}

void MappedFile::dont_need(size_t offset, size_t bytes) const noexcept {
  if (!data_ || offset >= size_) return;
  size_t end = offset + std::min(bytes, size_ - offset);
  if (end != size_) end -= end % page_size();
  advise(offset, end, MADV_DONTNEED);
}

}  // namespace s2ft
