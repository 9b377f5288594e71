/* SPDX-License-Identifier: Apache-2.0 */
/* test_problem.c - what a caller asks for is checked, and every message names
 * the argument. */
#include "config.h"

#include <string.h>

#include "problem.h"
#include "suite.h"

static const fex_op_desc good = {.size = sizeof good,
                                 .dtype = FEX_DTYPE_BF16,
                                 .hidden_size = 64,
                                 .top_k = 8,
                                 .num_experts = 100};

/* ---- The operation ------------------------------------------------------- */

START_TEST(defaults_are_resolved)
{
    fex_problem problem;
    test_ok(fex_problem_init(&problem, &good));
    ck_assert_int_eq(problem.dtype, FEX_DTYPE_BF16);
    ck_assert_int_eq(problem.routing_dtype, FEX_DTYPE_BF16);
    ck_assert_int_eq(problem.weight_grad_dtype, FEX_DTYPE_BF16);
    ck_assert_int_eq(problem.index_type, FEX_INDEX_I32);
    ck_assert_int_eq(problem.hidden_size, 64);
    ck_assert_int_eq(problem.top_k, 8);
    ck_assert_int_eq(problem.num_experts, 100);
    ck_assert_int_eq(problem.check_indices, 0);
}
END_TEST

START_TEST(choices_are_kept)
{
    fex_problem problem;
    fex_op_desc desc = good;
    desc.routing_dtype = FEX_DTYPE_F32;
    desc.weight_grad_dtype = FEX_DTYPE_F32;
    desc.index_type = FEX_INDEX_I64;
    desc.flags = FEX_OP_CHECK_INDICES;
    test_ok(fex_problem_init(&problem, &desc));
    ck_assert_int_eq(problem.routing_dtype, FEX_DTYPE_F32);
    ck_assert_int_eq(problem.weight_grad_dtype, FEX_DTYPE_F32);
    ck_assert_int_eq(problem.index_type, FEX_INDEX_I64);
    ck_assert_int_ne(problem.check_indices, 0);
}
END_TEST

/* A problem with one member changed, and the word the message must have. */
#define BAD(member, value)                                                     \
    {#member, {.size = sizeof(fex_op_desc),                                    \
               .dtype = FEX_DTYPE_BF16,                                        \
               .hidden_size = 64,                                              \
               .top_k = 8,                                                     \
               .num_experts = 100,                                             \
               .member = value}}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"
static const struct {
    const char *word;
    fex_op_desc desc;
} bad_descs[] = {
    BAD(size, 0),
    BAD(size, sizeof(fex_op_desc) - 1),
    BAD(dtype, FEX_DTYPE_AUTO),
    BAD(dtype, (fex_dtype)4),
    BAD(dtype, (fex_dtype)-1),
    BAD(routing_dtype, FEX_DTYPE_F16),
    BAD(routing_dtype, (fex_dtype)9),
    BAD(weight_grad_dtype, FEX_DTYPE_F16),
    BAD(weight_grad_dtype, (fex_dtype)-1),
    BAD(index_type, (fex_index_type)3),
    BAD(index_type, (fex_index_type)-1),
    BAD(hidden_size, 0),
    BAD(hidden_size, -1),
    BAD(hidden_size, FEX_HIDDEN_SIZE_MAX + 1),
    BAD(top_k, 0),
    BAD(top_k, FEX_TOP_K_MAX + 1),
    BAD(num_experts, 0),
    BAD(num_experts, INT64_C(1) << 31),
    BAD(flags, 2),
};
#pragma GCC diagnostic pop

START_TEST(bad_member_is_named)
{
    fex_problem problem, untouched;
    memset(&problem, 0x5a, sizeof problem);
    memset(&untouched, 0x5a, sizeof untouched);
    TEST_INVALID(fex_problem_init(&problem, &bad_descs[_i].desc),
                 bad_descs[_i].word);
    ck_assert_int_eq(memcmp(&problem, &untouched, sizeof problem), 0);
}
END_TEST

