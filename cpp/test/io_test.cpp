// Mapped files and safetensors: round trips, hostile headers, interrupted writes.
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>

#include "io/json_text.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "test/check.h"

using namespace s2ft;
namespace fs = std::filesystem;

namespace {

/// A folder that vanishes with its scope.
struct Folder {
  std::string path;
  Folder() {
    path = (fs::temp_directory_path() / "s2ft-io-XXXXXX").string();
    if (!::mkdtemp(path.data())) throw std::runtime_error("mkdtemp failed");
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
  size_t count() const {
    return size_t(std::distance(fs::directory_iterator(path), fs::directory_iterator()));
  }
};

void spill(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), std::streamsize(bytes.size()));
}

std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string from_hex(const std::string& hex) {
  std::string out;
  for (size_t i = 0; i < hex.size(); i += 2) {
    out += char(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return out;
}

std::string with_length(uint64_t length, const std::string& rest) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += char(length >> (8 * i) & 255);
  return out + rest;
}

std::string file_of(const std::string& json, size_t data_bytes) {
  return with_length(json.size(), json + std::string(data_bytes, 'd'));
}

/// Parses from a heap copy of the exact size, so that a sanitizer sees any overread.
SafetensorsHeader parse(const std::string& file) {
  std::unique_ptr<char[]> copy(new char[file.size()]);
  std::memcpy(copy.get(), file.data(), file.size());
  return parse_safetensors_header(copy.get(), file.size(), "t.safetensors");
}

/// The message of a CORRUPT_FILE error, or a text that says why there is none.
std::string refusal(const std::string& file) {
  try {
    parse(file);
  } catch (const Error& e) {
    return std::string(e.code()) == "CORRUPT_FILE" ? e.what() : "another code";
  }
  return "accepted";
}

void expect_refusal(const std::string& file, const std::string& part, int line) {
  std::string got = refusal(file);
  bool good = got.rfind("[safetensors] t.safetensors: ", 0) == 0 &&
              got.find("expected") != std::string::npos &&
              got.find("found") != std::string::npos &&
              got.find(part) != std::string::npos;
  if (!good) {
    s2ft::test::fail(__FILE__, line,
                     "expected a refusal with: " + part + "; got: " + got);
  }
}
#define REFUSED(json, data, part) expect_refusal(file_of(json, data), part, __LINE__)

TensorSource bytes_of(const std::string& name, const std::string& dtype,
                      std::vector<int64_t> shape, std::string bytes, size_t piece = 7) {
  return {name, dtype, std::move(shape), [bytes, piece](const ByteSink& sink) {
            for (size_t i = 0; i < bytes.size(); i += piece) {
              sink(bytes.data() + i, std::min(piece, bytes.size() - i));
            }
          }};
}

std::string content(const SafetensorsFile& file, const std::string& name) {
  const TensorInfo* t = file.find(name);
  if (!t) return "(no such tensor)";
  return {static_cast<const char*>(file.data(*t)), t->bytes()};
}

/// What the reader promises, checked without the reader's own helpers.
bool tiles(const SafetensorsHeader& h, size_t file_size) {
  size_t next = 0;
  std::set<std::string> names;
  for (const TensorInfo& t : h.tensors) {
    unsigned __int128 bits = safetensors_dtype_bits(t.dtype);
    for (int64_t n : t.shape) bits *= (unsigned __int128)(n);
    if (bits == 0 && safetensors_dtype_bits(t.dtype) == 0) return false;
    if (t.begin != next || bits != (unsigned __int128)(t.end - t.begin) * 8) return false;
    if (!names.insert(t.name).second || !valid_utf8(t.name)) return false;
    next = t.end;
  }
  return h.data_start + next == file_size;
}

const char kOne[] = R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";

// Made by the reference library (Python safetensors 0.8.0) from tensors of seven dtypes.
const char kReference[] =
    "d0010000000000007b225f5f6d657461646174615f5f223a7b226e6f7465223a22715c225c5c2fc3"
    "bc5c7530303031222c22666f726d6174223a227074227d2c226c223a7b226474797065223a224936"
    "34222c227368617065223a5b315d2c22646174615f6f666673657473223a5b302c385d7d2c22656d"
    "707479223a7b226474797065223a22463332222c227368617065223a5b302c335d2c22646174615f"
    "6f666673657473223a5b382c385d7d2c2273223a7b226474797065223a22463332222c2273686170"
    "65223a5b5d2c22646174615f6f666673657473223a5b382c31325d7d2c22696478223a7b22647479"
    "7065223a22493332222c227368617065223a5b325d2c22646174615f6f666673657473223a5b3132"
    "2c32305d7d2c22612e776569676874223a7b226474797065223a2242463136222c22736861706522"
    "3a5b322c335d2c22646174615f6f666673657473223a5b32302c33325d7d2c2268223a7b22647479"
    "7065223a22463136222c227368617065223a5b315d2c22646174615f6f666673657473223a5b3332"
    "2c33345d7d2c226bc3a45c225c6ef09f9880223a7b226474797065223a225538222c227368617065"
    "223a5b335d2c22646174615f6f666673657473223a5b33342c33375d7d7d20200000000000010000"
    "0000c03f07000000ffffffff803f00c0003f4040804080be003c010203";

}  // namespace

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

