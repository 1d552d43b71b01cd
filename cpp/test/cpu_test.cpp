// The CPU backend beside its ops: options, description, memory, threads, random numbers,
// use from several threads, and AdamW against PyTorch's own numbers.
#include <omp.h>

#include <cstdlib>
#include <set>
#include <thread>

#include "core/threads.h"
#include "test/conformance/cpu_backends.h"

#ifdef __linux__
#include <sched.h>
#endif

using namespace s2ft;
using namespace s2ft::test;

const std::vector<NamedBackend>& s2ft::test::backends_under_test() {
  static const std::vector<NamedBackend> all = product_backends();
  return all;
}

namespace {

// Sets an environment variable for a scope.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    setenv(name, value, 1);
  }
  ~Environment() { unsetenv(name_); }

 private:
  const char* name_;
};

}  // namespace

TEST(options_are_checked) {
  CpuOptions options;
  options.isa = "sse9";
  CHECK_THROWS_CODE(make_cpu_backend(options), "INVALID_ARGUMENT");
  options.isa = "";
  options.threads = -1;
  CHECK_THROWS_CODE(make_cpu_backend(options), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(describe_cpu(options), "INVALID_ARGUMENT");
}

TEST(the_environment_forces_what_options_leave_open) {
  CpuOptions options;
  {
    const Environment isa("S2FT_ISA", "plain");
    CHECK(describe_cpu(options).isa == "plain");
    options.isa = supported_isas().back();
    CHECK(describe_cpu(options).isa == options.isa);
    options.isa = "";
  }
  {
    const Environment gemm("S2FT_GEMM", "built-in");
    CHECK(describe_cpu(options).gemm == "built-in");
  }
  {
    const Environment widen("S2FT_ARITHMETIC", "widen");
    CHECK(describe_cpu(options).arithmetic == "f32");
  }
  for (const char* name : {"S2FT_ARITHMETIC", "S2FT_GEMM"}) {
    const Environment wrong(name, "fast");
    CHECK_THROWS_CODE(make_cpu_backend(options), "INVALID_ARGUMENT");
  }
}

TEST(native_arithmetic_needs_the_instructions) {
  CpuOptions options;
  options.arithmetic = Arithmetic::native;
  if (has_bf16_instructions()) {
    const std::string arithmetic = describe_cpu(options).arithmetic;
    CHECK(arithmetic == "bf16" || arithmetic == "amx");
  } else {
    CHECK_THROWS_CODE(make_cpu_backend(options), "INVALID_ARGUMENT");
  }
}

TEST(the_description_is_filled_and_stays) {
  const CpuDescription first = describe_cpu({}), second = describe_cpu({});
  std::printf("  %s, %s, %s, bf16 by %s, %d threads, %.0f and %.0f GFLOP/s\n",
              first.name.c_str(), first.isa.c_str(), first.gemm.c_str(),
              first.arithmetic.c_str(), first.threads, first.peak_gflops_f32,
              first.peak_gflops_bf16);
  CHECK(!first.name.empty() && !first.isa.empty() && !first.gemm.empty());
  CHECK(first.threads == available_cpus());
  CHECK(first.peak_gflops_f32 > 0 && first.peak_gflops_bf16 > 0);
  CHECK(first.peak_gflops_f32 == second.peak_gflops_f32);
  CHECK(first.arithmetic == second.arithmetic && first.isa == second.isa);
}

TEST(what_can_be_multiplied_now_is_at_most_about_the_peak) {
  const CpuOptions one{1, Arithmetic::automatic, "", Gemm::automatic};
  const CpuDescription peak = describe_cpu(one);
  for (DType t : {DType::f32, DType::bf16}) {
    const double found = current_cpu_gflops(one, t, 0.02);
    const double most = t == DType::f32 ? peak.peak_gflops_f32 : peak.peak_gflops_bf16;
    CHECK(found > 0);
    // A core's other thread may have been busy while the peak was measured, and the clock
    // lower.
    CHECK(found < 3 * most);
  }
}

TEST(memory_is_aligned_and_refused_by_name) {
  const auto backend = make_cpu_backend({1, Arithmetic::widen, "", Gemm::automatic});
  for (size_t bytes :
       {size_t(0), size_t(1), size_t(65), size_t(4) << 20, (size_t(9) << 20) + 3}) {
    Buffer b = backend->allocate(bytes);
    CHECK(b.data() && reinterpret_cast<uintptr_t>(b.data()) % 64 == 0);
    CHECK(b.bytes() == bytes);
    std::memset(b.data(), 1, bytes);
  }
  for (size_t bytes : {size_t(1) << 55, ~size_t(0), ~size_t(0) - (size_t(1) << 21)}) {
    CHECK_THROWS_CODE(backend->allocate(bytes), "OUT_OF_MEMORY");
    try {
      backend->allocate(bytes);
    } catch (const Error& e) {
      CHECK(std::string(e.what()).find(std::to_string(bytes)) != std::string::npos);
    }
  }
  const int32_t kv_heads[] = {0, 0};
  AttentionShape shape;
  shape.heads = 2, shape.kv_heads = 1, shape.head_dim = 16, shape.kv_head_of = kv_heads;
  CHECK(backend->workspace_bytes(1024, shape) > backend->workspace_bytes(16, shape));
}

TEST(a_worker_thread_leaves_the_others_alone) {
  const int before = omp_get_max_threads(), cpus = available_cpus();
  CHECK(cpus >= 1);
  std::set<int> used;
  int inside = 0, seen_cpus = 0;
  std::thread([&] {
    enter_worker_thread(cpus);
    inside = omp_get_max_threads();
    seen_cpus = available_cpus();
#ifdef __linux__
    std::vector<int> at(static_cast<size_t>(cpus), -1);
#pragma omp parallel
    at[size_t(omp_get_thread_num())] = sched_getcpu();
    used.insert(at.begin(), at.end());
#endif
  }).join();
  CHECK(inside == cpus);
  CHECK(seen_cpus == cpus);
#ifdef __linux__
  CHECK(int(used.size()) == cpus && !used.count(-1));
  cpu_set_t mask;
  CHECK(sched_getaffinity(0, sizeof(mask), &mask) == 0);
  CHECK(CPU_COUNT(&mask) >= cpus);
#endif
  CHECK(omp_get_max_threads() == before);
  const auto backend =
      make_cpu_backend({before + 1, Arithmetic::widen, "", Gemm::automatic});
  Device x(*backend, DType::f32, Host(300, 300, 1.0));
  backend->scale(x, 2);
  CHECK(omp_get_max_threads() == before);
}

TEST(one_backend_serves_several_threads) {
  for (const NamedBackend& named : backends_under_test()) {
    const Host a = random(70, 150, DType::bf16), w = random(90, 150, DType::bf16);
    Device da(*named.backend, DType::bf16, a), dw(*named.backend, DType::bf16, w),
        dc(*named.backend, DType::f32, 70, 90);
    named.backend->matmul(dc, da, false, dw, true, 0);
    const Host want = dc.read(named.name);
    // One result a thread, each thread with shapes of its own in between.
    std::vector<int> wrong(3, 0);
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        for (int run = 0; run < 10; ++run) {
          Device mine(*named.backend, DType::f32, 70, 90),
              other(*named.backend, DType::f32, 20 + t, 30 + run);
          const Mat ma = da, mw = dw;
          named.backend->matmul(other, ma.row_range(0, 20 + t), false,
                                mw.row_range(0, 30 + run), true, 0);
          named.backend->matmul(mine, ma, false, mw, true, 0);
          wrong[size_t(t)] += mine.read(named.name).v != want.v;
        }
      });
    }
    for (std::thread& t : threads) t.join();
    for (int count : wrong) CHECK(count == 0);
  }
}

