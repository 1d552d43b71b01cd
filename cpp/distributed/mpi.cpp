// MpiJob: exchanges over nonblocking messages, looked after by polling, so that a rank
// that never answers is noticed. Owns the library's handle and messages that were given
// up, until the process ends.
#include "distributed/mpi.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>

#include "distributed/mpi/shim.h"

namespace s2ft {

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Messages are cut to this: progress shows, and no length overflows MPI's int.
constexpr size_t kPiece = size_t(1) << 22;
constexpr int kData = 0, kNotice = 1;
constexpr size_t kLongestNotice = 2048;
constexpr char kFailed = 'f', kDone = 'd';

struct Library {
  explicit Library(const std::string& path);
  decltype(&s2ft_mpi_version) version;
  decltype(&s2ft_mpi_start) start;
  decltype(&s2ft_mpi_send) send;
  decltype(&s2ft_mpi_receive) receive;
  decltype(&s2ft_mpi_test) test;
  decltype(&s2ft_mpi_forget) forget;
  decltype(&s2ft_mpi_probe) probe;
  decltype(&s2ft_mpi_abort) abort;
  decltype(&s2ft_mpi_finish) finish;
};

Library::Library(const std::string& path) {
  // MPI's own plug-ins look for its symbols among the global ones.
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (!handle)
    throw Error("UNSUPPORTED",
                "[distributed] MPI could not be opened: " + std::string(dlerror()) +
                    ". Install OpenMPI (Debian: apt-get install openmpi-bin); for "
                    "another MPI build the package from its repository where mpi.h is "
                    "found (Debian: libopenmpi-dev), or train with --distributed off");
  auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(handle, name));
    if (!function)
      throw Error("UNSUPPORTED", "[distributed] " + path + " has no " + name);
  };
  find(version, "s2ft_mpi_version");
  find(start, "s2ft_mpi_start");
  find(send, "s2ft_mpi_send");
  find(receive, "s2ft_mpi_receive");
  find(test, "s2ft_mpi_test");
  find(forget, "s2ft_mpi_forget");
  find(probe, "s2ft_mpi_probe");
  find(abort, "s2ft_mpi_abort");
  find(finish, "s2ft_mpi_finish");
  if (version() != S2FT_MPI_VERSION)
    throw Error("UNSUPPORTED", "[distributed] " + path +
                                   " is of another version of the "
                                   "package: npm run build");
}

class MpiJob : public Job {
 public:
  MpiJob(const std::string& path, double timeout) : mpi_(path), timeout_(timeout) {
    char text[1024] = "";
    if (mpi_.start(&rank_, &size_, text, sizeof text) != 0)
      throw Error("UNSUPPORTED",
                  "[distributed] MPI could not start: " + std::string(text));
    library_ = std::string(text, std::find(text, text + sizeof text, '\n'));
    library_ = library_.substr(0, library_.find(','));
    places_.resize(size_t(size_));
    const Place mine = this_place();
    all_gather(places_.data(), &mine, sizeof mine);
    host_ = claim_host_share(places_, rank_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string library() const override { return library_; }
  const HostShare& host() const override { return host_; }

  void exchange(const std::vector<Blocks>& send,
                const std::vector<Blocks>& receive) override {
    std::lock_guard<std::mutex> lock(mutex_);
    require_whole();
    std::vector<Transfer> pending;
    auto post = [&](int peer, const Blocks& blocks, bool sends) {
      for (const Block& block : blocks)
        for (size_t at = 0; at < block.bytes; at += kPiece)
          pending.push_back({peer, sends,
                             begin(peer, kData, static_cast<char*>(block.data) + at,
                                   std::min(kPiece, block.bytes - at), sends)});
    };
    try {
      // From the next rank on, so that not all send to the same one first.
      for (int i = 1; i < size_; ++i) {
        const int to = (rank_ + i) % size_, from = (rank_ + size_ - i) % size_;
        post(from, receive[size_t(from)], false);
        post(to, send[size_t(to)], true);
      }
      wait_for(pending);
      // A transfer out of the memory of a process that has died may end all the same.
      if (!ending_) require_all_here();
    } catch (...) {
      for (const Transfer& transfer : pending)
        if (transfer.request) mpi_.forget(transfer.request);
      throw;
    }
  }

  void check() override {
    std::lock_guard<std::mutex> lock(mutex_);
    hear();
    require_whole();
    if (leaving) lose({}, "the process is ending");
    require_all_here();
  }

  void fail(const std::string& message) noexcept override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!failure_.empty() || finished_) return;
    failure_ = "this rank has failed: " + message;
    lost_ = {rank_};
    notify(kFailed, message);
  }

