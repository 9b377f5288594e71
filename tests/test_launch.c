/* SPDX-License-Identifier: Apache-2.0 */
/* test_launch.c - what holds for a launch of either pass, whatever numbers it
 * computes: preparing, workspaces, streams, graphs, threads, checked mode. */
#include "config.h"

#include <pthread.h>
#include <string.h>

#include "cache_case.h"
#include "device_suite.h"
#include "plan.h"

/* _i of every test here: a pass, and rows so narrow or wide that they are
 * served by different families. */
static const struct {
    fex_pass pass;
    int64_t hidden_size;
} kinds[] = {{FEX_PASS_FORWARD, 64},
             {FEX_PASS_FORWARD, 320},
             {FEX_PASS_BACKWARD, 64},
             {FEX_PASS_BACKWARD, 320}};
enum { KINDS = sizeof kinds / sizeof *kinds };

#define PASS kinds[_i].pass

static case_spec plain_of(int kind)
{
    return (case_spec){.dtype = FEX_DTYPE_BF16,
                       .hidden_size = kinds[kind].hidden_size,
                       .top_k = 32,
                       .num_experts = 96,
                       .num_tokens = 40,
                       .distribution = TEST_ZIPF,
                       .empty = 1};
}

static device_case c;

static void create(const case_spec *spec)
{
    device_case_create(&suite_device, spec, &c);
}

static void destroy(void)
{
    device_case_destroy(&c);
}

static void need(fex_status status)
{
    ck_assert_msg(status == FEX_OK, "%s", fex_last_error());
}

/* The digest of what one launch leaves, from outputs that were reset. */
static uint64_t run_and_digest(fex_pass pass)
{
    device_case_reset(&c, pass);
    device_case_run(&c, pass);
    device_case_download(&c, pass);
    return device_case_digest(&c, pass);
}

/* The digest where nothing was written. */
static uint64_t untouched_digest(fex_pass pass)
{
    device_case_reset(&c, pass);
    device_case_download(&c, pass);
    return device_case_digest(&c, pass);
}

/* ---- Preparing ----------------------------------------------------------- */

static fex_context_stats stats_of(fex_context *context)
{
    fex_context_stats stats = {.size = sizeof stats};
    need(fex_context_get_stats(context, &stats));
    return stats;
}

static uint64_t compiles_of(fex_context *context)
{
    return stats_of(context).compiles;
}

/* How often the loader was asked for a kernel. */
static uint64_t request_count(void)
{
    const fex_context_stats stats = stats_of(suite_device.context);
    return stats.memory_hits + stats.cache_hits + stats.cache_misses;
}

/* Once prepared for some number of tokens, a launch of as many or fewer does
 * not ask for a kernel at all, whichever families serve the two. */
START_TEST(prepared_launch_asks_for_no_kernel)
{
    const case_spec plain = plain_of(_i);
    create(&plain);
    need(fex_op_prepare(c.op, PASS, 1000 * plain.num_tokens));
    const uint64_t before = request_count();
    device_case_run(&c, PASS);
    need(fex_op_prepare(c.op, PASS, plain.num_tokens));
    ck_assert_uint_eq(request_count(), before);
    destroy();
}
END_TEST

/* Only fex_prewarm fills the cache that an operation then prepares from, for
 * `first` tokens, then for three times as many, up to `last`; on a device with
 * these figures. */
static void check_prewarm(const case_spec *spec, fex_pass pass,
                          const fex_device *figures, int64_t first,
                          int64_t last)
{
    char cache[256];
    const fex_context_options options = {.size = sizeof options,
                                         .cache_dir = cache,
                                         .cache_path = ":"};
    test_device device = suite_device;
    scratch_make(cache);
    need(fex_context_create(&options, &device.context));
    device.context->device = *figures;
    for (int64_t tokens = first; tokens <= last; tokens *= 3) {
        device_case_create(&device, spec, &c);
        need(fex_prewarm(device.context, &c.desc, pass, tokens, NULL, 0, NULL,
                         NULL, NULL));
        const uint64_t before = compiles_of(device.context);
        need(fex_op_prepare(c.op, pass, tokens));
        ck_assert_msg(compiles_of(device.context) == before,
                      "%s, %d tokens: prepare compiled", device_case_words(&c),
                      (int)tokens);
        destroy();
    }
    fex_context_destroy(device.context);
    scratch_remove(cache);
}

