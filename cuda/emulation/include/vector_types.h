// CUDA's vector types, with their alignment.
#pragma once

#define S2FT_VECTOR_1(T, name)         \
  struct name##1 {                     \
    T x;                               \
  };                                   \
  inline name##1 make_##name##1(T x) { \
    return {x};                        \
  }
#define S2FT_VECTOR_2(T, name)              \
  struct alignas(2 * sizeof(T)) name##2 {   \
    T x, y;                                 \
  };                                        \
  inline name##2 make_##name##2(T x, T y) { \
    return {x, y};                          \
  }
#define S2FT_VECTOR_3(T, name)                   \
  struct name##3 {                               \
    T x, y, z;                                   \
  };                                             \
  inline name##3 make_##name##3(T x, T y, T z) { \
    return {x, y, z};                            \
  }
#define S2FT_VECTOR_4(T, name)                                      \
  struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 { \
    T x, y, z, w;                                                   \
  };                                                                \
  inline name##4 make_##name##4(T x, T y, T z, T w) {               \
    return {x, y, z, w};                                            \
  }
#define S2FT_VECTORS(T, name) \
  S2FT_VECTOR_1(T, name)      \
  S2FT_VECTOR_2(T, name)      \
  S2FT_VECTOR_3(T, name)      \
  S2FT_VECTOR_4(T, name)

S2FT_VECTORS(signed char, char)
S2FT_VECTORS(unsigned char, uchar)
S2FT_VECTORS(short, short)
S2FT_VECTORS(unsigned short, ushort)
S2FT_VECTORS(int, int)
S2FT_VECTORS(unsigned int, uint)
S2FT_VECTORS(float, float)
S2FT_VECTORS(long long, longlong)
S2FT_VECTORS(unsigned long long, ulonglong)
S2FT_VECTORS(double, double)

#undef S2FT_VECTORS
#undef S2FT_VECTOR_4
#undef S2FT_VECTOR_3
#undef S2FT_VECTOR_2
#undef S2FT_VECTOR_1

struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int vx = 1, unsigned int vy = 1, unsigned int vz = 1)
      : x(vx), y(vy), z(vz) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return uint3{x, y, z}; }
};
