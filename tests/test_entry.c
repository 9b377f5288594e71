/* SPDX-License-Identifier: Apache-2.0 */
/* test_entry.c - entries and bundles, whole and damaged in every way. */
#include "config.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "bundle.h"
#include "cache_case.h"
#include "entry.h"
#include "suite.h"

/* An entry of one kernel, with its key. */
static unsigned char *make_entry(int64_t factor, size_t cubin_size, char *key,
                                 size_t *size)
{
    fex_recipe recipe;
    fex_cubin cubin;
    unsigned char *bytes;
    test_recipe(&recipe, factor);
    test_cubin(&cubin, factor, cubin_size);
    ck_assert_int_eq(
        fex_entry_encode(recipe.key_text, &cubin, &bytes, size), FEX_OK);
    memcpy(key, recipe.key, FEX_DIGEST_TEXT);
    fex_cubin_free(&cubin);
    fex_recipe_free(&recipe);
    return bytes;
}

START_TEST(an_entry_comes_back_as_it_went)
{
    fex_recipe recipe;
    fex_cubin cubin;
    fex_entry entry;
    unsigned char *bytes;
    size_t size;
    test_recipe(&recipe, 3);
    test_cubin(&cubin, 3, 1000);
    ck_assert_int_eq(
        fex_entry_encode(recipe.key_text, &cubin, &bytes, &size), FEX_OK);
    ck_assert_int_eq(fex_entry_decode(bytes, size, &entry), FEX_OK);
    ck_assert_int_eq(entry.compiler_version, 13000);
    ck_assert_uint_eq(entry.key_length, strlen(recipe.key_text));
    ck_assert_mem_eq(entry.key_text, recipe.key_text, entry.key_length);
    ck_assert_uint_eq(entry.cubin_size, 1000);
    ck_assert_mem_eq(entry.cubin, cubin.data, 1000);
    ck_assert_int_eq(fex_entry_check_key(&entry, recipe.key), FEX_OK);
    recipe.key[0] ^= 1;
    ck_assert_int_eq(fex_entry_check_key(&entry, recipe.key),
                     FEX_ERROR_CORRUPT);
    free(bytes);
    fex_cubin_free(&cubin);
    fex_recipe_free(&recipe);
}
END_TEST

/* Copied to memory of exactly that size, so that a sanitizer sees a reader
 * that goes too far. */
START_TEST(an_entry_cut_anywhere_is_refused)
{
    char key[FEX_DIGEST_TEXT];
    fex_entry entry;
    size_t size;
    unsigned char *const bytes = make_entry(3, 100, key, &size);
    for (size_t cut = 0; cut < size; cut++) {
        unsigned char *const part = malloc(cut > 0 ? cut : 1);
        memcpy(part, bytes, cut);
        ck_assert_int_eq(fex_entry_decode(part, cut, &entry),
                         FEX_ERROR_CORRUPT);
        free(part);
    }
    free(bytes);
}
END_TEST

START_TEST(an_entry_with_any_bit_flipped_is_refused)
{
    char key[FEX_DIGEST_TEXT];
    fex_entry entry;
    size_t size;
    unsigned char *const bytes = make_entry(3, 100, key, &size);
    for (size_t bit = 0; bit < 8 * size; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        ck_assert_int_eq(fex_entry_decode(bytes, size, &entry),
                         FEX_ERROR_CORRUPT);
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    ck_assert_int_eq(fex_entry_decode(bytes, size, &entry), FEX_OK);
    free(bytes);
}
END_TEST

START_TEST(an_entry_of_a_later_format_is_named_so)
{
    char key[FEX_DIGEST_TEXT];
    fex_entry entry;
    size_t size;
    unsigned char *const bytes = make_entry(3, 100, key, &size);
    bytes[8]++;
    ck_assert_int_eq(fex_entry_decode(bytes, size, &entry), FEX_ERROR_CORRUPT);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), "format"));
    free(bytes);
}
END_TEST

START_TEST(the_head_alone_tells_the_key)
{
    char key[FEX_DIGEST_TEXT];
    fex_entry entry;
    size_t size;
    unsigned char *const bytes = make_entry(3, 100000, key, &size);
    ck_assert_int_eq(fex_entry_decode_head(bytes, 4096, size, &entry), FEX_OK);
    ck_assert_ptr_null(entry.cubin);
    ck_assert_int_eq(fex_entry_check_key(&entry, key), FEX_OK);
    ck_assert_int_eq(fex_entry_decode_head(bytes, 40, size, &entry),
                     FEX_ERROR_CORRUPT);
    free(bytes);
}
END_TEST

/* ---- Bundles ------------------------------------------------------------- */

#define BUNDLED 5

static unsigned char *make_bundle(fex_bundle_item *items, size_t *size)
{
    unsigned char *bytes;
    for (int i = 0; i < BUNDLED; i++)
        items[i].bytes =
            make_entry(i + 1, 50, items[i].key, &items[i].size);
    ck_assert_int_eq(fex_bundle_encode(items, BUNDLED, &bytes, size), FEX_OK);
    return bytes;
}