/* Whatever a launch asks for, fex_prewarm has brought: at every width of a
 * row's loads, whatever the number of tokens goes up to. */
START_TEST(prewarm_covers_prepare)
{
    static const int64_t hidden_sizes[] = {1, 6, 12, 40};
    const fex_pass pass = _i == 0 ? FEX_PASS_FORWARD : FEX_PASS_BACKWARD;
    const fex_device *const device = &suite_device.context->device;
    case_spec spec = plain_of(0);
    spec.num_tokens = 1;
    for (int size = 0; size < 4; size++) {
        spec.hidden_size = hidden_sizes[size];
        check_prewarm(&spec, pass, device, 1, 100000);
    }
    /* Fewer tokens than prepared for may be another family's. */
    check_prewarm(&spec, pass, device, 100000, 100000);
}
END_TEST

/* Whether a device chooses a family for up to so many tokens that those of its
 * architecture are not likely to. */
static int is_unusual(const case_spec *spec, const fex_device *device,
                      int64_t num_tokens)
{
    const char *const family = suite_device.context->environment.family;
    const fex_op_desc desc = device_case_desc(spec);
    const fex_variant *likely[FEX_FAMILIES_MAX];
    fex_problem problem;
    fex_plan plan;
    need(fex_problem_init(&problem, &desc));
    const size_t count =
        fex_plan_likely(&problem, device->architecture, FEX_PASS_FORWARD,
                        num_tokens, family, likely);
    fex_plan_make(&problem, device, FEX_PASS_FORWARD, family, &plan);
    size_t found = 0;
    const size_t reach = fex_plan_reach(&plan, num_tokens);
    for (size_t r = 0; r < reach; r++)
        for (size_t i = 0; i < count; i++)
            found += likely[i] == plan.ranges[r].variant;
    return found < reach;
}

/* What the device of the context itself chooses is brought in too: for some
 * problem one is unusual that has a single multiprocessor and all the memory's
 * rate. */
START_TEST(prewarm_knows_the_device)
{
    static const int64_t hidden_sizes[] = {256, 1024}, top_ks[] = {32, 128};
    enum { TOKENS = 10 };
    fex_device odd = suite_device.context->device;
    case_spec spec = plain_of(0);
    odd.multiprocessors = 1;
    odd.l2_rate /= suite_device.context->device.multiprocessors;
    odd.tensor_rate /= suite_device.context->device.multiprocessors;
    spec.num_tokens = 1;
    for (int i = 0; i < 4; i++)
        for (spec.num_experts = 64; spec.num_experts <= 1024;
             spec.num_experts *= 2) {
            spec.hidden_size = hidden_sizes[i / 2];
            spec.top_k = top_ks[i % 2];
            if (is_unusual(&spec, &odd, TOKENS)) {
                check_prewarm(&spec, FEX_PASS_FORWARD, &odd, TOKENS, TOKENS);
                return;
            }
        }
    ck_assert_msg(odd.architecture->major < 8 ||
                      suite_device.context->environment.family != NULL,
                  "no problem here shows what the device itself chooses");
}
END_TEST

/* ---- The same bits ------------------------------------------------------- */

START_TEST(same_bits_on_every_run_and_stream)
{
    const case_spec plain = plain_of(_i);
    CUstream stream;
    create(&plain);
    const uint64_t first = run_and_digest(PASS);
    for (int run = 0; run < 3; run++)
        ck_assert_uint_eq(run_and_digest(PASS), first);

    TEST_DRIVER(&suite_device, cuStreamCreate(&stream, 0));
    device_case_reset(&c, PASS);
    need(device_case_launch(&c, PASS, stream));
    TEST_DRIVER(&suite_device, cuStreamSynchronize(stream));
    device_case_download(&c, PASS);
    ck_assert_uint_eq(device_case_digest(&c, PASS), first);
    TEST_DRIVER(&suite_device, cuStreamDestroy(stream));
    destroy();
}
END_TEST

/* ---- Threads ------------------------------------------------------------- */

enum { THREADS = 4, LAUNCHES = 6 };

typedef struct launcher {
    device_case own; /* data and workspace; the operation is shared */
    fex_pass pass;
    CUstream stream;
    pthread_barrier_t *start;
    fex_status status;
    char error[256];
} launcher;

