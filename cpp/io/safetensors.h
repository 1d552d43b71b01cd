// Reading and writing safetensors files. The reader trusts nothing in a file and owns its
// mapping; the writer streams, so that a model is written without a second copy of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "io/mapped_file.h"

namespace s2ft {

/// One tensor of a file. Its bytes are [begin, end), counted from the file's data
/// section.
struct TensorInfo {
  std::string name;
  std::string dtype;  // as in the file: "F32", "BF16", "F16", "I32", "I64", "U8", ...
  std::vector<int64_t> shape;
  size_t begin = 0, end = 0;

  size_t bytes() const { return end - begin; }
  /// Product of the shape; 1 for a scalar. Cannot overflow in a TensorInfo of a reader.
  int64_t count() const;
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;              // in the order of their data
  std::map<std::string, std::string> metadata;  // the "__metadata__" entry
  size_t data_start = 0;                        // file offset of the data section
};

/// Header bytes a reader accepts and a writer makes (the limit of the reference library).
constexpr size_t kMaxSafetensorsHeader = 100000000;
/// Dimensions of one tensor that a reader accepts and a writer makes.
constexpr size_t kMaxSafetensorsRank = 64;

/// Bits of one element of a safetensors dtype, 0 when the name is unknown.
size_t safetensors_dtype_bits(const std::string& dtype);
/// The safetensors name of a dtype.
const char* safetensors_dtype(DType t);
/// Sets `out` and returns true when the name is one the core computes with.
bool parse_safetensors_dtype(const std::string& name, DType& out);

/// Bytes of a tensor, into `bytes`. Returns an empty string, or what is wrong: an unknown
/// dtype, too many dimensions, a negative one, or a size that overflows.
std::string safetensors_bytes(const std::string& dtype, const std::vector<int64_t>& shape,
                              size_t& bytes);

/// Checks that names are unique, that every size agrees with dtype and shape, and that
/// the tensors tile a data section of `section` bytes; sorts them by offset. `path` is
/// for messages. Throws CORRUPT_FILE.
void check_safetensors_layout(std::vector<TensorInfo>& tensors, size_t section,
                              const std::string& path);

/// Parses and checks the header of a file of `size` bytes at `file`, touching no byte
/// behind the header. After it returns, names are UTF-8 and `check_safetensors_layout`
/// holds. Stricter than JSON needs: an entry has dtype, shape and data_offsets, each
/// once, and nothing else. Throws CORRUPT_FILE.
SafetensorsHeader parse_safetensors_header(const void* file, size_t size,
                                           const std::string& path);

/// A safetensors file, mapped. Immutable, so threads may share it. See MappedFile for
/// what happens when someone truncates the file meanwhile.
class SafetensorsFile {
 public:
  /// Throws IO when the file cannot be opened, CORRUPT_FILE when it is malformed.
  static std::shared_ptr<SafetensorsFile> open(const std::string& path);

  /// In the order of their data, so reading them in turn reads the file from low to high.
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  /// nullptr when there is none of this name.
  const TensorInfo* find(const std::string& name) const;
  /// The first of `info.bytes()` bytes, valid while this object lives; nullptr or not
  /// when there are none. Little-endian, and NOT aligned to the element: the format
  /// promises no alignment, so copy with memcpy. Throws IO when the file's size changed
  /// since open, and INVALID_ARGUMENT when `info` reaches behind this file.
  const void* data(const TensorInfo& info) const;
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  const std::string& path() const { return file_.path(); }

  /// Drops the tensor's pages from the process after they were copied.
  void dont_need(const TensorInfo& info) const noexcept;

 private:
  SafetensorsFile(MappedFile file, SafetensorsHeader header);

  MappedFile file_;
  SafetensorsHeader header_;
  std::vector<size_t> by_name_;  // indices into header_.tensors, sorted by name
};

/// Takes the next bytes of a tensor; may be called with pieces of any size.
using ByteSink = std::function<void(const void* data, size_t bytes)>;

/// A tensor to write. `source` is called once, hands exactly the bytes of dtype and shape
/// (little-endian) to the sink, and may throw to abandon the file.
struct TensorSource {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::function<void(const ByteSink& sink)> source;
};

/// Writes a safetensors file: the tensors in the given order, metadata sorted by key, the
/// header padded to 8 bytes, so equal input gives equal bytes. Put wide dtypes before
/// narrow ones if readers should find them aligned. Libraries of the Hugging Face family
/// want `{"format": "pt"}` as metadata.
///
/// The file is complete or absent: bytes go to `<path>.tmp-<pid>` beside it, are synced,
/// and replace `path` by rename. On any error that file is removed, `path` is as it was,
/// and the error is thrown: INVALID_ARGUMENT for bad names, shapes or byte counts, IO for
/// the file system, or what `source` threw. Only if syncing the folder after the rename
/// fails (IO) is the new file in place. A path that is a symbolic link is replaced
/// itself, not what it points to.
void write_safetensors(const std::string& path, const std::vector<TensorSource>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace s2ft
