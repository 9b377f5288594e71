/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing safetensors: what is true is taken, what is not refused,
 * and nothing that stood in a file's place is lost by a failure. */
#include "config.h"

#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../tools/safetensors.h"

/* ---- A folder of its own ------------------------------------------------ */

static char folder[32];

static void enter_folder(void)
{
    strcpy(folder, "safetensors-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(chdir(folder), 0);
}

static void leave_folder(void)
{
    char command[64];
    ck_assert_int_eq(chdir(".."), 0);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    ck_assert_int_eq(system(command), 0);
}

/* The number of files here, hidden ones included. */
static int count_files(void)
{
    int count = 0;
    FILE *list = popen("ls -A | wc -l", "r");
    ck_assert_ptr_nonnull(list);
    ck_assert_int_eq(fscanf(list, "%d", &count), 1);
    pclose(list);
    return count;
}

/* ---- Files in memory ---------------------------------------------------- */

typedef struct file_image {
    unsigned char bytes[4096];
    size_t size;
} file_image;

/* A file with this header and `data` bytes 0, 1, 2, ... */
static file_image make_image(const char *header, size_t data)
{
    file_image made = {.size = 8 + strlen(header) + data};
    ck_assert_uint_le(made.size, sizeof made.bytes);
    made.bytes[0] = (unsigned char)(strlen(header) & 0xff);
    made.bytes[1] = (unsigned char)(strlen(header) >> 8);
    memcpy(made.bytes + 8, header, strlen(header));
    for (size_t i = 0; i < data; i++)
        made.bytes[8 + strlen(header) + i] = (unsigned char)i;
    return made;
}

/* Parses a copy that ends where a page ends for AddressSanitizer and valgrind
 * to see a step too far. */
static fex_status parse(const file_image *image, size_t size,
                        safetensors_file *file, unsigned char **copy)
{
    *copy = malloc(size > 0 ? size : 1);
    ck_assert_ptr_nonnull(*copy);
    memcpy(*copy, image->bytes, size);
    return safetensors_parse("x", *copy, size, file);
}

static const char valid[] =
    "{\"__metadata__\":{\"by\":\"test\"},"
    "\"b\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[12,28]},"
    "\"a\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
    "\"none\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[28,28]},"
    "\"one\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[28,29]}}   ";

START_TEST(a_true_file_is_read)
{
    const file_image image = make_image(valid, 29);
    safetensors_file file;
    unsigned char *copy;

    ck_assert_int_eq(parse(&image, image.size, &file, &copy), FEX_OK);
    ck_assert_uint_eq(file.count, 4);
    const safetensors_array *a = safetensors_find(&file, "a");
    const safetensors_array *b = safetensors_find(&file, "b");
    const safetensors_array *none = safetensors_find(&file, "none");
    const safetensors_array *one = safetensors_find(&file, "one");
    ck_assert_ptr_null(safetensors_find(&file, "__metadata__"));
    ck_assert_uint_eq(a->rank, 2);
    ck_assert_int_eq(a->shape[0], 2);
    ck_assert_int_eq(a->shape[1], 3);
    ck_assert_str_eq(a->dtype, "F16");
    ck_assert_uint_eq(a->bytes, 12);
    ck_assert_int_eq(((const unsigned char *)a->data)[11], 11);
    ck_assert_int_eq(((const unsigned char *)b->data)[0], 12);
    ck_assert_uint_eq(b->bytes, 16);
    ck_assert_uint_eq(none->bytes, 0);
    ck_assert_uint_eq(one->rank, 0);
    ck_assert_int_eq(((const unsigned char *)one->data)[0], 28);
    safetensors_close(&file);
    free(copy);
}
END_TEST

#define ARRAY(name, dtype, shape, begin, end)                                  \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape                   \
    ",\"data_offsets\":[" begin "," end "]}"

static const struct {
    const char *header;
    const char *words;
} lies[] = {
    {"{" ARRAY("a", "F16", "[2,3]", "0", "30") "}", "0 to 30 of the 29"},
    {"{" ARRAY("a", "F16", "[2,3]", "-12", "0") "}", "-12 to 0"},
    {"{" ARRAY("a", "F16", "[2,3]", "12", "0") "}", "12 to 0"},
    {"{" ARRAY("a", "F16", "[2,3]", "0", "13") "}", "13 bytes where"},
    {"{" ARRAY("a", "F16", "[2,-3]", "0", "12") "}", "no size"},
    {"{" ARRAY("a", "F16", "[2,1.5]", "0", "12") "}", "no size"},
    {"{" ARRAY("a", "F16", "[4294967296,4294967296,4]", "0", "12") "}",
     "impossibly large"},
    {"{" ARRAY("a", "F16", "[9223372036854775807,2]", "0", "12") "}",
     "impossibly large"},
    {"{" ARRAY("a", "F16", "[99999999999999999999]", "0", "12") "}",
     "not JSON"},
    {"{" ARRAY("a", "F16", "[1,1,1,1,1,1,1,1,6]", "0", "12") "}", "at most 8"},
    {"{" ARRAY("a", "F16", "6", "0", "12") "}", "no list"},
    {"{" ARRAY("a", "F12", "[2,3]", "0", "12") "}", "unknown"},
    {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,2]}}", "dtype of 'a' is "
                                                       "missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2]}}", "data_offsets of 'a'"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0]}}",
     "data_offsets of 'a'"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,\"2\"]}}",
     "data_offsets of 'a'"},
    {"{\"a\":7}", "dtype of 'a' is missing"},
    {"{" ARRAY("a", "U8", "[20]", "0", "20") "," ARRAY("b", "U8", "[19]", "10",
                                                       "29") "}",
     "overlap"},
    {"{" ARRAY("a", "U8", "[20]", "0", "20") "," ARRAY("b", "U8", "[20]", "0",
                                                       "20") "}",
     "overlap"},
    {"{" ARRAY("a", "U8", "[10]", "0", "10") "," ARRAY("b", "U8", "[9]", "20",
                                                       "29") "}",
     "belong to no array"},
    {"{" ARRAY("a", "U8", "[28]", "0", "28") "}", "1 bytes at the end"},
    {"{}", "29 bytes at the end"},
    {"{" ARRAY("a", "U8", "[29]", "0", "29") "," ARRAY("a", "U8", "[29]", "0",
                                                       "29") "}",
     "not JSON"},
    {"[]", "no JSON object"},
    {"{\"a\":", "not JSON"},
    {"", "not JSON"},
};

