/* SPDX-License-Identifier: Apache-2.0 */
/* test_plan.c - which family serves how many tokens, on which device, and what
 * families' estimates have to be like for that. */
#include "config.h"

#include <math.h>
#include <string.h>

#include "plan.h"
#include "problem_case.h"
#include "suite.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define BF16 FEX_DTYPE_BF16
#define F16 FEX_DTYPE_F16
#define F32 FEX_DTYPE_F32

static fex_device device_of(const char *architecture)
{
    fex_device device;
    fex_device_typical(fex_architecture_by_name(architecture), &device);
    return device;
}

static const fex_problem *problems(size_t *count)
{
    static fex_problem table[11];
    *count = COUNT(table);
    table[0] = test_problem(BF16, 1024, 512, 102400);
    table[1] = test_problem(BF16, 1024, 4096, 102400);
    table[2] = test_problem(F16, 1024, 64, 16384);
    table[3] = test_problem(BF16, 1024, 32, 1024);
    table[4] = test_problem(F32, 1024, 512, 16384);
    table[5] = test_problem(BF16, 4096, 16, 262144);
    table[6] = test_problem(F16, 256, 128, 4096);
    table[7] = test_problem(BF16, 7, 1, 1);
    table[8] = test_problem(F32, 1, 8192, 1000000000);
    /* families that take turns */
    table[9] = test_problem(BF16, 1024, 1024, 65536);
    table[10] = test_problem(BF16, 2048, 2168, 102400);
    return table;
}

typedef void check_function(const fex_problem *problem,
                            const fex_device *device);

static void for_everything(check_function *check)
{
    size_t count, architectures;
    const fex_problem *const table = problems(&count);
    const fex_architecture *const architecture =
        fex_architecture_table(&architectures);
    for (size_t a = 0; a < architectures; a++)
        for (size_t p = 0; p < count; p++) {
            fex_device device;
            fex_device_typical(&architecture[a], &device);
            check(&table[p], &device);
        }
}

/* ---- Choices ------------------------------------------------------------- */

/* As measured on an H200, well away from where families are alike. */
static const struct {
    fex_dtype dtype;
    int64_t hidden_size, top_k, num_experts, num_tokens;
    const char *family;
} known[] = {
    {BF16, 1024, 64, 16384, 1, "cluster"},
    {BF16, 1024, 64, 16384, 64, "cluster"},
    {BF16, 1024, 64, 16384, 128, "cluster"},
    {BF16, 1024, 512, 102400, 1, "cluster"},
    {BF16, 1024, 512, 102400, 16, "cluster"},
    {BF16, 1024, 512, 102400, 32, "cluster"},
    {BF16, 1024, 512, 102400, 512, "gather"},
    {BF16, 1024, 1024, 102400, 16, "cluster"},
    {BF16, 1024, 1024, 102400, 384, "gather"},
    {BF16, 1024, 512, 102400, 1024, "gather"},
    {BF16, 1024, 512, 102400, 16384, "gather"},
    {BF16, 1024, 64, 16384, 4096, "gather"},
    {BF16, 1024, 64, 16384, 16384, "gather"},
    {BF16, 1024, 32, 65536, 1024, "gather"},
    {BF16, 256, 8, 102400, 512, "cluster"},
    {BF16, 256, 512, 102400, 128, "cluster"},
    {BF16, 256, 1024, 102400, 2048, "gather"},
    {F32, 1024, 64, 102400, 16, "cluster"},
    {F32, 1024, 512, 102400, 512, "gather"},
    {BF16, 4096, 16, 262144, 4096, "gather"},
    {BF16, 1024, 1024, 102400, 1024, "gather"},
    {BF16, 1024, 2048, 102400, 1024, "matrix"},
    {BF16, 1024, 4096, 102400, 1024, "matrix"},
    {F16, 1024, 4096, 102400, 1024, "dense"},
    {BF16, 1024, 512, 16384, 1024, "matrix"},
    {BF16, 1024, 4096, 102400, 16, "cluster"},
    {BF16, 1024, 32, 1024, 1024, "matrix"},
    {BF16, 1024, 32, 1024, 4096, "matrix"},
    {BF16, 1024, 128, 1024, 16384, "matrix"},
    {BF16, 1024, 128, 4096, 4096, "matrix"},
    {BF16, 4096, 64, 1024, 4096, "matrix"},
    {F16, 1024, 128, 1024, 4096, "matrix"},
};

