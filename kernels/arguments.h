/* SPDX-License-Identifier: Apache-2.0 */
/* arguments.h - the argument structure of every kernel.
 *
 * The one header that C and device code share: the host fills a structure and
 * passes it whole, the kernel takes it as its only parameter. Both compilers
 * check the layout below. Strides count elements. */
#ifndef FEX_ARGUMENTS_H
#define FEX_ARGUMENTS_H

#ifdef __cplusplus
#define FEX_STATIC_ASSERT(condition) static_assert(condition, #condition)
#else
#include <assert.h>
#define FEX_STATIC_ASSERT(condition) static_assert(condition, #condition)
#endif

/* NVRTC has no offsetof without a CUDA header, only what it is made of. */
#ifdef __CUDACC_RTC__
#define FEX_OFFSETOF(type, member) __INTADDR__(&((type *)0)->member)
#else
#define FEX_OFFSETOF(type, member) __builtin_offsetof(type, member)
#endif
#define FEX_ASSERT_OFFSET(type, member, offset)                                \
    FEX_STATIC_ASSERT(FEX_OFFSETOF(type, member) == (offset))

typedef long long fex_i64;

/* Index types and data types, as in fex_index_type and fex_dtype. */
enum { FEX_KERNEL_I32 = 1, FEX_KERNEL_I64 = 2 };
enum { FEX_KERNEL_F16 = 1, FEX_KERNEL_BF16 = 2, FEX_KERNEL_F32 = 3 };

/* The choices a token made: what every kernel that walks pairs (t, k) needs.
 * An index outside [0, num_experts) is an empty slot. */
typedef struct fex_choices {
    const void *indices; /* (T, K) */
    fex_i64 indices_stride;
    fex_i64 num_tokens;
    fex_i64 num_experts;
} fex_choices;
FEX_STATIC_ASSERT(sizeof(fex_choices) == 32);

/* sddmm_gather.cu: products[t,k] = rows[t] . table[i[t,k]], and what a pass
 * makes of them. */
typedef struct fex_sddmm_args {
    fex_choices choices;
    const void *rows;  /* (T, H): hidden_states or grad_output */
    const void *table; /* (E, H): down_weights or up_weights */
    fex_i64 rows_stride;
    fex_i64 table_stride;
    fex_i64 slab_experts; /* blockIdx.y sweeps experts in slabs of this size */
    int tile_pairs;       /* pairs of a token that one block looks at */
    int token_tiles;      /* blocks that share a token */
    /* EPILOGUE_SCORES */
    float *scores; /* (T, K); an input of EPILOGUE_GATE */
    fex_i64 scores_stride;
    /* EPILOGUE_GATE: products are p = grad_output . up_weights */
    const void *routing_weights; /* (T, K) */
    fex_i64 routing_weights_stride;
    void *grad_routing_weights; /* (T, K) or NULL */
    fex_i64 grad_routing_weights_stride;
    float *grad_scores;  /* (T, K) dense: ds */
    float *coefficients; /* (T, K) dense: g silu(s) */
    int accumulate;      /* add to grad_routing_weights */
    int reserved;
} fex_sddmm_args;
FEX_ASSERT_OFFSET(fex_sddmm_args, rows, 32);
FEX_ASSERT_OFFSET(fex_sddmm_args, tile_pairs, 72);
FEX_ASSERT_OFFSET(fex_sddmm_args, routing_weights, 96);
FEX_ASSERT_OFFSET(fex_sddmm_args, accumulate, 144);
FEX_STATIC_ASSERT(sizeof(fex_sddmm_args) == 152);

/* spmm_gather.cu: out[t] = sum over k of coefficient[t,k] table[i[t,k]]. */
typedef struct fex_spmm_args {
    fex_choices choices;
    const void *table; /* (E, H): up_weights or down_weights */
    fex_i64 table_stride;
    const float *values; /* (T, K): scores (COEFFICIENT_GATED) or ds */
    fex_i64 values_stride;
    const void *routing_weights; /* (T, K), COEFFICIENT_GATED */
    fex_i64 routing_weights_stride;
    void *out; /* (T, H) */
    fex_i64 out_stride;
    int accumulate; /* add to out */
    int reserved;
} fex_spmm_args;
FEX_ASSERT_OFFSET(fex_spmm_args, table, 32);
FEX_ASSERT_OFFSET(fex_spmm_args, routing_weights, 64);
FEX_ASSERT_OFFSET(fex_spmm_args, accumulate, 96);
FEX_STATIC_ASSERT(sizeof(fex_spmm_args) == 104);