START_TEST(what_is_not_true_is_refused)
{
    const file_image image = make_image(lies[_i].header, 29);
    safetensors_file file;
    unsigned char *copy;

    ck_assert_int_eq(parse(&image, image.size, &file, &copy),
                     FEX_ERROR_CORRUPT);
    ck_assert_msg(strstr(fex_last_error(), lies[_i].words) != NULL,
                  "%s\nwithout: %s", fex_last_error(), lies[_i].words);
    free(copy);
}
END_TEST

START_TEST(a_file_cut_anywhere_is_refused)
{
    const file_image image = make_image(valid, 29);
    for (size_t size = 0; size < image.size; size++) {
        safetensors_file file;
        unsigned char *copy;
        ck_assert_msg(parse(&image, size, &file, &copy) == FEX_ERROR_CORRUPT,
                      "cut at %zu", size);
        free(copy);
    }
}
END_TEST

/* Whatever is accepted stays within the file. */
static void check_bounds(const safetensors_file *file,
                         const unsigned char *copy, size_t size)
{
    for (size_t i = 0; i < file->count; i++) {
        const unsigned char *begin = file->arrays[i].data;
        ck_assert(begin >= copy && begin <= copy + size);
        ck_assert_uint_le(file->arrays[i].bytes, (size_t)(copy + size - begin));
    }
}

START_TEST(any_bit_may_flip)
{
    const file_image image = make_image(valid, 29);
    int refused = 0;

    for (size_t bit = 0; bit < 8 * (image.size - 29); bit++) {
        file_image flipped = image;
        safetensors_file file;
        unsigned char *copy;
        flipped.bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        if (parse(&flipped, image.size, &file, &copy) == FEX_OK) {
            check_bounds(&file, copy, image.size);
            safetensors_close(&file);
        } else {
            refused++;
        }
        free(copy);
    }
    /* Names and the metadata may change; little else. */
    ck_assert_int_gt(refused, (int)(8 * (image.size - 29)) / 2);
}
END_TEST

START_TEST(a_huge_header_is_not_believed)
{
    file_image image = make_image(valid, 29);
    safetensors_file file;
    unsigned char *copy;

    memset(image.bytes, 0xff, 8);
    ck_assert_int_eq(parse(&image, image.size, &file, &copy),
                     FEX_ERROR_CORRUPT);
    ck_assert_msg(strstr(fex_last_error(), "18446744073709551615") != NULL,
                  "%s", fex_last_error());
    free(copy);
}
END_TEST

START_TEST(a_deep_header_is_refused)
{
    char header[3000];
    memset(header, '[', sizeof header - 1);
    header[sizeof header - 1] = '\0';
    const file_image image = make_image(header, 0);
    safetensors_file file;
    unsigned char *copy;

    ck_assert_int_eq(parse(&image, image.size, &file, &copy),
                     FEX_ERROR_CORRUPT);
    free(copy);
}
END_TEST

/* ---- Files on disk ------------------------------------------------------ */

static const float numbers[] = {1, 2, 3, 4, 5, 6};
static const int64_t indices[] = {7, -1};
static const safetensors_array arrays[] = {
    {"states", "F32", 2, {2, 3}, numbers, sizeof numbers},
    {"indices", "I64", 1, {2}, indices, sizeof indices},
    {"empty \"quoted\"", "BF16", 2, {0, 3}, numbers, 0},
};

