// Attention by cuDNN: what is handed to it, and what its graphs compute. An interpreter
// stands in for the library, and the CPU's backend computes what is not handed to it.
#include <tuple>

#include "cuda/cudnn_attention.h"
#include "cuda/test/cudnn_interpreter.h"
#include "test/conformance/attention_checks.h"
#include "test/conformance/cpu_backends.h"

using namespace s2ft;
using namespace s2ft::test;

namespace {

/// Memory of the CPU's backend is the host's, where the interpreter reads and writes.
class ByDnn final : public Attention {
 public:
  explicit ByDnn(int& taken)
      : taken_(taken),
        dnn_(interpreted_dnn(), this,
             {[this](size_t bytes) {
                scratch_.resize(bytes);
                return scratch_.data();
              },
              [this] { ++waits; },
              {}}) {}

  int waits = 0;

  void forward(Backend& b, Mat o, Mat lse, Mat q, Mat k, Mat v, const Sequences& s,
               const AttentionShape& shape) override {
    const bool taken = dnn_.forward(o, lse, q, k, v, s, shape);
    taken_ += taken;
    if (!taken) Attention::forward(b, o, lse, q, k, v, s, shape);
  }
  void backward(Backend& b, Mat dq, Mat dk, Mat dv, Mat d_o, Mat q, Mat k, Mat v, Mat o,
                Mat lse, const Sequences& s, const AttentionShape& shape) override {
    const bool taken = dnn_.backward(dq, dk, dv, d_o, q, k, v, o, lse, s, shape);
    taken_ += taken;
    if (!taken) Attention::backward(b, dq, dk, dv, d_o, q, k, v, o, lse, s, shape);
  }

 private:
  int& taken_;
  std::vector<char> scratch_;
  cuda::DnnAttention dnn_;
};

const NamedBackend& cpu() {
  static const NamedBackend backend = kernel_backends().front();
  return backend;
}

/// How many forward calls were handed to the library. Fails where the result is wrong.
int taken_forward(const Problem& p, bool with_lse = true) {
  int count = 0;
  check_attention(cpu(), p, DType::bf16, 8, 1, with_lse, ByDnn(count));
  return count;
}

/// The same for two forward calls and one backward call.
int taken(const Problem& p, DType t = DType::bf16, int64_t gap = 8) {
  int count = 0;
  check_attention(cpu(), p, t, gap, 1, true, ByDnn(count));
  check_attention_backward(cpu(), p, t, gap, ByDnn(count));
  return count;
}

}  // namespace

TEST(graphs_of_cudnn_compute_attention) {
  for (const auto& [heads, kv_heads, head_dim] :
       {std::tuple(4, 4, 64), std::tuple(6, 2, 16), std::tuple(2, 1, 96),
        std::tuple(3, 3, 8), std::tuple(1, 1, 128)}) {
    for (int tokens : {1, 2, 17, 40}) {
      for (int batch : {1, 3}) {
        const std::vector<int> lengths(size_t(batch), tokens);
        const Problem p = Problem(heads, kv_heads, head_dim, 0, lengths).in_order();
        CHECK(taken(p) == 3);
      }
    }
  }
}

TEST(cudnn_is_given_nothing_else) {
  const Problem equal = Problem(4, 2, 16, 0, {10, 10}).in_order();
  CHECK(taken(equal, DType::f32) == 0);
  // Rows that do not begin at 16 bytes.
  CHECK(taken(equal, DType::bf16, 3) == 0);
  CHECK(taken(Problem(4, 2, 16, 0, {10, 9}).in_order()) == 0);
  CHECK(taken(Problem(4, 2, 16, 3, {10, 10}).in_order()) == 0);
  CHECK(taken(Problem(4, 2, 20, 0, {10, 10}).in_order()) == 0);
  CHECK(taken(Problem(2, 2, 264, 0, {5, 5}).in_order()) == 0);
  CHECK(taken(Problem(4, 2, 16, 0, {}).in_order()) == 0);
  CHECK(taken(Problem(4, 2, 16, 0, {0, 0}).in_order()) == 0);
  Problem other = equal;
  other.kv_head_of = {0, 1, 0, 1};
  CHECK(taken(other) == 0);
  other = equal;
  std::swap(other.k_begin[0], other.k_begin[1]);
  CHECK(taken_forward(other) == 0);
  CHECK(taken_forward(Problem(4, 2, 16, 0, {10, 10}, 5).in_order()) == 0);
  CHECK(taken_forward(equal) == 1);
  CHECK(taken_forward(equal, false) == 0);
}

TEST(plans_of_cudnn_do_not_pile_up) {
  const NamedBackend& backend = cpu();
  int count = 0;
  ByDnn by_dnn(count);
  for (int tokens = 1; tokens <= 70; ++tokens) {
    const Problem p = Problem(1, 1, 8, 0, {tokens}).in_order();
    check_attention_backward(backend, p, DType::bf16, 8, std::move(by_dnn));
  }
  CHECK(count == 140);
  CHECK(by_dnn.waits > 0);
}

