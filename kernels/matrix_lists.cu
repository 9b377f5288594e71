// SPDX-License-Identifier: Apache-2.0
// matrix_lists.cu - what the matrix family needs to know of the choices: those
// of each group of tokens by block of experts, and where each block and its
// repeats begin. A block lists a group, a warp a token.
//
// Where in the list a choice goes comes from counters, in any order. A bin has as
// many as there is room for, for a few lanes each: choices are often of few
// blocks, and those that one counter counts wait for each other.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "matrix_group.cuh"
#include "matrix_repeats.cuh"
#include "ptx.cuh"

// ---- Constants: from the prelude ROUTING_DTYPE, INDEX_TYPE, TOP_K, THREADS,
// MIN_BLOCKS, SHARED_BYTES

constexpr int GROUP = FEX_MATRIX_GROUP;
constexpr int NUMBER = FEX_MATRIX_EXPERTS; // above any expert

static_assert(THREADS == 32 * GROUP, "a warp a token, a counter a thread");
static_assert(FEX_MATRIX_EXPERTS / FEX_MATRIX_BLOCK * 2 <= THREADS,
              "a counter for each bin");
static_assert(TOP_K <= FEX_MATRIX_TOP_K && ROUNDS <= 32, "a bit for each");
static_assert(FEX_MATRIX_TOP_K * GROUP <= (1u << 31) / NUMBER,
              "numbers above experts");

// ---- Shared memory

struct Shared {
    union {
        Token tokens[GROUP]; // a warp's own each
        fex_choice list[GROUP * TOP_K];
    };
    int counts[THREADS];
    int starts[THREADS];
};
static_assert(sizeof(Shared) == SHARED_BYTES);

__device__ __forceinline__ void clear(Shared &shared)
{
    auto *const marks =
        reinterpret_cast<uint2 *>(&shared.tokens[threadIdx.x / 32].marks);
#pragma unroll
    for (int i = 0; i < WORDS / 32; ++i)
        marks[i * 32 + threadIdx.x % 32] = make_uint2(0, 0);
    shared.counts[threadIdx.x] = 0;
}

// ---- Load

// All loads are issued, and counters cleared, before the first is looked at.
__device__ __forceinline__ Slots load_slots(const fex_matrix_lists_args &args,
                                            Shared &shared, fex_i64 token)
{
    using Index = decltype(load_index<INDEX_TYPE>(args.choices, 0, 0));
    using Weight = Dtype<ROUTING_DTYPE>::Storage;
    const int lane = slot_of(0);
    const Index *const from = static_cast<const Index *>(args.choices.indices) +
                              token * args.choices.indices_stride + lane;
    const Weight *const weights_from =
        static_cast<const Weight *>(args.routing_weights) +
        token * args.routing_weights_stride + lane;
    const int end = token < args.choices.num_tokens ? TOP_K : 0;
    Index indices[ROUNDS];
    Weight weights[ROUNDS];
    Slots slots = {};
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j)
        indices[j] = slot_of(j) < end ? __ldcs(from + j * 32) : EMPTY_SLOT;
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j)
        weights[j] =
            slot_of(j) < end ? __ldcs(weights_from + j * 32) : Weight();
    clear(shared);
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j) {
        const int expert = expert_at(args.choices, indices[j]);
        const bool full = expert != EMPTY_SLOT;
        slots.experts[j] = full ? expert : lane;
        slots.full |= static_cast<unsigned>(full) << j;
        slots.weights[j] = Dtype<ROUTING_DTYPE>::widen(weights[j]);
    }
    if (slots.full == (1u << ROUNDS) - 1)
        return slots;
    float *const scores = args.scores + token * args.scores_stride + lane;
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j)
        if (slot_of(j) < end && (slots.full >> j & 1u) == 0)
            scores[j * 32] = 0.0f;
    return slots;
}

// ---- Compute: where in the list choices go

struct Bins {
    int count;
    int shift; // counters of a bin

    __device__ __forceinline__ Bins(const fex_choices &choices)
    {
        count = bins_of(static_cast<int>(choices.num_experts));
        shift = __clz(count - 1) - __clz(THREADS - 1);
    }
    __device__ __forceinline__ unsigned counter(const Slots &slots, int j) const
    {
        const unsigned bin = static_cast<unsigned>(slots.experts[j]) % NUMBER /
                                 FEX_MATRIX_BLOCK * 2 +
                             (slots.repeats >> j & 1u);
        return bin << shift | (threadIdx.x % 32 & ((1u << shift) - 1));
    }
};