TEST(reads_the_reference_library) {
  Folder dir;
  std::string path = dir / "py.safetensors";
  spill(path, from_hex(kReference));
  auto file = SafetensorsFile::open(path);
  CHECK(file->tensors().size() == 7);
  CHECK(file->metadata().size() == 2 && file->metadata().at("format") == "pt");
  CHECK(file->metadata().at("note") == "q\"\\/\xc3\xbc\x01");
  const TensorInfo* a = file->find("a.weight");
  CHECK(a && a->dtype == "BF16" && a->shape == std::vector<int64_t>{2, 3});
  const float expected[] = {1, -2, 0.5f, 3, 4, -0.25f};
  std::string bytes = content(*file, "a.weight");
  for (int i = 0; i < 6; ++i) {
    bf16 v;
    std::memcpy(&v, bytes.data() + 2 * i, 2);
    CHECK(to_float(v) == expected[i]);
  }
  CHECK(content(*file, "idx") == std::string("\7\0\0\0\xff\xff\xff\xff", 8));
  CHECK(file->find("s")->shape.empty() && file->find("s")->count() == 1);
  CHECK(file->find("empty")->bytes() == 0 && file->find("empty")->count() == 0);
  CHECK(content(*file, "k\xc3\xa4\"\n\xf0\x9f\x98\x80") == "\1\2\3");
  CHECK(content(*file, "l") == std::string("\0\0\0\0\0\1\0\0", 8));
  CHECK(file->find("nothing") == nullptr && file->find("") == nullptr);
  TensorInfo foreign{"x", "U8", {99}, 0, 99};
  CHECK_THROWS_CODE(file->data(foreign), "INVALID_ARGUMENT");
}

TEST(dtypes) {
  DType t;
  for (DType d : {DType::f32, DType::bf16, DType::f16, DType::i32}) {
    CHECK(parse_safetensors_dtype(safetensors_dtype(d), t) && t == d);
    CHECK(safetensors_dtype_bits(safetensors_dtype(d)) == 8 * dtype_size(d));
  }
  CHECK(!parse_safetensors_dtype("I64", t) && !parse_safetensors_dtype("f32", t));
  size_t bytes = 0;
  CHECK(safetensors_bytes("F4", {3, 2}, bytes).empty() && bytes == 3);
  CHECK(!safetensors_bytes("F4", {3}, bytes).empty());
  CHECK(safetensors_bytes("F6_E2M3", {4}, bytes).empty() && bytes == 3);
}