// p = Parameter([1, -0.5, 0.25, 2, -3e-3]); AdamW([p], lr=2e-3, betas=(0.9, 0.999),
// eps=1e-8, weight_decay=0.01); three steps with the gradient
// [0.1, -0.2, 1e-4, 3, -7e-6] times 1, -2 and 3. PyTorch 2.13.
TEST(adamw_agrees_with_pytorch) {
  const std::vector<double> start = {1.0, -0.5, 0.25, 2.0, double(-3e-3f)};
  const float gradient[] = {0.1f, -0.2f, 1e-4f, 3.0f, -7e-6f};
  const std::vector<double> want = {0x1.fef7fcp-1, -0x1.fdf7d6p-2, 0x1.fbf7a8p-3,
                                    0x1.ff780cp+0, -0x1.12cb42p-10};
  const std::vector<double> want_first = {0x1.495184p-6, -0x1.495184p-5, 0x1.5138d6p-16,
                                          0x1.34bc6ap-1, -0x1.79b04ep-20};
  const std::vector<double> want_second = {0x1.2579bap-13, 0x1.2579bap-11, 0x1.33bb38p-33,
                                           0x1.01effcp-3, 0x1.8204aap-41};
  for (const NamedBackend& named : backends_under_test()) {
    Host value(1, 5), zero(1, 5);
    value.v = start;
    Device p(*named.backend, DType::f32, value), m(*named.backend, DType::f32, zero),
        v(*named.backend, DType::f32, zero);
    for (int step = 1; step <= 3; ++step) {
      Host g(1, 5);
      for (size_t i = 0; i < 5; ++i) {
        g.v[i] = double(gradient[i] * float(step) * (step == 2 ? -1.0f : 1.0f));
      }
      Device dg(*named.backend, DType::f32, g);
      AdamW update{p, Mat{}, dg, m, v, 2e-3, 0.9, 0.999, 1e-8, 0.01, 1.0f, step};
      named.backend->adamw(update);
    }
    const Host got = p.read(named.name), first = m.read(named.name),
               second = v.read(named.name);
    for (size_t i = 0; i < 5; ++i) {
      // A few units in the last place: fused multiply-adds round differently.
      CHECK_NEAR(got.v[i], want[i], 3e-7 * std::fabs(want[i]) + 1e-9);
      CHECK_NEAR(first.v[i], want_first[i], 1e-6 * std::fabs(want_first[i]));
      CHECK_NEAR(second.v[i], want_second[i], 1e-6 * std::fabs(want_second[i]));
    }
  }
}

