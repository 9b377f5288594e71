/* SPDX-License-Identifier: Apache-2.0 */
/* forward.c - one forward pass on GPU 0, its result printed.
 *
 *     cc -I/usr/local/cuda/include forward.c \
 *         $(pkg-config --cflags --libs flashexpert_rtc) -lcuda */
#include <stdio.h>

#include <cuda.h>
#include <flashexpert_rtc.h>

enum { TOKENS = 2, HIDDEN = 4, TOP_K = 2, EXPERTS = 3 };

/* args: device pointers to inputs and output. A program that serves would keep
 * context, operation and workspace, and call fex_forward alone. */
static fex_status evaluate(fex_forward_args *args)
{
    fex_op_desc desc = {.size = sizeof(desc), .dtype = FEX_DTYPE_F32,
                        .hidden_size = HIDDEN, .top_k = TOP_K,
                        .num_experts = EXPERTS};
    fex_context *context = NULL;
    fex_op *op = NULL;
    CUdeviceptr workspace = 0;
    fex_status status;

    if ((status = fex_context_create(NULL, &context)) || /* NULL: GPU 0 */
        (status = fex_op_create(context, &desc, &op)) ||
        /* Kernels come from the cache, or are compiled once and put there. */
        (status = fex_op_prepare(op, FEX_PASS_FORWARD, TOKENS)) ||
        (status = fex_op_workspace_size(op, FEX_PASS_FORWARD, TOKENS,
                                        &args->workspace_size)))
        goto done;
    cuMemAlloc(&workspace, args->workspace_size + 1); /* the size may be 0 */
    args->workspace = (void *)workspace;
    status = fex_forward(op, args, NULL); /* queued on the default stream */
    cuCtxSynchronize();
done:
    if (status != FEX_OK)
        fprintf(stderr, "%s\n", fex_last_error());
    cuMemFree(workspace);
    fex_op_destroy(op);
    fex_context_destroy(context);
    return status;
}

static void *to_device(const void *host, size_t bytes)
{
    CUdeviceptr device = 0;
    cuMemAlloc(&device, bytes);
    cuMemcpyHtoD(device, host, bytes);
    return (void *)device;
}

int main(void)
{
    const float x[TOKENS][HIDDEN] = {{1, 2, 3, 4}, {-1, 2, 0, 0}};
    const float down[EXPERTS][HIDDEN] = {{1}, {0, 1}, {0, 0, 1}};
    const float up[EXPERTS][HIDDEN] = {{1, 1}, {0, 1, 1}, {0, 0, 1, 1}};
    const int indices[TOKENS][TOP_K] = {{0, 2}, {1, -1}}; /* -1: none */
    const float gates[TOKENS][TOP_K] = {{0.75f, 0.25f}, {1, 0}};
    float y[TOKENS][HIDDEN] = {{0}};
    CUcontext primary;

    if (cuInit(0) || cuDevicePrimaryCtxRetain(&primary, 0) ||
        cuCtxPushCurrent(primary)) {
        fprintf(stderr, "no CUDA device\n");
        return 1;
    }
    fex_forward_args args = {
        .size = sizeof(args),
        .num_tokens = TOKENS,
        .hidden_states = to_device(x, sizeof(x)),
        .down_weights = to_device(down, sizeof(down)),
        .up_weights = to_device(up, sizeof(up)),
        .indices = to_device(indices, sizeof(indices)),
        .routing_weights = to_device(gates, sizeof(gates)),
        .expert_states = to_device(y, sizeof(y)),
    };
    if (evaluate(&args) != FEX_OK)
        return 1;
    cuMemcpyDtoH(y, (CUdeviceptr)args.expert_states, sizeof(y));
    for (int t = 0; t < TOKENS; t++)
        printf("%.4f %.4f %.4f %.4f\n", y[t][0], y[t][1], y[t][2], y[t][3]);
    return 0;
}