START_TEST(the_faster_family_is_chosen)
{
    const fex_device device = device_of("sm_90a");
    const fex_problem problem =
        test_problem(known[_i].dtype, known[_i].hidden_size, known[_i].top_k,
                   known[_i].num_experts);
    fex_plan plan;
    fex_plan_make(&problem, &device, FEX_PASS_FORWARD, NULL, &plan);
    ck_assert_str_eq(fex_plan_find(&plan, known[_i].num_tokens)->name,
                     known[_i].family);
}
END_TEST

/* A range begins where something is gained by it. */
static void check_gain(const fex_problem *problem, const fex_device *device,
                       const fex_range *range)
{
    const double before =
        range[-1].variant->estimate(problem, device, range->first);
    const double from_here =
        range->variant->estimate(problem, device, range->first);
    ck_assert_double_gt(before, 1.02 * from_here);
}

/* Ranges go up, and change the family; whoever serves applies. */
static void check_ranges(const fex_problem *problem, const fex_device *device)
{
    for (int pass = FEX_PASS_FORWARD; pass <= FEX_PASS_BACKWARD; pass++) {
        fex_plan plan;
        fex_plan_make(problem, device, (fex_pass)pass, NULL, &plan);
        ck_assert_uint_ge(plan.count, 1);
        ck_assert_uint_lt(plan.count, FEX_RANGES_MAX); /* room for all */
        ck_assert_int_eq(plan.ranges[0].first, 0);
        for (size_t i = 0; i < plan.count; i++) {
            const fex_range *const range = &plan.ranges[i];
            ck_assert_int_eq((int)range->variant->pass, pass);
            ck_assert(range->variant->applies(problem, device->architecture));
            if (i > 0) {
                ck_assert_int_gt(range->first, range[-1].first);
                ck_assert_ptr_ne(range->variant, range[-1].variant);
                check_gain(problem, device, range);
            }
        }
    }
}

START_TEST(ranges_are_in_order)
{
    for_everything(check_ranges);
}
END_TEST

/* Nothing that a launch meets is missing from what is prepared for more. */
static void check_reach(const fex_problem *problem, const fex_device *device)
{
    fex_plan plan;
    fex_plan_make(problem, device, FEX_PASS_FORWARD, NULL, &plan);
    for (int64_t most = 1; most < 3000; most += most / 3 + 1) {
        const size_t count = fex_plan_reach(&plan, most);
        for (int64_t tokens = 0; tokens <= most; tokens++) {
            const fex_variant *const variant = fex_plan_find(&plan, tokens);
            size_t i = 0;
            while (i < count && plan.ranges[i].variant != variant)
                i++;
            ck_assert_uint_lt(i, count);
        }
    }
}

START_TEST(what_is_launched_was_prepared)
{
    for_everything(check_reach);
}
END_TEST

static double least_seconds(const fex_problem *problem,
                            const fex_device *device, int64_t tokens)
{
    size_t count;
    const fex_variant *const *const table = fex_variant_table(&count);
    double least = 1e30;
    for (size_t i = 0; i < count; i++)
        if (table[i]->pass == FEX_PASS_FORWARD &&
            table[i]->applies(problem, device->architecture)) {
            const double seconds =
                table[i]->estimate(problem, device, tokens);
            least = seconds < least ? seconds : least;
        }
    return least;
}

/* Between the numbers that are compared little is lost. */
static void check_least(const fex_problem *problem, const fex_device *device)
{
    fex_plan plan;
    fex_plan_make(problem, device, FEX_PASS_FORWARD, NULL, &plan);
    for (int64_t tokens = 1; tokens < 100000; tokens += tokens / 17 + 1) {
        const double seconds = fex_plan_find(&plan, tokens)->estimate(
            problem, device, tokens);
        ck_assert_double_le(seconds,
                            1.25 * least_seconds(problem, device, tokens));
    }
}

START_TEST(the_least_estimate_is_chosen)
{
    for_everything(check_least);
}
END_TEST

/* Asked for by name, a family serves wherever it applies, else the last. */
static void check_forced(const fex_problem *problem, const fex_device *device)
{
    size_t count;
    const fex_variant *const *const table = fex_variant_table(&count);
    for (size_t i = 0; i < count; i++)
        for (int pass = FEX_PASS_FORWARD; pass <= FEX_PASS_BACKWARD; pass++) {
            const fex_variant *const last = fex_variant_last((fex_pass)pass);
            const int able = (int)table[i]->pass == pass &&
                             table[i]->applies(problem, device->architecture);
            fex_plan plan;
            fex_plan_make(problem, device, (fex_pass)pass, table[i]->name,
                          &plan);
            ck_assert_uint_eq(plan.count, 1);
            if (able || strcmp(last->name, table[i]->name) != 0)
                ck_assert_ptr_eq(fex_plan_find(&plan, 1000000),
                                 able ? table[i] : last);
        }
}

