// The safetensors reader: what the format allows, hostile headers, mutations.
#include <random>

#include "test/io_fixture.h"

using namespace s2ft;
using namespace s2ft::test;

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
  expect_refusal("", "0 bytes", __FILE__, __LINE__);
  expect_refusal("1234567", "7 bytes", __FILE__, __LINE__);
  expect_refusal(with_length(3, "{}"), "header of 3 bytes", __FILE__, __LINE__);
  expect_refusal(with_length(0, ""), "'{'", __FILE__, __LINE__);
  expect_refusal(with_length(100000001, "{}"), "at most 100000000", __FILE__, __LINE__);
  expect_refusal(with_length(~0ull, "{}"), "18446744073709551615", __FILE__, __LINE__);
  expect_refusal("version https://git-lfs.github.com/spec/v1", "Git LFS", __FILE__,
                 __LINE__);
  expect_refusal("PK\x03\x04 and the rest of a zip", "PyTorch", __FILE__, __LINE__);
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
