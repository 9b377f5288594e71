/* SPDX-License-Identifier: Apache-2.0 */
/* plan.h - which family serves how many tokens.
 *
 * Of the families that apply, the one that is estimated to take the least time
 * is chosen, or one that takes hardly longer and serves fewer tokens too. That
 * is found out once, for all numbers of tokens, so that whoever prepares and
 * whoever launches go by the same table. */
#ifndef FEX_PLAN_H
#define FEX_PLAN_H

#include "variants.h"

#define FEX_RANGES_MAX 32

/* The family for `first` tokens and more, up to the next range. */
typedef struct fex_range {
    int64_t first;
    const fex_variant *variant;
} fex_range;

typedef struct fex_plan {
    size_t count; /* at least 1; ranges[0] is from 0 on */
    fex_range ranges[FEX_RANGES_MAX];
} fex_plan;

/* pass names exactly one. With `family` not NULL only families of that name are
 * considered, and else the last: for measuring and testing one against
 * another. */
void fex_plan_make(const fex_problem *problem, const fex_device *device,
                   fex_pass pass, const char *family, fex_plan *plan);

/* The family that serves num_tokens tokens with rows aligned to 16 bytes. */
const fex_variant *fex_plan_find(const fex_plan *plan, int64_t num_tokens);

/* How many ranges begin at num_tokens or before. */
size_t fex_plan_reach(const fex_plan *plan, int64_t num_tokens);

/* Every family that some device of the architecture may well choose for some
 * number of tokens up to num_tokens, whether it is large or an eighth of one;
 * returns how many, at most FEX_FAMILIES_MAX. */
size_t fex_plan_likely(const fex_problem *problem,
                       const fex_architecture *architecture, fex_pass pass,
                       int64_t num_tokens, const char *family,
                       const fex_variant **likely);

#endif
