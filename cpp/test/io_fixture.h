// What the tests of files share: a folder, files made by hand, and what the safetensors
// reader promises, checked without its own helpers.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <stdexcept>

#include "io/json_text.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "test/check.h"

namespace s2ft::test {

namespace fs = std::filesystem;

/// A folder that vanishes with its scope.
struct Folder {
  std::string path;
  Folder() {
    path = (fs::temp_directory_path() / "s2ft-io-XXXXXX").string();
    if (!::mkdtemp(path.data())) throw std::runtime_error("mkdtemp failed");
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
  size_t count() const {
    return size_t(std::distance(fs::directory_iterator(path), fs::directory_iterator()));
  }
};

inline void spill(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), std::streamsize(bytes.size()));
}

inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::string from_hex(const std::string& hex) {
  std::string out;
  for (size_t i = 0; i < hex.size(); i += 2) {
    out += char(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return out;
}

inline std::string with_length(uint64_t length, const std::string& rest) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += char(length >> (8 * i) & 255);
  return out + rest;
}

inline std::string file_of(const std::string& json, size_t data_bytes) {
  return with_length(json.size(), json + std::string(data_bytes, 'd'));
}

/// Parses from a heap copy of the exact size, so that a sanitizer sees any overread.
inline SafetensorsHeader parse(const std::string& file) {
  std::unique_ptr<char[]> copy(new char[file.size()]);
  std::memcpy(copy.get(), file.data(), file.size());
  return parse_safetensors_header(copy.get(), file.size(), "t.safetensors");
}

/// The message of a CORRUPT_FILE error, or a text that says why there is none.
inline std::string refusal(const std::string& file) {
  try {
    parse(file);
  } catch (const Error& e) {
    return std::string(e.code()) == "CORRUPT_FILE" ? e.what() : "another code";
  }
  return "accepted";
}

inline void expect_refusal(const std::string& file, const std::string& part,
                           const char* source, int line) {
  std::string got = refusal(file);
  bool good = got.rfind("[safetensors] t.safetensors: ", 0) == 0 &&
              got.find("expected") != std::string::npos &&
              got.find("found") != std::string::npos &&
              got.find(part) != std::string::npos;
  if (!good) {
    fail(source, line, "expected a refusal with: " + part + "; got: " + got);
  }
}
#define REFUSED(json, data, part) \
  expect_refusal(file_of(json, data), part, __FILE__, __LINE__)

inline TensorSource bytes_of(const std::string& name, const std::string& dtype,
                             std::vector<int64_t> shape, std::string bytes,
                             size_t piece = 7) {
  return {name, dtype, std::move(shape), [bytes, piece](const ByteSink& sink) {
            for (size_t i = 0; i < bytes.size(); i += piece) {
              sink(bytes.data() + i, std::min(piece, bytes.size() - i));
            }
          }};
}

inline std::string content(const SafetensorsFile& file, const std::string& name) {
  const TensorInfo* t = file.find(name);
  if (!t) return "(no such tensor)";
  return {static_cast<const char*>(file.data(*t)), t->bytes()};
}

/// What the reader promises, checked without the reader's own helpers.
inline bool tiles(const SafetensorsHeader& h, size_t file_size) {
  size_t next = 0;
  std::set<std::string> names;
  for (const TensorInfo& t : h.tensors) {
    unsigned __int128 bits = safetensors_dtype_bits(t.dtype);
    for (int64_t n : t.shape) bits *= (unsigned __int128)(n);
    if (bits == 0 && safetensors_dtype_bits(t.dtype) == 0) return false;
    if (t.begin != next || bits != (unsigned __int128)(t.end - t.begin) * 8) return false;
    if (!names.insert(t.name).second || !valid_utf8(t.name)) return false;
    next = t.end;
  }
  return h.data_start + next == file_size;
}

inline const char kOne[] = R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";

// Made by the reference library (Python safetensors 0.8.0) from tensors of seven dtypes.
inline const char kReference[] =
    "d0010000000000007b225f5f6d657461646174615f5f223a7b226e6f7465223a22715c225c5c2fc3"
    "bc5c7530303031222c22666f726d6174223a227074227d2c226c223a7b226474797065223a224936"
    "34222c227368617065223a5b315d2c22646174615f6f666673657473223a5b302c385d7d2c22656d"
    "707479223a7b226474797065223a22463332222c227368617065223a5b302c335d2c22646174615f"
    "6f666673657473223a5b382c385d7d2c2273223a7b226474797065223a22463332222c2273686170"
    "65223a5b5d2c22646174615f6f666673657473223a5b382c31325d7d2c22696478223a7b22647479"
    "7065223a22493332222c227368617065223a5b325d2c22646174615f6f666673657473223a5b3132"
    "2c32305d7d2c22612e776569676874223a7b226474797065223a2242463136222c22736861706522"
    "3a5b322c335d2c22646174615f6f666673657473223a5b32302c33325d7d2c2268223a7b22647479"
    "7065223a22463136222c227368617065223a5b315d2c22646174615f6f666673657473223a5b3332"
    "2c33345d7d2c226bc3a45c225c6ef09f9880223a7b226474797065223a225538222c227368617065"
    "223a5b335d2c22646174615f6f666673657473223a5b33342c33375d7d7d20200000000000010000"
    "0000c03f07000000ffffffff803f00c0003f4040804080be003c010203";

}  // namespace s2ft::test