TEST(accepts_what_the_format_allows) {
  CHECK(parse(file_of("{}", 0)).tensors.empty());
  CHECK(parse(file_of("{ \t\r\n}    ", 0)).tensors.empty());
  CHECK(parse(file_of(R"({"__metadata__":{}})", 0)).metadata.empty());
  // Out of order in the header, empty tensors at the seams, space everywhere, any key
  // order.
  auto h = parse(file_of(
      R"({ "b" : { "shape" : [ 2 , 2 ] , "data_offsets" : [ 3 , 7 ] , "dtype" : "I8" } ,)"
      R"("z":{"dtype":"F64","shape":[0,1125899906842624],"data_offsets":[3,3]},)"
      R"("a":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]},)"
      R"("e":{"dtype":"U8","shape":[0],"data_offsets":[7,7]}} )",
      7));
  CHECK(h.tensors.size() == 4 && h.tensors[0].name == "a" && h.tensors[1].name == "z" &&
        h.tensors[2].name == "b" && h.tensors[3].name == "e");
  auto names = parse(file_of(
      R"({"__metadata__":{"\u00e9\ud83d\ude00\/\b\f\n\r\t\"\\\u0000":"\u20aC"}})", 0));
  std::string key("\xc3\xa9\xf0\x9f\x98\x80/\b\f\n\r\t\"\\\0", 15);
  CHECK(names.metadata.count(key) && names.metadata[key] == "\xe2\x82\xac");
}

TEST(refuses_a_bad_frame) {
  expect_refusal("", "0 bytes", __LINE__);
  expect_refusal("1234567", "7 bytes", __LINE__);
  expect_refusal(with_length(3, "{}"), "header of 3 bytes", __LINE__);
  expect_refusal(with_length(0, ""), "'{'", __LINE__);
  expect_refusal(with_length(100000001, "{}"), "at most 100000000", __LINE__);
  expect_refusal(with_length(~0ull, "{}"), "18446744073709551615", __LINE__);
  expect_refusal("version https://git-lfs.github.com/spec/v1", "Git LFS", __LINE__);
  expect_refusal("PK\x03\x04 and the rest of a zip", "PyTorch", __LINE__);
  REFUSED(" {}", 0, "first byte");
  REFUSED("{}x", 0, "found 'x'");
  REFUSED(std::string("{}\0", 3), 0, "byte 0x00");
  REFUSED("{", 0, "the end of the header");
  REFUSED("{}", 1, "found 0 in use");
  CHECK_THROWS_CODE(SafetensorsFile::open("/nowhere/m.safetensors"), "IO");
}

