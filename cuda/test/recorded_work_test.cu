// Work that comes again (Repeats): when it is a graph, and when it must not be. On the
// emulated device, which counts and refuses.
#include <cstdlib>
#include <thread>

#include "cuda/emulation/device.h"
#include "cuda/ops.h"
#include "cuda/test/backends.h"

using namespace s2ft;
using namespace s2ft::test;

const std::vector<NamedBackend>& s2ft::test::backends_under_test() {
  return cuda_backends();
}

namespace {

uint64_t graphs_started() {
  return cuda::emulation::calls().graphs;
}

struct Bench {
  std::shared_ptr<Backend> backend = make_test_backend();
  Device x{*backend, DType::f32, Host(1, 5, 1.0)}, y{*backend, DType::f32, Host(1, 5)};

  /// What y holds after `body` has come again with this key.
  double repeat(const std::function<void()>& body, uint64_t key = 7) {
    backend->zero(y);
    backend->repeat(key, body);
    return y.read("repeat")(0, 4);
  }
};

}  // namespace

TEST(work_that_differs_is_done_as_it_is) {
  Bench b;
  const uint64_t before = graphs_started();
  for (int i = 0; i < 40; ++i) {
    // Another length, argument or order, now and then.
    const int times = i % 7 == 6 ? 3 : 2;
    const float factor = i % 11 == 10 ? 3 : 5;
    const double got = b.repeat([&] {
      for (int k = 0; k < times; ++k) b.backend->add(b.y, b.x);
      b.backend->scale(b.y, factor);
    });
    CHECK(got == times * factor);
  }
  CHECK(graphs_started() > before);
  // Nothing at all.
  for (int i = 0; i < 5; ++i) CHECK(b.repeat([] {}, 8) == 0);
}

TEST(staged_arrays_are_each_time_s_own) {
  Bench b;
  Host table(64, 5);
  for (int64_t i = 0; i < 64; ++i)
    for (int64_t j = 0; j < 5; ++j) table(i, j) = double(i);
  Device rows(*b.backend, DType::f32, table);
  for (int i = 0; i < 12; ++i) {
    const double got = b.repeat([&] {
      std::vector<int32_t> index = {int32_t(5 * i)};
      b.backend->gather_rows(b.y, rows, index.data());
      index[0] = -1;  // its bytes are free again
    });
    CHECK(got == 5 * i);
  }
}

TEST(work_that_waits_or_takes_memory_is_never_a_graph) {
  Bench b;
  const uint64_t before = graphs_started();
  for (int i = 0; i < 8; ++i) {
    float seen[5] = {};
    const double got = b.repeat([&] {
      b.backend->add(b.y, b.x);
      const Mat y = b.y;
      b.backend->download(seen, y.data, sizeof seen);
    });
    CHECK(got == 1 && seen[4] == 1);
    const double more = b.repeat(
        [&] {
          const Buffer aside = b.backend->allocate(64);
          const Mat copy = mat(aside.data(), DType::f32, 1, 5);
          b.backend->copy(copy, b.x);
          b.backend->add(b.y, copy);
        },
        8);
    CHECK(more == 1);
  }
  CHECK(graphs_started() == before);
}

TEST(work_that_keeps_changing_is_left_alone_for_a_while) {
  Bench b;
  uint64_t graphs = 0;
  for (int i = 0; i < 300; ++i) {
    // Changes each time, then no more.
    const float factor = i < 20 ? float(i + 1) : 3;
    const uint64_t before = graphs_started();
    CHECK(b.repeat([&] {
      b.backend->add(b.y, b.x);
      b.backend->scale(b.y, factor);
    }) == factor);
    graphs = graphs_started() - before;
    if (i < 20) CHECK(graphs == 0);
  }
  CHECK(graphs == 1);
}

