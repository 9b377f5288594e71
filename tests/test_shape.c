/* SPDX-License-Identifier: Apache-2.0 */
/* The shape grammar: what it accepts, expands to, and says about mistakes. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../tools/shape.h"

#define SMALL "hidden=64 top_k=8 experts=100 tokens=3"

static tool_shapes list;

static void empty_list(void)
{
    shape_list_free(&list);
}

static fex_status add(const char *text)
{
    return shape_list_add(&list, "--shape", text, NULL);
}

/* The text is refused, and the message says so in these words. */
static void refuses(const char *text, const char *words)
{
    ck_assert_int_eq(add(text), FEX_ERROR_INVALID_ARGUMENT);
    ck_assert_msg(strstr(fex_last_error(), words) != NULL,
                  "'%s' gave: %s\nwithout: %s", text, fex_last_error(), words);
    ck_assert_uint_eq(list.count, 0);
}

START_TEST(every_key_is_read)
{
    ck_assert_int_eq(add("dtype=f16 hidden=1024 top_k=64 experts=16384 "
                         "tokens=4096 pass=backward index=i64 routing=f32 "
                         "weight_grad=f32"),
                     FEX_OK);
    ck_assert_uint_eq(list.count, 1);
    const tool_shape *shape = &list.items[0];
    ck_assert_int_eq(shape->desc.dtype, FEX_DTYPE_F16);
    ck_assert_int_eq(shape->desc.hidden_size, 1024);
    ck_assert_int_eq(shape->desc.top_k, 64);
    ck_assert_int_eq(shape->desc.num_experts, 16384);
    ck_assert_int_eq(shape->tokens, 4096);
    ck_assert_int_eq(shape->passes, FEX_PASS_BACKWARD);
    ck_assert_int_eq(shape->desc.index_type, FEX_INDEX_I64);
    ck_assert_int_eq(shape->desc.routing_dtype, FEX_DTYPE_F32);
    ck_assert_int_eq(shape->desc.weight_grad_dtype, FEX_DTYPE_F32);
    ck_assert_uint_eq(shape->desc.size, sizeof(fex_op_desc));
}
END_TEST

START_TEST(defaults_and_order)
{
    ck_assert_int_eq(add("  tokens=0\ttop_k=8 experts=100   hidden=64\n"),
                     FEX_OK);
    const tool_shape *shape = &list.items[0];
    ck_assert_int_eq(shape->desc.dtype, FEX_DTYPE_BF16);
    ck_assert_int_eq(shape->passes, FEX_PASS_BOTH);
    ck_assert_int_eq(shape->desc.index_type, FEX_INDEX_I32);
    ck_assert_int_eq(shape->desc.routing_dtype, FEX_DTYPE_AUTO);
    ck_assert_int_eq(shape->tokens, 0);
}
END_TEST

START_TEST(units_are_powers_of_1024)
{
    ck_assert_int_eq(add("hidden=1K top_k=8 experts=2m tokens=3K"), FEX_OK);
    ck_assert_int_eq(list.items[0].desc.hidden_size, 1024);
    ck_assert_int_eq(list.items[0].desc.num_experts, 2 << 20);
    ck_assert_int_eq(list.items[0].tokens, 3072);
}
END_TEST

START_TEST(lists_expand_to_every_combination)
{
    static const struct {
        fex_dtype dtype;
        int64_t tokens;
    } expected[] = {{FEX_DTYPE_F16, 1}, {FEX_DTYPE_F16, 2}, {FEX_DTYPE_F16, 3},
                    {FEX_DTYPE_F32, 1}, {FEX_DTYPE_F32, 2}, {FEX_DTYPE_F32, 3}};

    ck_assert_int_eq(
        add("tokens=1,2,3 dtype=f16,f32 hidden=64 top_k=8 experts=100"),
        FEX_OK);
    ck_assert_uint_eq(list.count, 6);
    for (size_t i = 0; i < 6; i++) {
        ck_assert_int_eq(list.items[i].desc.dtype, expected[i].dtype);
        ck_assert_int_eq(list.items[i].tokens, expected[i].tokens);
    }
    /* A second text adds to the first. */
    ck_assert_int_eq(add(SMALL " pass=forward,both"), FEX_OK);
    ck_assert_uint_eq(list.count, 8);
}
END_TEST

START_TEST(a_type_equal_to_dtype_is_auto)
{
    ck_assert_int_eq(add(SMALL " dtype=f16,f32 routing=f32"), FEX_OK);
    ck_assert_int_eq(list.items[0].desc.routing_dtype, FEX_DTYPE_F32);
    ck_assert_int_eq(list.items[1].desc.routing_dtype, FEX_DTYPE_AUTO);
}
END_TEST

