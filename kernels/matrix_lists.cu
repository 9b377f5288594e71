// SPDX-License-Identifier: Apache-2.0
// matrix_lists.cu - what the matrix family needs to know of the choices: those
// of each group of tokens by block of experts, and where each block begins. A
// block lists a group, some warps a token.
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

// ---- Constants: from the prelude ROUTING_DTYPE, INDEX_TYPE, TOP_K, GROUP: tokens,
// COUNTERS, THREADS, MIN_BLOCKS, SHARED_BYTES

constexpr int WARPS = THREADS / 32;
constexpr int EACH = COUNTERS / THREADS;        // counters of a thread
constexpr unsigned NUMBER = FEX_MATRIX_EXPERTS; // above any expert

static_assert(COUNTERS == EACH * THREADS && WARPS <= 32);
static_assert(TOP_K <= FEX_MATRIX_TOP_K && ROUNDS < 32, "a bit for each");
static_assert(TOP_K * GROUP <= NO_KEY / NUMBER, "numbers above experts");

// ---- Shared memory

struct Shared {
    union {
        Token tokens[GROUP];
        fex_choice list[GROUP * TOP_K];
    };
    int counters[COUNTERS]; // then where the choices that they count begin
    int totals[WARPS];      // of their counters
    int count;              // of all
    int repeats;            // which come behind
};
static_assert((sizeof(Shared) + 7) / 8 * 8 == SHARED_BYTES);

__device__ __forceinline__ void clear(Shared &shared)
{
    static_assert(sizeof(Marks) % sizeof(uint2) == 0);
    constexpr int VECTORS = sizeof(Marks) / sizeof(uint2);
    auto *const marks = reinterpret_cast<uint2 *>(
        &shared.tokens[threadIdx.x / TOKEN_THREADS].marks);
#pragma unroll 4
    for (int i = threadIdx.x % TOKEN_THREADS; i < VECTORS; i += TOKEN_THREADS)
        marks[i] = make_uint2(0, 0);
#pragma unroll
    for (int i = 0; i < EACH; ++i)
        shared.counters[i * THREADS + threadIdx.x] = 0;
    if (threadIdx.x == 0)
        shared.repeats = 0;
}

// ---- Load

// All loads are issued, and counters cleared, before the first is looked at.
__device__ __forceinline__ Slots load_slots(const fex_matrix_lists_args &args,
                                            Shared &shared, fex_i64 token)
{
    using Index = decltype(load_index<INDEX_TYPE>(args.choices, 0, 0));
    using Weight = Dtype<ROUTING_DTYPE>::Storage;
    const int first = slot_of(0);
    const unsigned spread = threadIdx.x % 32; // so that counters are
    const Index *const from = static_cast<const Index *>(args.choices.indices) +
                              token * args.choices.indices_stride + first;
    const Weight *const weights_from =
        static_cast<const Weight *>(args.routing_weights) +
        token * args.routing_weights_stride + first;
    const int end = token < args.choices.num_tokens ? TOP_K : 0;
    Index indices[ROUNDS];
    Weight weights[ROUNDS];
    Slots slots = {};
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j)
        indices[j] =
            slot_of(j) < end ? __ldcs(from + j * TOKEN_THREADS) : EMPTY_SLOT;
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j)
        weights[j] = slot_of(j) < end ? __ldcs(weights_from + j * TOKEN_THREADS)
                                      : Weight();
    clear(shared);
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j) {
        const int expert = expert_at(args.choices, indices[j]);
        const bool full = expert != EMPTY_SLOT;
        slots.experts[j] = full ? static_cast<unsigned>(expert) : spread;
        slots.full |= static_cast<unsigned>(full) << j;
        slots.weights[j] = Dtype<ROUTING_DTYPE>::widen(weights[j]);
    }
    if (slots.full == (1u << ROUNDS) - 1 || args.scores == nullptr)
        return slots;
    float *const scores = args.scores + token * args.scores_stride + first;
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j)
        if (slot_of(j) < end && (slots.full >> j & 1u) == 0)
            scores[j * TOKEN_THREADS] = 0.0f;
    return slots;
}

// ---- Compute: where in the list choices go

struct Bins {
    int count;
    int shift; // counters of a bin

    __device__ __forceinline__ Bins(const fex_choices &choices)
    {
        count = bins_of(static_cast<int>(choices.num_experts));
        shift = __clz(count - 1) - __clz(COUNTERS - 1);
    }
    __device__ __forceinline__ unsigned counter(const Slots &slots, int j) const
    {
        const unsigned bin = slots.experts[j] % NUMBER / FEX_MATRIX_BLOCK;
        return bin << shift | (threadIdx.x % 32 & ((1u << shift) - 1));
    }
};

__device__ __forceinline__ void count_choices(Shared &shared, const Bins &bins,
                                              Slots &slots)
{
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j) {
        const int before = atomicAdd(
            &shared.counters[bins.counter(slots, j)],
            static_cast<int>((slots.full & ~slots.repeats) >> j & 1u));
        slots.experts[j] += NUMBER * static_cast<unsigned>(before);
    }
}