  void done() noexcept override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!finished_) notify(kDone, "");
  }

  void wait_done(int rank) noexcept override {
    std::lock_guard<std::mutex> lock(mutex_);
    const Clock::time_point begin = Clock::now();
    while (!done_ && !finished_ && since(begin) < timeout_ && !leaving) {
      try {
        hear();
      } catch (const Error&) {
        return;
      }
      if (gone(rank) || std::find(heard_.begin(), heard_.end(), rank) != heard_.end())
        return;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  void abort(int status) noexcept override {
    leaving = true;
    std::lock_guard<std::mutex> lock(mutex_);
    if (!finished_) mpi_.abort(status);
  }

  void finish() override {
    ending_ = true;
    barrier();
    std::lock_guard<std::mutex> lock(mutex_);
    finished_ = true;
    char text[1024] = "";
    if (mpi_.finish(text, sizeof text) != 0)
      throw Error("INTERNAL", "[distributed] MPI_Finalize: " + std::string(text));
  }

 private:
  struct Transfer {
    int peer;
    bool sends;
    void* request;
  };

  [[noreturn]] void lose(std::vector<int> ranks, const std::string& message) {
    failure_ = message;
    lost_ = std::move(ranks);
    throw RankFailed(failure_, lost_);
  }

  void require_whole() const {
    if (finished_) throw Error("DISPOSED", "[distributed] the job has ended");
    if (!failure_.empty()) throw RankFailed(failure_, lost_);
  }

  void require_all_here() {
    for (int r = 0; r < size_; ++r)
      if (r != rank_ && gone(r)) lose({r}, name(r) + " is gone");
  }

  void* begin(int peer, int tag, void* data, size_t bytes, bool sends) {
    char text[512] = "";
    void* request = nullptr;
    const int error =
        sends ? mpi_.send(peer, tag, data, bytes, &request, text, sizeof text)
              : mpi_.receive(peer, tag, data, bytes, &request, text, sizeof text);
    if (error) lose({peer}, broken(peer, text));
    return request;
  }

  /// Frees the request once it has ended.
  bool ended(Transfer& transfer) {
    char text[512] = "";
    int done = 0;
    if (mpi_.test(transfer.request, &done, text, sizeof text) != 0) {
      transfer.request = nullptr;
      lose({transfer.peer}, broken(transfer.peer, text));
    }
    if (done) transfer.request = nullptr;
    return done != 0;
  }

  std::string broken(int peer, const char* text) const {
    return "the connection of rank " + std::to_string(rank_) + " to " + name(peer) +
           " broke: " + text;
  }

  std::string name(int rank) const {
    std::string out = "rank " + std::to_string(rank);
    if (size_t(rank) >= places_.size() || places_[size_t(rank)].pid == 0) return out;
    const Place& place = places_[size_t(rank)];
    const std::string host(place.host, std::strcspn(place.host, " "));
    return out + " (process " + std::to_string(place.pid) + " on " + host + ")";
  }

  void wait_for(std::vector<Transfer>& pending) {
    constexpr double kSpin = 2e-3, kLook = 0.05;  // seconds
    Clock::time_point moved = Clock::now(), looked = moved;
    while (!pending.empty()) {
      const size_t before = pending.size();
      pending.erase(std::remove_if(pending.begin(), pending.end(),
                                   [&](Transfer& t) { return ended(t); }),
                    pending.end());
      if (pending.size() < before) moved = Clock::now();
      if (since(moved) < kSpin) {
        std::this_thread::yield();
        continue;
      }
      // Ranks compute while one waits: sleeping leaves them the CPU.
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      if (since(looked) < kLook) continue;
      looked = Clock::now();
      look_around(pending, since(moved));
    }
  }

  void look_around(const std::vector<Transfer>& pending, double waited) {
    hear();
    require_whole();
    if (leaving) lose({}, "the process is ending");
    std::vector<int> missing;
    for (bool sends : {false, true}) {
      for (const Transfer& t : pending)
        if (t.sends == sends &&
            std::find(missing.begin(), missing.end(), t.peer) == missing.end())
          missing.push_back(t.peer);
      if (!missing.empty()) break;
    }
    for (int peer : missing)
      if (gone(peer)) lose({peer}, name(peer) + " is gone");
    if (waited < timeout_) return;
    std::string who;
    for (int peer : missing) who += (who.empty() ? "" : ", ") + name(peer);
    lose(missing, "waited " + std::to_string(int64_t(waited)) + " s for " + who);
  }

  bool gone(int rank) const {
    const Place &here = places_[size_t(rank_)], &there = places_[size_t(rank)];
    return there.pid != 0 && std::strcmp(here.host, there.host) == 0 && has_gone(there);
  }

  void notify(char kind, const std::string& message) {
    std::vector<Transfer> pending;
    try {
      for (int r = 0; r < size_; ++r) {
        if (r == rank_) continue;
        notices_.push_back(kind + message.substr(0, kLongestNotice - 1));
        std::string& kept = notices_.back();
        pending.push_back({r, true, begin(r, kNotice, kept.data(), kept.size(), true)});
      }
      const Clock::time_point begun = Clock::now();
      constexpr double kPatience = 2;
      while (!pending.empty() && since(begun) < kPatience) {
        pending.erase(std::remove_if(pending.begin(), pending.end(),
                                     [&](Transfer& t) { return ended(t); }),
                      pending.end());
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    } catch (const std::exception&) {
      // Who cannot be told notices by itself.
    }
  }

  /// Takes in what others have announced.
  void hear() {
    for (;;) {
      char text[512] = "";
      int found = 0, peer = -1;
      size_t bytes = 0;
      if (mpi_.probe(kNotice, &found, &peer, &bytes, text, sizeof text) != 0 || !found)
        return;
      std::string notice(std::max<size_t>(bytes, 1), ' ');
      Transfer transfer{peer, false, begin(peer, kNotice, notice.data(), bytes, false)};
      while (!ended(transfer)) std::this_thread::yield();
      if (notice[0] == kDone) done_ = true;
      if (notice[0] == kFailed) heard_.push_back(peer);
      if (notice[0] != kFailed || !failure_.empty()) continue;
      failure_ = name(peer) + " failed: " + notice.substr(1);
      lost_ = {peer};
    }
  }

  Library mpi_;
  double timeout_;
  int rank_ = 0, size_ = 1;
  std::string library_;
  std::vector<Place> places_;
  HostShare host_;
  std::mutex mutex_;
  std::string failure_;
  std::vector<int> lost_, heard_;  // heard_: of whose own failure
  bool done_ = false, ending_ = false, finished_ = false;
  std::deque<std::string> notices_;
};

}  // namespace

std::shared_ptr<Job> start_mpi(const std::string& folder, double timeout) {
  return std::make_shared<MpiJob>(folder + "/libs2ft_mpi.so", timeout);
}

}  // namespace s2ft
