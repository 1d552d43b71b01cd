// A fiber: a stack of its own (owned, with a guard page below) and the place where it
// stopped. Switching costs some nanoseconds on x86-64, a system call elsewhere.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) || defined(S2FT_EMULATION_UCONTEXT)
#define S2FT_FIBER_UCONTEXT
#include <ucontext.h>
#endif

namespace s2ft::cuda::emulation {

class Fiber {
 public:
  explicit Fiber(unsigned number);
  ~Fiber();
  Fiber(const Fiber&) = delete;

  /// Makes the next resume() call entry(argument) from the top of the stack; entry ends
  /// by suspend(), and is never resumed after that.
  void start(void (*entry)(void*), void* argument);
  /// Runs the fiber until it suspends.
  void resume();
  /// Called on the fiber: goes back to where resume() was called.
  void suspend();
  /// Whether `address` is in the page below the stack.
  bool guards(const void* address) const;
  bool holds(const void* address) const;

 private:
  char* memory_;
  char* top_;
#ifdef S2FT_FIBER_UCONTEXT
  ucontext_t own_, caller_;
#else
  void* own_ = nullptr;
  void* caller_ = nullptr;
#endif
};

}  // namespace s2ft::cuda::emulation
