// Collective operations over Communicator::exchange.
#include "distributed/communicator.h"

#include <algorithm>
#include <cstring>

namespace s2ft {

namespace {

/// Values of a sum that travel at a time (8 MiB): bounds the scratch.
constexpr size_t kPart = size_t(1) << 21;

}  // namespace

void Communicator::all_gather(void* all, const void* mine, size_t bytes) {
  char* to = static_cast<char*>(all);
  std::memcpy(to + size_t(rank()) * bytes, mine, bytes);
  std::vector<Blocks> send(size()), receive(size());
  for (int r = 0; r < size(); ++r) {
    send[r] = {{to + size_t(rank()) * bytes, bytes}};
    receive[r] = {{to + size_t(r) * bytes, bytes}};
  }
  exchange(send, receive);
}

std::vector<std::string> Communicator::all_gather(const std::string& mine) {
  std::vector<uint64_t> lengths(size());
  const uint64_t length = mine.size();
  all_gather(lengths.data(), &length, sizeof length);
  std::vector<std::string> all(size());
  all[rank()] = mine;
  std::vector<Blocks> send(size()), receive(size());
  for (int r = 0; r < size(); ++r) {
    if (r != rank()) all[r].resize(lengths[r]);
    send[r] = {{all[rank()].data(), mine.size()}};
    receive[r] = {{all[r].data(), all[r].size()}};
  }
  exchange(send, receive);
  return all;
}

void Communicator::broadcast(void* data, size_t bytes, int root) {
  std::vector<Blocks> send(size()), receive(size());
  if (rank() != root) {
    receive[root] = {{data, bytes}};
  } else {
    for (Blocks& blocks : send) blocks = {{data, bytes}};
  }
  exchange(send, receive);
}

void Communicator::barrier() {
  std::vector<char> all(size());
  const char mine = 0;
  all_gather(all.data(), &mine, 1);
}

float* Communicator::buffer(size_t count) {
  if (buffer_.size() < count) buffer_.resize(count);
  return buffer_.data();
}

void Communicator::sum(float* values, size_t count, double* totals, size_t total_count) {
  size_t done = 0;
  do {
    const size_t n = std::min(kPart, count - done);
    sum_part(values + done, n, totals, done == 0 ? total_count : 0);
    done += n;
  } while (done < count);
}

void Communicator::sum_part(float* values, size_t count, double* totals,
                            size_t total_count) {
  const size_t ranks = size_t(size()), me = size_t(rank());
  const size_t each = (count + ranks - 1) / ranks;
  auto part = [&](size_t r) {
    const size_t begin = std::min(count, r * each);
    return Block{values + begin, (std::min(count, begin + each) - begin) * sizeof(float)};
  };
  const Block own = part(me);
  const size_t mine = own.bytes / sizeof(float);
  scratch_.resize(std::max(scratch_.size(), ranks * mine));
  std::vector<double> all_totals(ranks * total_count);
  std::copy(totals, totals + total_count, all_totals.begin() + me * total_count);
  std::vector<Blocks> send(ranks), receive(ranks);
  const size_t total_bytes = total_count * sizeof(double);
  for (size_t r = 0; r < ranks; ++r) {
    send[r] = {part(r), {all_totals.data() + me * total_count, total_bytes}};
    receive[r] = {{scratch_.data() + r * mine, own.bytes},
                  {all_totals.data() + r * total_count, total_bytes}};
    if (r != me) bytes_summed_ += part(r).bytes + own.bytes;
  }
  exchange(send, receive);

  float* result = static_cast<float*>(own.data);
  float* first = scratch_.data();
  std::copy(result, result + mine, first + me * mine);
  std::copy(first, first + mine, result);
  for (size_t r = 1; r < ranks; ++r) {
    const float* from = scratch_.data() + r * mine;
    for (size_t i = 0; i < mine; ++i) result[i] += from[i];
  }
  std::fill(totals, totals + total_count, 0.0);
  for (size_t r = 0; r < ranks; ++r)
    for (size_t i = 0; i < total_count; ++i) totals[i] += all_totals[r * total_count + i];

  for (size_t r = 0; r < ranks; ++r) {
    send[r] = {own};
    receive[r] = {part(r)};
  }
  exchange(send, receive);
}

}  // namespace s2ft
