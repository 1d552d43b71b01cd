// The header of a safetensors file: a small JSON parser for exactly its grammar. The
// grammar nests a fixed three levels, so nothing here recurses and no input can exhaust
// the stack.
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "io/json_text.h"
#include "io/safetensors.h"

namespace s2ft {
namespace {

[[noreturn]] void corrupt(const std::string& path, const std::string& what) {
  throw Error("CORRUPT_FILE", "[safetensors] " + path + ": " + what);
}

class HeaderParser {
 public:
  HeaderParser(const unsigned char* text, size_t size, const std::string& path)
      : text_(text), size_(size), path_(path) {}

  void parse(SafetensorsHeader& out) {
    if (peek() != '{') fail("'{' as the first byte of the header");
    bool saw_metadata = false;
    members("an entry of the header", [&](std::string key) {
      if (key == "__metadata__") {
        if (saw_metadata) fail_at(key_at_, "one \"__metadata__\"", "a second one");
        saw_metadata = true;
        metadata(out.metadata);
      } else {
        inside_ = "tensor " + quoted(key);
        out.tensors.push_back(tensor(std::move(key)));
        inside_.clear();
      }
    });
    space();
    if (at_ != size_) fail("only spaces after the header's closing '}'");
  }

 private:
  int peek() const { return at_ < size_ ? text_[at_] : -1; }

  std::string found() const {
    int c = peek();
    if (c < 0) return "the end of the header";
    char text[16];
    std::snprintf(text, sizeof text, c > 0x20 && c < 0x7f ? "'%c'" : "byte 0x%02x", c);
    return text;
  }

  [[noreturn]] void fail(const std::string& expected) { fail_at(at_, expected, found()); }
  [[noreturn]] void fail_at(size_t at, const std::string& expected,
                            const std::string& found) {
    std::string where = "header byte " + std::to_string(at);
    if (!inside_.empty()) where += ", " + inside_;
    corrupt(path_, where + ": expected " + expected + ", found " + found);
  }

  void space() {
    while (at_ < size_ && std::strchr(" \t\n\r", text_[at_]) && text_[at_]) ++at_;
  }
  bool take(char c) {
    space();
    if (peek() != (unsigned char)c) return false;
    ++at_;
    return true;
  }
  void expect(char c, const char* why) {
    if (!take(c)) fail(std::string("'") + c + "' " + why);
  }

  /// An object; `member` is called behind each "key": and consumes the value.
  template <class F>
  void members(const char* what, F&& member) {
    expect('{', "to open an object");
    if (take('}')) return;
    do {
      space();
      key_at_ = at_;
      std::string key = string(what);
      expect(':', "after a key");
      member(std::move(key));
    } while (take(','));
    expect('}', "or ',' in an object");
  }

  template <class F>
  void elements(const char* what, F&& element) {
    expect('[', what);
    if (take(']')) return;
    do {
      element();
    } while (take(','));
    expect(']', "or ',' in a list");
  }

  unsigned hex4() {
    unsigned value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      int c = peek();
      int digit = c >= '0' && c <= '9'   ? c - '0'
                  : c >= 'a' && c <= 'f' ? c - 'a' + 10
                  : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                         : -1;
      if (digit < 0) fail("four hexadecimal digits after \\u");
      value = value * 16 + unsigned(digit);
    }
    return value;
  }