// A plan that is part of a graph already is not run, and is told from others by all that
// it reads and writes.
TEST(plans_of_cudnn_ask_before_they_run) {
  std::vector<std::vector<uint64_t>> asked;
  std::vector<char> scratch;
  bool now = true;
  int handle = 0;
  cuda::DnnAttention dnn(interpreted_dnn(), &handle,
                         {[&](size_t bytes) {
                            scratch.resize(std::max(bytes, scratch.size()));
                            return scratch.data();
                          },
                          [] {},
                          [&](const std::vector<uint64_t>& what) {
                            asked.push_back(what);
                            return now;
                          }});
  const Problem p = Problem(2, 2, 16, 0, {5, 5}).in_order();
  Backend& b = *cpu().backend;
  const Host x = random(10, 32, DType::bf16);
  Device q(b, DType::bf16, x), k(b, DType::bf16, x), v(b, DType::bf16, x),
      o(b, DType::bf16, Host(10, 32)), lse(b, DType::f32, Host(10, 2));
  AttentionShape shape = p.shape();
  const auto run = [&](const Device& to) {
    CHECK(dnn.forward(to, lse, q, k, v, p.sequences(), shape));
    return asked.back();
  };
  now = false;
  const auto first = run(o);
  expect_equal(o.read("o"), Host(10, 32), "left alone");
  CHECK(run(o) == first);
  Device other(b, DType::bf16, Host(10, 32));
  CHECK(run(other) != first);
  shape.scale *= 2;
  CHECK(run(o) != first);
  now = true;
  CHECK(run(o) != first);
  CHECK(o.read("o")(9, 3) != 0);
}

TEST(scratch_of_cudnn_has_a_bound) {
  int handle = 0;
  const cuda::DnnAttention dnn(interpreted_dnn(), &handle, {{}, [] {}, {}});
  const AttentionShape shape = Problem(4, 2, 16, 0, {}).shape();
  const size_t of_sums = 4 * sizeof(float);
  const size_t scores = 4 * (64 + 127) * (64 + 63) * 2, of_heads = 2 * 64 * 4 * 16 * 2;
  CHECK(dnn.workspace_bytes(64, shape) == 64 * of_sums + scores + of_heads);
  CHECK(dnn.workspace_bytes(1 << 20, shape) == (1 << 20) * of_sums + (size_t(256) << 20));
  CHECK(dnn.name() == "cudnn-91000");
}

namespace {

/// The library's description of a device that need not be here.
std::string described(const char* name, int capability, int multiprocessors,
                      int shared_bytes) {
  return std::string("{\"deviceName\":\"") + name +
         "\",\"cudaDeviceId\":0,\"pciDeviceId\":0,\"isTccDriver\":0,\"driverVer\":13000,"
         "\"deviceVer\":" +
         std::to_string(capability * 10) +
         ",\"multiProcessorCount\":" + std::to_string(multiprocessors) +
         ",\"maxSharedMemoryPerBlockOptin\":" + std::to_string(shared_bytes) +
         ",\"maxSharedMemoryPerBlock\":49152,\"reservedSharedMemoryPerBlock\":1024,"
         "\"maxRegistersPerSM\":65536,\"regsPerBlock\":65536,\"maxCtasPerSM\":32,"
         "\"maxThreadsPerSM\":2048,\"maxThreadsPerBlock\":1024,\"warpSize\":32,"
         "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],"
         "\"totalGlobalMem\":85000000000,\"l2CacheSize\":41943040,\"memoryBusWidth\":"
         "5120,"
         "\"smClockRateKHz\":1410000,\"memClockRateKHz\":1593000,\"supportCoopLaunch\":"
         "1}";
}

}  // namespace

// The library itself takes the graphs. Needs cuDNN from 9.8 on with cuBLASLt and NVRTC
// beside it, and a libcuda.so.1, for which one whose functions do nothing will do.
TEST(cudnn_makes_plans_for_devices_that_are_described) {
  const cuda::SharedLibrary& library = cuda::cudnn_library();
  if (!library) SKIP("cuDNN is not here");
  const dnn::Api api = cuda::load_dnn(library);
  for (const std::string& device :
       {described("NVIDIA H100 80GB HBM3", 90, 132, 232448),
        described("NVIDIA A100-SXM4-80GB", 80, 108, 166912)}) {
    dnn::Device target;
    CHECK(api.descriptor_create(dnn::kDeviceProperties, &target.properties) == 0);
    CHECK(api.attribute_set(target.properties, dnn::kPropertiesJson, dnn::kTypeChar,
                            int64_t(device.size()), device.data()) == 0);
    if (api.descriptor_finalize(target.properties) != 0)
      SKIP("cuDNN lacks a library beside it, or libcuda.so.1");
    for (const auto& [batch, tokens, heads, kv_heads, head_dim] :
         {std::tuple(4, 256, 32, 32, 128), std::tuple(2, 77, 8, 2, 64),
          std::tuple(1, 1, 4, 4, 96)}) {
      const int64_t wide = heads * head_dim, narrow = kv_heads * head_dim;
      const cuda::DnnShape shape{
          batch,    tokens,
          heads,    kv_heads,
          head_dim, {wide, narrow, narrow, wide, heads, wide, wide, narrow, narrow}};
      const auto forward = cuda::dnn_forward_plan(api, target, shape);
      const auto backward = cuda::dnn_backward_plan(api, target, shape);
      CHECK(forward && backward);
      // Tiles of shorter sequences are mostly empty, and may be more than the bound.
      if (!forward || !backward || tokens < 64) continue;
      int handle = 0;
      const AttentionShape asked{heads, kv_heads, head_dim, nullptr, 0, 1};
      const size_t most = cuda::DnnAttention(interpreted_dnn(), &handle, {{}, [] {}, {}})
                              .workspace_bytes(batch * tokens, asked);
      const size_t delta = size_t(batch * tokens * heads) * sizeof(float);
      CHECK(forward->workspace_bytes() <= most);
      CHECK(delta + backward->workspace_bytes() <= most);
    }
    api.descriptor_destroy(target.properties);
  }
}
