// The test harness of the C++ tests: one executable per *_test.cpp, each including this
// header once; it brings main(). `name_test part` runs only tests whose name has `part`.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <sstream>
#include <string>
#include <vector>

#include "core/error.h"

namespace s2ft::test {

struct Case {
  const char* name;
  void (*body)();
};

struct Skipped {
  std::string reason;
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

/// Failed checks of the running test.
inline int& failures() {
  static int count = 0;
  return count;
}

struct Register {
  Register(const char* name, void (*body)()) { cases().push_back({name, body}); }
};

inline void fail(const char* file, int line, const std::string& what) {
  constexpr int kShown = 20;
  if (++failures() <= kShown) {
    std::printf("  %s:%d: %s\n", file, line, what.c_str());
  } else if (failures() == kShown + 1) {
    std::printf("  (more failed checks in this test are counted, not shown)\n");
  }
}

inline void check_near(double a, double b, double tol, const char* text, const char* file,
                       int line) {
  // Equal infinities are near; a NaN on either side never is.
  if (a == b || std::fabs(a - b) <= tol) return;
  std::ostringstream out;
  out.precision(9);
  out << text << ": " << a << " and " << b << " differ by " << std::fabs(a - b)
      << ", allowed " << tol;
  fail(file, line, out.str());
}

template <class F>
void check_throws_code(F&& run, const char* code, const char* text, const char* file,
                       int line) {
  try {
    run();
  } catch (const Error& e) {
    if (std::strcmp(e.code(), code) != 0) {
      fail(file, line,
           std::string(text) + ": expected code " + code + ", threw " + e.code() + ": " +
               e.what());
    }
    return;
  } catch (const std::exception& e) {
    fail(file, line,
         std::string(text) + ": expected code " + code +
             ", threw something else: " + e.what());
    return;
  }
  fail(file, line, std::string(text) + ": expected code " + code + ", threw nothing");
}

inline int run_all(int argc, char** argv) {
  int passed = 0, failed = 0, skipped = 0;
  for (const Case& c : cases()) {
    if (argc > 1 && !std::strstr(c.name, argv[1])) continue;
    failures() = 0;
    std::string skip;
    try {
      c.body();
    } catch (const Skipped& s) {
      skip = s.reason;
    } catch (const Error& e) {
      fail(c.name, 0, std::string("threw ") + e.code() + ": " + e.what());
    } catch (const std::exception& e) {
      fail(c.name, 0, std::string("threw ") + e.what());
    } catch (...) {
      fail(c.name, 0, "threw something that is no std::exception");
    }
    if (failures()) {
      ++failed;
      std::printf("FAIL %s (%d checks)\n", c.name, failures());
    } else if (!skip.empty()) {
      ++skipped;
      std::printf("skip %s: %s\n", c.name, skip.c_str());
    } else {
      ++passed;
      std::printf("ok   %s\n", c.name);
    }
    std::fflush(stdout);
  }
  if (skipped) std::printf("%d skipped\n", skipped);
  std::printf("%d passed, %d failed\n", passed, failed);
  // A filter or a linking mistake that leaves no test must not look like success.
  return failed || passed + skipped == 0 ? 1 : 0;
}

}  // namespace s2ft::test

/// Defines and registers a test: TEST(round_trip) { CHECK(...); }
#define TEST(name)                                                                   \
  static void s2ft_test_##name();                                                    \
  static const ::s2ft::test::Register s2ft_register_##name(#name, s2ft_test_##name); \
  static void s2ft_test_##name()

/// Records a failure when `cond` is false; the test goes on.
#define CHECK(...)                                                       \
  do {                                                                   \
    if (!(__VA_ARGS__))                                                  \
      ::s2ft::test::fail(__FILE__, __LINE__, "CHECK(" #__VA_ARGS__ ")"); \
  } while (0)

/// |a - b| <= tol, compared as doubles; fails on NaN.
#define CHECK_NEAR(a, b, tol)                                                           \
  ::s2ft::test::check_near(double(a), double(b), double(tol), #a " near " #b, __FILE__, \
                           __LINE__)

/// `expr` throws s2ft::Error with this code.
#define CHECK_THROWS_CODE(expr, code) \
  ::s2ft::test::check_throws_code([&] { (void)(expr); }, code, #expr, __FILE__, __LINE__)

/// Ends the test as skipped, with a visible reason.
#define SKIP(reason)            \
  throw ::s2ft::test::Skipped { \
    reason                      \
  }

int main(int argc, char** argv) {
  return ::s2ft::test::run_all(argc, argv);
}
