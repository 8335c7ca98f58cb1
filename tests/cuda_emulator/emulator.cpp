// The fibres and their scheduler; see emulator.h.
#include "emulator.h"

#include <algorithm>
#include <utility>

namespace cuda_emulator {

void Machine::run(const Launch& launch, const std::function<void()>& kernel) {
  const unsigned threads = launch.block.count(), blocks = launch.grid.count();
  if (threads == 0 || threads > 1024 || blocks == 0 || launch.cluster == 0 || launch.grid.x % launch.cluster != 0) {
    throw Failure("invalid configuration argument");  // CUDA's words
  }
  launch_ = launch;
  kernel_ = &kernel;
  chance_.seed(launch.seed);
  std::vector<unsigned> clusters(blocks / launch.cluster);
  for (unsigned i = 0; i < clusters.size(); ++i) {
    clusters[i] = i * launch.cluster;
  }
  std::shuffle(clusters.begin(), clusters.end(), chance_);
  for (const unsigned first : clusters) {
    run_cluster(first);
  }
}

void Machine::run_cluster(unsigned first) {
  for (unsigned rank = 0; rank < launch_.cluster; ++rank) {
    add_block(first + rank, rank);
  }
  while (!ready_.empty() && !failure_) {
    std::swap(ready_[chance_() % ready_.size()], ready_.back());
    Thread& next = *ready_.back();
    ready_.pop_back();
    switch_to(next);
  }
  std::string stuck;
  for (const Block& block : blocks_) {
    for (const Thread& thread : block.threads) {
      if (thread.state == Thread::State::waiting && stuck.empty()) {
        stuck = name(thread) + " waits for " + thread.waits_for + ", which not all that should have reached";
      }
    }
  }
  const std::exception_ptr failure = std::exchange(failure_, nullptr);
  ready_.clear();
  at_cluster_barrier_.clear();
  blocks_.clear();
  if (failure) {
    std::rethrow_exception(failure);
  }
  if (!stuck.empty()) {
    throw Failure(stuck);
  }
}

void Machine::add_block(unsigned number, unsigned rank) {
  Block& block = blocks_.emplace_back();
  const Dim3 grid = launch_.grid, size = launch_.block;
  block.index = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
  block.rank = rank;
  block.exchanges.resize((size.count() + kWarp - 1) / kWarp);
  for (unsigned i = 0; i < size.count(); ++i) {
    Thread& thread = block.threads.emplace_back();
    thread.block = &block;
    thread.number = i;
    thread.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    thread.stack = stack(rank * size.count() + i);
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack;
    thread.context.uc_stack.ss_size = kStack;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, &Machine::enter, 0);
    ready_.push_back(&thread);
  }
}

char* Machine::stack(size_t number) {
  while (stacks_.size() <= number) {
    stacks_.push_back(std::make_unique_for_overwrite<char[]>(kStack));
  }
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stacks_[number].get(), kStack);  // what the one before has left there
#endif
  return stacks_[number].get();
}

void Machine::enter() {
  Machine& machine = now();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler_stack_, &machine.scheduler_stack_size_);
#endif
  Thread& thread = *machine.running_;
  try {
    (*machine.kernel_)();
    ++thread.block->ended;
  } catch (...) {
    machine.failure_ = std::current_exception();
  }
  thread.state = Thread::State::done;
  machine.switch_back(true);
}

void Machine::switch_to(Thread& thread) {
  running_ = &thread;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler_fake_stack_, thread.stack, kStack);
#endif
  swapcontext(&scheduler_, &thread.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler_fake_stack_, nullptr, nullptr);
#endif
}