static void *launch_often(void *user)
{
    launcher *const l = user;
    pthread_barrier_wait(l->start);
    for (int i = 0; i < LAUNCHES && l->status == FEX_OK; i++)
        l->status = device_case_launch(&l->own, l->pass, l->stream);
    if (l->status != FEX_OK)
        strncpy(l->error, fex_last_error(), sizeof l->error - 1);
    return NULL;
}

static void create_launcher(launcher *l, int number, int kind,
                            pthread_barrier_t *start)
{
    const fex_pass pass = kinds[kind].pass;
    case_spec spec = plain_of(kind);
    spec.seed = (uint64_t)number;
    device_case_create(&suite_device, &spec, &l->own);
    fex_op_destroy(l->own.op);
    l->own.op = c.op;
    l->pass = pass;
    l->start = start;
    TEST_DRIVER(&suite_device,
                cuStreamCreate(&l->stream, CU_STREAM_NON_BLOCKING));
    ck_assert_int_eq(device_case_reference(&l->own, pass), FEX_OK);
}

static void finish_launcher(launcher *l)
{
    ck_assert_msg(l->status == FEX_OK, "%s", l->error);
    TEST_DRIVER(&suite_device, cuStreamSynchronize(l->stream));
    device_case_check(&l->own, l->pass);
    TEST_DRIVER(&suite_device, cuStreamDestroy(l->stream));
    l->own.op = NULL;
    device_case_destroy(&l->own);
}

/* One operation, not prepared, and as many streams as threads. */
START_TEST(threads_share_an_operation)
{
    const case_spec plain = plain_of(_i);
    static launcher launchers[THREADS];
    pthread_t threads[THREADS];
    pthread_barrier_t start;
    create(&plain);
    memset(launchers, 0, sizeof launchers);
    pthread_barrier_init(&start, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        create_launcher(&launchers[i], i, _i, &start);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, launch_often,
                                        &launchers[i]),
                         0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++)
        finish_launcher(&launchers[i]);
    pthread_barrier_destroy(&start);
    destroy();
}
END_TEST

/* ---- Graphs -------------------------------------------------------------- */