/* fused_cluster.cu: the whole forward pass, a cluster of blocks a token. */
typedef struct fex_fused_args {
    fex_choices choices;
    const void *hidden_states;   /* (T, H) */
    const void *down_weights;    /* (E, H) */
    const void *up_weights;      /* (E, H) */
    const void *routing_weights; /* (T, K) */
    float *scores;               /* (T, K) or NULL */
    void *expert_states;         /* (T, H) */
    fex_i64 hidden_states_stride;
    fex_i64 down_weights_stride;
    fex_i64 up_weights_stride;
    fex_i64 routing_weights_stride;
    fex_i64 scores_stride;
    fex_i64 expert_states_stride;
} fex_fused_args;
FEX_ASSERT_OFFSET(fex_fused_args, scores, 64);
FEX_STATIC_ASSERT(sizeof(fex_fused_args) == 128);

/* The dense family multiplies blocks of this many experts, and lists the
 * choices of groups of this many tokens. */
enum { FEX_ROUTE_BLOCK = 128, FEX_ROUTE_GROUP = 16 };

/* A choice of a token. Empty slots have none. Of a token's choices of one expert
 * the first is `merged` of all, and the others, `repeats`, only have a score.
 * Where a token chooses many of one block of experts, repeats are no routes but
 * copies, which tell where their score is from. */
typedef struct fex_route {
    unsigned place; /* token % FEX_ROUTE_GROUP << 28 | repeat << 27 |
                     * merged << 26 | expert % FEX_ROUTE_BLOCK << 19 | slot k;
                     * of a copy, which is both repeat and merged, the lower
                     * bits are: slot of the first << 13 | slot k */
    float weight;   /* g, or the sum of all that are merged; after dense_scores
                     * times silu(s) */
} fex_route;
FEX_STATIC_ASSERT(sizeof(fex_route) == 8);

/* sort_routes.cu: the choices of each group of tokens, sorted by block of
 * experts, those of a block by token, expert and slot. */
typedef struct fex_sort_routes_args {
    fex_choices choices;
    const void *routing_weights; /* (T, K) */
    fex_i64 routing_weights_stride;
    fex_route *routes; /* [groups][FEX_ROUTE_GROUP * K]: routes, then copies */
    int *starts;       /* [groups][blocks + 2]: where in the group's routes a
                        * block begins; their number; that of copies too */
    unsigned *largest; /* [T]: set to 0 */
    float *scores;     /* (T, K) or NULL; empty slots get 0 */
    fex_i64 scores_stride;
} fex_sort_routes_args;
FEX_ASSERT_OFFSET(fex_sort_routes_args, routes, 48);
FEX_STATIC_ASSERT(sizeof(fex_sort_routes_args) == 88);

/* What cuTensorMapEncodeTiled fills. */
typedef struct fex_tensor_map {
    unsigned long long words[16];
} __attribute__((aligned(64))) fex_tensor_map;

/* dense_scores_*.cu: s = x . D[e] for all tokens and experts by tensor cores;
 * of it what the routes name. */
typedef struct fex_dense_scores_args {
    fex_tensor_map hidden_map; /* of the next two, where the kernel reads */
    fex_tensor_map down_map;   /* them by TMA */
    const void *hidden_states; /* (T, H) */
    const void *down_weights;  /* (E, H) */
    fex_i64 hidden_states_stride;
    fex_i64 down_weights_stride;
    fex_route *routes;
    const int *starts;
    unsigned *largest; /* [T]: bits of the largest |g silu(s)| */
    float *scores;     /* (T, K) or NULL */
    fex_i64 scores_stride;
    int num_tokens;
    int num_experts;
} fex_dense_scores_args;
FEX_ASSERT_OFFSET(fex_dense_scores_args, hidden_states, 256);
FEX_ASSERT_OFFSET(fex_dense_scores_args, num_tokens, 328);
FEX_STATIC_ASSERT(sizeof(fex_dense_scores_args) == 384);

