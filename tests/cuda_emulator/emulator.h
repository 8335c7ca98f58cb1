// Runs CUDA kernels on a CPU: the device code of csrc is compiled as C++ against this header, each thread is a fibre, and one
// thread of the machine runs them all.
//
// What it is for is finding errors, not speed:
//  * Which thread runs next is drawn by chance, by a seed: a missing barrier gives another result for some seed.
//  * Shared memory starts as NaN (all bits set), and each array is an allocation of its own, so that AddressSanitizer sees an
//    index beyond its end; so are the global arrays that the caller allocates.
//  * A barrier or a warp's exchange that not all of its threads reach is an error that names them, and so is a lane that is not
//    in the mask it gives, a mask that another lane of the same exchange does not give, and distributed shared memory of a block
//    that has not begun or has ended.
// What it cannot show: two threads that race without a switch between them (switches are at barriers, exchanges and atomics),
// weak memory order, two blocks at the same time (they run one after the other, in an order drawn by the seed; a cluster's
// together), alignment faults (but UndefinedBehaviorSanitizer sees a wide load of an address that is not a multiple), and time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_emulator {

constexpr unsigned kWarp = 32;
constexpr size_t kStack = size_t{1} << 17;
constexpr unsigned kAllBytes = 0xff;

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  unsigned count() const { return x * y * z; }
};

// An error of the kernel: what is said names the block and the threads.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Launch {
  Dim3 grid, block;
  unsigned cluster = 1;  // blocks, along x
  size_t dynamic_shared = 0;
  uint64_t seed = 0;
};

struct Block;

// A warp's exchange: what each of its lanes has brought, until all have.
struct Exchange {
  unsigned mask = 0, here = 0;
  const char* what = nullptr;
  unsigned char values[kWarp][16];
};

struct Thread {
  enum class State { ready, waiting, done };

  Block* block = nullptr;
  unsigned number = 0;  // in its block
  Dim3 index;
  State state = State::ready;
  std::string waits_for;
  Exchange last;  // the exchange that ended its wait
  ucontext_t context{};
  char* stack = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
#endif

  unsigned lane() const { return number % kWarp; }
};

// An array in shared memory; which one it is, is known by where it is declared.
struct SharedArray {
  size_t bytes = 0;
  std::unique_ptr<unsigned char[]> data;
};

struct Block {
  Dim3 index;
  unsigned rank = 0;  // in its cluster
  std::deque<Thread> threads;
  std::map<const void*, SharedArray> shared;
  std::vector<Thread*> at_barrier;
  std::vector<std::vector<Exchange>> exchanges;  // of each warp those that not all lanes have reached
  unsigned ended = 0;
};

// The cluster of blocks that runs now.
class Machine {
 public:
  static Machine& now() {
    static Machine machine;
    return machine;
  }

  Thread& thread() { return *running_; }
  Block& block() { return *running_->block; }
  const Launch& launch() const { return launch_; }

  void run(const Launch& launch, const std::function<void()>& kernel);
  void block_barrier();
  void cluster_barrier();
  void yield();
  const Exchange& exchange(unsigned mask, const char* what, const void* value, size_t bytes);
  void* shared(const void* which, size_t bytes);
  void* of_rank(const void* pointer, unsigned rank);
  void count_read(size_t bytes) { read_ += bytes; }
  void count_written(size_t bytes) { written_ += bytes; }
  uint64_t bytes_read() const { return read_; }
  uint64_t bytes_written() const { return written_; }
  void count_from_zero() { read_ = written_ = 0; }

 private:
  static void enter();
  [[noreturn]] void fail(const std::string& what);
  std::string name(const Thread& thread) const;
  void run_cluster(unsigned first);
  void add_block(unsigned number, unsigned rank);
  char* stack(size_t number);
  void switch_to(Thread& thread);
  void switch_back(bool forever);
  void wait(const std::string& what);
  void release(Thread& thread);