__device__ __forceinline__ void count_choices(Shared &shared, const Bins &bins,
                                              Slots &slots)
{
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j)
        slots.experts[j] +=
            NUMBER * atomicAdd(&shared.counts[bins.counter(slots, j)],
                               static_cast<int>(slots.full >> j & 1u));
}

// What was counted before this thread's counter. A warp adds up anew what warps
// before it have: to be told would take another barrier.
__device__ __forceinline__ int count_before(const Shared &shared)
{
    const int lane = threadIdx.x % 32;
    const int own = shared.counts[threadIdx.x];
    int sum = own;
    int before = 0;
    const auto *const fours = reinterpret_cast<const int4 *>(shared.counts);
#pragma unroll
    for (int i = lane; i < THREADS / 4; i += 32)
        if (i < static_cast<int>(threadIdx.x) / 32 * 8) {
            const int4 four = fours[i];
            before += four.x + four.y + four.z + four.w;
        }
#pragma unroll
    for (unsigned offset = 1; offset < 32; offset *= 2) {
        const int more = __shfl_up_sync(FULL_WARP, sum, offset);
        sum += lane >= static_cast<int>(offset) ? more : 0;
        before += __shfl_xor_sync(FULL_WARP, before, offset);
    }
    return before + sum - own;
}

__device__ __forceinline__ void list_choices(Shared &shared, const Bins &bins,
                                             const Slots &slots)
{
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j) {
        const int at =
            shared.starts[bins.counter(slots, j)] + slots.experts[j] / NUMBER;
        const unsigned place =
            place_of_choice(threadIdx.x / 32, slots.experts[j], slot_of(j));
        if ((slots.full >> j & 1u) != 0)
            reinterpret_cast<uint2 *>(shared.list)[at] =
                make_uint2(place, __float_as_uint(slots.weights[j]));
    }
}

// ---- Store

__device__ __forceinline__ void store_starts(const Shared &shared,
                                             const Bins &bins, int *starts)
{
    const int counter = threadIdx.x;
    const int bin = counter >> bins.shift;
    if (bin << bins.shift == counter && bin < bins.count)
        starts[bin] = shared.starts[counter];
    if (counter == THREADS - 1)
        starts[bins.count] = shared.starts[counter] + shared.counts[counter];
}

__device__ __forceinline__ void store_list(const Shared &shared, fex_choice *to)
{
    const int count = shared.starts[THREADS - 1] + shared.counts[THREADS - 1];
    for (int i = threadIdx.x; i < count / 2; i += THREADS)
        reinterpret_cast<uint4 *>(to)[i] =
            reinterpret_cast<const uint4 *>(shared.list)[i];
    if (count % 2 != 0 && threadIdx.x == 0)
        to[count - 1] = shared.list[count - 1];
}

// What is known of numbers in f16.
__device__ __forceinline__ void clear_levels(const fex_matrix_lists_args &args,
                                             fex_i64 group)
{
    const fex_i64 token = group * GROUP + threadIdx.x;
    if (threadIdx.x < GROUP && token < args.choices.num_tokens)
        args.levels[token] = 0;
    if (group == 0)
        for (fex_i64 i = threadIdx.x; i < args.up_tiles; i += THREADS)
            args.up_largest[i] = 0;
}

// ---- One block, a group of tokens

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    fex_matrix_lists(const __grid_constant__ fex_matrix_lists_args args)
{
    extern __shared__ uint4 memory[];
    Shared &shared = *reinterpret_cast<Shared *>(memory);
    Token &token = shared.tokens[threadIdx.x / 32];
    const fex_i64 group = blockIdx.x;
    const Bins bins(args.choices);
    unsigned alike = 0;

    launch_dependents();
    clear_levels(args, group);
    Slots slots = load_slots(args, shared, group * GROUP + threadIdx.x / 32);
    __syncthreads();
    if (TOP_K > 1 && find_alike(token.marks, slots, alike))
        merge_repeats(token.merge, slots, alike);
    count_choices(shared, bins, slots);
    __syncthreads();
    shared.starts[threadIdx.x] = count_before(shared);
    store_starts(shared, bins, args.starts + group * (bins.count + 1));
    __syncthreads();
    list_choices(shared, bins, slots);
    __syncthreads();
    store_list(shared, list_of<TOP_K>(args.lists, group));
}
