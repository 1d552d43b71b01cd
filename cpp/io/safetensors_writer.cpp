// Writes safetensors files: complete or absent. A temporary file is owned while it is
// written, and removed unless it took the target's place.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <limits>
#include <set>
#include <system_error>

#include "core/error.h"
#include "io/json_text.h"
#include "io/safetensors.h"

namespace s2ft {
namespace {

[[noreturn]] void bad_argument(const std::string& path, const std::string& what) {
  throw Error("INVALID_ARGUMENT", "[safetensors] " + path + ": " + what);
}

[[noreturn]] void bad_io(const std::string& path, const char* doing, int code) {
  throw Error("IO", "[safetensors] " + path + ": cannot " + doing + ": " +
                        std::generic_category().message(code));
}

/// A file descriptor, closed at the end of its scope.
struct Descriptor {
  int fd = -1;
  explicit Descriptor(int fd) : fd(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

int open_retry(const std::string& path, int flags, mode_t mode = 0) {
  int fd;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

int sync_retry(int fd) {
  int r;
  do {
    r = ::fsync(fd);
  } while (r != 0 && errno == EINTR);
  return r;
}

std::string folder_of(const std::string& path) {
  size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

/// The file beside the target that becomes it, or vanishes.
class TempFile {
 public:
  explicit TempFile(const std::string& target)
      : target_(target), folder_(open_retry(folder_of(target), O_RDONLY | O_DIRECTORY)) {
    // Opened first, so that a folder that cannot be synced is known before the work.
    if (folder_.fd < 0) bad_io(target, "open its folder", errno);
    struct stat info;
    if (::stat(target.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
      bad_io(target, "replace it", EISDIR);
    }
    // A name in use may be a dead process's rest or, on a shared volume, another
    // machine's work: never reuse it, or two writers could meet in one file.
    std::string base = target + ".tmp-" + std::to_string(::getpid());
    for (int i = 0;; ++i) {
      name_ = i ? base + "-" + std::to_string(i) : base;
      fd_ = open_retry(name_, O_WRONLY | O_CREAT | O_EXCL, 0666);
      if (fd_ >= 0) break;
      if (errno != EEXIST || i == 1000) bad_io(target, "create a file beside it", errno);
    }
    try {
      buffer_.reserve(kBuffer);
    } catch (...) {
      discard();
      throw;
    }
  }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  ~TempFile() { discard(); }

  void write(const void* data, size_t bytes) {
    auto p = static_cast<const char*>(data);
    if (buffer_.size() + bytes > kBuffer) flush();
    if (bytes >= kBuffer) {
      write_through(p, bytes);
    } else if (bytes) {
      buffer_.insert(buffer_.end(), p, p + bytes);
    }
  }

  void commit() {
    flush();
    if (sync_retry(fd_) != 0) bad_io(target_, "sync it to disk", errno);
    // Network file systems may report a failed write only here.
    int fd = fd_;
    fd_ = -1;
    if (::close(fd) != 0 && errno != EINTR) bad_io(target_, "close it", errno);
    if (::rename(name_.c_str(), target_.c_str()) != 0) {
      bad_io(target_, "rename the written file to it", errno);
    }
    name_.clear();
    // Some file systems have no sync for folders and say EINVAL; there is nothing to do.
    if (sync_retry(folder_.fd) != 0 && errno != EINVAL) {
      bad_io(target_, "sync its folder to disk", errno);
    }
  }

 private:
  static constexpr size_t kBuffer = size_t(1) << 18;

  void discard() noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
    if (!name_.empty()) ::unlink(name_.c_str());
    name_.clear();
  }

  void flush() {
    write_through(buffer_.data(), buffer_.size());
    buffer_.clear();
  }

  void write_through(const char* p, size_t bytes) {
    while (bytes) {
      // macOS refuses a single write of 2 GiB or more.
      ssize_t n = ::write(fd_, p, std::min(bytes, size_t(1) << 30));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) bad_io(target_, "write", errno);
      p += n;
      bytes -= size_t(n);
    }
  }

  std::string target_, name_;
  Descriptor folder_;
  int fd_ = -1;
  std::vector<char> buffer_;
};

void need_utf8(const std::string& path, const char* what, const std::string& s) {
  if (!valid_utf8(s)) {
    bad_argument(
        path, std::string("expected valid UTF-8 for ") + what + ", found " + quoted(s));
  }
}

/// The length field and the padded header; each tensor's size goes to `sizes`.
std::string header_bytes(const std::string& path,
                         const std::vector<TensorSource>& tensors,
                         const std::map<std::string, std::string>& metadata,
                         std::vector<size_t>& sizes) {
  std::string json = "{";
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      need_utf8(path, "a metadata key", key);
      need_utf8(path, "a metadata value", value);
      if (json.back() != '{') json += ',';
      append_json_string(json, key);
      json += ':';
      append_json_string(json, value);
    }
    json += '}';
  }
  std::set<std::string> names;
  size_t begin = 0;
  for (const TensorSource& t : tensors) {
    std::string who = "tensor " + quoted(t.name) + ": ";
    need_utf8(path, "a tensor's name", t.name);
    if (t.name == "__metadata__") {
      bad_argument(path, who + "expected another name, found the reserved one");
    }
    if (!names.insert(t.name).second) {
      bad_argument(path, who + "expected each name once, found it again");
    }
    size_t bytes = 0;
    std::string wrong = safetensors_bytes(t.dtype, t.shape, bytes);
    if (!wrong.empty()) bad_argument(path, who + wrong);
    size_t end;
    if (__builtin_add_overflow(begin, bytes, &end) ||
        end > size_t(std::numeric_limits<int64_t>::max()) - kMaxSafetensorsHeader - 16) {
      bad_argument(path, who + "expected a file below 2^63 bytes, found more");
    }
    if (json.size() > 1) json += ',';
    append_json_string(json, t.name);
    json += ":{\"dtype\":\"" + t.dtype + "\",\"shape\":[";
    for (size_t i = 0; i < t.shape.size(); ++i) {
      if (i) json += ',';
      json += std::to_string(t.shape[i]);
    }
    json +=
        "],\"data_offsets\":[" + std::to_string(begin) + ',' + std::to_string(end) + "]}";
    sizes.push_back(bytes);
    begin = end;
  }
  json += '}';
  json.resize((json.size() + 7) / 8 * 8, ' ');
  if (json.size() > kMaxSafetensorsHeader) {
    bad_argument(path, "expected names and metadata that fit a header of " +
                           std::to_string(kMaxSafetensorsHeader) + " bytes, found " +
                           std::to_string(json.size()));
  }
  std::string out;
  for (int i = 0; i < 8; ++i) out += char(json.size() >> (8 * i) & 255);
  return out + json;
}

}  // namespace

void write_safetensors(const std::string& path, const std::vector<TensorSource>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  if (path.empty() || path.find('\0') != std::string::npos) {
    bad_argument(quoted(path), "expected a path that is not empty and has no zero byte");
  }
  std::vector<size_t> sizes;
  std::string header = header_bytes(path, tensors, metadata, sizes);
  TempFile file(path);
  file.write(header.data(), header.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorSource& t = tensors[i];
    size_t written = 0;
    auto wrong_size = [&](const std::string& found) {
      bad_argument(path, "tensor " + quoted(t.name) + ": expected " +
                             std::to_string(sizes[i]) + " bytes from its source, found " +
                             found);
    };
    std::exception_ptr failed;
    ByteSink sink = [&](const void* data, size_t bytes) {
      try {
        if (failed) std::rethrow_exception(failed);
        if (bytes > sizes[i] - written) wrong_size("more");
        file.write(data, bytes);
        written += bytes;
      } catch (...) {
        failed = std::current_exception();
        throw;
      }
    };
    if (t.source) t.source(sink);
    // A source that swallowed the error must not get a torn file into place.
    if (failed) std::rethrow_exception(failed);
    if (written != sizes[i]) wrong_size(std::to_string(written));
  }
  file.commit();
}

}  // namespace s2ft
