/* SPDX-License-Identifier: Apache-2.0 */
/* device_case.h - one problem with random data, run through the public
 * interface on a device and compared with the reference.
 *
 * The reference is run in float32 over the very numbers the device gets, so
 * that an error is one against exact arithmetic, not against a second
 * rounding. */
#ifndef TEST_DEVICE_CASE_H
#define TEST_DEVICE_CASE_H

#include "device.h"
#include "support.h"

/* Where the backward pass gets scores from. */
typedef enum case_scores {
    CASE_SCORES_AGAIN, /* it computes them */
    CASE_SCORES_SAVED, /* the forward pass left them */
    CASE_SCORES_OTHER  /* random: shows that they are what is used */
} case_scores;

/* What to run. Zero asks for the plain thing. */
typedef struct case_spec {
    fex_dtype dtype, routing_dtype, weight_grad_dtype;
    fex_index_type index_type;
    int64_t hidden_size, top_k, num_experts, num_tokens;
    test_distribution distribution;
    int empty;            /* some slots are negative or out of range */
    int64_t row_padding;  /* elements between rows */
    int64_t choice_padding; /* and more between those of choices */
    size_t misalignment;  /* of every array, in its elements */
    unsigned without;     /* gradients not asked for, as FEX_ACCUMULATE_... */
    unsigned accumulate;  /* FEX_ACCUMULATE_... */
    case_scores scores;
    int no_scores_output; /* the forward pass gets scores = NULL */
    unsigned flags;       /* FEX_OP_... */
    uint64_t seed;
} case_spec;

/* Every array of a case: those of one kind are treated alike. */
enum {
    CASE_HIDDEN_STATES,
    CASE_DOWN_WEIGHTS,
    CASE_UP_WEIGHTS,
    CASE_ROUTING_WEIGHTS,
    CASE_GRAD_OUTPUT,
    CASE_INDICES,
    CASE_SCORES,         /* output of forward, input of backward */
    CASE_EXPERT_STATES,
    CASE_GRAD_HIDDEN_STATES, /* this and the next three in the order of */
    CASE_GRAD_DOWN_WEIGHTS,  /* FEX_ACCUMULATE_... */
    CASE_GRAD_UP_WEIGHTS,
    CASE_GRAD_ROUTING_WEIGHTS,
    CASE_ARRAYS
};

typedef struct case_array {
    const char *name;
    fex_dtype dtype; /* FEX_DTYPE_AUTO: indices */
    size_t element;  /* bytes; 0: there is no such array in this case */
    int64_t rows, columns, stride;
    float *exact;    /* dense; of an output, the reference's once it has run */
    char *initial;   /* what the device's memory starts with */
    char *result;    /* what it holds after device_case_download */
    test_buffer buffer;
} case_array;

/* Of its memory, the padding behind the last row not included. */
size_t case_array_bytes(const case_array *a);

typedef struct device_case {
    case_spec spec;
    const test_device *device;
    fex_op_desc desc;
    fex_op *op;
    case_array arrays[CASE_ARRAYS];
    test_buffer workspace;
    fex_forward_args forward;
    fex_backward_args backward;
} device_case;

/* The operation that a case is of. */
fex_op_desc device_case_desc(const case_spec *spec);

/* Makes the data on the host. Like device_case_reference it touches nothing but
 * the case: both may be called by several threads, each with its own. */
void device_case_make(const case_spec *spec, device_case *made);
/* Frees what was made. */
void device_case_forget(device_case *c);
/* Makes the operation and puts the data on the device. Any failure fails the
 * test, here and below. */
void device_case_place(device_case *c, const test_device *device);
/* Takes it off again: the case can be placed anew. */
void device_case_remove(device_case *c);
/* Both of either. */
void device_case_create(const test_device *device, const case_spec *spec,
                        device_case *made);
void device_case_destroy(device_case *c);

/* Computes what the outputs should be. */
fex_status device_case_reference(device_case *c, fex_pass passes);

/* Puts the outputs of `passes` back to what they were before a launch. */
void device_case_reset(device_case *c, fex_pass passes);

/* Launches on a stream. device_case_run also waits and demands success. */
fex_status device_case_launch(device_case *c, fex_pass pass, CUstream stream);
void device_case_run(device_case *c, fex_pass passes);

/* Fetches the outputs of `passes` and checks that nothing around them was
 * written: guard zones, and the padding between rows. */
void device_case_download(device_case *c, fex_pass passes);

/* Whether array `which` is an output of `passes` in this case. */
int device_case_is_output(const device_case *c, int which, fex_pass passes);

/* The relative error of a downloaded output, what it may be, and a check of
 * all outputs, which downloads them. */
double device_case_error(const device_case *c, int which);
double device_case_tolerance(const device_case *c, int which);
void device_case_check(device_case *c, fex_pass passes);

/* A hash of the downloaded outputs, to compare runs bit by bit. */
uint64_t device_case_digest(const device_case *c, fex_pass passes);

/* The case in words, for messages; static storage of the calling thread. */
const char *device_case_words(const device_case *c);

#endif
