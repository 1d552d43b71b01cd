// The few pieces of JSON text that the safetensors reader and writer share.
#pragma once

#include <string>

namespace s2ft {

/// True when `s` is well-formed UTF-8: no overlong form, no surrogate, at most U+10FFFF.
bool valid_utf8(const std::string& s);

/// Appends a code point (a Unicode scalar value) as UTF-8.
void append_utf8(std::string& out, unsigned code_point);

/// Appends `s` (well-formed UTF-8) as a JSON string with its quotes.
void append_json_string(std::string& out, const std::string& s);

/// `s` in quotes for an error message: control characters escaped, long text cut, so that
/// a hostile name can neither flood nor rewrite the terminal it is shown on.
std::string quoted(const std::string& s);

}  // namespace s2ft
