#include "cuda/emulation/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace s2ft::cuda::emulation {

namespace {

constexpr size_t kGuard = 64 * 1024, kStack = 128 * 1024;

#ifndef S2FT_FIBER_UCONTEXT
// Saves what the calling convention asks a function to keep, and goes on at the other
// stack. A fresh fiber "returns" into its entry with the argument in r12.
extern "C" void s2ft_emulation_switch(void** save, void* load);
extern "C" void s2ft_emulation_enter();
asm(R"(
  .text
  .globl s2ft_emulation_switch
  .hidden s2ft_emulation_switch
  .type s2ft_emulation_switch, @function
s2ft_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size s2ft_emulation_switch, .-s2ft_emulation_switch
  .globl s2ft_emulation_enter
  .hidden s2ft_emulation_enter
  .type s2ft_emulation_enter, @function
s2ft_emulation_enter:
  movq %r12, %rdi
  callq *%r13
  ud2
  .size s2ft_emulation_enter, .-s2ft_emulation_enter
)");
#else
void enter(unsigned entry_high, unsigned entry_low, unsigned high, unsigned low) {
  const uintptr_t entry = (uintptr_t(entry_high) << 32) | entry_low;
  const uintptr_t argument = (uintptr_t(high) << 32) | low;
  reinterpret_cast<void (*)(void*)>(entry)(reinterpret_cast<void*>(argument));
}
#endif

}  // namespace

Fiber::Fiber(unsigned number) {
  void* p = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<char*>(p);
  mprotect(memory_, kGuard, PROT_NONE);
  // Tops at different distances from a page's end, so that the stacks of a block do not
  // all compete for the same lines of the cache.
  top_ = memory_ + kGuard + kStack - (number * 192) % 8192;
}

Fiber::~Fiber() {
  munmap(memory_, kGuard + kStack);
}

bool Fiber::guards(const void* address) const {
  const char* at = static_cast<const char*>(address);
  return at >= memory_ && at < memory_ + kGuard;
}

bool Fiber::holds(const void* address) const {
  const char* at = static_cast<const char*>(address);
  return at >= memory_ + kGuard && at < memory_ + kGuard + kStack;
}

#ifdef S2FT_FIBER_UCONTEXT
void Fiber::start(void (*entry)(void*), void* argument) {
  getcontext(&own_);
  own_.uc_stack.ss_sp = memory_ + kGuard;
  own_.uc_stack.ss_size = size_t(top_ - (memory_ + kGuard));
  own_.uc_link = nullptr;
  const uintptr_t e = reinterpret_cast<uintptr_t>(entry);
  const uintptr_t a = reinterpret_cast<uintptr_t>(argument);
  makecontext(&own_, reinterpret_cast<void (*)()>(enter), 4, unsigned(e >> 32),
              unsigned(e), unsigned(a >> 32), unsigned(a));
}
void Fiber::resume() {
  swapcontext(&caller_, &own_);
}
void Fiber::suspend() {
  swapcontext(&own_, &caller_);
}
#else
void Fiber::start(void (*entry)(void*), void* argument) {
  // At a call the stack is a multiple of 16 before the return address is pushed: `enter`
  // begins with the stack at `top`, and its call pushes 8 bytes.
  void** at =
      reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top_) & ~uintptr_t(63));
  *--at = nullptr;
  *--at = nullptr;
  *--at = reinterpret_cast<void*>(s2ft_emulation_enter);
  *--at = nullptr;                         // rbp
  *--at = nullptr;                         // rbx
  *--at = argument;                        // r12
  *--at = reinterpret_cast<void*>(entry);  // r13
  *--at = nullptr;                         // r14
  *--at = nullptr;                         // r15
  own_ = at;
}
void Fiber::resume() {
  s2ft_emulation_switch(&caller_, own_);
}
void Fiber::suspend() {
  s2ft_emulation_switch(&own_, caller_);
}
#endif

}  // namespace s2ft::cuda::emulation
