// SPDX-License-Identifier: Apache-2.0
// check_indices.cu - finds the first pair, in row-major order, whose index is
// not below num_experts. Negative indices are empty slots and in order.
#include "arguments.h"
#include "choices.cuh"

// ---- Constants: from the prelude INDEX_TYPE, TOP_K, THREADS

extern "C" __global__ void __launch_bounds__(THREADS)
    fex_check_indices(const __grid_constant__ fex_check_args args)
{
    const fex_choices &choices = args.choices;
    const fex_i64 pair =
        static_cast<fex_i64>(blockIdx.x) * THREADS + threadIdx.x;
    if (pair >= choices.num_tokens * TOP_K)
        return;
    const fex_i64 index = load_index<INDEX_TYPE>(
        choices, pair / TOP_K, static_cast<int>(pair % TOP_K));
    if (index >= choices.num_experts)
        atomicMin(args.first, static_cast<unsigned long long>(pair));
}
