// Arrays in shared memory. Device code only: no torch header.
#pragma once

// FASTGAN_SHARED(type, name, count) declares the array `name`, of which each block has one, whatever it holds at first. The
// tests run kernels on a CPU (tests/cuda_emulator), where a keyword cannot declare it. FASTGAN_DYNAMIC_SHARED(type, name) is
// the array whose size the launch says; a kernel has one.
#ifdef FASTGAN_CUDA_EMULATOR
#define FASTGAN_DYNAMIC_SHARED(type, name) \
  struct name##_array;                     \
  type* const name = ::cuda_emulator::dynamic_shared<type, name##_array>()
#define FASTGAN_SHARED(type, name, count) \
  struct name##_array;                    \
  type* const name = ::cuda_emulator::shared<type, name##_array>(count)
#else
#define FASTGAN_DYNAMIC_SHARED(type, name)                                  \
  extern __shared__ __align__(16) unsigned char fastgan_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(fastgan_dynamic_shared)
#define FASTGAN_SHARED(type, name, count) __shared__ type name[count]
#endif
