/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "device_suite.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "context.h"
#include "plan.h"

test_device suite_device;
static SRunner *runner;

/* ---- Families ------------------------------------------------------------ */

/* The device as the one that has only this family, where it applies. */
static test_device families[FEX_FAMILIES_MAX];
static const char *family_names[FEX_FAMILIES_MAX];
static int family_count;

static void open_family(const char *name)
{
    for (int i = 0; i < family_count; i++)
        if (strcmp(family_names[i], name) == 0)
            return;
    test_device *const family = &families[family_count];
    *family = suite_device;
    setenv("FLASHEXPERT_FAMILY", name, 1);
    if (fex_context_create(NULL, &family->context) != FEX_OK) {
        fprintf(stderr, "family %s: %s\n", name, fex_last_error());
        exit(EXIT_FAILURE);
    }
    family_names[family_count++] = name;
}

/* All of the table's, unless the environment asks for one. */
static void open_families(void)
{
    const char *const asked = getenv("FLASHEXPERT_FAMILY");
    if (asked != NULL && *asked != '\0') {
        open_family(asked);
        return;
    }
    size_t count;
    const fex_variant *const *const table = fex_variant_table(&count);
    for (size_t i = 0; i < count; i++)
        open_family(table[i]->name);
    unsetenv("FLASHEXPERT_FAMILY");
}

static void close_families(void)
{
    for (int i = 0; i < family_count; i++)
        fex_context_destroy(families[i].context);
}

static const fex_variant *variant_of(int family, const case_spec *spec,
                                     fex_pass pass)
{
    const fex_op_desc desc = device_case_desc(spec);
    fex_problem problem;
    if (fex_problem_init(&problem, &desc) != FEX_OK)
        return NULL;
    fex_plan plan;
    fex_plan_make(&problem, &families[family].context->device, pass,
                  family_names[family], &plan);
    return fex_plan_find(&plan, spec->num_tokens);
}

/* Whether no family before this one is served by the very same variants. */
static int is_distinct(int family, const case_spec *spec, fex_pass passes)
{
    for (int earlier = 0; earlier < family; earlier++) {
        int same = 1;
        for (int pass = FEX_PASS_FORWARD; pass <= FEX_PASS_BACKWARD; pass++)
            if (((int)passes & pass) != 0 &&
                variant_of(family, spec, (fex_pass)pass) !=
                    variant_of(earlier, spec, (fex_pass)pass))
                same = 0;
        if (same)
            return 0;
    }
    return 1;
}

/* ---- The program --------------------------------------------------------- */

static int is_full(int argc, char **argv)
{
    const char *const tier =
        argc > 1 ? argv[1] : getenv("FLASHEXPERT_TEST_TIER");
    if (tier == NULL || *tier == '\0')
        return !suite_device.simulated;
    if (strcmp(tier, "full") != 0 && strcmp(tier, "small") != 0) {
        fprintf(stderr, "%s: neither small nor full\n", tier);
        exit(2);
    }
    return strcmp(tier, "full") == 0;
}

int device_suite_main(int argc, char **argv, const char *name,
                      void (*fill)(Suite *suite, int full))
{
    test_device_open(&suite_device);
    const int full = is_full(argc, argv);
    printf("%s on %s, %s tier\n", name, suite_device.info.device_name,
           full ? "full" : "small");
    open_families();
    Suite *const suite = suite_create(name);
    fill(suite, full);
    runner = srunner_create(suite);
    /* A CUDA context does not survive a fork. */
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int run = srunner_ntests_run(runner);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    if (failed > 0) /* a failed test may hold what would have to go first */
        return EXIT_FAILURE;
    close_families();
    test_device_close(&suite_device);
    if (run == 0)
        printf("SKIP: %s has nothing for this tier\n", name);
    return run > 0 ? EXIT_SUCCESS : TEST_SKIPPED;
}

void device_suite_go_on(void)
{
    if (getenv("FLASHEXPERT_TEST_STOP") == NULL ||
        srunner_ntests_failed(runner) == 0)
        return;
    printf("stopped at the first failure\n");
    exit(EXIT_FAILURE);
}

void device_suite_check(const case_spec *spec, fex_pass passes)
{
    device_case c;
    device_case_make(spec, &c);
    device_suite_check_made(&c, passes);
}

void device_suite_check_made(device_case *c, fex_pass passes)
{
    ck_assert_int_eq(device_case_reference(c, passes), FEX_OK);
    for (int family = 0; family < family_count; family++) {
        if (!is_distinct(family, &c->spec, passes))
            continue;
        device_case_place(c, &families[family]);
        device_case_run(c, passes);
        device_case_check(c, passes);
        device_case_remove(c);
    }
    device_case_forget(c);
}

/* ---- The cross product --------------------------------------------------- */

static const fex_dtype dtypes[] = {FEX_DTYPE_F16, FEX_DTYPE_BF16,
                                   FEX_DTYPE_F32};
static const int64_t hidden_sizes[] = {1, 7, 64, 320, 1024, 1536, 4096};
static const int64_t top_ks[] = {1, 3, 32, 512, 4096};

