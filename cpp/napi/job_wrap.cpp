#include "napi/job_wrap.h"

namespace s2ft {

namespace {

/// MPI starts and ends once a process, and may read what it was given until then.
std::shared_ptr<Job>& process_job() {
  static std::shared_ptr<Job> job;
  return job;
}

void leave(void* job) {
  static_cast<Job*>(job)->leaving = true;
}

}  // namespace

Napi::Function JobWrap::define(Napi::Env env) {
  return DefineClass(
      env, "NativeJob",
      {InstanceAccessor("bytesSent", &JobWrap::bytes_sent, nullptr),
       InstanceMethod("gather", &JobWrap::gather), InstanceMethod("sum", &JobWrap::sum),
       InstanceMethod("fail", &JobWrap::fail), InstanceMethod("done", &JobWrap::done),
       InstanceMethod("waitDone", &JobWrap::wait_done),
       InstanceMethod("finish", &JobWrap::finish),
       InstanceMethod("abort", &JobWrap::abort)});
}

Napi::Value JobWrap::start(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const std::string folder = info[0].ToString();
    const double timeout = info[1].ToNumber().DoubleValue();
    if (process_job())
      throw Error("BUSY", "[distributed] this process has a job already");
    auto worker = Instance::of(env).make_worker({});
    return run_async(
        env, worker, [folder, timeout] { return start_mpi(folder, timeout); },
        [worker](Napi::Env env, std::shared_ptr<Job>& job) mutable -> Napi::Value {
          process_job() = job;
          // Runs before the workers are waited for.
          napi_add_env_cleanup_hook(env, leave, job.get());
          Napi::Object o = Instance::of(env).job_class.New(
              {Napi::External<std::shared_ptr<Worker>>::New(env, &worker)});
          o.Set("rank", job->rank());
          o.Set("size", job->size());
          o.Set("library", job->library());
          o.Set("hostRank", job->host().rank);
          o.Set("hostSize", job->host().size);
          o.Set("cpus", job->host().cpus);
          o.Set("boundCpus", job->host().bound);
          o.Set("hostCpus", job->host().present);
          return o;
        });
  });
}

std::shared_ptr<Job> JobWrap::job_of(const Napi::Value& value) {
  if (!value.IsObject())
    throw Error("INVALID_ARGUMENT", "[trainer] job: expected what startJob gave");
  JobWrap* wrap = Napi::ObjectWrap<JobWrap>::Unwrap(value.As<Napi::Object>());
  return wrap->job_;
}

JobWrap::JobWrap(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<JobWrap>(info), job_(process_job()) {
  if (!job_ || info.Length() != 1 || !info[0].IsExternal())
    throw Napi::TypeError::New(info.Env(), "NativeJob is made by startJob");
  worker_ = *info[0].As<Napi::External<std::shared_ptr<Worker>>>().Data();
}

Napi::Value JobWrap::bytes_sent(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(job_->bytes_summed()));
}

template <class Work>
Napi::Value JobWrap::on_worker(const Napi::CallbackInfo& info, Work work) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return run_async(
        info.Env(), worker_,
        [job = job_, work] {
          work(*job);
          return true;
        },
        [](Napi::Env env, bool) -> Napi::Value { return env.Undefined(); });
  });
}

Napi::Value JobWrap::gather(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::string mine = info[0].ToString();
    return run_async(
        info.Env(), worker_, [job = job_, mine] { return job->all_gather(mine); },
        [](Napi::Env env, std::vector<std::string>& all) -> Napi::Value {
          auto out = Napi::Array::New(env, all.size());
          for (size_t i = 0; i < all.size(); ++i) out.Set(uint32_t(i), all[i]);
          return out;
        });
  });
}

Napi::Value JobWrap::sum(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto given = info[0].As<Napi::Array>();
    std::vector<double> values;
    for (uint32_t i = 0; i < given.Length(); ++i)
      values.push_back(given.Get(i).ToNumber().DoubleValue());
    return run_async(
        info.Env(), worker_,
        [job = job_, values]() mutable {
          job->sum(nullptr, 0, values.data(), values.size());
          return values;
        },
        [](Napi::Env env, std::vector<double>& sums) -> Napi::Value {
          auto out = Napi::Array::New(env, sums.size());
          for (size_t i = 0; i < sums.size(); ++i) out.Set(uint32_t(i), sums[i]);
          return out;
        });
  });
}

Napi::Value JobWrap::fail(const Napi::CallbackInfo& info) {
  const std::string message = info[0].ToString();
  return on_worker(info, [message](Job& job) { job.fail(message); });
}

Napi::Value JobWrap::done(const Napi::CallbackInfo& info) {
  return on_worker(info, [](Job& job) { job.done(); });
}

Napi::Value JobWrap::wait_done(const Napi::CallbackInfo& info) {
  const int rank = info[0].ToNumber().Int32Value();
  return on_worker(info, [rank](Job& job) { job.wait_done(rank); });
}

Napi::Value JobWrap::finish(const Napi::CallbackInfo& info) {
  return on_worker(info, [](Job& job) { job.finish(); });
}

Napi::Value JobWrap::abort(const Napi::CallbackInfo& info) {
  job_->abort(info[0].ToNumber().Int32Value());
  return info.Env().Undefined();
}

}  // namespace s2ft