START_TEST(types_are_named_in_messages)
{
    fex_problem problem;
    fex_op_desc desc = good;
    desc.dtype = FEX_DTYPE_AUTO;
    TEST_INVALID(fex_problem_init(&problem, &desc),
                 "dtype is auto, not f16, bf16 or f32");
    desc.dtype = FEX_DTYPE_BF16;
    desc.routing_dtype = FEX_DTYPE_F16;
    TEST_INVALID(fex_problem_init(&problem, &desc),
                 "routing_dtype is f16, neither auto nor dtype, bf16, nor f32");
    /* What has no name is told by its number. */
    desc.routing_dtype = (fex_dtype)9;
    TEST_INVALID(fex_problem_init(&problem, &desc), "routing_dtype is 9");
    desc.routing_dtype = FEX_DTYPE_AUTO;
    desc.index_type = (fex_index_type)3;
    TEST_INVALID(fex_problem_init(&problem, &desc),
                 "index_type is 3, not auto, i32 or i64");
}
END_TEST

START_TEST(limits_are_allowed)
{
    fex_problem problem;
    fex_op_desc desc = good;
    desc.hidden_size = FEX_HIDDEN_SIZE_MAX;
    desc.top_k = FEX_TOP_K_MAX;
    desc.num_experts = INT32_MAX;
    test_ok(fex_problem_init(&problem, &desc));
    desc.hidden_size = desc.top_k = desc.num_experts = 1;
    test_ok(fex_problem_init(&problem, &desc));
    TEST_INVALID(fex_problem_init(&problem, NULL), "desc is NULL");
}
END_TEST

START_TEST(newer_desc_is_accepted_if_zero)
{
    struct {
        fex_op_desc desc;
        int newer;
    } given = {.desc = good};
    fex_problem problem;
    given.desc.size = sizeof given;
    test_ok(fex_problem_init(&problem, &given.desc));
    given.newer = 1;
    TEST_INVALID(fex_problem_init(&problem, &given.desc), "fex_op_desc");
}
END_TEST

START_TEST(tokens_are_limited_by_pairs)
{
    fex_problem problem;
    test_ok(fex_problem_init(&problem, &good));
    test_ok(fex_problem_check_tokens(&problem, 0));
    test_ok(fex_problem_check_tokens(&problem, FEX_PAIRS_MAX / 8));
    TEST_INVALID(fex_problem_check_tokens(&problem, FEX_PAIRS_MAX / 8 + 1),
                 "num_tokens");
    TEST_INVALID(fex_problem_check_tokens(&problem, -1), "num_tokens");
    TEST_INVALID(fex_problem_check_tokens(&problem, INT64_MAX), "num_tokens");
}
END_TEST

/* ---- Arrays -------------------------------------------------------------- */

/* Not read or written: only addresses are looked at. */
static _Alignas(8) char memory[64];

static fex_forward_args forward_args(void)
{
    return (fex_forward_args){.size = sizeof(fex_forward_args),
                              .num_tokens = 3,
                              .hidden_states = memory,
                              .down_weights = memory,
                              .up_weights = memory,
                              .indices = memory,
                              .routing_weights = memory,
                              .expert_states = memory,
                              .scores = (float *)(void *)memory};
}

static fex_backward_args backward_args(void)
{
    return (fex_backward_args){.size = sizeof(fex_backward_args),
                               .num_tokens = 3,
                               .grad_output = memory,
                               .hidden_states = memory,
                               .down_weights = memory,
                               .up_weights = memory,
                               .indices = memory,
                               .routing_weights = memory,
                               .scores = (const float *)(void *)memory,
                               .grad_hidden_states = memory,
                               .grad_down_weights = memory,
                               .grad_up_weights = memory,
                               .grad_routing_weights = memory};
}

