#include "napi/async.h"

#include <new>

#include "tune/tuner.h"

namespace s2ft {

namespace {

void settle_on_main(napi_env env, napi_value, void*, void* data) {
  std::unique_ptr<std::function<void(Napi::Env)>> settle(
      static_cast<std::function<void(Napi::Env)>*>(data));
  if (!env) return;  // the environment is going away
  try {
    Napi::HandleScope scope(env);
    (*settle)(Napi::Env(env));
  } catch (...) {
    // A terminating worker thread refuses every call that would run JavaScript; nobody
    // is left to see the promise.
  }
}

}  // namespace

Instance::Instance(Napi::Env env) {
  const napi_value name = Napi::String::New(env, "s2ft");
  napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr,
                                  nullptr, settle_on_main, &settle_);
  // Only work in flight keeps the process alive (task_started refs it).
  napi_unref_threadsafe_function(env, settle_);
  // Registered after the function above, so it runs first at exit.
  napi_add_env_cleanup_hook(env, cleanup, this);
}

Instance::~Instance() {
  cleanup(this);
}

void Instance::cleanup(void* data) {
  Instance& self = *static_cast<Instance*>(data);
  for (const auto& worker : self.workers_) worker->stopping = true;
  for (const auto& worker : self.workers_) worker->stop();
}

std::shared_ptr<Worker> Instance::make_worker(std::function<void()> enter) {
  auto worker = std::make_shared<Worker>(std::move(enter));
  workers_.insert(worker);
  return worker;
}

std::shared_ptr<Worker> Instance::io_worker() {
  if (!io_worker_) io_worker_ = make_worker({});
  return io_worker_;
}

void Instance::collect_workers() {
  for (auto it = workers_.begin(); it != workers_.end();)
    it = it->use_count() == 1 ? workers_.erase(it) : std::next(it);
}

Napi::Value Instance::make_error(Napi::Env env, std::exception_ptr error) {
  const char* code = "INTERNAL";
  std::string message;
  Napi::Value details = env.Undefined();
  try {
    std::rethrow_exception(error);
  } catch (const NotFinite& e) {
    code = e.code();
    message = e.what();
    Napi::Object object = Napi::Object::New(env);
    object["microBatch"] = Napi::Number::New(env, e.micro_batch);
    object["sample"] = Napi::Number::New(env, e.sample);
    details = object;
  } catch (const RankFailed& e) {
    code = e.code();
    message = e.what();
    Napi::Object object = Napi::Object::New(env);
    auto ranks = Napi::Array::New(env, e.ranks.size());
    for (size_t i = 0; i < e.ranks.size(); ++i) ranks.Set(uint32_t(i), e.ranks[i]);
    object["ranks"] = ranks;
    details = object;
  } catch (const Error& e) {
    code = e.code();
    message = e.what();
  } catch (const std::bad_alloc&) {
    code = "OUT_OF_MEMORY";
    message = "the native side ran out of memory";
  } catch (const std::exception& e) {
    message = e.what();
  } catch (...) {
    message = "an unknown native error";
  }
  if (make_error_.IsEmpty()) return Napi::Error::New(env, message).Value();
  return make_error_.Call(
      {Napi::String::New(env, code), Napi::String::New(env, message), details});
}

void Instance::complete(std::function<void(Napi::Env)>* settle) {
  if (napi_call_threadsafe_function(settle_, settle, napi_tsfn_nonblocking) != napi_ok)
    delete settle;  // closing: the promise will never be looked at again
}

void Instance::task_started(Napi::Env env) {
  if (pending_++ == 0) napi_ref_threadsafe_function(env, settle_);
}

void Instance::task_ended(Napi::Env env) {
  if (--pending_ == 0) napi_unref_threadsafe_function(env, settle_);
}

void adjust_external_memory(napi_env env, int64_t change) noexcept {
  int64_t total;
  napi_adjust_external_memory(env, change, &total);
}

Napi::Value resolved(Napi::Env env) {
  auto deferred = Napi::Promise::Deferred::New(env);
  deferred.Resolve(env.Undefined());
  return deferred.Promise();
}

Napi::Value release_worker(Napi::Env env, std::shared_ptr<Worker>& worker) {
  worker.reset();
  Instance::of(env).collect_workers();
  return env.Undefined();
}

}  // namespace s2ft
