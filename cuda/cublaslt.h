// The part of cuBLASLt's C interface that products use, declared here so that building
// needs neither its headers nor the library: it is opened at run time. Layouts and values
// are the public, stable ones of CUDA 12 and 13.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace s2ft::cuda::lt {

using Handle = void*;
using Descriptor = void*;
using Layout = void*;
using Preference = void*;
using Status = int;  // 0: success

struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

enum DataType : int { kF32 = 0, kBf16 = 14 };
enum Compute : int { kCompute32F = 68 };
enum Operation : int32_t { kPlain = 0, kTransposed = 1 };
enum DescriptorAttribute : int { kTransposeA = 3, kTransposeB = 4 };
enum PreferenceAttribute : int {
  kWorkspaceBytes = 1,
  kReductionSchemes = 3,
  kAlignmentA = 5,
  kAlignmentB = 6,
  kAlignmentC = 7,
  kAlignmentD = 8
};
/// Parts of a long sum meet in the type of the sum, never in the output's.
enum ReductionScheme : uint32_t { kInComputeType = 2 };

/// Every function that is used; null where the library was not found.
struct Api {
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  size_t (*version)();
  Status (*descriptor_create)(Descriptor*, int compute, int scale);
  Status (*descriptor_destroy)(Descriptor);
  Status (*descriptor_set)(Descriptor, int attribute, const void*, size_t);
  Status (*layout_create)(Layout*, int type, uint64_t rows, uint64_t cols, int64_t ld);
  Status (*layout_destroy)(Layout);
  Status (*preference_create)(Preference*);
  Status (*preference_destroy)(Preference);
  Status (*preference_set)(Preference, int attribute, const void*, size_t);
  Status (*heuristic)(Handle, Descriptor, Layout a, Layout b, Layout c, Layout d,
                      Preference, int wanted, Heuristic*, int* found);
  Status (*matmul)(Handle, Descriptor, const void* alpha, const void* a, Layout,
                   const void* b, Layout, const void* beta, const void* c, Layout,
                   void* d, Layout, const Algorithm*, void* workspace, size_t bytes,
                   cudaStream_t);
};

}  // namespace s2ft::cuda::lt