/* dense_states_*.cu: sums over ranges of the experts of P[t,e] U[e] by tensor
 * cores, where P is zero but for the routes. */
typedef struct fex_dense_states_args {
    fex_tensor_map up_map; /* of up_weights, where the kernel reads by TMA */
    const void *up_weights; /* (E, H) */
    fex_i64 up_weights_stride;
    const fex_route *routes;
    const int *starts;
    const unsigned *largest;
    float *partials; /* [splits][T][H]: sums of weights scaled by scale_of */
    int *unfit;      /* [splits][tiles]: U was no good in f16 */
    int num_tokens;
    int num_experts;
    int splits; /* ranges of experts */
    int reserved;
} fex_dense_states_args;
FEX_ASSERT_OFFSET(fex_dense_states_args, up_weights, 128);
FEX_ASSERT_OFFSET(fex_dense_states_args, num_tokens, 184);
FEX_STATIC_ASSERT(sizeof(fex_dense_states_args) == 256);

/* dense_sum.cu: expert_states from partials. */
typedef struct fex_dense_sum_args {
    const float *partials; /* as dense_states left it, and the next */
    const int *unfit;
    const void *up_weights; /* for tokens and columns that were unfit */
    fex_i64 up_weights_stride;
    const fex_route *routes;
    const int *starts;
    const unsigned *largest;
    float *scores; /* (T, K) or NULL; those of copies are filled in */
    fex_i64 scores_stride;
    void *expert_states; /* (T, H) */
    fex_i64 expert_states_stride;
    int num_tokens;
    int num_experts;
    int splits;
    int reserved;
} fex_dense_sum_args;
FEX_ASSERT_OFFSET(fex_dense_sum_args, num_tokens, 88);
FEX_STATIC_ASSERT(sizeof(fex_dense_sum_args) == 104);

/* The matrix family multiplies tiles of so many tokens by so many experts, and of
 * columns by tokens, or a half or a quarter where tiles would be too few, so much
 * of the depth at one time. A warp has so many rows of a tile. Choices are listed for
 * groups of tokens, as many as a warp has rows or a part of these, and blocks of so
 * many experts. */
enum {
    FEX_MATRIX_TILE = 128,
    FEX_MATRIX_ACROSS = 256,
    FEX_MATRIX_DEPTH = 64,
    FEX_MATRIX_ROWS = 16,
    FEX_MATRIX_BLOCK = 64,
    FEX_MATRIX_EXPERTS = 1 << 18, /* at most */
    FEX_MATRIX_TOP_K = 1 << 13
};

/* A choice of a token that is no empty slot. Of a token's choices of the same
 * expert one has the weights of all; the others are repeats, which have its
 * score. */
typedef struct fex_choice {
    unsigned place; /* token of its group << 28 | repeat << 27 |
                     * expert % FEX_MATRIX_ACROSS << 16 | slot k */
    float weight;   /* g, or the sum of all, always in the same order; after
                     * matrix_scores times silu(s). Bits of a repeat's are the
                     * slot of the one that is none. */
} fex_choice;
FEX_STATIC_ASSERT(sizeof(fex_choice) == 8);

/* matrix_lists.cu: the choices of each group of tokens by block of experts, those
 * of a block in any order, and then the repeats. Blocks are those of E experts and what it takes to a
 * multiple of FEX_MATRIX_ACROSS. */
typedef struct fex_matrix_lists_args {
    fex_choices choices;
    const void *routing_weights; /* (T, K) */
    fex_i64 routing_weights_stride;
    fex_choice *lists; /* [groups][tokens of a group * K, and 1 if odd] */
    int *starts;       /* [groups][blocks + 2]: where in the group's list the
                        * choices of a block begin, and where the last and then
                        * the repeats end */
    float *scores;     /* (T, K) or NULL; empty slots get 0 */
    fex_i64 scores_stride;
    unsigned *levels; /* [T]: set to FEX_WEIGHTS_NONE */
} fex_matrix_lists_args;
FEX_ASSERT_OFFSET(fex_matrix_lists_args, lists, 48);
FEX_STATIC_ASSERT(sizeof(fex_matrix_lists_args) == 88);

