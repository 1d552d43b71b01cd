// Streams, events and graphs. What is put on a stream runs only when something waits for
// it, so that code which forgets to wait, or changes its inputs too early, shows.
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/emulation/device.h"

namespace s2ft::cuda::emulation {

using Work = std::function<void()>;

}  // namespace s2ft::cuda::emulation

struct EmulatedGraph {
  std::vector<s2ft::cuda::emulation::Work> work;
};
struct EmulatedGraphExec {
  std::vector<s2ft::cuda::emulation::Work> work;
};
struct EmulatedStream {
  std::deque<s2ft::cuda::emulation::Work> queue;
  std::unique_ptr<EmulatedGraph> capture;
  bool invalidated = false;
};
struct EmulatedEvent {
  EmulatedStream* stream = nullptr;  // that it waits for
  size_t count = 0;                  // records that have not been reached
  bool captured = false;
};

namespace s2ft::cuda::emulation {

namespace {

// Held by every call: hosts may use several threads.
using Lock = std::lock_guard<std::recursive_mutex>;
std::recursive_mutex& mutex() {
  static auto* m = new std::recursive_mutex;
  return *m;
}

std::vector<EmulatedStream*>& streams() {
  static auto* all = new std::vector<EmulatedStream*>;
  return *all;
}

EmulatedStream& null_stream() {
  static auto* stream = [] {
    auto* s = new EmulatedStream;
    streams().push_back(s);
    return s;
  }();
  return *stream;
}

EmulatedStream& pick(cudaStream_t stream) {
  return stream ? *stream : null_stream();
}

// On the device's thread.
void run_queue(EmulatedStream& stream) {
  while (!stream.queue.empty()) {
    const Work work = std::move(stream.queue.front());
    stream.queue.pop_front();
    work();
  }
}

bool capturing() {
  return std::any_of(streams().begin(), streams().end(),
                     [](EmulatedStream* s) { return s->capture != nullptr; });
}

/// Waiting for the device while a stream is captured is an error that ends the capture.
cudaError_t refuse_in_capture() {
  for (EmulatedStream* s : streams()) s->invalidated |= s->capture != nullptr;
  return report(cudaErrorStreamCaptureUnsupported);
}

void drain(EmulatedStream& stream) {
  if (stream.queue.empty()) return;
  on_device([&stream] { run_queue(stream); });
}

Refused& refused() {
  static Refused what = Refused::nothing;
  return what;
}

bool eager() {
  static const bool given = std::getenv("S2FT_EMULATION_EAGER") != nullptr;
  return given;
}

}  // namespace

Calls& calls() {
  static Calls all;
  return all;
}

void refuse_graphs(Refused what) {
  Lock lock(mutex());
  refused() = what;
}

void drain_all() {
  Lock lock(mutex());
  for (EmulatedStream* s : streams()) drain(*s);
}

cudaError_t enqueue(cudaStream_t handle, Work work) {
  Lock lock(mutex());
  EmulatedStream& stream = pick(handle);
  if (stream.capture) {
    stream.capture->work.push_back(std::move(work));
    return cudaSuccess;
  }
  // The default stream waits for the others.
  if (!handle) drain_all();
  stream.queue.push_back(std::move(work));
  // A bound on what is held; devices have one too.
  if (!handle || eager() || stream.queue.size() > 4096) drain(stream);
  return cudaSuccess;
}

}  // namespace s2ft::cuda::emulation

using namespace s2ft::cuda::emulation;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
  Lock lock(mutex());
  *stream = new EmulatedStream;
  streams().push_back(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, 0);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(mutex());
  if (!stream) return report(cudaErrorInvalidValue);
  drain(*stream);
  auto& all = streams();
  all.erase(std::remove(all.begin(), all.end(), stream), all.end());
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock(mutex());
  if (capturing()) return refuse_in_capture();
  ++calls().waits;
  drain(pick(stream));
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return cudaStreamSynchronize(stream);
}
cudaError_t cudaDeviceSynchronize() {
  Lock lock(mutex());
  if (capturing()) return refuse_in_capture();
  ++calls().waits;
  drain_all();
  return cudaSuccess;
}

// -- events -------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  *event = new EmulatedEvent;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, 0);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Lock lock(mutex());
  if (event->count) drain(*event->stream);
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  Lock lock(mutex());
  EmulatedStream& stream = pick(handle);
  event->captured = stream.capture != nullptr;
  if (event->captured) return cudaSuccess;
  if (event->count) drain(*event->stream);
  event->stream = &stream;
  ++event->count;
  return enqueue(handle, [event] { --event->count; });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Lock lock(mutex());
  if (event->captured) return refuse_in_capture();
  if (event->count) drain(*event->stream);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return cudaEventSynchronize(event);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 0;  // nothing here has a device's speed
  return report(cudaErrorNotSupported);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
  Lock lock(mutex());
  // One stream is captured at a time; within it, order is given.
  if (pick(stream).capture) {
    return event->captured ? cudaSuccess : refuse_in_capture();
  }
  if (event->captured) return refuse_in_capture();
  if (!event->count || event->stream == &pick(stream)) return cudaSuccess;
  return enqueue(stream, [event] {
    if (event->count) run_queue(*event->stream);
  });
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return enqueue(stream, [function, data] { function(data); });
}

// -- graphs -------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  Lock lock(mutex());
  if (!stream || capturing() || refused() == Refused::capture)
    return report(cudaErrorStreamCaptureUnsupported);
  stream->capture = std::make_unique<EmulatedGraph>();
  stream->invalidated = false;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Lock lock(mutex());
  *graph = nullptr;
  if (!stream->capture) return report(cudaErrorInvalidValue);
  std::unique_ptr<EmulatedGraph> made = std::move(stream->capture);
  if (stream->invalidated) return report(cudaErrorStreamCaptureInvalidated);
  *graph = made.release();
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Lock lock(mutex());
  const EmulatedStream& s = pick(stream);
  *status = !s.capture      ? cudaStreamCaptureStatusNone
            : s.invalidated ? cudaStreamCaptureStatusInvalidated
                            : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long) {
  *exec = nullptr;
  if (refused() == Refused::instantiation) return report(cudaErrorMemoryAllocation);
  *exec = new EmulatedGraphExec{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (refused() == Refused::launch) return report(cudaErrorMemoryAllocation);
  ++calls().graphs;
  return enqueue(stream, [exec] {
    for (const Work& work : exec->work) work();
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  Lock lock(mutex());
  drain_all();
  delete exec;
  return cudaSuccess;
}