static void free_items(fex_bundle_item *items)
{
    for (int i = 0; i < BUNDLED; i++)
        free((void *)(uintptr_t)items[i].bytes);
}

START_TEST(a_bundle_finds_each_of_its_entries)
{
    fex_bundle_item items[BUNDLED], found;
    fex_bundle bundle;
    size_t size;
    unsigned char *const bytes = make_bundle(items, &size);
    ck_assert_int_eq(fex_bundle_open(bytes, size, &bundle), FEX_OK);
    ck_assert_int_eq(fex_bundle_verify(&bundle), FEX_OK);
    ck_assert_uint_eq(bundle.count, BUNDLED);
    for (int i = 0; i < BUNDLED; i++) {
        ck_assert_int_eq(fex_bundle_find(&bundle, items[i].key, &found), 1);
        ck_assert_uint_eq(found.size, items[i].size);
        ck_assert_mem_eq(found.bytes, items[i].bytes, found.size);
    }
    ck_assert_int_eq(fex_bundle_find(&bundle,
                                     "00000000000000000000000000000000",
                                     &found),
                     0);
    ck_assert_int_eq(fex_bundle_find(&bundle, "no key", &found), 0);
    free(bytes);
    free_items(items);
}
END_TEST

START_TEST(an_empty_bundle_is_one)
{
    fex_bundle_item found;
    fex_bundle bundle;
    unsigned char *bytes;
    size_t size;
    ck_assert_int_eq(fex_bundle_encode(NULL, 0, &bytes, &size), FEX_OK);
    ck_assert_int_eq(fex_bundle_open(bytes, size, &bundle), FEX_OK);
    ck_assert_int_eq(fex_bundle_find(&bundle,
                                     "00000000000000000000000000000000",
                                     &found),
                     0);
    free(bytes);
}
END_TEST

static int is_sound(const unsigned char *bytes, size_t size)
{
    fex_bundle bundle;
    return fex_bundle_open(bytes, size, &bundle) == FEX_OK &&
           fex_bundle_verify(&bundle) == FEX_OK;
}

START_TEST(a_damaged_bundle_is_refused)
{
    fex_bundle_item items[BUNDLED];
    size_t size;
    unsigned char *const bytes = make_bundle(items, &size);
    for (size_t cut = 0; cut < size; cut++) {
        unsigned char *const part = malloc(cut > 0 ? cut : 1);
        memcpy(part, bytes, cut);
        ck_assert(!is_sound(part, cut));
        free(part);
    }
    for (size_t bit = 0; bit < 8 * size; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        ck_assert(!is_sound(bytes, size));
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    ck_assert(is_sound(bytes, size));
    free(bytes);
    free_items(items);
}
END_TEST

/* Lists that are wrong under a right checksum: only malice writes them. */
START_TEST(a_bundle_that_lies_is_refused)
{
    static const unsigned char huge[8] = {255, 255, 255, 255,
                                          255, 255, 255, 127};
    fex_bundle_item items[BUNDLED];
    fex_bundle bundle;
    size_t size;
    unsigned char *const bytes = make_bundle(items, &size);
    const size_t body = 32 + 32 * BUNDLED;
    for (int row = 0; row < BUNDLED; row++)
        for (size_t at = 16; at < 32; at += 8) {
            unsigned char *const field = bytes + 32 + 32 * row + at;
            unsigned char saved[8];
            memcpy(saved, field, 8);
            memcpy(field, huge, 8);
            fex_digest(bytes, body, bytes + body);
            ck_assert_int_eq(fex_bundle_open(bytes, size, &bundle),
                             FEX_ERROR_CORRUPT);
            memcpy(field, saved, 8);
        }
    /* Two rows exchanged: a search would miss. */
    unsigned char row[32];
    memcpy(row, bytes + 32, 32);
    memcpy(bytes + 32, bytes + 64, 32);
    memcpy(bytes + 64, row, 32);
    fex_digest(bytes, body, bytes + body);
    ck_assert_int_eq(fex_bundle_open(bytes, size, &bundle), FEX_ERROR_CORRUPT);
    free(bytes);
    free_items(items);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_test(tests, an_entry_comes_back_as_it_went);
    tcase_add_test(tests, an_entry_cut_anywhere_is_refused);
    tcase_add_test(tests, an_entry_with_any_bit_flipped_is_refused);
    tcase_add_test(tests, an_entry_of_a_later_format_is_named_so);
    tcase_add_test(tests, the_head_alone_tells_the_key);
    tcase_add_test(tests, a_bundle_finds_each_of_its_entries);
    tcase_add_test(tests, an_empty_bundle_is_one);
    tcase_add_test(tests, a_damaged_bundle_is_refused);
    tcase_add_test(tests, a_bundle_that_lies_is_refused);
    tcase_set_timeout(tests, 60);
}

int main(void)
{
    return test_suite_main("entry", fill);
}