// The same of repeats, for which there is one counter: a warp's together.
__device__ __forceinline__ void count_repeats(Shared &shared, Slots &slots)
{
    const int lane = threadIdx.x % 32;
    int count = 0;
    int before = 0;
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j)
        count += __popc(__ballot_sync(FULL_WARP, slots.repeats >> j & 1u));
    if (count == 0)
        return;
    if (lane == 0)
        before = atomicAdd(&shared.repeats, count);
    before = __shfl_sync(FULL_WARP, before, 0);
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j) {
        const bool own = (slots.repeats >> j & 1u) != 0;
        const unsigned all = __ballot_sync(FULL_WARP, own);
        if (own)
            slots.experts[j] =
                slots.experts[j] % NUMBER +
                NUMBER * static_cast<unsigned>(before +
                                               __popc(all & lanes_below(lane)));
        before += __popc(all);
    }
}

// Of each lane's number the sum of those of lanes before.
__device__ __forceinline__ int sum_before(int number)
{
    const int lane = threadIdx.x % 32;
    int sum = number;
#pragma unroll
    for (unsigned offset = 1; offset < 32; offset *= 2) {
        const int more = __shfl_up_sync(FULL_WARP, sum, offset);
        sum += lane >= static_cast<int>(offset) ? more : 0;
    }
    return sum - number;
}

// From counts to where what is counted begins.
__device__ __forceinline__ void add_up(Shared &shared)
{
    const int lane = threadIdx.x % 32;
    int *const counters = &shared.counters[threadIdx.x * EACH];
    int own = 0;
#pragma unroll
    for (int i = 0; i < EACH; ++i)
        own += counters[i];
    int start = sum_before(own);
    if (lane == 31)
        shared.totals[threadIdx.x / 32] = start + own;
    __syncthreads();
    const int before = sum_before(lane < WARPS ? shared.totals[lane] : 0);
    start += __shfl_sync(FULL_WARP, before, static_cast<int>(threadIdx.x) / 32);
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int count = counters[i];
        counters[i] = start;
        start += count;
    }
    if (threadIdx.x == THREADS - 1)
        shared.count = start;
}

__device__ __forceinline__ void list_choices(Shared &shared, const Bins &bins,
                                             const Slots &slots)
{
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j) {
        const bool repeat = (slots.repeats >> j & 1u) != 0;
        const int first =
            repeat ? shared.count : shared.counters[bins.counter(slots, j)];
        const int at = first + static_cast<int>(slots.experts[j] / NUMBER);
        const unsigned place = place_of_choice(
            threadIdx.x / TOKEN_THREADS, repeat, slots.experts[j], slot_of(j));
        if ((slots.full >> j & 1u) != 0)
            store_choice(&shared.list[at], place, slots.weights[j]);
    }
}

// ---- Store

__device__ __forceinline__ void store_starts(const Shared &shared,
                                             const Bins &bins, int *starts)
{
    for (int i = threadIdx.x; i < bins.count; i += THREADS)
        starts[i] = shared.counters[i << bins.shift];
    if (threadIdx.x < 2)
        starts[bins.count + threadIdx.x] =
            shared.count + static_cast<int>(threadIdx.x) * shared.repeats;
}

__device__ __forceinline__ void store_list(const Shared &shared, fex_choice *to)
{
    const int count = shared.count + shared.repeats;
    for (int i = threadIdx.x; i < count / 2; i += THREADS)
        reinterpret_cast<uint4 *>(to)[i] =
            reinterpret_cast<const uint4 *>(shared.list)[i];
    if (count % 2 != 0 && threadIdx.x == 0)
        to[count - 1] = shared.list[count - 1];
}

// What is known of weights in f16.
__device__ __forceinline__ void clear_levels(const fex_matrix_lists_args &args,
                                             fex_i64 group)
{
    const fex_i64 token = group * GROUP + threadIdx.x;
    if (threadIdx.x < GROUP && token < args.choices.num_tokens)
        args.levels[token] = 0;
}

// ---- One block, a group of tokens

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    fex_matrix_lists(const __grid_constant__ fex_matrix_lists_args args)
{
    extern __shared__ uint4 memory[];
    Shared &shared = *reinterpret_cast<Shared *>(memory);
    Token &token = shared.tokens[threadIdx.x / TOKEN_THREADS];
    const fex_i64 group = blockIdx.x;
    const Bins bins(args.choices);
    unsigned alike = 0;

    launch_dependents();
    clear_levels(args, group);
    Slots slots = load_slots(args, shared,
                             group * GROUP +
                                 static_cast<int>(threadIdx.x) / TOKEN_THREADS);
    __syncthreads();
    if (TOP_K > 1 && find_alike(token.marks, slots, alike))
        merge_repeats(token.merge, slots, alike);
    count_choices(shared, bins, slots);
    if (TOP_K > 1)
        count_repeats(shared, slots);
    __syncthreads();
    add_up(shared);
    __syncthreads();
    store_starts(shared, bins, starts_of(args.starts, group, bins.count));
    list_choices(shared, bins, slots);
    __syncthreads();
    store_list(shared, list_of(args.lists, group));
}