START_TEST(a_family_can_be_asked_for)
{
    for_everything(check_forced);
}
END_TEST

/* ---- Without the device -------------------------------------------------- */

static int is_among(const fex_variant *variant, const fex_variant *const *list,
                    size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (list[i] == variant)
            return 1;
    return 0;
}

/* What a device with this one's figures would choose is likely. */
static void check_covered(const fex_problem *problem, const fex_device *device)
{
    fex_plan plan;
    fex_plan_make(problem, device, FEX_PASS_FORWARD, NULL, &plan);
    for (int64_t tokens = 1; tokens <= 10000; tokens *= 10) {
        const fex_variant *likely[FEX_FAMILIES_MAX];
        const size_t count =
            fex_plan_likely(problem, device->architecture, FEX_PASS_FORWARD,
                            tokens, NULL, likely);
        ck_assert_uint_le(count, FEX_FAMILIES_MAX);
        for (size_t i = 0; i < count; i++)
            ck_assert(likely[i]->applies(problem, device->architecture));
        for (size_t i = 0; i < fex_plan_reach(&plan, tokens); i++)
            ck_assert_msg(is_among(plan.ranges[i].variant, likely, count),
                          "%s, %d multiprocessors, %d tokens: %s",
                          device->architecture->name, device->multiprocessors,
                          (int)tokens, plan.ranges[i].variant->name);
    }
}

/* Devices that people have besides the typical ones, and parts of devices: also
 * such as get more or less of the memory's rate than their share. */
static const struct {
    const char *architecture;
    int multiprocessors;
    double l2_mib, clock, memory_rate;
} others[] = {
    {"sm_80", 108, 40, 1.41e9, 1555e9},   /* A100, of 40 GB */
    {"sm_80", 56, 24, 1.44e9, 933e9},     /* A30 */
    {"sm_80", 14, 5, 1.41e9, 255e9},      /* a seventh of an A100 */
    {"sm_80", 14, 5, 1.41e9, 2039e9},
    {"sm_86", 72, 6, 1.70e9, 600e9},      /* A10 */
    {"sm_86", 10, 2, 1.77e9, 200e9},      /* A2 */
    {"sm_86", 6, 2, 1.76e9, 96e9},        /* RTX A400 */
    {"sm_87", 8, 4, 0.92e9, 102e9},       /* Jetson Orin NX */
    {"sm_89", 58, 48, 2.04e9, 300e9},     /* L4 */
    {"sm_89", 24, 32, 2.37e9, 256e9},     /* RTX 4060, in a laptop */
    {"sm_89", 20, 12, 1.20e9, 192e9},     /* RTX 4050, and saving power */
    {"sm_90a", 114, 50, 1.76e9, 2039e9},  /* H100 PCIe */
    {"sm_90a", 114, 50, 1.93e9, 1427e9},
    {"sm_90a", 78, 60, 1.98e9, 4000e9},   /* H20 */
    {"sm_90a", 16, 7.5, 1.98e9, 602e9},   /* an eighth of an H200 */
    {"sm_90a", 16, 7.5, 1.98e9, 4815e9},
    {"sm_100", 18, 15.7, 1.97e9, 1000e9}, /* an eighth of a B200 */
    {"sm_110", 12, 32, 1.57e9, 273e9},    /* Jetson T4000 */
    {"sm_120", 84, 64, 2.62e9, 960e9},    /* RTX 5080 */
    {"sm_120", 26, 24, 2.40e9, 384e9},    /* RTX 5060, in a laptop */
    {"sm_120", 20, 24, 2.57e9, 320e9},    /* RTX 5050 */
};

static fex_device other_device(int i)
{
    const fex_device typical = device_of(others[i].architecture);
    fex_device device = typical;
    const double units = others[i].multiprocessors * others[i].clock /
                         (typical.multiprocessors * typical.clock);
    device.multiprocessors = others[i].multiprocessors;
    device.l2_bytes = (int64_t)(others[i].l2_mib * 1048576);
    device.clock = others[i].clock;
    device.memory_rate = others[i].memory_rate;
    device.l2_rate *= units;
    device.tensor_rate *= units;
    return device;
}

