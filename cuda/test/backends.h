// The CUDA backend that a test executable runs on: emulated, or of the first device.
#pragma once

#include "backend/registry.h"
#include "test/conformance/support.h"

#ifdef S2FT_CUDA_EMULATION
#include "cuda/backend.h"
#endif

namespace s2ft::test {

/// Skips the test where no CUDA device can be used.
inline std::shared_ptr<Backend> make_test_backend() {
#ifdef S2FT_CUDA_EMULATION
  return cuda::make_backend(0);
#else
  if (!cuda_usable()) SKIP("no CUDA device: " + cuda_report().problem);
  return make_backend("cuda", {}).backend;
#endif
}

inline const std::vector<NamedBackend>& cuda_backends() {
  static const std::vector<NamedBackend> all = [] {
    const auto backend = make_test_backend();
    return std::vector<NamedBackend>{{backend->arithmetic(), backend}};
  }();
  return all;
}

}  // namespace s2ft::test
