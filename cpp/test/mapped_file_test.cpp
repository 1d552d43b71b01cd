// Mapped files.
#include <sys/stat.h>
#include <unistd.h>

#include <random>

#include "test/io_fixture.h"

using namespace s2ft;
using namespace s2ft::test;

TEST(mapped_file_reads) {
  Folder dir;
  spill(dir / "a", "hello");
  MappedFile file(dir / "a");
  CHECK(file.size() == 5 && std::memcmp(file.data(), "hello", 5) == 0);
  MappedFile moved = std::move(file);
  CHECK(moved.size() == 5 && moved.data()[4] == 'o' && file.data() == nullptr);
  moved.check_size();
  spill(dir / "empty", "");
  MappedFile empty(dir / "empty");
  CHECK(empty.size() == 0);
  empty.advise_sequential(0, 10);
  empty.dont_need(0, 10);
}

TEST(mapped_file_refuses) {
  Folder dir;
  CHECK_THROWS_CODE(MappedFile(dir / "absent"), "IO");
  CHECK_THROWS_CODE(MappedFile(dir.path), "IO");
  CHECK_THROWS_CODE(MappedFile("/dev/null"), "IO");
  CHECK_THROWS_CODE(MappedFile(""), "IO");
  CHECK(::mkfifo((dir / "pipe").c_str(), 0600) == 0);
  CHECK_THROWS_CODE(MappedFile(dir / "pipe"), "IO");  // and does not hang
  try {
    MappedFile file(dir / "absent");
  } catch (const Error& e) {
    CHECK(std::strstr(e.what(), (dir / "absent").c_str()) != nullptr);
    CHECK(std::strstr(e.what(), std::strerror(ENOENT)) != nullptr);
  }
}

TEST(mapped_file_drops_pages_and_keeps_content) {
  auto shared_pages = [] {
    long total = 0, resident = 0, shared = -1;
    std::ifstream("/proc/self/statm") >> total >> resident >> shared;
    return shared;
  };
  Folder dir;
  std::string bytes(8 << 20, '\0');
  std::mt19937 random(1);
  for (char& c : bytes) c = char(random());
  spill(dir / "big", bytes);
  MappedFile file(dir / "big");
  file.advise_sequential(0, file.size());
  CHECK(std::memcmp(file.data(), bytes.data(), bytes.size()) == 0);
  long before = shared_pages();
  file.dont_need(100, file.size());  // reaches behind the end: clamped
  long after = shared_pages();
  if (before >= 0) CHECK((before - after) * ::sysconf(_SC_PAGESIZE) > (7 << 20));
  file.dont_need(file.size() + 1, 5);
  file.dont_need(3, 4);
  CHECK(std::memcmp(file.data(), bytes.data(), bytes.size()) == 0);
}

TEST(truncation_is_noticed) {
  Folder dir;
  std::string path = dir / "m.safetensors";
  spill(path, file_of(kOne, 8));
  auto file = SafetensorsFile::open(path);
  CHECK(content(*file, "x") == "dddddddd");
  CHECK(::truncate(path.c_str(), 66) == 0);
  CHECK_THROWS_CODE(file->data(*file->find("x")), "IO");
}