  void escape(std::string& out) {
    static const char kFrom[] = "\"\\/bfnrt", kTo[] = "\"\\/\b\f\n\r\t";
    int c = peek();
    const char* known = c > 0 ? std::strchr(kFrom, c) : nullptr;
    if (known) {
      out += kTo[known - kFrom];
      ++at_;
      return;
    }
    if (c != 'u') fail("one of \" \\ / b f n r t u after a backslash");
    size_t start = at_++ - 1;
    unsigned code = hex4();
    if (code >= 0xdc00 && code <= 0xdfff) {
      fail_at(start, "a high surrogate first", "a low one");
    }
    if (code >= 0xd800 && code <= 0xdbff) {
      if (peek() != '\\') fail("\\u of a low surrogate");
      ++at_;
      if (peek() != 'u') fail("\\u of a low surrogate");
      ++at_;
      unsigned low = hex4();
      if (low < 0xdc00 || low > 0xdfff) {
        fail_at(start, "a low surrogate after a high one", "another character");
      }
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    append_utf8(out, code);
  }

  std::string string(const std::string& what) {
    space();
    if (peek() != '"') fail("a string for " + what);
    size_t start = at_++;
    std::string out;
    for (;;) {
      int c = peek();
      if (c < 0x20)
        fail("'\"' to close the string that begins at byte " + std::to_string(start));
      ++at_;
      if (c == '"') break;
      if (c == '\\') {
        escape(out);
      } else {
        out += char(c);
      }
    }
    if (!valid_utf8(out)) fail_at(start, "valid UTF-8", quoted(out));
    return out;
  }

  int64_t integer(const char* what) {
    space();
    size_t start = at_;
    int64_t value = 0;
    bool overflow = false;
    while (peek() >= '0' && peek() <= '9') {
      overflow |= __builtin_mul_overflow(value, int64_t(10), &value);
      overflow |= __builtin_add_overflow(value, int64_t(peek() - '0'), &value);
      ++at_;
    }
    if (at_ == start) fail(std::string("an integer >= 0 for ") + what);
    if (overflow) {
      fail_at(start, std::string("a 64-bit integer for ") + what, "a larger number");
    }
    if (text_[start] == '0' && at_ - start > 1) {
      fail_at(start, std::string("an integer for ") + what, "a leading zero");
    }
    int c = peek();
    if (c == '.' || c == 'e' || c == 'E') {
      fail_at(start, std::string("an integer for ") + what, "a fraction or exponent");
    }
    return value;
  }

  void metadata(std::map<std::string, std::string>& out) {
    inside_ = "\"__metadata__\"";
    members("a key", [&](std::string key) {
      size_t at = key_at_;
      std::string value = string("the value of " + quoted(key));
      if (!out.emplace(key, std::move(value)).second) {
        fail_at(at, "each key once", quoted(key) + " again");
      }
    });
    inside_.clear();
  }

  TensorInfo tensor(std::string name) {
    TensorInfo t;
    t.name = std::move(name);
    bool dtype = false, shape = false, offsets = false;
    auto once = [&](bool& seen, const std::string& key) {
      if (seen) fail_at(key_at_, "each key once", quoted(key) + " again");
      seen = true;
    };
    members("a key", [&](std::string key) {
      if (key == "dtype") {
        once(dtype, key);
        t.dtype = string("dtype");
      } else if (key == "shape") {
        once(shape, key);
        elements("to open the shape", [&] {
          if (t.shape.size() == kMaxSafetensorsRank) {
            fail("at most " + std::to_string(kMaxSafetensorsRank) + " dimensions");
          }
          t.shape.push_back(integer("a dimension"));
        });
      } else if (key == "data_offsets") {
        once(offsets, key);
        expect('[', "to open data_offsets");
        t.begin = size_t(integer("the first offset"));
        expect(',', "between two data_offsets");
        t.end = size_t(integer("the second offset"));
        expect(']', "after two data_offsets");
      } else {
        fail_at(key_at_, "dtype, shape or data_offsets", quoted(key));
      }
    });
    if (!dtype || !shape || !offsets) {
      std::string missing = !dtype ? "dtype" : !shape ? "shape" : "data_offsets";
      fail_at(at_, missing, "an entry without it");
    }
    return t;
  }

  const unsigned char* text_;
  size_t size_;
  const std::string& path_;
  size_t at_ = 0;
  size_t key_at_ = 0;   // where the last key began
  std::string inside_;  // the entry being read, for messages
};

/// Names the usual suspects for a file that is no safetensors at all.
const char* guess(const unsigned char* file, size_t size) {
  auto starts = [&](const char* text) {
    size_t n = std::strlen(text);
    return size >= n && std::memcmp(file, text, n) == 0;
  };
  if (starts("version https://git-lfs")) return " (a Git LFS pointer, not the file?)";
  if (starts("PK\x03\x04") || starts("\x80\x02")) return " (a pickled PyTorch file?)";
  if (starts("GGUF")) return " (a GGUF file?)";
  if (starts("<")) return " (an HTML page?)";
  return "";
}

}  // namespace

SafetensorsHeader parse_safetensors_header(const void* data, size_t size,
                                           const std::string& path) {
  auto file = static_cast<const unsigned char*>(data);
  if (size < 8) {
    corrupt(path, "expected the 8 bytes of the header's length, found " +
                      std::to_string(size) + " bytes in the file");
  }
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | file[i];
  if (length > kMaxSafetensorsHeader) {
    corrupt(path, "expected a header of at most " +
                      std::to_string(kMaxSafetensorsHeader) +
                      " bytes, found a length of " + std::to_string(length) +
                      guess(file, size));
  }
  if (length > size - 8) {
    corrupt(path, "expected a header of " + std::to_string(length) + " bytes, found " +
                      std::to_string(size - 8) + " bytes left in the file");
  }
  SafetensorsHeader header;
  header.data_start = 8 + size_t(length);
  HeaderParser(file + 8, size_t(length), path).parse(header);
  check_safetensors_layout(header.tensors, size - header.data_start, path);
  return header;
}

}  // namespace s2ft