TEST(random_numbers_are_the_published_sequences) {
  // splitmix64 from state 0, and xoshiro256** from the state 1, 2, 3, 4.
  uint64_t state = 0;
  CHECK(splitmix64(state) == 0xe220a8397b1dcdafu);
  CHECK(splitmix64(state) == 0x6e789e6aa1b965f4u);
  Rng known(Rng::State{{1, 2, 3, 4}});
  for (uint64_t want : {uint64_t(11520), uint64_t(0), uint64_t(1509978240),
                        uint64_t(1215971899390074240)}) {
    CHECK(known.next() == want);
  }
  Rng a(5), b(5), c(5, 1), d(6);
  const uint64_t first = a.next();
  CHECK(first == b.next() && first != c.next() && first != d.next());
  Rng resumed(a.state());
  CHECK(resumed.next() == a.next());
}

TEST(random_numbers_have_the_right_shape) {
  Rng generator(1);
  const int n = 200000;
  std::vector<int> counts(3);
  double sum = 0, squares = 0, fourth = 0, uniform = 0, low = 1, high = 0;
  for (int i = 0; i < n; ++i) {
    ++counts[size_t(generator.below(3))];
    const double x = generator.normal();
    sum += x, squares += x * x, fourth += x * x * x * x;
    const double u = double(generator.uniform());
    uniform += u, low = std::min(low, u), high = std::max(high, u);
  }
  // Five standard deviations each; the seed is fixed.
  for (int count : counts) CHECK_NEAR(count, n / 3.0, 5 * std::sqrt(n * 2 / 9.0));
  CHECK_NEAR(sum / n, 0, 5 / std::sqrt(n));
  CHECK_NEAR(squares / n, 1, 5 * std::sqrt(2.0 / n));
  CHECK_NEAR(fourth / n, 3, 5 * std::sqrt(96.0 / n));
  CHECK_NEAR(uniform / n, 0.5, 5 * std::sqrt(1 / 12.0 / n));
  CHECK(low >= 0 && high < 1);
  for (int i = 0; i < 1000; ++i) {
    const float x = generator.uniform(-2, 3);
    CHECK(x >= -2 && x < 3);
    CHECK(generator.below(1) == 0);
  }
  std::vector<int> order = {0, 1, 2, 3, 4, 5, 6, 7};
  generator.shuffle(order.data(), order.size());
  CHECK(std::set<int>(order.begin(), order.end()).size() == 8);
}
