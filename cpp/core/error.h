// The one exception type of the core; the border turns it into a JavaScript S2FTError.
#pragma once

#include <stdexcept>
#include <string>

namespace s2ft {

/// An error with a stable code (the names of `ErrorCode` in lib/errors.ts). The message
/// says what was expected, what was found, and where.
class Error : public std::runtime_error {
 public:
  Error(const char* code, const std::string& message)
      : std::runtime_error(message), code_(code) {}
  const char* code() const { return code_; }

 private:
  const char* code_;
};

}  // namespace s2ft
