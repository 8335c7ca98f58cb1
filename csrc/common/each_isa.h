// Compiles one file once per instruction set, in the manner of Highway's foreach_target.h:
//
//   #define FASTGAN_EACH_ISA "op/kernels.inc"
//   #include "common/each_isa.h"
//   ... FASTGAN_PICK(function)(arguments) ...
//
// The file puts its functions into namespace fastgan::FASTGAN_ISA and writes its loops over vectors of kLanes floats
// (vector.inc). It includes nothing: what it needs is included before, outside the regions below, because an inline function
// compiled here for AVX could be the copy that the linker keeps for everybody.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/isa.h"

#define FASTGAN_ISA portable
#define FASTGAN_LANES 4
#include "common/vector.inc"
#include FASTGAN_EACH_ISA
#undef FASTGAN_ISA
#undef FASTGAN_LANES

#if FASTGAN_X86_ISAS
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi2")
#define FASTGAN_ISA avx2
#define FASTGAN_LANES 8
#include "common/vector.inc"
#include FASTGAN_EACH_ISA
#undef FASTGAN_ISA
#undef FASTGAN_LANES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c,bmi2,prefer-vector-width=512")
#define FASTGAN_ISA avx512
#define FASTGAN_LANES 16
#include "common/vector.inc"
#include FASTGAN_EACH_ISA
#undef FASTGAN_ISA
#undef FASTGAN_LANES
#pragma GCC pop_options
#endif

#undef FASTGAN_EACH_ISA