/* One array of a pass: where its pointer and stride are, and what holds. */
typedef struct array {
    const char *name;
    fex_pass pass;
    size_t pointer, stride;
    int64_t columns;
    size_t element;
    int optional;
} array;

#define ARRAY(pass, args, name, columns, element, optional)                    \
    {#name, pass, offsetof(args, name), offsetof(args, name##_stride),         \
     columns, element, optional}
#define FORWARD(...) ARRAY(FEX_PASS_FORWARD, fex_forward_args, __VA_ARGS__)
#define BACKWARD(...) ARRAY(FEX_PASS_BACKWARD, fex_backward_args, __VA_ARGS__)

static const array arrays[] = {
    FORWARD(hidden_states, 64, 2, 0),
    FORWARD(down_weights, 64, 2, 0),
    FORWARD(up_weights, 64, 2, 0),
    FORWARD(indices, 8, 8, 0),
    FORWARD(routing_weights, 8, 4, 0),
    FORWARD(expert_states, 64, 2, 0),
    FORWARD(scores, 8, 4, 1),
    BACKWARD(grad_output, 64, 2, 0),
    BACKWARD(hidden_states, 64, 2, 0),
    BACKWARD(down_weights, 64, 2, 0),
    BACKWARD(up_weights, 64, 2, 0),
    BACKWARD(indices, 8, 8, 0),
    BACKWARD(routing_weights, 8, 4, 0),
    BACKWARD(scores, 8, 4, 1),
    BACKWARD(grad_hidden_states, 64, 2, 1),
    BACKWARD(grad_down_weights, 64, 4, 1),
    BACKWARD(grad_up_weights, 64, 4, 1),
    BACKWARD(grad_routing_weights, 8, 4, 1),
};

/* Either pass's arguments, to be changed by offset. */
typedef union either_args {
    fex_forward_args forward;
    fex_backward_args backward;
    char bytes[sizeof(fex_backward_args)];
} either_args;

static either_args good_args(fex_pass pass)
{
    either_args args;
    memset(&args, 0, sizeof args);
    if (pass == FEX_PASS_FORWARD)
        args.forward = forward_args();
    else
        args.backward = backward_args();
    return args;
}

static void set_pointer(either_args *args, const array *a, const void *pointer)
{
    memcpy(args->bytes + a->pointer, &pointer, sizeof pointer);
}

static void set_stride(either_args *args, const array *a, int64_t stride)
{
    memcpy(args->bytes + a->stride, &stride, sizeof stride);
}

static fex_status check(const either_args *args, fex_pass pass,
                        either_args *resolved)
{
    fex_problem problem;
    fex_op_desc desc = good;
    desc.routing_dtype = desc.weight_grad_dtype = FEX_DTYPE_F32;
    desc.index_type = FEX_INDEX_I64;
    test_ok(fex_problem_init(&problem, &desc));
    return pass == FEX_PASS_FORWARD
               ? fex_problem_check_forward(&problem, &args->forward,
                                           &resolved->forward)
               : fex_problem_check_backward(&problem, &args->backward,
                                            &resolved->backward);
}

/* _i, here and below: the array. */
START_TEST(bad_pointer_is_named)
{
    const array *const a = &arrays[_i];
    either_args args = good_args(a->pass), resolved;
    test_ok(check(&args, a->pass, &resolved));
    set_pointer(&args, a, memory + 1);
    TEST_INVALID(check(&args, a->pass, &resolved), a->name);
    set_pointer(&args, a, memory + a->element);
    test_ok(check(&args, a->pass, &resolved));
    set_pointer(&args, a, memory + a->element / 2);
    TEST_INVALID(check(&args, a->pass, &resolved), a->name);
    set_pointer(&args, a, NULL);
    if (a->optional)
        test_ok(check(&args, a->pass, &resolved));
    else
        TEST_INVALID(check(&args, a->pass, &resolved), a->name);
}
END_TEST

