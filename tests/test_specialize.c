/* SPDX-License-Identifier: Apache-2.0 */
/* test_specialize.c - what is compiled, and the key it is kept under. */
#include "config.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache_case.h"
#include "digest.h"
#include "suite.h"

START_TEST(the_source_is_prelude_and_kernel)
{
    fex_kernel_spec spec;
    fex_recipe recipe;
    test_spec(&spec, 3);
    spec.constants[1] = (fex_constant){"LARGE", INT64_C(1) << 40};
    spec.constants[2] = (fex_constant){"SMALLEST", INT32_MIN};
    spec.constant_count = 3;
    ck_assert_int_eq(fex_specialize(&test_sources, &spec, &recipe), FEX_OK);
    static const char wanted[] = "constexpr int FACTOR = 3;\n"
                                 "constexpr long long LARGE = 1099511627776;\n"
                                 "constexpr int SMALLEST = -2147483648;\n"
                                 "#line 1 \"twice.cu\"\n";
    ck_assert_mem_eq(recipe.source, wanted, strlen(wanted));
    ck_assert_str_eq(recipe.source + strlen(wanted),
                     fex_sources_find(&test_sources, "twice.cu")->text);
    ck_assert_str_eq(recipe.file, "twice.cu");
    ck_assert_str_eq(recipe.options[0], "--gpu-architecture=sm_90a");
    ck_assert_str_eq(recipe.words,
                     "twice factor=3 large=1099511627776 "
                     "smallest=-2147483648 sm_90a");
    fex_recipe_free(&recipe);
}
END_TEST

static void take_key(const fex_sources *sources, const fex_kernel_spec *spec,
                     char *key)
{
    fex_recipe recipe;
    char own[FEX_DIGEST_TEXT];
    ck_assert_int_eq(fex_specialize(sources, spec, &recipe), FEX_OK);
    fex_digest_text(recipe.key_text, strlen(recipe.key_text), own);
    ck_assert_str_eq(own, recipe.key);
    strcpy(key, recipe.key);
    fex_recipe_free(&recipe);
}

START_TEST(everything_that_matters_is_in_the_key)
{
    char keys[8][FEX_DIGEST_TEXT];
    fex_kernel_spec spec, other;
    fex_sources edited = test_sources;
    test_spec(&spec, 3);
    take_key(&test_sources, &spec, keys[0]);
    test_spec(&other, 4);
    take_key(&test_sources, &other, keys[1]);
    other = spec;
    other.constants[0].name = "FACTORS";
    take_key(&test_sources, &other, keys[2]);
    other = spec;
    other.architecture = fex_architecture_by_name("sm_80");
    take_key(&test_sources, &other, keys[3]);
    other = spec;
    other.file = "broken.cu";
    take_key(&test_sources, &other, keys[4]);
    other = spec;
    other.functions[0] = "thrice";
    take_key(&test_sources, &other, keys[5]);
    edited.digest[0] ^= 1;
    take_key(&edited, &spec, keys[6]);
    other = spec;
    other.constant_count = 0;
    take_key(&test_sources, &other, keys[7]);
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < i; j++)
            ck_assert_str_ne(keys[i], keys[j]);
}
END_TEST

/* An entry made here must be found anywhere. */
START_TEST(nothing_of_this_machine_is_in_the_key)
{
    char key[FEX_DIGEST_TEXT], elsewhere[FEX_DIGEST_TEXT], host[256];
    fex_kernel_spec spec;
    fex_recipe recipe;
    test_spec(&spec, 3);
    take_key(&test_sources, &spec, key);
    ck_assert_int_eq(chdir("/"), 0);
    setenv("HOME", "/elsewhere", 1);
    setenv("USER", "somebody", 1);
    take_key(&test_sources, &spec, elsewhere);
    ck_assert_str_eq(key, elsewhere);
    ck_assert_int_eq(fex_specialize(&test_sources, &spec, &recipe), FEX_OK);
    ck_assert_ptr_null(strchr(recipe.key_text, '/'));
    ck_assert_int_eq(gethostname(host, sizeof host), 0);
    ck_assert_ptr_null(strstr(recipe.key_text, host));
    fex_recipe_free(&recipe);
}
END_TEST

START_TEST(a_file_that_is_not_there_is_named)
{
    fex_kernel_spec spec;
    fex_recipe recipe;
    test_spec(&spec, 3);
    spec.file = "none.cu";
    ck_assert_int_eq(fex_specialize(&test_sources, &spec, &recipe),
                     FEX_ERROR_IO);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), "none.cu"));
}
END_TEST

START_TEST(a_key_text_is_put_in_words)
{
    static const char text[] = "file: a\x1b[2J.cu\n"
                               "options: --gpu-architecture=sm_80 -x\n"
                               "constexpr long long WIDE = 5;\n"
                               "constexpr int NARROW = 6;\n"
                               "constexpr int DTYPE = 2;\n"
                               "constexpr int INDEX_TYPE = 2;\n"
                               "constexpr int DTYPES = 2;\n"
                               "constexpr int DTYPE = 22;\n"
                               "constexpr\n";
    char architecture[16];
    char *words;
    ck_assert_int_eq(
        fex_describe_key(text, strlen(text), &words, architecture), FEX_OK);
    ck_assert_str_eq(words, "a?[2J wide=5 narrow=6 dtype=bf16 "
                            "index_type=i64 dtypes=2 dtype=22 sm_80");
    ck_assert_str_eq(architecture, "sm_80");
    free(words);
}
END_TEST

START_TEST(what_is_no_key_text_is_refused)
{
    static const char *const texts[] = {
        "", "\n\n\n", "file: a.cu\n", "file: \noptions: --gpu-architecture=",
        "options: --gpu-architecture=sm_80\n", "constexpr int A = 1;\n"};
    char architecture[16];
    char *words;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        ck_assert_int_eq(fex_describe_key(texts[i], strlen(texts[i]), &words,
                                          architecture),
                         FEX_ERROR_CORRUPT);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_test(tests, the_source_is_prelude_and_kernel);
    tcase_add_test(tests, everything_that_matters_is_in_the_key);
    tcase_add_test(tests, nothing_of_this_machine_is_in_the_key);
    tcase_add_test(tests, a_file_that_is_not_there_is_named);
    tcase_add_test(tests, a_key_text_is_put_in_words);
    tcase_add_test(tests, what_is_no_key_text_is_refused);
}

int main(void)
{
    return test_suite_main("specialize", fill);
}
