// Ranks as threads of the test: a Communicator over mailboxes in memory, and a way to run
// the same function as every rank.
#pragma once

#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "distributed/communicator.h"

namespace s2ft::test {

class ThreadRank : public Communicator {
 public:
  struct Group {
    std::mutex mutex;
    std::condition_variable changed;
    std::map<std::pair<int, int>, std::deque<std::vector<char>>> mail;  // (from, to)
    int failed = -1;
    std::string failure;
  };

  ThreadRank(std::shared_ptr<Group> group, int rank, int size)
      : group_(std::move(group)), rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void exchange(const std::vector<Blocks>& send,
                const std::vector<Blocks>& receive) override {
    std::unique_lock<std::mutex> lock(group_->mutex);
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      for (const Block& block : send[r]) {
        const char* data = static_cast<const char*>(block.data);
        group_->mail[{rank_, r}].emplace_back(data, data + block.bytes);
      }
    }
    group_->changed.notify_all();
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      for (const Block& block : receive[r]) {
        auto& box = group_->mail[{r, rank_}];
        group_->changed.wait(lock, [&] { return !box.empty() || group_->failed >= 0; });
        if (group_->failed >= 0) throw RankFailed(group_->failure, {group_->failed});
        if (box.front().size() != block.bytes)
          throw Error("INTERNAL", "lengths of sent and received blocks differ");
        if (block.bytes) std::memcpy(block.data, box.front().data(), block.bytes);
        box.pop_front();
      }
    }
  }

  void check() override {
    std::lock_guard<std::mutex> lock(group_->mutex);
    if (group_->failed >= 0) throw RankFailed(group_->failure, {group_->failed});
  }

  void fail(const std::string& message) noexcept override {
    std::lock_guard<std::mutex> lock(group_->mutex);
    if (group_->failed < 0) {
      group_->failed = rank_;
      group_->failure = "rank " + std::to_string(rank_) + " failed: " + message;
    }
    group_->changed.notify_all();
  }

 private:
  std::shared_ptr<Group> group_;
  int rank_, size_;
};

/// Runs `body` as every rank, each in a thread. What a rank throws comes back at its
/// place.
inline std::vector<std::exception_ptr> run_ranks(
    int size, const std::function<void(std::shared_ptr<Communicator>)>& body) {
  auto group = std::make_shared<ThreadRank::Group>();
  std::vector<std::exception_ptr> errors(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r)
    threads.emplace_back([&, r] {
      try {
        body(std::make_shared<ThreadRank>(group, r, size));
      } catch (...) {
        errors[size_t(r)] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  return errors;
}

/// As run_ranks(), where no rank may throw.
inline void all_ranks(int size,
                      const std::function<void(std::shared_ptr<Communicator>)>& body) {
  for (const std::exception_ptr& error : run_ranks(size, body))
    if (error) std::rethrow_exception(error);
}

}  // namespace s2ft::test
