/* SPDX-License-Identifier: Apache-2.0 */
/* faults.h - calls that fail or dawdle on demand, and the count of calls.
 *
 * Both stand-ins carry a copy of their own. The plan is a list of
 *
 *     function:n=RESULT      the n-th call, counted from 1, gives RESULT
 *     function:n+=RESULT     the n-th and all later ones
 *     function:n=150ms       the n-th call takes 150 ms longer (n+ too)
 *
 * separated by ';', in FLASHEXPERT_SIM_FAIL at first, later from
 * simt_plan_faults. RESULT is the name or number of a CUresult or nvrtcResult.
 * Functions are named as in the source: cuMemAlloc, not cuMemAlloc_v2. */
#ifndef SIMT_FAULTS_H
#define SIMT_FAULTS_H

#define SIMT_EXPORT __attribute__((visibility("default")))

/* Turns the name of a result into its number, -1 if unknown. */
typedef int (*simt_result_function)(const char *name);

/* Replaces the plan and starts counting afresh; NULL: no faults. A plan that
 * cannot be read ends the process. Entries for functions that do not start
 * with `prefix` are another library's. */
void simt_faults_plan(const char *plan, const char *prefix,
                      simt_result_function result);

/* Counts a call of `function`, whose version suffix does not matter; waits, or
 * returns the result planned for it, else 0. */
int simt_faults_count(const char *function);

/* Calls of `function` since the plan was made. */
unsigned long simt_faults_calls(const char *function);

/* Entries of the plan that have taken effect. */
unsigned simt_faults_hit(void);

#endif
