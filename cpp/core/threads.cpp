// CPU counting (affinity mask, cgroup v1 and v2 quotas) and worker thread pinning.
#include "core/threads.h"

#include <omp.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#include <unistd.h>
#endif

namespace s2ft {
namespace {

#ifdef __linux__
// The main thread's mask: a pinned worker's own mask would say one CPU.
std::vector<int> process_cpus() {
  std::vector<int> cpus;
  for (int limit = 1024; limit <= 1 << 18 && cpus.empty(); limit *= 4) {
    cpu_set_t* set = CPU_ALLOC(limit);
    if (!set) break;
    const size_t bytes = CPU_ALLOC_SIZE(limit);
    CPU_ZERO_S(bytes, set);
    if (sched_getaffinity(getpid(), bytes, set) == 0) {
      for (int i = 0; i < limit; ++i) {
        if (CPU_ISSET_S(size_t(i), bytes, set)) cpus.push_back(i);
      }
    }
    CPU_FREE(set);
  }
  return cpus;
}

void pin_this_thread(int cpu) {
  cpu_set_t* set = CPU_ALLOC(cpu + 1);
  if (!set) return;
  const size_t bytes = CPU_ALLOC_SIZE(cpu + 1);
  CPU_ZERO_S(bytes, set);
  CPU_SET_S(size_t(cpu), bytes, set);
  // A refusal (a sandbox, a CPU taken offline) costs speed only.
  (void)sched_setaffinity(0, bytes, set);
  CPU_FREE(set);
}

double read_v2(const std::string& folder) {
  std::ifstream in(folder + "/cpu.max");
  std::string quota;
  double period = 0;
  if (!(in >> quota >> period) || quota == "max" || period <= 0) return 0;
  return std::atof(quota.c_str()) / period;
}

double read_v1(const std::string& folder) {
  std::ifstream quota_in(folder + "/cpu.cfs_quota_us"),
      period_in(folder + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (!(quota_in >> quota) || !(period_in >> period) || quota <= 0 || period <= 0) {
    return 0;
  }
  return quota / period;
}

// The smallest quota of `path` and its parents below `root`; 0 when there is none. Inside
// a container the path may not exist there, but the root is then the container's own.
template <class Read>
double smallest_quota(const std::string& root, std::string path, Read read) {
  double best = 0;
  for (;;) {
    const double quota = read(root + (path == "/" ? "" : path));
    if (quota > 0 && (best == 0 || quota < best)) best = quota;
    const size_t slash = path.rfind('/');
    if (path.empty() || path == "/" || slash == std::string::npos) break;
    path.resize(slash);
  }
  return best;
}

double cgroup_cpus() {
  std::ifstream in("/proc/self/cgroup");
  double best = 0;
  for (std::string line; std::getline(in, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    double quota = 0;
    if (controllers.empty()) {
      quota = smallest_quota("/sys/fs/cgroup", path, read_v2);
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      quota = smallest_quota("/sys/fs/cgroup/" + controllers, path, read_v1);
      if (quota == 0) quota = smallest_quota("/sys/fs/cgroup/cpu", path, read_v1);
    }
    if (quota > 0 && (best == 0 || quota < best)) best = quota;
  }
  return best;
}
#endif

}  // namespace

int available_cpus() {
#ifdef __linux__
  int cpus = int(process_cpus().size());
  if (cpus == 0) cpus = int(std::thread::hardware_concurrency());
  const double quota = cgroup_cpus();
  if (quota > 0 && quota < cpus) cpus = int(quota) + (quota > int(quota));
#else
  const int cpus = int(std::thread::hardware_concurrency());
#endif
  return std::max(cpus, 1);
}

void enter_worker_thread(int threads) {
  threads = std::max(threads, 1);
  omp_set_num_threads(threads);
#ifdef __linux__
  const std::vector<int> cpus = process_cpus();
  // Under a quota below the mask the scheduler has spare CPUs to move threads to.
  if (threads != int(cpus.size()) || available_cpus() != threads) return;
#pragma omp parallel num_threads(threads)
  pin_this_thread(cpus[size_t(omp_get_thread_num())]);
#endif
}

}  // namespace s2ft