START_TEST(likely_families_cover_an_architecture)
{
    static const int64_t hidden_sizes[] = {256, 768, 1024, 2048};
    static const int64_t top_ks[] = {16, 128, 512, 2048};
    static const int64_t tables[] = {64, 256, 1024, 16384, 102400};
    const fex_device device = other_device(_i);
    for (size_t h = 0; h < COUNT(hidden_sizes); h++)
        for (size_t k = 0; k < COUNT(top_ks); k++)
            for (size_t e = 0; e < COUNT(tables); e++) {
                const fex_problem problem = test_problem(
                    h % 2 ? F16 : BF16, hidden_sizes[h], top_ks[k], tables[e]);
                check_covered(&problem, &device);
            }
}
END_TEST

START_TEST(typical_devices_are_covered)
{
    for_everything(check_covered);
}
END_TEST

/* A family that loses by far is not brought in for nothing. */
START_TEST(not_everything_is_likely)
{
    const fex_architecture *const hopper = fex_architecture_by_name("sm_90a");
    const fex_problem sparse = test_problem(BF16, 1024, 16, 1000000);
    const fex_variant *likely[FEX_FAMILIES_MAX];
    const size_t count = fex_plan_likely(&sparse, hopper, FEX_PASS_FORWARD,
                                         100000, NULL, likely);
    ck_assert(!is_among(&fex_dense_forward, likely, count));
    ck_assert(is_among(&fex_gather_forward, likely, count));
    ck_assert(is_among(&fex_cluster_forward, likely, count));
    ck_assert_uint_eq(fex_plan_likely(&sparse, hopper, FEX_PASS_FORWARD, 10,
                                      "gather", likely),
                      1);
    ck_assert_ptr_eq(likely[0], &fex_gather_forward);
}
END_TEST

/* ---- Estimates ----------------------------------------------------------- */

/* More tokens take longer, but that slabs, or tiles which fit the device
 * better, may save a part. */
static void check_growth(const fex_problem *problem, const fex_device *device)
{
    size_t count;
    const fex_variant *const *const table = fex_variant_table(&count);
    for (size_t i = 0; i < count; i++) {
        if (table[i]->pass != FEX_PASS_FORWARD ||
            !table[i]->applies(problem, device->architecture))
            continue;
        double previous = 0;
        for (int64_t tokens = 1; tokens < 200000; tokens += tokens / 7 + 1) {
            const double seconds =
                table[i]->estimate(problem, device, tokens);
            ck_assert_double_gt(seconds, 1e-6);
            ck_assert_double_lt(seconds, 1e4);
            ck_assert_msg(seconds >= 0.5 * previous, "%s for %d",
                          table[i]->name, (int)tokens);
            ck_assert_msg(table[i] != &fex_cluster_forward ||
                              seconds >= previous,
                          "%s for %d", table[i]->name, (int)tokens);
            previous = seconds;
        }
    }
}

START_TEST(more_tokens_take_longer)
{
    for_everything(check_growth);
}
END_TEST

static void check_memory(const fex_problem *problem, const fex_device *device)
{
    size_t count;
    const fex_variant *const *const table = fex_variant_table(&count);
    fex_device slow = *device;
    slow.memory_rate /= 100;
    for (size_t i = 0; i < count; i++)
        if (table[i]->pass == FEX_PASS_FORWARD &&
            table[i]->applies(problem, device->architecture))
            ck_assert_double_gt(table[i]->estimate(problem, &slow, 1000),
                                table[i]->estimate(problem, device, 1000));
}

START_TEST(slow_memory_takes_longer)
{
    for_everything(check_memory);
}
END_TEST

/* What a launch takes by itself, which no slower device makes longer: all else
 * takes twice as long where clocks and memory are half as fast. */
static double fixed_seconds(const fex_variant *variant,
                            const fex_problem *problem,
                            const fex_device *device, int64_t tokens)
{
    fex_device slow = *device;
    slow.clock /= 2;
    slow.memory_rate /= 2;
    slow.l2_rate /= 2;
    slow.tensor_rate /= 2;
    return 2 * variant->estimate(problem, device, tokens) -
           variant->estimate(problem, &slow, tokens);
}

