// Functions that host and device share. No torch header.
#pragma once

#ifdef __CUDACC__
#define FASTGAN_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FASTGAN_HOST_DEVICE inline __attribute__((always_inline))
#endif