static const struct {
    const char *text;
    const char *words;
} mistakes[] = {
    {SMALL " dtype=fp8", "column 46: dtype: expected f16, bf16 or f32, found "
                         "'fp8'"},
    {"hidden=0 top_k=8 experts=100 tokens=3",
     "column 8: hidden: expected a number from 1 to "},
    {"hidden=64 top_k=8193 experts=100 tokens=3", "column 17: top_k"},
    {"hidden=64 top_k=8 experts=2G tokens=3", "column 27: experts"},
    {"hidden=64 top_k=8 experts=100 tokens=-1",
     "tokens must not be negative, found '-1'"},
    {"hidden=64 top_k=8 experts=100 tokens=-", "tokens: expected a number"},
    {"hidden=64 top_k=8 experts=100 tokens=1e3", "found '1e3'"},
    {"hidden=64 top_k=8 experts=100 tokens=1KK", "found '1KK'"},
    {"hidden=99999999999999999999 top_k=8 experts=1 tokens=3", "column 8"},
    {"hidden=64 top_k=8 experts=100 tokens=1,", "column 40: tokens: expected"},
    {"hidden=64 top_k=8 experts=100 tokens=", "found ''"},
    {"hidden=64 top_k=8 experts=100", "column 30: tokens=... is missing"},
    {"", "hidden=... is missing"},
    {SMALL " width=3", "column 40: expected KEY=VALUE with one of the keys "
                       "dtype, hidden, "},
    {SMALL " bf16", "found 'bf16'"},
    {SMALL " =3", "found '=3'"},
    {SMALL " hidden=32", "column 40: hidden was given before"},
    {SMALL " dtype=f16 routing=bf16", "routing_dtype"},
    {"hidden=1 top_k=8192 experts=1 tokens=1M", "tokens"},
};

START_TEST(mistakes_are_placed_and_explained)
{
    refuses(mistakes[_i].text, mistakes[_i].words);
}
END_TEST

START_TEST(expansion_is_bounded)
{
    /* 200^3 combinations, and more than 256 values of one key */
    char numbers[2048] = "";
    char text[8192];
    for (int i = 1; i <= 200; i++)
        snprintf(numbers + strlen(numbers), sizeof numbers - strlen(numbers),
                 "%s%d", i > 1 ? "," : "", i);
    snprintf(text, sizeof text, "hidden=%s top_k=%s experts=%s tokens=1",
             numbers, numbers, numbers);
    refuses(text, "more than 1048576 shapes");
    snprintf(text, sizeof text, "hidden=%s,%s top_k=1 experts=1 tokens=1",
             numbers, numbers);
    refuses(text, "hidden has more than 256 values");
}
END_TEST

START_TEST(a_format_reads_back_as_the_same_shape)
{
    static const char *const texts[] = {
        "dtype=bf16 hidden=64 top_k=8 experts=100 tokens=3 pass=both",
        "dtype=f16 hidden=1 top_k=1 experts=2147483647 tokens=0 pass=forward "
        "index=i64 routing=f32 weight_grad=f32",
    };
    char text[SHAPE_TEXT_MAX];

    for (size_t i = 0; i < 2; i++) {
        ck_assert_int_eq(add(texts[i]), FEX_OK);
        shape_format(&list.items[i], text);
        ck_assert_str_eq(text, texts[i]);
    }
}
END_TEST

/* ---- With data from a file ---------------------------------------------- */

static tool_shape data_shape(void)
{
    ck_assert_int_eq(add(SMALL " pass=forward dtype=f16"), FEX_OK);
    const tool_shape shape = list.items[0];
    empty_list();
    return shape;
}

START_TEST(data_fill_what_is_left_out)
{
    const tool_shape data = data_shape();
    ck_assert_int_eq(shape_list_add(&list, "--shape", "", &data), FEX_OK);
    ck_assert_int_eq(list.items[0].desc.hidden_size, 64);
    ck_assert_int_eq(list.items[0].desc.dtype, FEX_DTYPE_F16);
    ck_assert_int_eq(list.items[0].passes, FEX_PASS_FORWARD);
    ck_assert_int_eq(shape_list_add(&list, "--shape",
                                    "hidden=64 routing=f16 weight_grad=f32 "
                                    "pass=both",
                                    &data),
                     FEX_OK);
    ck_assert_int_eq(list.items[1].passes, FEX_PASS_BOTH);
    ck_assert_int_eq(list.items[1].desc.weight_grad_dtype, FEX_DTYPE_F32);
}
END_TEST