/* The same for every problem, times the chunks that tokens are worked on in. */
static void check_fixed(const fex_problem *problem, const fex_device *device)
{
    const fex_problem least = test_problem(BF16, 1024, 1, 1024);
    size_t count;
    const fex_variant *const *const table = fex_variant_table(&count);
    for (size_t i = 0; i < count; i++)
        for (int64_t tokens = 1; tokens <= 1000; tokens *= 10)
            if (table[i]->pass == FEX_PASS_FORWARD &&
                table[i]->applies(problem, device->architecture)) {
                const double once = fixed_seconds(table[i], &least, device, 1);
                const double all =
                    fixed_seconds(table[i], problem, device, tokens);
                ck_assert_double_ge(all, once - 1e-8);
                ck_assert_double_eq_tol(all, round(all / once) * once, 1e-8);
            }
}

START_TEST(a_slower_device_takes_longer)
{
    for_everything(check_fixed);
}
END_TEST

/* What the dense family does pair by pair is shared by all multiprocessors. */
START_TEST(half_of_a_device_takes_twice_as_long)
{
    enum { TOKENS = 8448 };
    const fex_problem few = test_problem(BF16, 64, 512, 1024);
    const fex_problem many = test_problem(BF16, 64, 1024, 1024);
    const fex_device whole = device_of("sm_90a");
    fex_device half = whole;
    fex_device_part(&half, 2);
    ck_assert_int_eq(2 * half.multiprocessors, whole.multiprocessors);
    const double of_whole =
        fex_dense_forward.estimate(&many, &whole, TOKENS) -
        fex_dense_forward.estimate(&few, &whole, TOKENS);
    const double of_half = fex_dense_forward.estimate(&many, &half, TOKENS) -
                           fex_dense_forward.estimate(&few, &half, TOKENS);
    ck_assert_double_eq_tol(of_half / of_whole, 2, 0.001);
}
END_TEST

/* On an H200: each is for one thing that an estimate is made of. */
static const struct {
    const fex_variant *variant;
    fex_dtype dtype;
    int64_t hidden_size, top_k, num_experts, num_tokens;
    double microseconds;
} estimates[] = {
    /* a warp's pairs; what is read from memory; blocks in turns */
    {&fex_cluster_forward, BF16, 1024, 512, 102400, 1, 10.0},
    {&fex_cluster_forward, BF16, 1024, 512, 102400, 64, 37.4},
    {&fex_cluster_forward, BF16, 256, 8, 102400, 4096, 39.8},
    /* steps; L2; what memory is read for again */
    {&fex_gather_forward, BF16, 1024, 512, 102400, 1, 14.4},
    {&fex_gather_forward, BF16, 1024, 512, 102400, 1024, 297.8},
    {&fex_gather_forward, BF16, 1024, 16, 1000000, 100000, 1484},
    /* the sort; both products, of either type; small tiles; sums that do not fit
     * L2; pairs, and a sort that takes four tokens at a time */
    {&fex_dense_forward, BF16, 64, 512, 1024, 16, 36.0},
    {&fex_dense_forward, BF16, 1024, 4096, 102400, 1024, 741.2},
    {&fex_dense_forward, F16, 1024, 4096, 102400, 1024, 881.0},
    {&fex_dense_forward, BF16, 1024, 32, 1024, 8192, 113.5},
    {&fex_dense_forward, BF16, 1024, 32, 1024, 20000, 321.3},
    {&fex_dense_forward, BF16, 64, 8192, 8192, 2112, 1116},
    /* what is multiplied, of either type; choices; narrow tiles; ranges */
    {&fex_matrix_forward, BF16, 4096, 1, 1024, 4096, 108.5},
    {&fex_matrix_forward, F16, 4096, 1, 1024, 4096, 148.3},
    {&fex_matrix_forward, BF16, 1024, 128, 1024, 4096, 47.2},
    {&fex_matrix_forward, BF16, 1024, 32, 1024, 1024, 17.7},
    {&fex_matrix_forward, BF16, 1024, 2048, 102400, 1024, 641.7},
};

START_TEST(estimates_are_of_an_h200)
{
    const fex_device device = device_of("sm_90a");
    const fex_problem problem =
        test_problem(estimates[_i].dtype, estimates[_i].hidden_size,
                   estimates[_i].top_k, estimates[_i].num_experts);
    const double seconds = estimates[_i].variant->estimate(
        &problem, &device, estimates[_i].num_tokens);
    ck_assert_double_eq_tol(1e6 * seconds / estimates[_i].microseconds, 1,
                            0.005);
}
END_TEST

