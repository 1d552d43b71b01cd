// Worker: one native thread with a queue. A model's work runs on its worker in the order
// it was asked for, so nothing else needs a lock.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace s2ft {

class Worker {
 public:
  /// `enter` runs first on the new thread (thread count, pinning).
  explicit Worker(std::function<void()> enter);
  /// Waits for the task in flight; queued ones are dropped. Never on its own thread.
  ~Worker() { stop(); }
  Worker(const Worker&) = delete;

  void post(std::function<void()> task);
  /// Raises `stopping`, drops queued tasks, joins. Idempotent.
  void stop();
  /// Long tasks look at this.
  std::atomic<bool> stopping{false};

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  std::function<void()> enter_;
  std::thread thread_;
};

}  // namespace s2ft
