// How fast this machine multiplies, measured.
#pragma once

#include <string>

namespace s2ft {

/// What computes: f32 multiply-adds or pairs of bf16 from registers, or oneDNN's bf16
/// product of matrices that fit the caches (for units without an instruction loop here).
enum class Unit { f32, bf16_pairs, library };

/// GFLOP/s of `threads` threads: with one by that thread's CPU time, with more by the
/// clock on the wall. Measures for some milliseconds on a thread of its own; later calls
/// with the same arguments return the first one's result. Thread-safe.
double peak_gflops(const std::string& isa, Unit unit, int threads);

/// The same for about `seconds` from now on, whatever else the machine is busy with: each
/// thread's rate by the clock on the wall, summed. Measured anew by every call.
double current_gflops(const std::string& isa, Unit unit, int threads, double seconds);

}  // namespace s2ft