START_TEST(what_is_written_is_read)
{
    safetensors_file file;
    struct stat about;

    umask(022);
    ck_assert_int_eq(safetensors_write("x", arrays, 3), FEX_OK);
    ck_assert_int_eq(count_files(), 1);
    ck_assert_int_eq(stat("x", &about), 0);
    ck_assert_int_eq(about.st_mode & 07777, 0644);
    ck_assert_int_eq(safetensors_open("x", &file), FEX_OK);
    ck_assert_uint_eq(file.count, 3);
    for (size_t i = 0; i < 3; i++) {
        const safetensors_array *read = safetensors_find(&file, arrays[i].name);
        ck_assert_ptr_nonnull(read);
        ck_assert_str_eq(read->dtype, arrays[i].dtype);
        ck_assert_uint_eq(read->rank, arrays[i].rank);
        ck_assert_int_eq(read->shape[0], arrays[i].shape[0]);
        ck_assert_uint_eq(read->bytes, arrays[i].bytes);
        ck_assert_mem_eq(read->data, arrays[i].data, arrays[i].bytes);
    }
    /* The data begin at a multiple of 8. */
    ck_assert_uint_eq((uintptr_t)file.arrays[0].data % 8, 0);
    safetensors_close(&file);
}
END_TEST

START_TEST(a_file_is_replaced_with_its_mode_and_through_links)
{
    safetensors_file file;
    struct stat about;

    ck_assert_int_eq(safetensors_write("x", arrays, 1), FEX_OK);
    ck_assert_int_eq(chmod("x", 0600), 0);
    ck_assert_int_eq(symlink("x", "link"), 0);
    ck_assert_int_eq(safetensors_write("link", arrays, 3), FEX_OK);
    ck_assert_int_eq(lstat("link", &about), 0);
    ck_assert(S_ISLNK(about.st_mode));
    ck_assert_int_eq(stat("x", &about), 0);
    ck_assert_int_eq(about.st_mode & 07777, 0600);
    ck_assert_int_eq(safetensors_open("x", &file), FEX_OK);
    ck_assert_uint_eq(file.count, 3);
    safetensors_close(&file);
}
END_TEST

START_TEST(a_failed_write_leaves_what_was_there)
{
    static unsigned char large[1 << 16];
    const safetensors_array too_large = {"large",        "U8",  1,
                                         {sizeof large}, large, sizeof large};
    const struct rlimit small = {4096, 4096};
    safetensors_file file;

    ck_assert_int_eq(safetensors_write("x", arrays, 3), FEX_OK);
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    ck_assert_int_eq(safetensors_write("x", &too_large, 1), FEX_ERROR_IO);
    ck_assert_msg(strstr(fex_last_error(), "'x'") != NULL, "%s",
                  fex_last_error());
    ck_assert_int_eq(count_files(), 1);
    ck_assert_int_eq(safetensors_open("x", &file), FEX_OK);
    ck_assert_uint_eq(file.count, 3);
    safetensors_close(&file);
}
END_TEST

static const char *const bad_targets[] = {
    "", ".", "/dev/null", "no/such/folder/x", "x/y",
};

START_TEST(targets_that_cannot_be_are_known_before)
{
    ck_assert_int_eq(safetensors_write("x", arrays, 1), FEX_OK);
    ck_assert_int_eq(safetensors_check_target(bad_targets[_i]), FEX_ERROR_IO);
    ck_assert_int_eq(safetensors_write(bad_targets[_i], arrays, 1),
                     FEX_ERROR_IO);
    ck_assert_int_eq(count_files(), 1);
}
END_TEST

START_TEST(files_that_cannot_be_read)
{
    safetensors_file file;

    ck_assert_int_eq(safetensors_open("none", &file), FEX_ERROR_IO);
    ck_assert_int_eq(safetensors_open(".", &file), FEX_ERROR_IO);
    ck_assert_int_eq(safetensors_open("/dev/null", &file), FEX_ERROR_IO);
    ck_assert_int_eq(mkfifo("pipe", 0600), 0);
    ck_assert_int_eq(safetensors_open("pipe", &file), FEX_ERROR_IO);
    fclose(fopen("empty", "w"));
    ck_assert_int_eq(safetensors_open("empty", &file), FEX_ERROR_CORRUPT);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("safetensors");
    TCase *memory = tcase_create("memory");
    TCase *disk = tcase_create("disk");

    tcase_add_test(memory, a_true_file_is_read);
    tcase_add_loop_test(memory, what_is_not_true_is_refused, 0,
                        (int)(sizeof lies / sizeof lies[0]));
    tcase_add_test(memory, a_file_cut_anywhere_is_refused);
    tcase_add_test(memory, any_bit_may_flip);
    tcase_add_test(memory, a_huge_header_is_not_believed);
    tcase_add_test(memory, a_deep_header_is_refused);
    suite_add_tcase(suite, memory);

    tcase_add_checked_fixture(disk, enter_folder, leave_folder);
    tcase_add_test(disk, what_is_written_is_read);
    tcase_add_test(disk, a_file_is_replaced_with_its_mode_and_through_links);
    tcase_add_test(disk, a_failed_write_leaves_what_was_there);
    tcase_add_loop_test(disk, targets_that_cannot_be_are_known_before, 0,
                        (int)(sizeof bad_targets / sizeof bad_targets[0]));
    tcase_add_test(disk, files_that_cannot_be_read);
    suite_add_tcase(suite, disk);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