TEST(work_is_done_where_the_runtime_refuses_graphs) {
  using cuda::emulation::Refused;
  for (Refused what : {Refused::capture, Refused::instantiation, Refused::launch}) {
    Bench b;
    // From the start, and after some graphs.
    for (int before : {0, 6}) {
      const auto work = [&] {
        return b.repeat([&] { b.backend->add(b.y, b.x); }, uint64_t(before));
      };
      for (int i = 0; i < before; ++i) CHECK(work() == 1);
      cuda::emulation::refuse_graphs(what);
      const uint64_t graphs = graphs_started();
      for (int i = 0; i < 8; ++i) CHECK(work() == 1);
      if (before == 0 || what == Refused::launch) CHECK(graphs_started() == graphs);
      cuda::emulation::refuse_graphs(Refused::nothing);
      for (int i = 0; i < 120; ++i) CHECK(work() == 1);
      CHECK(graphs_started() > graphs);
    }
  }
}

TEST(what_fails_on_the_way_is_thrown_each_time) {
  Bench b;
  for (int i = 0; i < 12; ++i) {
    const bool fails = i % 3 == 2;
    const auto body = [&] {
      b.backend->add(b.y, b.x);
      if (fails) throw Error("CANCELLED", "enough");
      b.backend->add(b.y, b.x);
    };
    if (fails) {
      CHECK_THROWS_CODE(b.repeat(body), "CANCELLED");
    } else {
      CHECK(b.repeat(body) == 2);
    }
  }
}

TEST(memory_freed_while_a_graph_is_captured_goes_afterwards) {
  Bench b;
  const DeviceMemory before = b.backend->device_memory();
  for (int i = 0; i < 8; ++i) {
    Buffer other = b.backend->allocate(1 << 16);
    CHECK(b.repeat([&] {
      b.backend->add(b.y, b.x);
      std::thread([&] { other.reset(); }).join();
    }) == 1);
  }
  CHECK(b.backend->device_memory().held == before.held + (16 << 10));
}

// What a library puts on the stream is told by a list, all of which is compared.
TEST(work_of_libraries_is_told_by_lists) {
  const auto context = std::make_shared<cuda::Context>(0);
  cuda::Repeats& repeats = context->repeats();
  const Buffer memory = context->allocate(2 * sizeof(float));
  const Mat y = mat(memory.data(), DType::f32, 1, 1),
            x = mat(y.as<float>() + 1, DType::f32, 1, 1);
  const float one = 1;
  context->upload(x.data, &one, sizeof one);
  int ran = 0;
  uint64_t graphs = 0;
  const auto run = [&](const std::vector<uint64_t>& what) {
    const uint64_t before = graphs_started();
    repeats.run(3, [&] {
      cuda::zero(*context, y);
      ran += repeats.proceed(cuda::Repeats::Tag::attention, what);
      cuda::add(*context, y, x);
    });
    graphs = graphs_started() - before;
    float got = 0;
    context->download(&got, y.data, sizeof got);
    CHECK(got == 1);
  };
  // Seen, written down, captured; the library is asked to do its part each time.
  for (int i = 1; i <= 3; ++i) {
    run({1, 2, 3});
    CHECK(ran == i);
  }
  CHECK(graphs == 1);
  run({1, 2, 3});
  CHECK(graphs == 1 && ran == 3);
  run({1, 2, 4});
  CHECK(graphs == 0 && ran == 4);
}

TEST(many_shapes_are_not_kept_for_ever) {
  Bench b;
  for (int round = 0; round < 5; ++round)
    for (uint64_t key = 0; key < 100; ++key)
      CHECK(b.repeat([&] { b.backend->add(b.y, b.x); }, key) == 1);
  for (int round = 0; round < 5; ++round)
    for (uint64_t key = 0; key < 30; ++key)
      CHECK(b.repeat([&] { b.backend->add(b.y, b.x); }, key) == 1);
}

TEST(the_environment_decides_about_graphs) {
  setenv("S2FT_CUDA_GRAPHS", "perhaps", 1);
  CHECK_THROWS_CODE(make_test_backend(), "INVALID_ARGUMENT");
  unsetenv("S2FT_CUDA_GRAPHS");
}