/* Families that are compared have an estimate. */
START_TEST(what_is_compared_can_be_judged)
{
    size_t count;
    const fex_variant *const *const table = fex_variant_table(&count);
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < count; j++)
            if (i != j && table[i]->pass == table[j]->pass)
                ck_assert(table[i]->estimate != NULL);
}
END_TEST

static const struct {
    const fex_variant *variant;
    fex_dtype dtype;
    int64_t num_experts, num_tokens;
    const char *text;
} launches[] = {
    {&fex_cluster_forward, BF16, 102400, 1, "cluster=8 threads=256 unroll=2"},
    {&fex_cluster_forward, BF16, 102400, 64, "cluster=2 threads=256 unroll=2"},
    {&fex_cluster_forward, BF16, 102400, 1000,
     "cluster=1 threads=256 unroll=2"},
    {&fex_gather_forward, BF16, 102400, 1,
     "slabs=1 tile=32 chunk=128 threads=96/128"},
    {&fex_gather_forward, BF16, 102400, 1024,
     "slabs=9 tile=512 chunk=128 threads=96/128"},
    {&fex_dense_forward, BF16, 102400, 1000,
     "tile=128x256/256x128 splits=4 tokens=1000"},
    {&fex_dense_forward, F16, 102400, 1000,
     "tile=128x256/128x128 splits=4 tokens=1000"},
    {&fex_dense_forward, BF16, 1024, 1000,
     "tile=128x64/256x128 splits=4 tokens=1000"},
    {&fex_dense_forward, F16, 1024, 100,
     "tile=128x64/128x128 splits=4 tokens=100"},
    {&fex_dense_forward, BF16, 102400, 100,
     "tile=128x256/256x128 splits=16 tokens=100"},
    {&fex_dense_forward, F16, 102400, 100000,
     "tile=128x256/128x128 splits=1 tokens=31744"},
    {&fex_matrix_forward, BF16, 1024, 1000,
     "tiles=128x64/64 ranges=1 tokens=1000"},
    {&fex_matrix_forward, F16, 4096, 100000,
     "tiles=128x256/256 ranges=1 tokens=20096"},
};

START_TEST(launches_are_put_in_words)
{
    const fex_device device = device_of("sm_90a");
    const fex_problem problem = test_problem(launches[_i].dtype, 1024, 512,
                                           launches[_i].num_experts);
    char text[FEX_LAUNCH_TEXT_MAX];
    launches[_i].variant->describe_launch(&problem, &device,
                                          launches[_i].num_tokens, text);
    ck_assert_str_eq(text, launches[_i].text);
}
END_TEST

/* Longest figures fit. */
static void check_text(const fex_problem *problem, const fex_device *device)
{
    size_t count;
    const fex_variant *const *const table = fex_variant_table(&count);
    char text[FEX_LAUNCH_TEXT_MAX];
    for (size_t i = 0; i < count; i++) {
        if (table[i]->describe_launch == NULL ||
            !table[i]->applies(problem, device->architecture))
            continue;
        table[i]->describe_launch(problem, device,
                                  FEX_PAIRS_MAX / problem->top_k, text);
        ck_assert_uint_lt(strlen(text), FEX_LAUNCH_TEXT_MAX - 1);
        ck_assert_ptr_nonnull(strchr(text, '='));
    }
}

START_TEST(words_fit)
{
    for_everything(check_text);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, the_faster_family_is_chosen, 0,
                        (int)COUNT(known));
    tcase_add_test(tests, ranges_are_in_order);
    tcase_add_test(tests, what_is_launched_was_prepared);
    tcase_add_test(tests, the_least_estimate_is_chosen);
    tcase_add_test(tests, a_family_can_be_asked_for);
    tcase_add_test(tests, typical_devices_are_covered);
    tcase_add_loop_test(tests, likely_families_cover_an_architecture, 0,
                        (int)COUNT(others));
    tcase_add_test(tests, not_everything_is_likely);
    tcase_add_test(tests, more_tokens_take_longer);
    tcase_add_test(tests, slow_memory_takes_longer);
    tcase_add_test(tests, a_slower_device_takes_longer);
    tcase_add_test(tests, half_of_a_device_takes_twice_as_long);
    tcase_add_loop_test(tests, estimates_are_of_an_h200, 0,
                        (int)COUNT(estimates));
    tcase_add_test(tests, what_is_compared_can_be_judged);
    tcase_add_loop_test(tests, launches_are_put_in_words, 0,
                        (int)COUNT(launches));
    tcase_add_test(tests, words_fit);
}

int main(void)
{
    return test_suite_main("plan", fill);
}