START_TEST(data_are_not_contradicted)
{
    const tool_shape data = data_shape();
    ck_assert_int_eq(shape_list_add(&list, "--shape", "hidden=65", &data),
                     FEX_ERROR_INVALID_ARGUMENT);
    ck_assert_msg(strstr(fex_last_error(), "hidden does not agree") != NULL,
                  "%s", fex_last_error());
    ck_assert_int_eq(shape_list_add(&list, "--shape", "tokens=3,4", &data),
                     FEX_ERROR_INVALID_ARGUMENT);
}
END_TEST

/* ---- Files -------------------------------------------------------------- */

static char path[] = "shapes-XXXXXX";

static void write_file(const void *text, size_t length)
{
    strcpy(path, "shapes-XXXXXX");
    const int descriptor = mkstemp(path);
    ck_assert_int_ge(descriptor, 0);
    ck_assert_int_eq(write(descriptor, text, length), (ssize_t)length);
    close(descriptor);
}

START_TEST(a_file_has_a_shape_a_line)
{
    static const char text[] = "# decode\n"
                               "\n"
                               "  " SMALL " pass=forward # small\r\n"
                               "hidden=64 top_k=8 experts=100 tokens=1,2";
    write_file(text, strlen(text));
    const fex_status status = shape_list_add_file(&list, path);
    unlink(path);
    ck_assert_int_eq(status, FEX_OK);
    ck_assert_uint_eq(list.count, 3);
    ck_assert_int_eq(list.items[0].passes, FEX_PASS_FORWARD);
    ck_assert_int_eq(list.items[2].tokens, 2);
}
END_TEST

static void refuses_file(const void *text, size_t length, const char *words)
{
    write_file(text, length);
    const fex_status status = shape_list_add_file(&list, path);
    unlink(path);
    ck_assert_int_eq(status, FEX_ERROR_INVALID_ARGUMENT);
    ck_assert_msg(strstr(fex_last_error(), words) != NULL, "%s",
                  fex_last_error());
}

/* Behind the mark columns count from 1 as ever. */
START_TEST(a_byte_order_mark_is_no_key)
{
    static const char good[] = "\xef\xbb\xbf" SMALL "\n" SMALL " dtype=f16\n";
    static const char bad[] = "\xef\xbb\xbfhidden=0";
    static const char later[] = SMALL "\n\xef\xbb\xbf" SMALL "\n";
    write_file(good, strlen(good));
    const fex_status status = shape_list_add_file(&list, path);
    unlink(path);
    ck_assert_msg(status == FEX_OK, "%s", fex_last_error());
    ck_assert_uint_eq(list.count, 2);
    refuses_file(bad, strlen(bad), ", line 1, column 8: hidden");
    refuses_file(later, strlen(later), ", line 2, column 1: expected");
}
END_TEST

START_TEST(mistakes_in_files_have_a_line)
{
    static const char wrong[] = "# one\n" SMALL "\n" SMALL " dtype=x\n";
    static const char binary[] = SMALL "\0" SMALL "\n";

    refuses_file(wrong, strlen(wrong), ", line 3, column 46: dtype");
    refuses_file("# nothing\n\n", 11, "there is no shape in it");
    refuses_file("", 0, "there is no shape in it");
    refuses_file(binary, sizeof binary - 1, "line 1, column 39: not a text");
}
END_TEST

START_TEST(files_that_cannot_be_read)
{
    ck_assert_int_eq(shape_list_add_file(&list, "no-such-file"), FEX_ERROR_IO);
    ck_assert_msg(strstr(fex_last_error(), "no-such-file") != NULL, "%s",
                  fex_last_error());
    ck_assert_int_eq(shape_list_add_file(&list, "."), FEX_ERROR_IO);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("shape");
    TCase *tests = tcase_create("grammar");
    const int count = (int)(sizeof mistakes / sizeof mistakes[0]);

    tcase_add_checked_fixture(tests, NULL, empty_list);
    tcase_add_test(tests, every_key_is_read);
    tcase_add_test(tests, defaults_and_order);
    tcase_add_test(tests, units_are_powers_of_1024);
    tcase_add_test(tests, lists_expand_to_every_combination);
    tcase_add_test(tests, a_type_equal_to_dtype_is_auto);
    tcase_add_loop_test(tests, mistakes_are_placed_and_explained, 0, count);
    tcase_add_test(tests, expansion_is_bounded);
    tcase_add_test(tests, a_format_reads_back_as_the_same_shape);
    tcase_add_test(tests, data_fill_what_is_left_out);
    tcase_add_test(tests, data_are_not_contradicted);
    tcase_add_test(tests, a_file_has_a_shape_a_line);
    tcase_add_test(tests, a_byte_order_mark_is_no_key);
    tcase_add_test(tests, mistakes_in_files_have_a_line);
    tcase_add_test(tests, files_that_cannot_be_read);
    suite_add_tcase(suite, tests);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
