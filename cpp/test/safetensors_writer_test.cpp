// The safetensors writer: round trips, bad input, interrupted writes.
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <random>

#include "test/io_fixture.h"

using namespace s2ft;
using namespace s2ft::test;

TEST(round_trip) {
  Folder dir;
  std::string path = dir / "out.safetensors";
  std::mt19937 random(7);
  std::string big(3 << 20, '\0');
  for (char& c : big) c = char(random());
  const std::string odd("q\"\\\n\x01/\xc3\xa9\xf0\x9f\x98\x80\0z", 15);
  std::vector<TensorSource> tensors{
      bytes_of("w", "BF16", {1 << 10, 1536}, big, 1000003),
      bytes_of("small pieces", "F32", {3, 1}, "abcdefghijkl", 1),
      {"none", "F32", {0, 4}, nullptr},
      bytes_of(odd, "U8", {}, "!"),
      bytes_of("", "I64", {1}, "12345678"),
  };
  std::map<std::string, std::string> metadata{{"format", "pt"}, {odd, odd}, {"", ""}};
  write_safetensors(path, tensors, metadata);
  CHECK(dir.count() == 1);
  auto file = SafetensorsFile::open(path);
  CHECK(file->metadata() == metadata);
  CHECK(file->tensors().size() == tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& t = file->tensors()[i];
    CHECK(t.name == tensors[i].name && t.dtype == tensors[i].dtype &&
          t.shape == tensors[i].shape);
  }
  CHECK(content(*file, "w") == big);
  CHECK(content(*file, "small pieces") == "abcdefghijkl");
  CHECK(content(*file, odd) == "!" && content(*file, "") == "12345678");
  file->dont_need(*file->find("w"));
  CHECK(content(*file, "w") == big);

  // The same input makes the same bytes; a mapping of the old file outlives its
  // replacement.
  std::string first = slurp(path);
  write_safetensors(path, tensors, metadata);
  CHECK(slurp(path) == first);
  write_safetensors(path, {});
  CHECK(slurp(path) == with_length(8, "{}      "));
  CHECK(content(*file, "w") == big);
}

TEST(writer_bytes_are_as_documented) {
  Folder dir;
  write_safetensors(dir / "m",
                    {bytes_of("b", "U8", {3}, "xyz"), bytes_of("a", "U8", {}, "w")},
                    {{"z", "1"}, {"k", "\t"}});
  std::string json =
      R"({"__metadata__":{"k":"\t","z":"1"},"b":{"dtype":"U8","shape":[3],)"
      R"("data_offsets":[0,3]},"a":{"dtype":"U8","shape":[],"data_offsets":[3,4]}})";
  while (json.size() % 8) json += ' ';
  CHECK(slurp(dir / "m") == with_length(json.size(), json + "xyzw"));
}

TEST(writer_refuses_bad_input_and_leaves_the_target) {
  Folder dir;
  std::string path = dir / "m.safetensors";
  spill(path, "old");
  auto good = bytes_of("x", "U8", {4}, "abcd");
  auto refused = [&](std::vector<TensorSource> tensors, const char* code,
                     std::map<std::string, std::string> metadata = {}) {
    CHECK_THROWS_CODE(write_safetensors(path, tensors, metadata), code);
    CHECK(slurp(path) == "old" && dir.count() == 1);
  };
  refused({good, good}, "INVALID_ARGUMENT");
  refused({bytes_of("__metadata__", "U8", {4}, "abcd")}, "INVALID_ARGUMENT");
  refused({bytes_of("\xff", "U8", {4}, "abcd")}, "INVALID_ARGUMENT");
  refused({bytes_of("x", "F5", {4}, "abcd")}, "INVALID_ARGUMENT");
  refused({bytes_of("x", "U8", {-4}, "abcd")}, "INVALID_ARGUMENT");
  refused({bytes_of("x", "U8", {INT64_MAX, INT64_MAX}, "abcd")}, "INVALID_ARGUMENT");
  refused({bytes_of("x", "U8", {INT64_MAX}, ""), good}, "INVALID_ARGUMENT");
  refused({bytes_of("x", "U8", std::vector<int64_t>(65, 1), "a")}, "INVALID_ARGUMENT");
  refused({bytes_of("x", "U8", {3}, "abcd")}, "INVALID_ARGUMENT");
  refused({bytes_of("x", "U8", {5}, "abcd")}, "INVALID_ARGUMENT");
  refused({{"x", "U8", {1}, nullptr}}, "INVALID_ARGUMENT");
  refused({good}, "INVALID_ARGUMENT", {{"k", "\xc3"}});
  refused({good}, "INVALID_ARGUMENT", {{"k", std::string(100000000, 'v')}});
  refused(
      {good, {"y", "U8", {1}, [](const ByteSink&) { throw Error("CANCELLED", "stop"); }}},
      "CANCELLED");
  // A source that swallows the sink's error must not get its file into place.
  refused({{"x",
            "U8",
            {1},
            [](const ByteSink& sink) {
              sink("a", 1);
              try {
                sink("b", 1);
              } catch (const Error&) {
              }
            }}},
          "INVALID_ARGUMENT");
  bool other = false;
  try {
    write_safetensors(path, {{"y", "U8", {1}, [](const ByteSink&) { throw 7; }}});
  } catch (int seven) {
    other = seven == 7;
  }
  CHECK(other && slurp(path) == "old" && dir.count() == 1);
  CHECK_THROWS_CODE(write_safetensors(dir / "no/m", {good}), "IO");
  CHECK_THROWS_CODE(write_safetensors(dir.path, {good}), "IO");
  CHECK_THROWS_CODE(write_safetensors("", {good}), "INVALID_ARGUMENT");
  CHECK(dir.count() == 1);
}

TEST(writer_survives_a_full_disk) {
  Folder dir;
  std::string path = dir / "m.safetensors";
  spill(path, "old");
  // A file size limit fails write() as a full disk does, after part of the bytes.
  struct rlimit before;
  CHECK(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  auto handler = ::signal(SIGXFSZ, SIG_IGN);
  struct rlimit tight {
    1 << 20, before.rlim_max
  };
  CHECK(::setrlimit(RLIMIT_FSIZE, &tight) == 0);
  std::string bytes(3 << 20, 'x');
  CHECK_THROWS_CODE(
      write_safetensors(path, {bytes_of("x", "U8", {3 << 20}, bytes, 1 << 20)}), "IO");
  CHECK_THROWS_CODE(write_safetensors(path, {bytes_of("x", "U8", {3 << 20}, bytes, 999)}),
                    "IO");
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, handler);
  CHECK(slurp(path) == "old" && dir.count() == 1);
}

TEST(writers_of_one_path_do_not_mix) {
  Folder dir;
  std::string path = dir / "m";
  // A rest of a dead process with our id is neither used nor removed.
  std::string rest = path + ".tmp-" + std::to_string(::getpid());
  spill(rest, "rest");
  auto nested = [&](const ByteSink& sink) {
    write_safetensors(path, {bytes_of("inner", "U8", {1}, "i")});
    sink("o", 1);
  };
  write_safetensors(path, {{"outer", "U8", {1}, nested}});
  CHECK(content(*SafetensorsFile::open(path), "outer") == "o");
  CHECK(slurp(rest) == "rest" && dir.count() == 2);
}