/* What a token's weights are: all of them 0, or so small that f16 has few bits
 * of them, or some that are not. */
enum { FEX_WEIGHTS_NONE, FEX_WEIGHTS_FAINT, FEX_WEIGHTS_GOOD };

/* matrix_scores.cu: s = x . D[e] for all tokens and experts; of it what tokens
 * chose, and P[t,e], the matrix of what their choices weigh. */
typedef struct fex_matrix_scores_args {
    fex_tensor_map hidden_map; /* (T, H) */
    fex_tensor_map down_map;   /* (E, H) */
    fex_choice *lists; /* as matrix_lists left them, and the next */
    const int *starts;
    float *scores; /* (T, K) or NULL */
    fex_i64 scores_stride;
    unsigned short *weights; /* f16 [parts of a weight][T][weights_stride] */
    fex_i64 weights_stride;  /* E and what it takes to a multiple of 64 */
    unsigned *levels;        /* [T]: what P has of a token, as above */
    const void *up_weights;  /* (E, H), to be in L2 when they are needed, or NULL */
    fex_i64 up_weights_stride;
    int num_tokens;
    int num_experts;
} fex_matrix_scores_args;
FEX_ASSERT_OFFSET(fex_matrix_scores_args, lists, 256);
FEX_ASSERT_OFFSET(fex_matrix_scores_args, levels, 304);
FEX_STATIC_ASSERT(sizeof(fex_matrix_scores_args) == 384);

/* What states that f16 is no good for are known by, and computed anew from. */
typedef struct fex_matrix_plain {
    fex_choices choices;
    const fex_choice *lists; /* as matrix_scores left them */
    const int *starts;
    float *weights;         /* (T, K), to put them in order */
    const void *up_weights; /* (E, H) */
    fex_i64 up_weights_stride;
    const unsigned *levels; /* as matrix_scores left them */
} fex_matrix_plain;
FEX_ASSERT_OFFSET(fex_matrix_plain, lists, 32);
FEX_STATIC_ASSERT(sizeof(fex_matrix_plain) == 80);

/* matrix_states.cu: expert_states = P U, or the sums of it over ranges of the
 * experts. */
typedef struct fex_matrix_states_args {
    fex_tensor_map weights_map; /* of P: (parts of a weight * T, E) */
    fex_tensor_map up_map;      /* (E, H) */
    fex_matrix_plain plain;
    void *expert_states; /* (T, H), where there is one range */
    fex_i64 expert_states_stride;
    float *partials; /* [ranges][tiles]: sums, as a warp has them; or NULL */
    float *scores;   /* (T, K) or NULL; those of repeats are filled in */
    fex_i64 scores_stride;
    int ranges;
    int reserved;
} fex_matrix_states_args;
FEX_ASSERT_OFFSET(fex_matrix_states_args, plain, 256);
FEX_ASSERT_OFFSET(fex_matrix_states_args, expert_states, 336);
FEX_STATIC_ASSERT(sizeof(fex_matrix_states_args) == 384);

/* matrix_sum.cu: expert_states from partials. */
typedef struct fex_matrix_sum_args {
    fex_matrix_plain plain;
    float *partials;     /* as matrix_states left it */
    void *expert_states; /* (T, H) */
    fex_i64 expert_states_stride;
    int ranges;
    int tile_tokens; /* of a tile of matrix_states */
} fex_matrix_sum_args;
FEX_ASSERT_OFFSET(fex_matrix_sum_args, partials, 80);
FEX_STATIC_ASSERT(sizeof(fex_matrix_sum_args) == 112);