  uint64_t read_ = 0, written_ = 0;  // of global memory, by csrc/common/memory.cuh
  Launch launch_;
  const std::function<void()>* kernel_ = nullptr;
  std::mt19937_64 chance_;
  std::deque<Block> blocks_;
  std::vector<std::unique_ptr<char[]>> stacks_;  // of the threads of a cluster, for one after the other
  std::vector<Thread*> ready_, at_cluster_barrier_;
  Thread* running_ = nullptr;
  ucontext_t scheduler_{};
  std::exception_ptr failure_;
#if defined(__SANITIZE_ADDRESS__)
  void* scheduler_fake_stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_size_ = 0;
#endif
};

// Runs kernel<<<launch>>>(arguments...); throws Failure.
template <typename Kernel, typename... Arguments>
void run(const Launch& launch, Kernel kernel, Arguments... arguments) {
  Machine::now().run(launch, [&] { kernel(arguments...); });
}

template <typename T>
T poison() {
  T value;
  std::memset(&value, kAllBytes, sizeof(T));
  return value;
}

// What lane `source` brought; what an exchange gives of a lane that takes no part is undefined.
template <typename T>
T brought(const Exchange& all, unsigned source) {
  if ((all.mask >> source & 1u) == 0) {
    return poison<T>();
  }
  T value;
  std::memcpy(&value, all.values[source], sizeof(T));
  return value;
}

template <typename T>
const Exchange& exchange(unsigned mask, const char* what, const T& value) {
  static_assert(sizeof(T) <= sizeof(Exchange::values[0]), "a shuffle of up to 16 bytes");
  return Machine::now().exchange(mask, what, &value, sizeof(T));
}

// kernel.cuh's FASTGAN_SHARED: the array of that declaration in the block of the thread that asks.
template <typename T, typename Tag>
T* shared(size_t count) {
  static const char which = 0;
  return static_cast<T*>(Machine::now().shared(&which, count * sizeof(T)));
}

// kernel.cuh's FASTGAN_DYNAMIC_SHARED.
template <typename T, typename Tag>
T* dynamic_shared() {
  return shared<T, Tag>(Machine::now().launch().dynamic_shared / sizeof(T));
}

}  // namespace cuda_emulator

// The language. The toolkit's headers, which are included above, define some of these for host compilers.
#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (::cuda_emulator::Machine::now().thread().index)
#define blockIdx (::cuda_emulator::Machine::now().block().index)
#define blockDim (::cuda_emulator::Machine::now().launch().block)
#define gridDim (::cuda_emulator::Machine::now().launch().grid)

inline void __syncthreads() { ::cuda_emulator::Machine::now().block_barrier(); }

// Nothing to do: the one thread of the machine sees its own writes in order, so that a missing fence is not found.
inline void __threadfence() {}

inline void __syncwarp(unsigned mask = 0xffffffffu) { ::cuda_emulator::exchange(mask, "__syncwarp", char{0}); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  const auto& all = ::cuda_emulator::exchange(mask, "__shfl_sync", value);
  return ::cuda_emulator::brought<T>(all, static_cast<unsigned>(source) % ::cuda_emulator::kWarp);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned offset) {
  const auto& all = ::cuda_emulator::exchange(mask, "__shfl_down_sync", value);
  const unsigned source = ::cuda_emulator::Machine::now().thread().lane() + offset;
  return source < ::cuda_emulator::kWarp ? ::cuda_emulator::brought<T>(all, source) : value;
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  const auto& all = ::cuda_emulator::exchange(mask, "__shfl_xor_sync", value);
  const unsigned source = ::cuda_emulator::Machine::now().thread().lane() ^ static_cast<unsigned>(lanes);
  return source < ::cuda_emulator::kWarp ? ::cuda_emulator::brought<T>(all, source) : value;
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const auto& all = ::cuda_emulator::exchange(mask, "__ballot_sync", predicate);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < ::cuda_emulator::kWarp; ++lane) {
    const bool part = (mask >> lane & 1u) != 0;
    votes |= part && ::cuda_emulator::brought<int>(all, lane) != 0 ? 1u << lane : 0u;
  }
  return votes;
}

inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

template <typename T>
T atomicAdd(T* address, T value) {
  ::cuda_emulator::Machine::now().yield();  // the order of atomics is anybody's
  const T before = *address;
  *address = before + value;
  return before;
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}