START_TEST(bad_stride_is_named)
{
    const array *const a = &arrays[_i];
    either_args args = good_args(a->pass), resolved;
    int64_t stride;
    test_ok(check(&args, a->pass, &resolved));
    memcpy(&stride, resolved.bytes + a->stride, sizeof stride);
    ck_assert_int_eq(stride, a->columns); /* 0 became dense */
    set_stride(&args, a, a->columns + 3);
    test_ok(check(&args, a->pass, &resolved));
    memcpy(&stride, resolved.bytes + a->stride, sizeof stride);
    ck_assert_int_eq(stride, a->columns + 3);
    set_stride(&args, a, a->columns - 1);
    TEST_INVALID(check(&args, a->pass, &resolved), a->name);
    set_stride(&args, a, -a->columns);
    TEST_INVALID(check(&args, a->pass, &resolved), a->name);
    set_stride(&args, a, INT64_MAX);
    TEST_INVALID(check(&args, a->pass, &resolved), a->name);
}
END_TEST

/* _i, here and below: the pass. */
START_TEST(without_tokens_pointers_are_not_used)
{
    const fex_pass pass = (fex_pass)_i;
    either_args args, resolved;
    memset(&args, 0, sizeof args);
    args.forward.size = pass == FEX_PASS_FORWARD ? sizeof args.forward
                                                 : sizeof args.backward;
    test_ok(check(&args, pass, &resolved));
    args.forward.num_tokens = 1;
    TEST_INVALID(check(&args, pass, &resolved), " is NULL");
}
END_TEST

START_TEST(other_members_are_checked)
{
    const fex_pass pass = (fex_pass)_i;
    either_args args = good_args(pass), resolved;
    args.forward.num_tokens = -1;
    TEST_INVALID(check(&args, pass, &resolved), "num_tokens");
    args = good_args(pass);
    args.forward.size -= 1;
    TEST_INVALID(check(&args, pass, &resolved), "_args.size");
}
END_TEST

START_TEST(accumulate_has_four_flags)
{
    either_args args = good_args(FEX_PASS_BACKWARD), resolved;
    args.backward.accumulate = 15;
    test_ok(check(&args, FEX_PASS_BACKWARD, &resolved));
    args.backward.accumulate = 16;
    TEST_INVALID(check(&args, FEX_PASS_BACKWARD, &resolved), "accumulate");
}
END_TEST

START_TEST(args_must_be_given)
{
    fex_problem problem;
    fex_forward_args forward;
    fex_backward_args backward;
    test_ok(fex_problem_init(&problem, &good));
    TEST_INVALID(fex_problem_check_forward(&problem, NULL, &forward),
                 "args is NULL");
    TEST_INVALID(fex_problem_check_backward(&problem, NULL, &backward),
                 "args is NULL");
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static void fill(TCase *tests)
{
    tcase_add_test(tests, defaults_are_resolved);
    tcase_add_test(tests, choices_are_kept);
    tcase_add_loop_test(tests, bad_member_is_named, 0, COUNT(bad_descs));
    tcase_add_test(tests, types_are_named_in_messages);
    tcase_add_test(tests, limits_are_allowed);
    tcase_add_test(tests, newer_desc_is_accepted_if_zero);
    tcase_add_test(tests, tokens_are_limited_by_pairs);
    tcase_add_loop_test(tests, bad_pointer_is_named, 0, COUNT(arrays));
    tcase_add_loop_test(tests, bad_stride_is_named, 0, COUNT(arrays));
    tcase_add_loop_test(tests, without_tokens_pointers_are_not_used,
                        FEX_PASS_FORWARD, FEX_PASS_BACKWARD + 1);
    tcase_add_loop_test(tests, other_members_are_checked, FEX_PASS_FORWARD,
                        FEX_PASS_BACKWARD + 1);
    tcase_add_test(tests, accumulate_has_four_flags);
    tcase_add_test(tests, args_must_be_given);
}

int main(void)
{
    return test_suite_main("problem", fill);
}
