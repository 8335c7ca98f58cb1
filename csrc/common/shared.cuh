// Arrays in shared memory. Device code only: no torch header.
#pragma once

// FASTGAN_SHARED(type, name, count) declares the array `name`, of which each block has one, whatever it holds at first. The
// tests run kernels on a CPU (tests/cuda_emulator), where a keyword cannot declare it.
#ifdef FASTGAN_CUDA_EMULATOR
#define FASTGAN_SHARED(type, name, count) \
  struct name##_array;                    \
  type* const name = ::cuda_emulator::shared<type, name##_array>(count)
#else
#define FASTGAN_SHARED(type, name, count) __shared__ type name[count]
#endif
