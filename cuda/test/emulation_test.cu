// The emulated device itself: kernels that are right give right results in every order of
// threads, and kernels that are wrong in the ways it promises to find are found.
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/device.cuh"
#include "test/check.h"

using namespace s2ft;
using namespace s2ft::cuda;

namespace {

template <class... P, class... A>
cudaError_t run(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A... args) {
  const cudaError_t status =
      emulation::start<P...>(nullptr, kernel, grid, block, shared, "test", P(args)...);
  cudaDeviceSynchronize();
  return status;
}

template <class T>
class Memory {
 public:
  explicit Memory(size_t count) : count_(count) {
    CHECK(cudaMalloc(&data_, count * sizeof(T)) == cudaSuccess);
  }
  explicit Memory(const std::vector<T>& values) : Memory(values.size()) {
    CHECK(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice) ==
          cudaSuccess);
  }
  ~Memory() { cudaFree(data_); }
  Memory(const Memory&) = delete;
  T* data() const { return data_; }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    CHECK(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost) ==
          cudaSuccess);
    return values;
  }

 private:
  size_t count_;
  T* data_ = nullptr;
};

const unsigned kOrders[] = {0, 1, 2, 3};

/// Runs `wrong` in a process of its own, which must end with `text` among its last words.
template <class F>
void expect_violation(const std::string& name, const std::string& text, F&& wrong) {
  const char* asked = std::getenv("S2FT_TEST_VIOLATION");
  if (asked) {
    if (name != asked) return;
    wrong();
    std::printf("survived\n");
    std::exit(0);
  }
  char self[4096];
  const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  self[n < 0 ? 0 : n] = 0;
  const std::string command =
      "S2FT_TEST_VIOLATION=" + name + " '" + self + "' violations 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  std::string output;
  char line[1024];
  while (std::fgets(line, sizeof line, pipe)) output += line;
  pclose(pipe);
  if (output.find(text) == std::string::npos) {
    test::fail(__FILE__, __LINE__, name + ": expected \"" + text + "\", found " + output);
  }
}

__global__ void add(float* c, const float* a, const float* b, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i];
}

