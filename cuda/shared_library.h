// Libraries of NVIDIA's that are opened when they are first needed: by absolute path
// where installations put them, then by name. Owns the handle for the process's life.
#pragma once

#include <string>
#include <vector>

namespace s2ft::cuda {

struct SharedLibrary {
  void* handle = nullptr;
  std::string path;                // what was opened, as the system names it
  std::vector<std::string> tried;  // every place, in order, with why it did not serve

  explicit operator bool() const { return handle != nullptr; }
  /// The address of a symbol, or null.
  void* symbol(const char* name) const;
  template <class F>
  F function(const char* name) const {
    return reinterpret_cast<F>(symbol(name));
  }
};

/// Opens `soname` (libcublasLt.so.13). `package` is its folder in the older layout of
/// pip's packages (cublas, cudnn, nccl).
SharedLibrary open_library(const std::string& soname, const std::string& package);

/// CUDA's major version, which sonames of its libraries end in.
std::string cuda_major();

}  // namespace s2ft::cuda