/* sort_pairs.cu: one pass of a stable radix sort of pairs by expert. */
typedef struct fex_sort_args {
    fex_choices choices;
    fex_i64 pairs;      /* T * K */
    unsigned *keys_in;  /* NULL in the first pass: keys are the choices */
    unsigned *pairs_in; /* t * K + k */
    unsigned *keys_out; /* expert, or num_experts for an empty slot */
    unsigned *pairs_out;
    unsigned *counts; /* [1 << DIGIT_BITS][tiles] */
    unsigned *totals; /* [1 << DIGIT_BITS] */
    int tiles;
    int shift; /* of this pass's digit */
} fex_sort_args;
FEX_ASSERT_OFFSET(fex_sort_args, keys_in, 40);
FEX_ASSERT_OFFSET(fex_sort_args, tiles, 88);
FEX_STATIC_ASSERT(sizeof(fex_sort_args) == 96);

/* What a pair adds to the gradients of its expert's two rows. */
typedef struct fex_pair_weights {
    float down; /* ds: of hidden_states */
    float up;   /* g silu(s): of grad_output */
} fex_pair_weights;

/* sort_pairs.cu, after the last pass: each expert's range, and what the
 * gradients need of a pair, in sorted order. */
typedef struct fex_segments_args {
    fex_i64 num_experts;
    fex_i64 pairs;
    const unsigned *sorted_keys;
    const unsigned *sorted_pairs;
    const float *grad_scores;  /* (T, K) dense */
    const float *coefficients; /* (T, K) dense */
    unsigned *segments;        /* [num_experts][2]: first and end position */
    unsigned *tokens;          /* [pairs] */
    fex_pair_weights *weights; /* [pairs] */
} fex_segments_args;
FEX_ASSERT_OFFSET(fex_segments_args, segments, 48);
FEX_STATIC_ASSERT(sizeof(fex_segments_args) == 72);

/* weight_gradients.cu: both tables' gradients from pairs sorted by expert. */
typedef struct fex_weight_gradients_args {
    fex_i64 num_experts;
    fex_i64 pairs;
    const void *hidden_states; /* (T, H) */
    const void *grad_output;   /* (T, H) */
    fex_i64 hidden_states_stride;
    fex_i64 grad_output_stride;
    const unsigned *sorted_keys;     /* [pairs], as are the next two */
    const unsigned *tokens;
    const fex_pair_weights *weights;
    const unsigned *segments; /* [num_experts][2] */
    float *partials;          /* [2 * chunks][2][H] */
    void *grad_down_weights;  /* (E, H) or NULL */
    void *grad_up_weights;    /* (E, H) or NULL */
    fex_i64 grad_down_weights_stride;
    fex_i64 grad_up_weights_stride;
    fex_i64 chunk; /* an expert with more pairs than this is summed in
                    * chunks of the sorted list, each by its own group */
    int accumulate_down;
    int accumulate_up;
} fex_weight_gradients_args;
FEX_ASSERT_OFFSET(fex_weight_gradients_args, sorted_keys, 48);
FEX_ASSERT_OFFSET(fex_weight_gradients_args, partials, 80);
FEX_ASSERT_OFFSET(fex_weight_gradients_args, chunk, 120);
FEX_STATIC_ASSERT(sizeof(fex_weight_gradients_args) == 136);

/* check_indices.cu: the first pair whose index is >= num_experts. */
typedef struct fex_check_args {
    fex_choices choices;
    unsigned long long *first; /* pair t * K + k, or all ones; preset to that */
} fex_check_args;
FEX_STATIC_ASSERT(sizeof(fex_check_args) == 40);

/* gather_roof.cu: rows read at random, and nothing done with them. A row is a
 * choice of a token that has only one. */
typedef struct fex_gather_roof_args {
    fex_choices choices;
    const void *table; /* dense rows of ROW_BYTES */
    unsigned *sink;    /* gets the combined words if they are `unlikely` */
    unsigned unlikely;
    unsigned reserved;
} fex_gather_roof_args;
FEX_STATIC_ASSERT(sizeof(fex_gather_roof_args) == 56);

/* gather_roof.cu: a copy. */
typedef struct fex_copy_roof_args {
    const void *from; /* aligned to 16 bytes, as is `to` */
    void *to;
    fex_i64 vectors; /* of 16 bytes */
} fex_copy_roof_args;
FEX_STATIC_ASSERT(sizeof(fex_copy_roof_args) == 24);

#endif