template <class T>
__global__ void sum_rows(T* sums, const T* x, int n) {
  __shared__ T partial[32];
  T sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[blockIdx.x * n + i];
  sum = block_sum(sum, partial);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void reverse(int* y, const int* x) {
  S2FT_DYNAMIC_SHARED(int, tile);
  const int i = threadIdx.x + blockDim.x * threadIdx.y, n = blockDim.x * blockDim.y;
  tile[i] = x[i];
  __syncthreads();
  y[i] = tile[n - 1 - i];
}

__global__ void warp_operations(int* out) {
  const int lane = threadIdx.x % 32;
  int* o = out + threadIdx.x * 8;
  o[0] = __shfl_sync(~0u, lane, 5);
  o[1] = __shfl_xor_sync(~0u, lane, 3);
  o[2] = __shfl_up_sync(~0u, lane, 2);
  o[3] = __shfl_down_sync(~0u, lane, 2);
  o[4] = __shfl_sync(~0u, lane, 9, 8);
  o[5] = __ballot_sync(~0u, lane < 4);
  o[6] = __any_sync(~0u, lane == 31) + 2 * __all_sync(~0u, lane < 31);
  // Halves of a warp on different ways.
  if (lane < 16) {
    o[7] = __shfl_xor_sync(0xffffu, lane, 1);
  } else {
    o[7] = __shfl_xor_sync(0xffff0000u, lane, 2);
  }
}

__global__ void count_up(int* total) {
  atomicAdd(total, 1);
}

__global__ void rounding(bf16_t* y, const float* x, int n) {
  if (int(threadIdx.x) < n) y[threadIdx.x] = __float2bfloat16_rn(x[threadIdx.x]);
}

__global__ void scale(float* x, float factor) {
  x[threadIdx.x] *= factor;
}

// -- wrong ones -----------------------------------------------------------------------

__global__ void write_at(float* x, int i) {
  x[i] = 1;
}
__global__ void early_return() {
  if (threadIdx.x == 3) return;
  __syncthreads();
}
__global__ void two_barriers() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void half_a_shuffle(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(~0u, 1, 0);
  __syncthreads();
}
__global__ void beyond_shared(int n) {
  S2FT_DYNAMIC_SHARED(float, tile);
  tile[n] = 1;
}
__global__ void deep(int n) {
  volatile char room[4096];
  room[n % 4096] = 1;
  if (n) deep(n - 1);
  room[0] = room[1];
}
__global__ void uninitialised(float* y) {
  __shared__ float tile[64];
  tile[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x + 1];
}
#ifdef S2FT_WATCHED
__global__ void no_barrier(int* y, const int* x) {
  __shared__ int tile[64];
  tile[threadIdx.x] = 0;
  __syncthreads();
  tile[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = tile[63 - threadIdx.x];
}
#endif
__global__ void misaligned(float* x) {
  const float4 v = *reinterpret_cast<const float4*>(x + 1);
  x[0] = v.x;
}

}  // namespace

TEST(adds_vectors) {
  const int n = 1000;
  std::vector<float> a(n), b(n);
  for (int i = 0; i < n; ++i) a[i] = float(i), b[i] = float(2 * i);
  Memory<float> da(a), db(b), dc(n);
  CHECK(run(add, 8, 128, 0, dc.data(), da.data(), db.data(), n) == cudaSuccess);
  const std::vector<float> c = dc.read();
  for (int i = 0; i < n; ++i) CHECK(c[i] == float(3 * i));
}

TEST(sums_in_every_order_of_threads) {
  const int rows = 5, n = 777;
  std::vector<double> x(rows * n);
  for (size_t i = 0; i < x.size(); ++i) x[i] = double(i % 91);
  Memory<double> dx(x), sums(rows);
  for (unsigned order : kOrders) {
    emulation::set_order(order);
    CHECK(run(sum_rows<double>, rows, 96, 0, sums.data(), dx.data(), n) == cudaSuccess);
    const std::vector<double> found = sums.read();
    for (int r = 0; r < rows; ++r) {
      double sum = 0;
      for (int i = 0; i < n; ++i) sum += x[r * n + i];
      CHECK(found[r] == sum);
    }
  }
  emulation::set_order(0);
}

TEST(reverses_through_dynamic_shared_memory) {
  std::vector<int> x(1024);
  for (int i = 0; i < 1024; ++i) x[i] = i;
  Memory<int> dx(x), dy(1024);
  for (unsigned order : kOrders) {
    emulation::set_order(order);
    CHECK(run(reverse, 1, dim3(32, 32), 4096, dy.data(), dx.data()) == cudaSuccess);
    const std::vector<int> y = dy.read();
    for (int i = 0; i < 1024; ++i) CHECK(y[i] == 1023 - i);
  }
  emulation::set_order(0);
}

TEST(warp_operations_do_what_cuda_documents) {
  Memory<int> out(64 * 8);
  for (unsigned order : kOrders) {
    emulation::set_order(order);
    CHECK(run(warp_operations, 1, 64, 0, out.data()) == cudaSuccess);
    const std::vector<int> o = out.read();
    for (int t = 0; t < 64; ++t) {
      const int lane = t % 32, *r = &o[t * 8];
      CHECK(r[0] == 5);
      CHECK(r[1] == (lane ^ 3));
      CHECK(r[2] == (lane < 2 ? lane : lane - 2));
      CHECK(r[3] == (lane > 29 ? lane : lane + 2));
      CHECK(r[4] == lane / 8 * 8 + 1);
      CHECK(r[5] == 15);
      CHECK(r[6] == 1);
      CHECK(r[7] == (lane < 16 ? (lane ^ 1) : (lane ^ 2)));
    }
  }
  emulation::set_order(0);
}

TEST(launches_beyond_the_limits_are_refused) {
  Memory<int> x(1);
  CHECK(run(count_up, 1, 1025, 0, x.data()) == cudaErrorInvalidConfiguration);
  CHECK(run(count_up, dim3(1, 65536), 32, 0, x.data()) == cudaErrorInvalidConfiguration);
  CHECK(run(count_up, 1, 32, 164 * 1024, x.data()) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST(bf16_rounds_to_nearest_even) {
  const std::vector<float> x = {1.0f,      1.00390625f, 1.01171875f, 1.004f,
                                -1.0f / 3, 3.4e38f,     1e-40f,      NAN};
  Memory<float> dx(x);
  Memory<bf16_t> dy(x.size());
  run(rounding, 1, 32, 0, dy.data(), dx.data(), int(x.size()));
  const std::vector<bf16_t> y = dy.read();
  const unsigned short expected[] = {0x3f80, 0x3f80, 0x3f82, 0x3f81,
                                     0xbeab, 0x7f80, 0x0001, 0x7fff};
  for (size_t i = 0; i < x.size(); ++i) CHECK(y[i].bits == expected[i]);
}

TEST(streams_keep_their_order_and_wait_to_be_waited_for) {
  cudaStream_t first, second;
  cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking);
  cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
  cudaEvent_t event;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  Memory<float> x(std::vector<float>(4, 1.0f));
  float* pinned;
  cudaMallocHost(&pinned, 16);
  auto launch_scale = [&](cudaStream_t s, float factor) {
    CHECK(emulation::start<float*, float>(s, scale, 1, 4, 0, "scale", x.data(), factor) ==
          cudaSuccess);
  };
  launch_scale(first, 2);
  cudaEventRecord(event, first);
  cudaStreamWaitEvent(second, event);
  launch_scale(second, 3);
  pinned[0] = 0;
  cudaMemcpyAsync(pinned, x.data(), 16, cudaMemcpyDeviceToHost, second);
  CHECK(pinned[0] == 0);
  cudaStreamSynchronize(second);
  CHECK(pinned[0] == 6);
  // Pinned memory is read when the copy's turn comes, ordinary memory at once.
  cudaMemcpyAsync(x.data(), pinned, 16, cudaMemcpyHostToDevice, first);
  pinned[0] = 7;
  CHECK(x.read()[0] == 7);
  float ordinary[4] = {8, 8, 8, 8};
  cudaMemcpyAsync(x.data(), ordinary, 16, cudaMemcpyHostToDevice, first);
  ordinary[0] = 9;
  CHECK(x.read()[0] == 8);

  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK(cudaStreamBeginCapture(first, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  launch_scale(first, 2);
  launch_scale(first, 5);
  CHECK(cudaStreamEndCapture(first, &graph) == cudaSuccess);
  CHECK(x.read()[1] == 8);
  CHECK(cudaGraphInstantiate(&exec, graph) == cudaSuccess);
  cudaGraphLaunch(exec, first);
  cudaGraphLaunch(exec, first);
  cudaStreamSynchronize(first);
  CHECK(x.read()[1] == 800);
  CHECK(cudaStreamBeginCapture(first, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(cudaStreamSynchronize(first) == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaStreamEndCapture(first, &graph) == cudaErrorStreamCaptureInvalidated);
  cudaGetLastError();
  cudaGraphExecDestroy(exec);
  cudaFreeHost(pinned);
  cudaEventDestroy(event);
  cudaStreamDestroy(first);
  cudaStreamDestroy(second);
}

TEST(memory_runs_out) {
  void* p = &p;
  CHECK(cudaMalloc(&p, size_t(1) << 60) == cudaErrorMemoryAllocation);
  CHECK(p == nullptr);
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
  const size_t before = emulation::allocated_bytes();
  {
    Memory<char> a(1000), b(2000);
    CHECK(emulation::allocated_bytes() == before + 3000);
  }
  CHECK(emulation::allocated_bytes() == before);
}

TEST(violations) {
  expect_violation("host", "which the host may not touch", [] {
    Memory<float> x(8);
    x.data()[0] = 1;
  });
  expect_violation("beyond", "outside of every allocation", [] {
    Memory<float> x(64);
    run(write_at, 1, 1, 0, x.data(), 64);
  });
  expect_violation("before", "outside of every allocation", [] {
    Memory<float> x(1024);
    run(write_at, 1, 1, 0, x.data(), -1);
  });
  expect_violation("freed", "or freed", [] {
    float* x;
    cudaMalloc(&x, 4);
    cudaFree(x);
    run(write_at, 1, 1, 0, x, 0);
  });
  expect_violation("copy", "the allocation ends after 32 bytes", [] {
    Memory<float> x(8);
    float y[16];
    cudaMemcpy(y, x.data(), sizeof y, cudaMemcpyDeviceToHost);
  });
  expect_violation("side", "expected device memory, found host memory", [] {
    float y[16] = {}, z[16] = {};
    cudaMemcpy(y, z, sizeof y, cudaMemcpyHostToDevice);
  });
  expect_violation("early", "has left the kernel while",
                   [] { run(early_return, 1, 64, 0); });
  expect_violation("different", "threads meet at different barriers",
                   [] { run(two_barriers, 1, 64, 0); });
  expect_violation("half", "the block cannot go on", [] {
    Memory<int> out(32);
    run(half_a_shuffle, 1, 32, 0, out.data());
  });
  expect_violation("shared", "dynamic shared memory",
                   [] { run(beyond_shared, 1, 32, 64, 16); });
  expect_violation("stack", "the thread's stack is used up",
                   [] { run(deep, 1, 1, 0, 1000); });
  expect_violation("alignment", "misaligned", [] {
    Memory<float> x(8);
    run(misaligned, 1, 1, 0, x.data());
  });
}

TEST(what_nobody_wrote_is_not_a_number) {
  Memory<float> fresh(3);
  CHECK(std::isnan(fresh.read()[2]));
#ifndef S2FT_WATCHED
  Memory<float> y(32);
  run(uninitialised, 1, 32, 0, y.data());
  CHECK(y.read()[0] == 1);
  CHECK(std::isnan(y.read()[31]));
#endif
}

#ifdef S2FT_WATCHED
TEST(violations_that_need_watched_accesses) {
  expect_violation("unwritten", "shared memory is read before it is written", [] {
    Memory<float> y(32);
    run(uninitialised, 1, 32, 0, y.data());
  });
  expect_violation("race", "race in shared memory", [] {
    Memory<int> x(std::vector<int>(64, 1)), y(64);
    run(no_barrier, 1, 64, 0, y.data(), x.data());
  });
  expect_violation("blocks", "race in device memory", [] {
    Memory<float> x(1);
    run(write_at, 2, 1, 0, x.data(), 0);
  });
  expect_violation("ordinary", "kernel touches memory of the host", [] {
    std::vector<float> x(8);
    run(write_at, 1, 1, 0, x.data(), 0);
  });
}
#endif
