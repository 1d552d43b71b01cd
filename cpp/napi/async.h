// Work off the JavaScript thread: a task runs on a worker, its result is converted on the
// JavaScript thread and settles a promise. One addon instance exists for each environment
// (main thread or worker_threads).
#pragma once

#include <napi.h>

#include <exception>
#include <functional>
#include <memory>
#include <set>

#include "backend/backend.h"
#include "core/error.h"
#include "core/worker.h"

namespace s2ft {

/// State of one environment. Destroyed after its cleanup hook stopped every worker.
class Instance {
 public:
  explicit Instance(Napi::Env env);
  ~Instance();
  static Instance& of(Napi::Env env) { return *env.GetInstanceData<Instance>(); }

  std::shared_ptr<Worker> make_worker(std::function<void()> enter);
  /// For files and probes; made at first use.
  std::shared_ptr<Worker> io_worker();
  /// Stops workers that nobody but this instance holds any more.
  void collect_workers();

  /// The S2FTError that `make` (set by lib/native/load.ts) builds.
  Napi::Value make_error(Napi::Env env, std::exception_ptr error);
  void set_error_class(Napi::Function make) { make_error_ = Napi::Persistent(make); }

  /// Called on any thread: runs `settle` on the JavaScript thread, or drops it when the
  /// environment is gone.
  void complete(std::function<void(Napi::Env)>* settle);
  void task_started(Napi::Env env);
  void task_ended(Napi::Env env);

  std::shared_ptr<Backend> backend;  // of the low-level functions; io worker only
  Napi::FunctionReference model_class, trainer_class, decoder_class, job_class;

 private:
  static void cleanup(void* self);

  std::set<std::shared_ptr<Worker>> workers_;
  std::shared_ptr<Worker> io_worker_;
  Napi::FunctionReference make_error_;
  napi_threadsafe_function settle_ = nullptr;
  int pending_ = 0;
};

/// Throws the JavaScript form of an error caught in a synchronous call.
template <class Body>
auto guarded(Napi::Env env, Body body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    const Napi::Value error = Instance::of(env).make_error(env, std::current_exception());
    throw Napi::Error(env, error);
  }
}

/// Runs `work()` on the worker and resolves with `convert(env, result)`. Whatever the
/// closures hold stays alive until then and is released on the JavaScript thread.
template <class Work, class Convert>
Napi::Promise run_async(Napi::Env env, std::shared_ptr<Worker> worker, Work work,
                        Convert convert) {
  using Result = decltype(work());
  struct Task {
    Napi::Promise::Deferred deferred;
    std::shared_ptr<Worker> worker;
    Work work;
    Convert convert;
    std::unique_ptr<Result> result;
    std::exception_ptr error;
  };
  Instance& instance = Instance::of(env);
  auto deferred = Napi::Promise::Deferred::New(env);
  auto task = std::make_shared<Task>(
      Task{deferred, worker, std::move(work), std::move(convert), nullptr, nullptr});
  auto* settle = new std::function<void(Napi::Env)>([task](Napi::Env env) {
    Instance& instance = Instance::of(env);
    try {
      if (task->error) {
        task->deferred.Reject(instance.make_error(env, task->error));
      } else {
        task->deferred.Resolve(task->convert(env, *task->result));
      }
    } catch (const Napi::Error& e) {
      task->deferred.Reject(e.Value());
    } catch (...) {
      task->deferred.Reject(instance.make_error(env, std::current_exception()));
    }
    instance.task_ended(env);
  });
  instance.task_started(env);
  // The worker's closure holds raw pointers only: `settle` owns the task, so that its
  // last reference dies on the JavaScript thread.
  worker->post([raw = task.get(), settle, &instance] {
    try {
      raw->result = std::make_unique<Result>(raw->work());
    } catch (...) {
      raw->error = std::current_exception();
    }
    instance.complete(settle);
  });
  return deferred.Promise();
}

/// Tells V8 of native bytes taken or given back. Never throws: destructors call it, also
/// in environments that are going away.
void adjust_external_memory(napi_env env, int64_t change) noexcept;
/// A promise of undefined that is settled already.
Napi::Value resolved(Napi::Env env);
/// For the end of dispose(): drops the handle's share of its worker, so that the thread
/// ends without waiting for garbage collection. Returns undefined.
Napi::Value release_worker(Napi::Env env, std::shared_ptr<Worker>& worker);

}  // namespace s2ft
