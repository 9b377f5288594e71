/* SPDX-License-Identifier: Apache-2.0 */
/* test_tensor_map.c - what the driver is asked for when arrays are mapped. */
#include "config.h"

#include <string.h>

#include "suite.h"
#include "tensor_map.h"

static struct {
    CUtensorMapDataType type;
    const void *address;
    cuuint64_t sizes[2], stride;
    cuuint32_t box[2];
    CUtensorMapSwizzle swizzle;
} asked;

static CUresult
keep_map(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank,
         void *address, const cuuint64_t *sizes, const cuuint64_t *strides,
         const cuuint32_t *box, const cuuint32_t *steps,
         CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
         CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill)
{
    ck_assert_uint_eq(rank, 2);
    ck_assert_uint_eq(steps[0], 1);
    ck_assert_uint_eq(steps[1], 1);
    ck_assert_int_eq(interleave, CU_TENSOR_MAP_INTERLEAVE_NONE);
    ck_assert_int_eq(promotion, CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
    ck_assert_int_eq(fill, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    asked.type = type;
    asked.address = address;
    memcpy(asked.sizes, sizes, sizeof asked.sizes);
    asked.stride = strides[0];
    memcpy(asked.box, box, sizeof asked.box);
    asked.swizzle = swizzle;
    memset(map, 0x5a, sizeof *map);
    return CUDA_SUCCESS;
}

START_TEST(rows_are_mapped)
{
    const fex_problem problem = {.dtype = FEX_DTYPE_BF16, .hidden_size = 1000};
    const fex_driver driver = {.cuTensorMapEncodeTiled = keep_map};
    fex_tensor_map map;
    static char base[16] __attribute__((aligned(16)));
    fex_rows rows = fex_rows_of(&problem, base, 5000, 1008);
    test_ok(fex_map_rows(&driver, &map, &rows, 64));
    ck_assert_int_eq(asked.type, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16);
    ck_assert_ptr_eq(asked.address, base);
    ck_assert_uint_eq(asked.sizes[0], 1000);
    ck_assert_uint_eq(asked.sizes[1], 5000);
    ck_assert_uint_eq(asked.stride, 2016);
    ck_assert_uint_eq(asked.box[0], 64);
    ck_assert_uint_eq(asked.box[1], 64);
    ck_assert_int_eq(asked.swizzle, CU_TENSOR_MAP_SWIZZLE_128B);
    for (size_t i = 0; i < sizeof map.words / sizeof *map.words; i++)
        ck_assert(map.words[i] == 0x5a5a5a5a5a5a5a5aULL);
    /* the stride of one row means nothing, and may be more than there can be */
    rows = fex_rows_of(&problem, base, 1, INT64_C(1) << 50);
    test_ok(fex_map_rows(&driver, &map, &rows, 64));
    ck_assert_uint_eq(asked.stride, 2000);
    rows.columns = 97;
    test_ok(fex_map_rows(&driver, &map, &rows, 64));
    ck_assert_uint_eq(asked.sizes[0], 97);
    ck_assert_uint_eq(asked.stride, 208);
    /* an array that is not of the problem's type and size */
    rows = (fex_rows){.base = base,
                      .count = 2,
                      .columns = 96,
                      .stride = 128,
                      .dtype = FEX_DTYPE_F16};
    test_ok(fex_map_rows(&driver, &map, &rows, 128));
    ck_assert_int_eq(asked.type, CU_TENSOR_MAP_DATA_TYPE_FLOAT16);
    ck_assert_uint_eq(asked.sizes[0], 96);
    ck_assert_uint_eq(asked.stride, 256);
    ck_assert_uint_eq(asked.box[1], 128);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_test(tests, rows_are_mapped);
}

int main(void)
{
    return test_suite_main("tensor_map", fill);
}