TEST(refuses_bad_json) {
  auto entry = [](const std::string& body) { return "{\"x\":{" + body + "}}"; };
  const std::string d = R"("dtype":"F32")", s = R"("shape":[2])",
                    o = R"("data_offsets":[0,8])";
  CHECK(refusal(file_of(entry(d + "," + s + "," + o), 8)) == "accepted");
  auto shape = [&](const std::string& v) {
    return entry(d + ",\"shape\":" + v + "," + o);
  };
  auto name = [&](const std::string& n) {
    return "{\"" + n + "\":{" + d + "," + s + "," + o + "}}";
  };
  REFUSED(entry(d + "," + s), 8, "tensor \"x\": expected data_offsets");
  REFUSED(entry(s + "," + o), 8, "expected dtype");
  REFUSED(entry(d + "," + o), 8, "expected shape");
  REFUSED(entry(d + "," + s + "," + o + "," + d), 8, "\"dtype\" again");
  REFUSED(entry(d + "," + s + "," + o + ",\"more\":1"), 8, "\"more\"");
  REFUSED(entry(d + "," + s + "," + o + ","), 8, "a string");
  REFUSED(entry(d + " " + s), 8, "'}' or ','");
  REFUSED(shape("[-1]"), 8, "found '-'");
  REFUSED(shape("[2.0]"), 8, "fraction or exponent");
  REFUSED(shape("[2e0]"), 8, "fraction or exponent");
  REFUSED(shape("[02]"), 8, "leading zero");
  REFUSED(shape("[0x2]"), 8, "found 'x'");
  REFUSED(shape("[9223372036854775808]"), 8, "larger number");
  REFUSED(shape("[99999999999999999999999999]"), 8, "larger number");
  REFUSED(shape("[\"2\"]"), 8, "integer");
  REFUSED(shape("[[2]]"), 8, "found '['");
  REFUSED(shape("[2,]"), 8, "integer");
  REFUSED(shape("[2"), 8, "integer");
  REFUSED(shape("2"), 8, "'['");
  REFUSED(shape("null"), 8, "'['");
  REFUSED(shape(std::string(100000, '[')), 8, "found '['");
  std::string many = "[1";
  for (int i = 0; i < 64; ++i) many += ",1";
  REFUSED(shape(many + "]"), 8, "at most 64 dimensions");
  REFUSED(entry(d + "," + s + ",\"data_offsets\":[0]"), 8, "','");
  REFUSED(entry(d + "," + s + ",\"data_offsets\":[0,8,9]"), 8, "']'");
  REFUSED(entry("\"dtype\":7," + s + "," + o), 8, "a string for dtype");
  REFUSED("{\"x\":[]}", 0, "'{'");
  REFUSED("{\"x\":null}", 0, "'{'");
  REFUSED("{x:{}}", 0, "a string");
  REFUSED("{\"x\"}", 0, "':'");
  REFUSED(name("a\nb"), 8, "byte 0x0a");
  REFUSED(name("a\\x"), 8, "after a backslash");
  REFUSED(name("\\u12g4"), 8, "hexadecimal");
  REFUSED(name("\\ud800"), 8, "low surrogate");
  REFUSED(name("\\ud800\\n"), 8, "low surrogate");
  REFUSED(name("\\ud800\\u0041"), 8, "low surrogate");
  REFUSED(name("\\udc00\\ud800"), 8, "high surrogate first");
  REFUSED(name("\xff"), 8, "UTF-8");
  REFUSED(name("\xc0\x80"), 8, "UTF-8");
  REFUSED(name("\xed\xa0\x80"), 8, "UTF-8");
  REFUSED(name("\xf4\x90\x80\x80"), 8, "UTF-8");
  REFUSED("{\"abc", 0, "close the string");
  REFUSED("{\"abc\\", 0, "after a backslash");
  REFUSED(R"({"__metadata__":{"a":1}})", 0, "the value of \"a\"");
  REFUSED(R"({"__metadata__":null})", 0, "__metadata__");
  REFUSED(R"({"__metadata__":{"a":"1","a":"1"}})", 0, "\"a\" again");
  REFUSED(R"({"__metadata__":{},"__metadata__":{}})", 0, "a second one");
}

TEST(refuses_a_bad_layout) {
  auto one = [](const std::string& dtype, const std::string& shape,
                const std::string& offsets) {
    return "{\"x\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
           ",\"data_offsets\":" + offsets + "}}";
  };
  auto two = [](const std::string& a, const std::string& b, const std::string& na = "a") {
    return "{\"" + na + "\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + a +
           "},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + b + "}}";
  };
  REFUSED(one("F33", "[2]", "[0,8]"), 8, "\"F33\"");
  REFUSED(one("f32", "[2]", "[0,8]"), 8, "known dtype");
  REFUSED(one("F32", "[3]", "[0,8]"), 8, "expected 12 bytes");
  REFUSED(one("F32", "[2]", "[8,0]"), 8, "rise");
  REFUSED(one("F32", "[2]", "[0,8]"), 7, "cut off");
  REFUSED(one("F32", "[2]", "[0,8]"), 9, "found 8 in use");
  REFUSED(one("F32", "[2]", "[1,9]"), 9, "a hole");
  REFUSED(one("F32", "[0]", "[3,3]"), 3, "a hole");
  REFUSED(one("F32", "[4294967296,4294967296]", "[0,0]"), 0, "overflows");
  REFUSED(one("F32", "[4294967296,4294967296,0]", "[0,0]"), 0, "overflows");
  REFUSED(one("U8", "[9223372036854775807,3]", "[0,0]"), 0, "overflows");
  REFUSED(one("F32", "[4611686018427387904]", "[0,0]"), 0, "overflows");
  REFUSED(one("F4", "[3]", "[0,1]"), 1, "12 bits");
  REFUSED(one("F32", "[2]", "[9223372036854775799,9223372036854775807]"), 8, "within");
  CHECK(refusal(file_of(two("[4,8]", "[0,4]"), 8)) == "accepted");
  REFUSED(two("[0,4]", "[0,4]"), 4, "an overlap");
  REFUSED(two("[0,4]", "[3,7]"), 8, "an overlap");
  REFUSED(two("[0,4]", "[5,9]"), 9, "a hole");
  REFUSED(two("[0,4]", "[4,8]", "b"), 8, "found it again");
  REFUSED(two("[0,4]", "[4,8]", "\\u0062"), 8, "found it again");
}

