// Data parallelism: sums over ranks, and training by several ranks against training by
// one.
#ifdef __linux__
#include <sched.h>
#endif
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <limits>

#include "distributed/host.h"
#include "test/thread_ranks.h"
#include "test/tuner_fixture.h"

using namespace s2ft;
using namespace s2ft::test;

namespace {

using MicroBatches = std::vector<std::vector<Sample>>;

struct NamedMethod {
  const char* name;
  MethodSpec method;
};

MethodSpec calibrated_sparse() {
  return sparse_method(SparseOptions::Selection::gradient, 0.1);
}

std::vector<NamedMethod> every_method() {
  return {{"s2ft", s2ft_method()},
          {"s2ft by gradient", chosen_s2ft_method()},
          {"lora", lora_method()},
          {"lora with dropout", lora_method(0.3f)},
          {"dora", dora_method()},
          {"sparse", sparse_method()},
          {"sparse by gradient", calibrated_sparse()},
          {"sparse by fisher", sparse_method(SparseOptions::Selection::fisher, 0.1)},
          {"lisa", lisa_method()},
          {"galore", galore_method()},
          {"loreft", loreft_method()},
          {"full", full_method()}};
}

/// One step's micro-batches of two samples each.
MicroBatches micro_batches(const TinyData& data) {
  const std::vector<Sample> samples = data.samples();
  MicroBatches out;
  for (size_t i = 0; i + 1 < samples.size(); i += 2)
    out.push_back({samples[i], samples[i + 1]});
  return out;
}

MicroBatches share_of(const MicroBatches& all, const Communicator& ranks) {
  MicroBatches mine;
  for (size_t i = size_t(ranks.rank()); i < all.size(); i += size_t(ranks.size()))
    mine.push_back(all[i]);
  return mine;
}

/// What a run leaves behind.
struct Trained {
  std::vector<double> losses, norms;
  std::vector<int64_t> tokens, inputs;
  std::vector<std::vector<int32_t>> places;
  std::vector<float> values;
};

/// Stands for devices that sum among themselves.
class GroupOfRanks : public DeviceGroup {
 public:
  explicit GroupOfRanks(std::shared_ptr<Communicator> ranks) : ranks_(std::move(ranks)) {}
  void sum(float* values, size_t count, const std::function<void()>& check) override {
    check();
    ranks_->sum(values, count, nullptr, 0);
  }

