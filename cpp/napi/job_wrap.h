// The handle of a job of several ranks. Its calls run on a worker of their own, in the
// order they were asked for.
#pragma once

#include "distributed/mpi.h"
#include "napi/async.h"

namespace s2ft {

class JobWrap : public Napi::ObjectWrap<JobWrap> {
 public:
  static Napi::Function define(Napi::Env env);
  /// start(folder, timeout): a promise of the process's job.
  static Napi::Value start(const Napi::CallbackInfo& info);
  /// The job behind a handle. Throws INVALID_ARGUMENT when it is none.
  static std::shared_ptr<Job> job_of(const Napi::Value& value);
  explicit JobWrap(const Napi::CallbackInfo& info);

 private:
  template <class Work>
  Napi::Value on_worker(const Napi::CallbackInfo& info, Work work);

  Napi::Value bytes_sent(const Napi::CallbackInfo& info);
  Napi::Value gather(const Napi::CallbackInfo& info);
  Napi::Value sum(const Napi::CallbackInfo& info);
  Napi::Value fail(const Napi::CallbackInfo& info);
  Napi::Value done(const Napi::CallbackInfo& info);
  Napi::Value wait_done(const Napi::CallbackInfo& info);
  Napi::Value finish(const Napi::CallbackInfo& info);
  Napi::Value abort(const Napi::CallbackInfo& info);

  std::shared_ptr<Job> job_;
  std::shared_ptr<Worker> worker_;
};

}  // namespace s2ft
