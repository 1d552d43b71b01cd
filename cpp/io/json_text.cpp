// UTF-8 checks and JSON string text.
#include "io/json_text.h"

#include <cstdio>

namespace s2ft {
namespace {

/// Length of the well-formed UTF-8 sequence at s[i], or 0.
size_t utf8_length(const std::string& s, size_t i) {
  auto byte = [&](size_t k) { return k < s.size() ? (unsigned char)s[k] : 0u; };
  auto follows = [&](size_t k, unsigned low = 0x80, unsigned high = 0xbf) {
    return byte(k) >= low && byte(k) <= high;
  };
  unsigned c = byte(i);
  if (c < 0x80) return 1;
  if (c >= 0xc2 && c <= 0xdf) return follows(i + 1) ? 2 : 0;
  if (c >= 0xe0 && c <= 0xef) {
    // The narrowed second byte excludes overlong forms and surrogates.
    unsigned low = c == 0xe0 ? 0xa0 : 0x80, high = c == 0xed ? 0x9f : 0xbf;
    return follows(i + 1, low, high) && follows(i + 2) ? 3 : 0;
  }
  if (c >= 0xf0 && c <= 0xf4) {
    unsigned low = c == 0xf0 ? 0x90 : 0x80, high = c == 0xf4 ? 0x8f : 0xbf;
    return follows(i + 1, low, high) && follows(i + 2) && follows(i + 3) ? 4 : 0;
  }
  return 0;
}

void append_escaped(std::string& out, unsigned char c) {
  switch (c) {
    case '"':
      out += "\\\"";
      return;
    case '\\':
      out += "\\\\";
      return;
    case '\n':
      out += "\\n";
      return;
    case '\r':
      out += "\\r";
      return;
    case '\t':
      out += "\\t";
      return;
  }
  if (c >= 0x20) {
    out += char(c);
    return;
  }
  char text[8];
  std::snprintf(text, sizeof text, "\\u%04x", unsigned(c));
  out += text;
}

}  // namespace

bool valid_utf8(const std::string& s) {
  for (size_t i = 0; i < s.size();) {
    size_t n = utf8_length(s, i);
    if (!n) return false;
    i += n;
  }
  return true;
}

void append_utf8(std::string& out, unsigned p) {
  if (p < 0x80) {
    out += char(p);
  } else if (p < 0x800) {
    out += char(0xc0 | (p >> 6));
    out += char(0x80 | (p & 63));
  } else if (p < 0x10000) {
    out += char(0xe0 | (p >> 12));
    out += char(0x80 | ((p >> 6) & 63));
    out += char(0x80 | (p & 63));
  } else {
    out += char(0xf0 | (p >> 18));
    out += char(0x80 | ((p >> 12) & 63));
    out += char(0x80 | ((p >> 6) & 63));
    out += char(0x80 | (p & 63));
  }
}

void append_json_string(std::string& out, const std::string& s) {
  out += '"';
  for (char c : s) append_escaped(out, (unsigned char)c);
  out += '"';
}

std::string quoted(const std::string& s) {
  constexpr size_t kShown = 120;
  std::string out = "\"";
  for (size_t i = 0; i < s.size();) {
    if (i >= kShown) {
      out += "... (" + std::to_string(s.size()) + " bytes)";
      break;
    }
    size_t n = utf8_length(s, i);
    unsigned char c = (unsigned char)s[i];
    // U+0080..U+009F (c2 80 .. c2 9f) are control characters as well.
    bool control = c == 0x7f || (n == 2 && c == 0xc2 && (unsigned char)s[i + 1] < 0xa0);
    if (n == 0 || control) {
      out += '?';
      i += n ? n : 1;
    } else if (n == 1) {
      append_escaped(out, c);
      ++i;
    } else {
      out.append(s, i, n);
      i += n;
    }
  }
  return out + '"';
}

}  // namespace s2ft