static CUstream begin_capture(void)
{
    CUstream stream;
    TEST_DRIVER(&suite_device, cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    TEST_DRIVER(&suite_device,
                cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    return stream;
}

static CUgraphExec end_capture(CUstream stream)
{
    CUgraph graph;
    CUgraphExec executable;
    TEST_DRIVER(&suite_device, cuStreamEndCapture(stream, &graph));
    TEST_DRIVER(&suite_device, cuGraphInstantiate(&executable, graph, 0));
    TEST_DRIVER(&suite_device, cuGraphDestroy(graph));
    return executable;
}

static void replay(CUgraphExec executable, CUstream stream)
{
    TEST_DRIVER(&suite_device, cuGraphLaunch(executable, stream));
    TEST_DRIVER(&suite_device, cuStreamSynchronize(stream));
}

static void end_graph(CUgraphExec executable, CUstream stream)
{
    TEST_DRIVER(&suite_device, cuGraphExecDestroy(executable));
    TEST_DRIVER(&suite_device, cuStreamDestroy(stream));
}

START_TEST(replay_gives_the_same_bits)
{
    const case_spec plain = plain_of(_i);
    create(&plain);
    need(fex_op_prepare(c.op, PASS, plain.num_tokens));
    CUstream stream = begin_capture();
    need(device_case_launch(&c, PASS, stream));
    CUgraphExec executable = end_capture(stream);

    /* Captured, nothing has run yet. */
    device_case_download(&c, PASS);
    ck_assert_uint_eq(device_case_digest(&c, PASS), untouched_digest(PASS));

    const uint64_t direct = run_and_digest(PASS);
    for (int run = 0; run < 2; run++) {
        device_case_reset(&c, PASS);
        replay(executable, stream);
        device_case_download(&c, PASS);
        ck_assert_uint_eq(device_case_digest(&c, PASS), direct);
    }
    end_graph(executable, stream);
    destroy();
}
END_TEST

/* An operation that is not prepared, or not for the arguments' alignment, is
 * refused while a stream is captured, and what was captured before is fine. */
static void refused_in_capture(const case_spec *spec, int kind, int prepare)
{
    const fex_pass pass = kinds[kind].pass;
    const case_spec plain = plain_of(kind);
    device_case other;
    create(&plain);
    need(fex_op_prepare(c.op, pass, plain.num_tokens));
    const uint64_t direct = run_and_digest(pass);
    device_case_create(&suite_device, spec, &other);
    if (prepare)
        need(fex_op_prepare(other.op, pass, spec->num_tokens));

    CUstream stream = begin_capture();
    need(device_case_launch(&c, pass, stream));
    ck_assert_int_eq(device_case_launch(&other, pass, stream),
                     FEX_ERROR_NOT_PREPARED);
    CUgraphExec executable = end_capture(stream);
    device_case_reset(&c, pass);
    replay(executable, stream);
    device_case_download(&c, pass);
    ck_assert_uint_eq(device_case_digest(&c, pass), direct);
    end_graph(executable, stream);
    device_case_destroy(&other);
    destroy();
}

START_TEST(unprepared_is_refused_in_capture)
{
    const case_spec spec = plain_of(_i);
    refused_in_capture(&spec, _i, 0);
}
END_TEST

START_TEST(other_alignment_is_refused_in_capture)
{
    case_spec spec = plain_of(_i);
    spec.misalignment = 1;
    refused_in_capture(&spec, _i, 1);
}
END_TEST

START_TEST(checked_mode_is_refused_in_capture)
{
    case_spec spec = plain_of(_i);
    spec.flags = FEX_OP_CHECK_INDICES;
    refused_in_capture(&spec, _i, 1);
}
END_TEST

/* ---- Checked mode -------------------------------------------------------- */

START_TEST(checked_mode_names_the_first_offender)
{
    case_spec spec = plain_of(_i);
    spec.flags = FEX_OP_CHECK_INDICES;
    spec.empty = 0;
    spec.num_experts = 100;
    spec.row_padding = 8;
    device_case_make(&spec, &c);
    int32_t *const indices =
        (int32_t *)(void *)c.arrays[CASE_INDICES].initial;
    const int64_t stride = c.arrays[CASE_INDICES].stride;
    indices[3 * stride + 4] = -7; /* empty, and allowed */
    indices[31 * stride + 2] = INT32_MAX;
    indices[17 * stride + 30] = 100;
    indices[17 * stride + 31] = 101;
    device_case_place(&c, &suite_device);

    ck_assert_int_eq(device_case_launch(&c, PASS, NULL), FEX_ERROR_INDEX);
    ck_assert_str_eq(fex_last_error(),
                     "indices[17, 30] is not below num_experts 100");
    device_case_download(&c, PASS);
    const uint64_t after = device_case_digest(&c, PASS);
    ck_assert_uint_eq(after, untouched_digest(PASS));
    destroy();
}
END_TEST

START_TEST(checked_mode_computes_the_same)
{
    case_spec spec = plain_of(_i);
    spec.empty = 0;
    create(&spec);
    const uint64_t unchecked = run_and_digest(PASS);
    destroy();
    spec.flags = FEX_OP_CHECK_INDICES;
    create(&spec);
    ck_assert_uint_eq(run_and_digest(PASS), unchecked);
    destroy();
}
END_TEST

/* ---- Workspaces ---------------------------------------------------------- */

static void refuses_workspace(fex_pass pass, void *workspace, size_t bytes)
{
    c.forward.workspace = c.backward.workspace = workspace;
    c.forward.workspace_size = c.backward.workspace_size = bytes;
    ck_assert_int_eq(device_case_launch(&c, pass, NULL), FEX_ERROR_WORKSPACE);
    TEST_DRIVER(&suite_device, cuCtxSynchronize());
    device_case_download(&c, pass);
    const uint64_t after = device_case_digest(&c, pass);
    ck_assert_uint_eq(after, untouched_digest(pass));
}

START_TEST(wrong_workspaces_are_refused)
{
    size_t bytes;
    case_spec spec = plain_of(_i);
    spec.flags = FEX_OP_CHECK_INDICES; /* so that every pass needs some */
    create(&spec);
    need(fex_op_workspace_size(c.op, PASS, spec.num_tokens, &bytes));
    char *const workspace = c.workspace.pointer;
    refuses_workspace(PASS, NULL, bytes);
    refuses_workspace(PASS, workspace, bytes - 1);
    refuses_workspace(PASS, workspace, 0);
    refuses_workspace(PASS, workspace + 128, bytes);
    destroy();
}
END_TEST

/* The size for many tokens serves fewer. */
START_TEST(workspace_grows_with_tokens)
{
    const case_spec plain = plain_of(_i);
    size_t previous = 0;
    create(&plain);
    for (int64_t tokens = 0; tokens < 70000; tokens += tokens / 7 + 1) {
        size_t bytes;
        need(fex_op_workspace_size(c.op, PASS, tokens, &bytes));
        ck_assert_uint_ge(bytes, previous);
        previous = bytes;
    }
    destroy();
}
END_TEST

/* The size for as many as num_tokens serves whichever family is launched, and
 * the last with rows that it cannot read. Returns the size. */
static size_t check_size(fex_op *op, const fex_problem *problem,
                         const fex_plan *plan, int64_t num_tokens)
{
    size_t bytes;
    need(fex_op_workspace_size(op, FEX_PASS_FORWARD, num_tokens, &bytes));
    ck_assert_uint_ge(bytes, fex_plan_find(plan, num_tokens)
                                 ->workspace_size(problem, num_tokens));
    ck_assert_uint_ge(bytes, fex_variant_last(FEX_PASS_FORWARD)
                                 ->workspace_size(problem, num_tokens));
    return bytes;
}

/* Where families take turns, and where one needs a bounded workspace and the
 * last does not. Nothing is launched: the device may as well be an H200. */
static const struct {
    int64_t top_k, first, last, step;
} turns[] = {{2048, 100, 400, 1}, {4096, 1000, 200000, 9999}};

START_TEST(workspace_serves_every_family)
{
    const fex_op_desc desc = {.size = sizeof desc,
                              .dtype = FEX_DTYPE_BF16,
                              .hidden_size = 1024,
                              .top_k = turns[_i].top_k,
                              .num_experts = 102400};
    const fex_context_options options = {.size = sizeof options};
    fex_context *context;
    fex_problem problem;
    fex_plan plan;
    fex_op *op;
    size_t previous = 0;
    need(fex_context_create(&options, &context));
    fex_device_typical(fex_architecture_by_name("sm_90a"), &context->device);
    context->device.ordinal = 0;
    need(fex_problem_init(&problem, &desc));
    fex_plan_make(&problem, &context->device, FEX_PASS_FORWARD,
                  context->environment.family, &plan);
    need(fex_op_create(context, &desc, &op));
    for (int64_t tokens = turns[_i].first; tokens <= turns[_i].last;
         tokens += turns[_i].step) {
        const size_t bytes = check_size(op, &problem, &plan, tokens);
        ck_assert_uint_ge(bytes, previous);
        previous = bytes;
    }
    fex_op_destroy(op);
    fex_context_destroy(context);
}
END_TEST

/* ---- The suite ----------------------------------------------------------- */

#define EVERY_KIND(tests, name) tcase_add_loop_test(tests, name, 0, KINDS)

static void fill(Suite *suite, int full)
{
    TCase *const tests = tcase_create("launch");
    (void)full; /* these are small everywhere */
    EVERY_KIND(tests, prepared_launch_asks_for_no_kernel);
    tcase_add_loop_test(tests, prewarm_covers_prepare, 0, 2);
    tcase_add_test(tests, prewarm_knows_the_device);
    EVERY_KIND(tests, same_bits_on_every_run_and_stream);
    EVERY_KIND(tests, threads_share_an_operation);
    EVERY_KIND(tests, replay_gives_the_same_bits);
    EVERY_KIND(tests, unprepared_is_refused_in_capture);
    EVERY_KIND(tests, other_alignment_is_refused_in_capture);
    EVERY_KIND(tests, checked_mode_is_refused_in_capture);
    EVERY_KIND(tests, checked_mode_names_the_first_offender);
    EVERY_KIND(tests, checked_mode_computes_the_same);
    EVERY_KIND(tests, wrong_workspaces_are_refused);
    EVERY_KIND(tests, workspace_grows_with_tokens);
    tcase_add_loop_test(tests, workspace_serves_every_family, 0,
                        sizeof turns / sizeof *turns);
    suite_add_tcase(suite, tests);
}

int main(int argc, char **argv)
{
    return device_suite_main(argc, argv, "launch", fill);
}
