/* SPDX-License-Identifier: Apache-2.0 */
/* test_large_table.c - tables of more than 2^31 elements, of which the last
 * rows are chosen: as many as a small case has, so that this case tells what
 * must come out. Full tier only. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "device_suite.h"

enum { CHOSEN = 200 };
static const int64_t experts = 2200000;

static const case_spec chosen_rows = {.dtype = FEX_DTYPE_F16,
                                      .hidden_size = 1024,
                                      .top_k = 16,
                                      .num_experts = CHOSEN,
                                      .num_tokens = 60};

static device_case c;
static fex_op *op;
static test_buffer tables[CASE_ARRAYS]; /* those of the four with E rows */

static const int table_arrays[] = {CASE_DOWN_WEIGHTS, CASE_UP_WEIGHTS,
                                   CASE_GRAD_DOWN_WEIGHTS,
                                   CASE_GRAD_UP_WEIGHTS};
#define TABLES (sizeof table_arrays / sizeof *table_arrays)

static void need(fex_status status)
{
    ck_assert_msg(status == FEX_OK, "%s", fex_last_error());
}

static size_t row_bytes(void)
{
    return (size_t)c.spec.hidden_size * 2;
}

/* Where the rows of the small case are. */
static CUdeviceptr tail_of(int which)
{
    return (CUdeviceptr)(uintptr_t)tables[which].pointer +
           (size_t)(experts - CHOSEN) * row_bytes();
}

/* All other rows stay poison, which is NaN: reading one is seen. */
static void create_tables(void)
{
    for (size_t i = 0; i < TABLES; i++) {
        const int which = table_arrays[i];
        test_buffer_create(&suite_device, (size_t)experts * row_bytes(), 0,
                           &tables[which]);
        TEST_DRIVER(&suite_device,
                    cuMemcpyHtoD(tail_of(which), c.arrays[which].initial,
                                 CHOSEN * row_bytes()));
    }
    c.forward.down_weights = c.backward.down_weights =
        tables[CASE_DOWN_WEIGHTS].pointer;
    c.forward.up_weights = c.backward.up_weights =
        tables[CASE_UP_WEIGHTS].pointer;
    c.backward.grad_down_weights = tables[CASE_GRAD_DOWN_WEIGHTS].pointer;
    c.backward.grad_up_weights = tables[CASE_GRAD_UP_WEIGHTS].pointer;
}

static void shift_indices(void)
{
    case_array *const a = &c.arrays[CASE_INDICES];
    int32_t *const indices = (int32_t *)(void *)a->initial;
    for (int64_t i = 0; i < a->rows * a->columns; i++)
        indices[i] += (int32_t)(experts - CHOSEN);
    test_buffer_upload(&suite_device, &a->buffer, indices);
}

static void create(void)
{
    size_t bytes;
    device_case_create(&suite_device, &chosen_rows, &c);
    ck_assert_int_eq(device_case_reference(&c, FEX_PASS_BOTH), FEX_OK);
    fex_op_desc desc = c.desc;
    desc.num_experts = experts;
    need(fex_op_create(suite_device.context, &desc, &op));
    need(fex_op_workspace_size(op, FEX_PASS_BOTH, c.spec.num_tokens, &bytes));
    test_buffer_destroy(&suite_device, &c.workspace);
    test_buffer_create(&suite_device, bytes, 0, &c.workspace);
    c.forward.workspace = c.backward.workspace = c.workspace.pointer;
    c.forward.workspace_size = c.backward.workspace_size = bytes;
    create_tables();
    shift_indices();
}

static void destroy(void)
{
    for (size_t i = 0; i < TABLES; i++)
        test_buffer_destroy(&suite_device, &tables[table_arrays[i]]);
    fex_op_destroy(op);
    device_case_destroy(&c);
}

static void check_outputs(fex_pass pass)
{
    for (int i = 0; i < CASE_ARRAYS; i++) {
        if (!device_case_is_output(&c, i, pass))
            continue;
        const double error = device_case_error(&c, i);
        ck_assert_msg(error <= device_case_tolerance(&c, i),
                      "%s is off by %.3g", c.arrays[i].name, error);
    }
}

/* Rows that no token chose became 0: all of them, in pieces. */
static void check_zeros(int which)
{
    enum { PIECE = 1 << 26 };
    unsigned char *const piece = test_allocate(PIECE);
    const CUdeviceptr end = tail_of(which);
    for (CUdeviceptr at = (CUdeviceptr)(uintptr_t)tables[which].pointer;
         at < end; at += PIECE) {
        const size_t bytes = end - at < PIECE ? (size_t)(end - at) : PIECE;
        TEST_DRIVER(&suite_device, cuMemcpyDtoH(piece, at, bytes));
        ck_assert_msg(piece[0] == 0 && memcmp(piece, piece + 1, bytes - 1) == 0,
                      "%s is not 0 in a row no token chose",
                      c.arrays[which].name);
    }
    free(piece);
}

START_TEST(last_rows_are_reached)
{
    create();
    need(fex_forward(op, &c.forward, NULL));
    need(fex_backward(op, &c.backward, NULL));
    TEST_DRIVER(&suite_device, cuCtxSynchronize());
    device_case_download(&c, FEX_PASS_BOTH);
    for (size_t i = 2; i < TABLES; i++) {
        const int which = table_arrays[i];
        TEST_DRIVER(&suite_device,
                    cuMemcpyDtoH(c.arrays[which].result, tail_of(which),
                                 CHOSEN * row_bytes()));
        test_buffer_check_guards(&suite_device, &tables[which]);
        check_zeros(which);
    }
    check_outputs(FEX_PASS_BOTH);
    destroy();
}
END_TEST

static void fill(Suite *suite, int full)
{
    TCase *const tests = tcase_create("large table");
    if (full)
        tcase_add_test(tests, last_rows_are_reached);
    suite_add_tcase(suite, tests);
}

int main(int argc, char **argv)
{
    return device_suite_main(argc, argv, "large table", fill);
}