 private:
  std::shared_ptr<Communicator> ranks_;
};

Trained train(const MethodSpec& method, const MicroBatches& all,
              std::shared_ptr<Communicator> ranks, bool devices = false) {
  // Adam divides by a gradient's size, so that where the gradient is next to nothing the
  // last bits of a sum decide a step. A large epsilon leaves rounding as small as it is.
  OptimizerSpec optimizer;
  optimizer.epsilon = 1e-2;
  optimizer.weight_decay = 0.1;
  optimizer.max_grad_norm = 0.5;
  Tuner tuner(tiny_model(tiny_config(), DType::f32), method, optimizer,
              Recompute::selective);
  MicroBatches mine = all;
  if (ranks) {
    tuner.join(ranks, devices ? std::make_unique<GroupOfRanks>(ranks) : nullptr);
    mine = share_of(all, *ranks);
  }
  tuner.calibrate(all);
  Trained out;
  for (int step = 0; step < 4; ++step) {
    const StepResult r = tuner.step(mine, 1e-2);
    out.losses.push_back(r.loss);
    out.norms.push_back(r.grad_norm);
    out.tokens.push_back(r.tokens);
    out.inputs.push_back(r.inputs);
  }
  for (const Parameter* p : tuner.parameters()) {
    out.places.push_back(p->index);
    const std::vector<float> values = tuner.values(*p);
    out.values.insert(out.values.end(), values.begin(), values.end());
  }
  return out;
}

std::vector<Trained> train_by(int size, const MethodSpec& method, const MicroBatches& all,
                              bool devices = false) {
  std::vector<Trained> out(static_cast<size_t>(size));
  all_ranks(size, [&](std::shared_ptr<Communicator> ranks) {
    out[size_t(ranks->rank())] = train(method, all, ranks, devices);
  });
  return out;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

}  // namespace

TEST(a_sum_has_the_bits_of_adding_in_the_order_of_ranks) {
  for (int size : {1, 2, 3, 5})
    for (size_t count :
         {size_t(0), size_t(1), size_t(4), size_t(1001), (size_t(1) << 21) + 7}) {
      std::vector<std::vector<float>> given(static_cast<size_t>(size));
      std::vector<float> expected(count);
      for (int r = 0; r < size; ++r) {
        Rng rng(7, uint64_t(r) + 1);
        for (size_t i = 0; i < count; ++i)
          given[size_t(r)].push_back(float(rng.normal() * std::exp(4 * rng.normal())));
        for (size_t i = 0; i < count; ++i)
          expected[i] = r == 0 ? given[0][i] : expected[i] + given[size_t(r)][i];
      }
      all_ranks(size, [&](std::shared_ptr<Communicator> ranks) {
        std::vector<float> mine = given[size_t(ranks->rank())];
        double totals[2] = {double(ranks->rank() + 1), 0.1};
        ranks->sum(mine.data(), count, totals, 2);
        CHECK(same_bits(mine, expected));
        CHECK(totals[0] == size * (size + 1) / 2.0);
        CHECK_NEAR(totals[1], 0.1 * size, 1e-15);
        // Each value leaves a rank twice, but for the share that stays.
        const double leaves = 2.0 * (size - 1) / size * double(count) * sizeof(float);
        CHECK_NEAR(double(ranks->bytes_summed()), leaves, 16.0 * size);
      });
    }
}

TEST(gathers_and_broadcasts_reach_every_rank) {
  all_ranks(4, [](std::shared_ptr<Communicator> ranks) {
    const std::vector<std::string> all =
        ranks->all_gather(std::string(size_t(ranks->rank()) * 3, 'x'));
    for (size_t r = 0; r < 4; ++r) CHECK(all[r] == std::string(r * 3, 'x'));
    for (int root = 0; root < 4; ++root) {
      int value = ranks->rank() == root ? 100 + root : 0;
      ranks->broadcast(&value, sizeof value, root);
      CHECK(value == 100 + root);
    }
    ranks->barrier();
  });
}

// Sums of gradients are taken in another order, and normalised behind the sum instead of
// before: 1e-6 of a gradient, 1e-5 after the singular vectors that GaLore makes of one.
TEST(two_and_three_ranks_train_as_one_does) {
  const TinyData data = tiny_data({9, 5, 14, 6, 4, 12, 8, 7, 10, 11}, 37);
  const MicroBatches all = micro_batches(data);
  for (const auto& [name, method] : every_method()) {
    const int before = failures();
    const double tolerance = method.kind == MethodSpec::Kind::galore ? 2e-5 : 2e-6;
    const Trained one = train(method, all, nullptr);
    for (int size : {2, 3}) {
      const std::vector<Trained> many = train_by(size, method, all);
      for (const Trained& rank : many) {
        CHECK(same_bits(rank.values, many[0].values));
        CHECK(rank.places == one.places);
        CHECK(rank.tokens == one.tokens && rank.inputs == one.inputs);
        for (size_t i = 0; i < one.losses.size(); ++i) {
          CHECK_NEAR(rank.losses[i], one.losses[i], 10 * tolerance);
          CHECK_NEAR(rank.norms[i] / one.norms[i], 1, 100 * tolerance);
        }
        CHECK(rank.values.size() == one.values.size());
        for (size_t i = 0; i < one.values.size(); ++i)
          CHECK_NEAR(rank.values[i], one.values[i], tolerance);
      }
      if (size > 2) continue;
      const std::vector<Trained> again = train_by(size, method, all);
      CHECK(same_bits(again[0].values, many[0].values));
      CHECK(again[0].losses == many[0].losses);
    }
    if (failures() != before) std::printf("  (%s)\n", name);
  }
}

// With the number of tokens known before, each token's gradient has the bits that it has
// in one rank's step; without, bf16 rounds it at another scale.
TEST(bf16_gradients_are_rounded_as_those_of_one_rank) {
  const TinyData data = tiny_data({9, 5, 14, 6}, 37);
  const MicroBatches all = micro_batches(data);
  auto first_step = [&](std::shared_ptr<Communicator> ranks, int64_t expected) {
    Tuner tuner(tiny_model(tiny_config(), DType::bf16), s2ft_method(), OptimizerSpec(),
                Recompute::selective);
    if (ranks) tuner.join(ranks);
    const StepResult r =
        tuner.step(ranks ? share_of(all, *ranks) : all, 1e-3, nullptr, expected);
    return std::make_pair(r.grad_norm, r.tokens);
  };
  const auto [norm, tokens] = first_step(nullptr, 0);
  for (int64_t expected : {tokens, tokens + 3, int64_t(0)})
    all_ranks(2, [&, norm = norm, tokens = tokens](std::shared_ptr<Communicator> ranks) {
      const double found = first_step(ranks, expected).first;
      CHECK_NEAR(found / norm, 1, expected == tokens ? 1e-6 : 2e-2);
    });
}

TEST(a_rank_may_have_no_samples) {
  const TinyData data = tiny_data({9, 5}, 37);
  for (const MethodSpec& method : {s2ft_method(), galore_method(), loreft_method()}) {
    const Trained one = train(method, micro_batches(data), nullptr);
    for (const Trained& rank : train_by(3, method, micro_batches(data)))
      for (size_t i = 0; i < one.values.size(); ++i)
        CHECK_NEAR(rank.values[i], one.values[i], 2e-5);
  }
}

TEST(devices_that_sum_among_themselves_give_the_same_bits) {
  const TinyData data = tiny_data({9, 5, 14, 6}, 37);
  const MicroBatches all = micro_batches(data);
  for (const MethodSpec& method : {s2ft_method(), lisa_method(), galore_method()}) {
    const std::vector<Trained> by_host = train_by(2, method, all);
    const std::vector<Trained> by_devices = train_by(2, method, all, true);
    for (size_t r = 0; r < 2; ++r)
      CHECK(same_bits(by_host[r].values, by_devices[r].values));
  }
  // The CPU backend has no such devices.
  all_ranks(2, [](std::shared_ptr<Communicator> ranks) {
    const auto model = tiny_model(tiny_config(), DType::f32);
    CHECK(!join_devices(*model->backend, *ranks));
  });
}

TEST(gradients_are_those_of_all_ranks) {
  const TinyData data = tiny_data({9, 5, 14, 6}, 37);
  const std::vector<Sample> samples = data.samples();
  Tuner single(tiny_model(tiny_config(), DType::f32), s2ft_method(), OptimizerSpec(),
               Recompute::selective);
  const double loss = single.gradients(samples);
  all_ranks(2, [&](std::shared_ptr<Communicator> ranks) {
    Tuner tuner(tiny_model(tiny_config(), DType::f32), s2ft_method(), OptimizerSpec(),
                Recompute::selective);
    tuner.join(ranks);
    const bool first = ranks->rank() == 0;
    const std::vector<Sample> mine(samples.begin() + (first ? 0 : 1),
                                   samples.begin() + (first ? 1 : 4));
    CHECK_NEAR(tuner.gradients(mine), loss, 1e-6);
    for (size_t i = 0; i < single.parameters().size(); ++i) {
      const std::vector<float> a = tuner.gradient(*tuner.parameters()[i]);
      const std::vector<float> b = single.gradient(*single.parameters()[i]);
      for (size_t j = 0; j < a.size(); ++j) CHECK_NEAR(a[j], b[j], 1e-6);
    }
  });
}

TEST(a_rank_that_fails_fails_the_step_of_all_and_changes_nothing) {
  const TinyData data = tiny_data({9, 5, 14, 6}, 37);
  const MicroBatches all = micro_batches(data);
  std::vector<std::vector<char>> before(2), after(2);
  const auto errors = run_ranks(2, [&](std::shared_ptr<Communicator> ranks) {
    const size_t rank = size_t(ranks->rank());
    auto model = tiny_model(tiny_config(), DType::f32);
    Tuner tuner(model, s2ft_method(), OptimizerSpec(), Recompute::selective);
    tuner.join(ranks);
    tuner.step(share_of(all, *ranks), 1e-2);
    before[rank] = weight_bytes(*model);
    const Mat embedding = model->embedding.value;
    std::vector<float> kept(embedding.as<float>(),
                            embedding.as<float>() + embedding.count());
    if (rank == 1)
      for (int64_t i = 0; i < embedding.count(); ++i)
        embedding.as<float>()[i] = std::numeric_limits<float>::quiet_NaN();
    try {
      tuner.step(share_of(all, *ranks), 1e-2);
    } catch (...) {
      std::copy(kept.begin(), kept.end(), embedding.as<float>());
      after[rank] = weight_bytes(*model);
      throw;
    }
  });
  for (size_t r = 0; r < 2; ++r) CHECK(!after[r].empty() && before[r] == after[r]);
  CHECK(errors[0] && errors[1]);
  try {
    std::rethrow_exception(errors[0]);
  } catch (const RankFailed& e) {
    CHECK(e.ranks == std::vector<int>{1});
    CHECK(std::string(e.what()).find("rank 1 failed: loss is ") == 0);
  }
  CHECK_THROWS_CODE(std::rethrow_exception(errors[1]), "NOT_FINITE");
}

TEST(a_wish_to_stop_reaches_all_ranks_in_the_same_step) {
  const TinyData data = tiny_data({9, 5, 14, 6}, 37);
  const MicroBatches all = micro_batches(data);
  all_ranks(2, [&](std::shared_ptr<Communicator> ranks) {
    Tuner tuner(tiny_model(tiny_config(), DType::f32), s2ft_method(), OptimizerSpec(),
                Recompute::selective);
    tuner.join(ranks);
    CHECK(!tuner.step(share_of(all, *ranks), 1e-2).stop_asked);
    if (ranks->rank() == 1) tuner.stop_asked = true;
    CHECK(tuner.step(share_of(all, *ranks), 1e-2).stop_asked);
  });
}

// The step that begins a period of LISA exchanges what trains before it fails.
TEST(state_saved_after_a_failed_step_continues_the_run) {
  const TinyData data = tiny_data({9, 5, 14, 6}, 37);
  const MicroBatches all = micro_batches(data);
  for (const MethodSpec& method : {lisa_method(1, 2), galore_method(4, 2)}) {
    const std::string path = temporary("failed-step.safetensors");
    auto straight = tiny_model(tiny_config(), DType::f32);
    auto broken = tiny_model(tiny_config(), DType::f32);
    auto resumed = tiny_model(tiny_config(), DType::f32);
    Tuner a(straight, method, OptimizerSpec(), Recompute::selective);
    for (int i = 0; i < 4; ++i) a.step(all, 1e-2);
    {
      Tuner b(broken, method, OptimizerSpec(), Recompute::selective);
      for (int i = 0; i < 2; ++i) b.step(all, 1e-2);
      std::atomic<bool> stop{true};
      CHECK_THROWS_CODE(b.step(all, 1e-2, &stop), "CANCELLED");
      b.save_state(path, {});
    }
    Tuner c(resumed, method, OptimizerSpec(), Recompute::selective);
    c.load_state(path);
    for (int i = 0; i < 2; ++i) c.step(all, 1e-2);
    CHECK(weight_bytes(*straight) == weight_bytes(*resumed));
    std::remove(path.c_str());
  }
}

#ifdef __linux__
TEST(a_process_that_ends_is_noticed) {
  int hold[2];
  CHECK(pipe(hold) == 0);
  const pid_t child = fork();
  if (child == 0) {
    char byte;
    close(hold[1]);
    _exit(read(hold[0], &byte, 1) == 0 ? 0 : 1);
  }
  close(hold[0]);
  Place place = this_place();
  CHECK(!has_gone(place));
  place.pid = child;
  place.started = started_at(child);
  CHECK(place.started > 0);
  CHECK(!has_gone(place));
  close(hold[1]);
  // A zombie first, then nothing at all.
  for (int i = 0; i < 500 && !has_gone(place); ++i) usleep(10000);
  CHECK(has_gone(place));
  waitpid(child, nullptr, 0);
  CHECK(has_gone(place));
  place.started = 0;
  CHECK(!has_gone(place));
}

TEST(ranks_of_a_host_divide_its_cpus_unless_they_are_bound) {
  cpu_set_t before;
  CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
  const Place here = this_place();
  Place elsewhere = here;
  std::snprintf(elsewhere.host, sizeof elsewhere.host, "another");
  const int all = CPU_COUNT(&before);
  const HostShare alone = claim_host_share({here, elsewhere}, 0);
  CHECK(alone.size == 1 && alone.rank == 0 && alone.bound == all);
  cpu_set_t after;
  sched_getaffinity(0, sizeof after, &after);
  CHECK(CPU_EQUAL(&before, &after));

  const HostShare second = claim_host_share({here, elsewhere, here}, 2);
  sched_getaffinity(0, sizeof after, &after);
  CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
  CHECK(second.size == 2 && second.rank == 1);
  CHECK(second.cpus >= 1 && second.cpus <= std::max(1, all / 2));
  CHECK(CPU_COUNT(&after) == (all > 1 ? all / 2 : all));

  Place bound = here;
  bound.cpus = {};
  CHECK(claim_host_share({here, bound}, 0).bound == all);
  sched_getaffinity(0, sizeof after, &after);
  CHECK(CPU_EQUAL(&before, &after));
}
#endif