void Machine::switch_back([[maybe_unused]] bool forever) {
  Thread& thread = *running_;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(forever ? nullptr : &thread.fake_stack, scheduler_stack_, scheduler_stack_size_);
#endif
  swapcontext(&thread.context, &scheduler_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(thread.fake_stack, &scheduler_stack_, &scheduler_stack_size_);
#endif
}

void Machine::wait(const std::string& what) {
  Thread& thread = *running_;
  thread.state = Thread::State::waiting;
  thread.waits_for = what;
  switch_back(false);
}

void Machine::release(Thread& thread) {
  thread.state = Thread::State::ready;
  ready_.push_back(&thread);
}

void Machine::yield() {
  release(*running_);
  switch_back(false);
}

void Machine::block_barrier() {
  Block& block = *running_->block;
  if (block.ended > 0) {
    fail("reaches a barrier that " + std::to_string(block.ended) + " threads of its block, which have ended, will not reach");
  }
  block.at_barrier.push_back(running_);
  if (block.at_barrier.size() < block.threads.size()) {
    wait("the others at __syncthreads");
    return;
  }
  for (Thread* thread : std::exchange(block.at_barrier, {})) {
    release(*thread);
  }
  switch_back(false);
}

void Machine::cluster_barrier() {
  at_cluster_barrier_.push_back(running_);
  if (at_cluster_barrier_.size() < size_t{launch_.cluster} * launch_.block.count()) {
    wait("the others at the cluster's barrier");
    return;
  }
  for (Thread* thread : std::exchange(at_cluster_barrier_, {})) {
    release(*thread);
  }
  switch_back(false);
}

const Exchange& Machine::exchange(unsigned mask, const char* what, const void* value, size_t bytes) {
  Thread& thread = *running_;
  Block& block = *thread.block;
  const unsigned lane = thread.lane(), warp = thread.number / kWarp;
  const unsigned lanes = std::min(kWarp, static_cast<unsigned>(block.threads.size()) - warp * kWarp);
  auto& pending = block.exchanges[warp];
  if ((mask >> lane & 1u) == 0) {
    fail(std::string("is not in the mask that it gives to ") + what);
  }
  if (lanes < kWarp && mask >> lanes != 0) {
    fail(std::string("gives a mask with lanes that its warp does not have to ") + what);
  }
  const auto same = [&](const Exchange& each) { return each.mask == mask && std::strcmp(each.what, what) == 0; };
  auto found = std::find_if(pending.begin(), pending.end(), same);
  if (found == pending.end()) {
    for (const Exchange& each : pending) {
      if ((each.mask & mask) != 0) {
        fail(std::string("is at ") + what + ", where a lane of its mask is at " + each.what + ", or there with another mask");
      }
    }
    found = pending.insert(pending.end(), Exchange{mask, 0, what, {}});
  }
  Exchange& all = *found;
  all.here |= 1u << lane;
  std::memcpy(all.values[lane], value, bytes);
  if (all.here != mask) {
    wait(std::string("the other lanes at ") + what);
    return thread.last;
  }
  for (unsigned i = 0; i < lanes; ++i) {
    if (mask >> i & 1u) {
      Thread& other = block.threads[warp * kWarp + i];
      other.last = all;
      release(other);
    }
  }
  pending.erase(found);
  switch_back(false);
  return thread.last;
}

void* Machine::shared(const void* which, size_t bytes) {
  SharedArray& array = running_->block->shared[which];
  if (!array.data) {
    array.bytes = bytes;
    array.data = std::make_unique_for_overwrite<unsigned char[]>(bytes);
    std::memset(array.data.get(), kAllBytes, bytes);
  }
  if (array.bytes != bytes) {
    fail("declares a shared array with another size than others of its block");
  }
  return array.data.get();
}

void* Machine::of_rank(const void* pointer, unsigned rank) {
  const auto* byte = static_cast<const unsigned char*>(pointer);
  for (const auto& [which, array] : running_->block->shared) {
    if (byte >= array.data.get() && byte < array.data.get() + array.bytes) {
      if (rank >= blocks_.size()) {
        fail("asks for shared memory of block " + std::to_string(rank) + " of its cluster, which it does not have");
      }
      Block& other = blocks_[rank];
      const auto found = other.shared.find(which);
      if (found == other.shared.end()) {
        fail("asks for shared memory of block " + std::to_string(rank) + " of its cluster, which has not begun");
      }
      yield();  // the other block may go on before this one reads
      if (other.ended == other.threads.size()) {
        fail("asks for shared memory of block " + std::to_string(rank) + " of its cluster, which has ended");
      }
      return found->second.data.get() + (byte - array.data.get());
    }
  }
  fail("asks for another block's copy of what is not in its shared memory");
}

std::string Machine::name(const Thread& thread) const {
  const Dim3 block = thread.block->index;
  return "thread " + std::to_string(thread.number) + " of block (" + std::to_string(block.x) + ", " + std::to_string(block.y) +
         ", " + std::to_string(block.z) + ")";
}

void Machine::fail(const std::string& what) { throw Failure(name(*running_) + " " + what); }

}  // namespace cuda_emulator