#define COUNT(array) (sizeof(array) / sizeof *(array))
enum {
    CASES = COUNT(dtypes) * COUNT(hidden_sizes) * COUNT(top_ks) *
            TEST_DISTRIBUTIONS,
    BATCH = 45 /* cases on the host at one time */
};

/* Few pairs a token need more tokens to be worth a norm. */
static int64_t tokens_for(int64_t top_k)
{
    if (top_k >= 512)
        return 16;
    return top_k >= 32 ? 64 : 512;
}

static case_spec spec_at(int number)
{
    case_spec spec = {.num_experts = 96, .seed = (uint64_t)number};
    spec.distribution = (test_distribution)(number % TEST_DISTRIBUTIONS);
    number /= TEST_DISTRIBUTIONS;
    spec.top_k = top_ks[number % (int)COUNT(top_ks)];
    number /= (int)COUNT(top_ks);
    spec.hidden_size = hidden_sizes[number % (int)COUNT(hidden_sizes)];
    number /= (int)COUNT(hidden_sizes);
    spec.dtype = dtypes[number];
    spec.num_tokens = tokens_for(spec.top_k);
    return spec;
}

/* Cases that all processors get ready: data made, truth computed, kernels
 * compiled. */
typedef struct batch {
    fex_pass pass;
    int first, count;
    atomic_int next;
    device_case cases[BATCH];
    fex_status statuses[BATCH];
    char errors[BATCH][256];
} batch;

static fex_status get_ready(const batch *b, device_case *c, int number)
{
    const case_spec spec = spec_at(number);
    device_case_make(&spec, c);
    return_if_error(device_case_reference(c, b->pass));
    for (int family = 0; family < family_count; family++)
        return_if_error(fex_prewarm(families[family].context, &c->desc,
                                    b->pass, spec.num_tokens, NULL, 0, NULL,
                                    NULL, NULL));
    return FEX_OK;
}

static void *get_some_ready(void *user)
{
    batch *const b = user;
    int i;
    while ((i = atomic_fetch_add(&b->next, 1)) < b->count) {
        b->statuses[i] = get_ready(b, &b->cases[i], b->first + i);
        if (b->statuses[i] != FEX_OK)
            snprintf(b->errors[i], sizeof b->errors[i], "%s",
                     fex_last_error());
    }
    return NULL;
}

static void get_batch_ready(batch *b)
{
    pthread_t threads[BATCH];
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    int started = 0;
    while (started < b->count && started < processors &&
           pthread_create(&threads[started], NULL, get_some_ready, b) == 0)
        started++;
    get_some_ready(b);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
}

/* One line of the table. Returns how many outputs were off. */
static int show_case(const device_case *c, fex_pass pass, const char *family)
{
    int off = 0;
    printf("%-5s%6" PRId64 "%6" PRId64 "  %-8s%-8s",
           fex_dtype_name(c->spec.dtype), c->spec.hidden_size, c->spec.top_k,
           test_distribution_name(c->spec.distribution), family);
    for (int i = 0; i < CASE_ARRAYS; i++) {
        if (!device_case_is_output(c, i, pass))
            continue;
        const double error = device_case_error(c, i);
        const int good = error <= device_case_tolerance(c, i);
        printf("%*.2e%c", (int)strlen(c->arrays[i].name) + 1, error,
               good ? ' ' : '!');
        off += !good;
    }
    printf("\n");
    return off;
}

static void show_head(const device_case *c, fex_pass pass)
{
    printf("\n%-5s%6s%6s  %-8s%-8s", "dtype", "H", "K", "experts", "family");
    for (int i = 0; i < CASE_ARRAYS; i++)
        if (device_case_is_output(c, i, pass))
            printf(" %s ", c->arrays[i].name);
    printf("\n");
}

/* Runs a case with every family. */
static int run_case(device_case *c, fex_pass pass)
{
    int off = 0;
    for (int family = 0; family < family_count; family++) {
        if (!is_distinct(family, &c->spec, pass))
            continue;
        device_case_place(c, &families[family]);
        device_case_run(c, pass);
        device_case_download(c, pass);
        off += show_case(c, pass, variant_of(family, &c->spec, pass)->name);
        device_case_remove(c);
    }
    return off;
}

static int run_batch(batch *b)
{
    int off = 0;
    for (int i = 0; i < b->count; i++) {
        device_case *const c = &b->cases[i];
        ck_assert_msg(b->statuses[i] == FEX_OK, "%s: %s", device_case_words(c),
                      b->errors[i]);
        if (b->first + i == 0)
            show_head(c, b->pass);
        off += run_case(c, b->pass);
        device_case_forget(c);
    }
    return off;
}

void device_suite_cross_product(fex_pass pass)
{
    static batch b;
    int off = 0;
    for (int first = 0; first < CASES; first += BATCH) {
        b.pass = pass;
        b.first = first;
        b.count = CASES - first < BATCH ? CASES - first : BATCH;
        atomic_store(&b.next, 0);
        get_batch_ready(&b);
        off += run_batch(&b);
    }
    ck_assert_msg(off == 0, "%d errors are too large (marked ! above)", off);
}