TEST(messages_tame_hostile_names) {
  std::string got = refusal(file_of(
      R"({"\u001b[2J\u007f)" + std::string(5000, 'n') + R"(":{"dtype":"F9"}})", 0));
  CHECK(got.size() < 500);
  CHECK(got.find('\x1b') == std::string::npos && got.find('\x7f') == std::string::npos);
}

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

TEST(fuzzed_headers_parse_or_throw) {
  const std::string seeds[] = {
      from_hex(kReference), file_of(kOne, 8),
      file_of(R"({"__metadata__":{"a":"\ud83d\ude00"},)"
              R"("a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},)"
              R"("b":{"dtype":"U8","shape":[],"data_offsets":[12,13]}})",
              13)};
  const std::string words[] = {"{",
                               "}",
                               "[",
                               "]",
                               ",",
                               ":",
                               "\"",
                               "\\",
                               "\\u",
                               "0",
                               "-1",
                               "1e9",
                               "null",
                               "true",
                               " ",
                               "\n",
                               "\\ud800",
                               "\xff",
                               "\"x\"",
                               "\"dtype\"",
                               "\"shape\"",
                               "\"F32\"",
                               "\"BF16\"",
                               "\"data_offsets\"",
                               "9223372036854775807",
                               "18446744073709551616",
                               "\"__metadata__\":{}",
                               "[0,0]"};
  int accepted = 0, refused = 0;
  std::mt19937 random(20240607);
  auto below = [&](size_t n) { return size_t(random() % n); };
  for (int round = 0; round < 30000; ++round) {
    std::string file = seeds[below(3)];
    size_t edits = 1 + below(4);
    for (size_t e = 0; e < edits && file.size() > 9; ++e) {
      size_t at = below(20) ? 8 + below(file.size() - 8) : below(8);
      switch (below(7)) {
        case 0:
          file[at] = char(random());
          break;
        case 1:
          file[at] = char(file[at] ^ (1 << below(8)));
          break;
        case 2:
          file[at] = char('0' + below(10));
          break;
        case 3:
          file.insert(at, words[below(std::size(words))]);
          break;
        case 4:
          file.erase(at, 1 + below(12));
          break;
        case 5:
          file.insert(at, file.substr(below(file.size()), below(60)));
          break;
        case 6:
          file.resize(file.size() - below(3));
          break;
      }
    }
    // Half of the time the length field follows, so that the edit reaches the parser
    // whole.
    if (file.size() > 8 && below(2)) {
      size_t data = std::min(below(40), file.size() - 8);
      file = with_length(file.size() - 8 - data, file.substr(8));
    }
    try {
      SafetensorsHeader h = parse(file);
      CHECK(tiles(h, file.size()));
      ++accepted;
    } catch (const Error& e) {
      CHECK(std::string(e.code()) == "CORRUPT_FILE");
      ++refused;
    }
  }
  // Both ways must be met, or the mutations prove nothing.
  std::printf("  %d accepted, %d refused\n", accepted, refused);
  CHECK(accepted > 100 && refused > 10000);
}
