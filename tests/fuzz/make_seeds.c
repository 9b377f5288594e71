/* SPDX-License-Identifier: Apache-2.0 */
/* make_seeds.c - writes the files the fuzzer starts from: sound ones of every
 * kind, each behind the byte that fuzz_cache.c reads as its kind.
 *
 *     make_seeds FOLDER */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bundle.h"
#include "entry.h"

#define KINDS 6

static const char key_text[] = "flashexpert_rtc kernel 1\n"
                               "sources: 0123456789abcdef0123456789abcdef\n"
                               "file: twice.cu\n"
                               "functions: twice\n"
                               "options: --gpu-architecture=sm_90a\n"
                               "constexpr int FACTOR = 3;\n"
                               "constexpr long long LARGE = 1099511627776;\n";

static void write_seed(const char *folder, const char *name, int kind,
                       const void *bytes, size_t size)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s-%d", folder, name, kind);
    FILE *const file = fopen(path, "wb");
    if (file == NULL || fputc(kind, file) == EOF ||
        fwrite(bytes, 1, size, file) != size || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    unsigned char cubin_bytes[40] = "\177ELF";
    const fex_cubin cubin = {cubin_bytes, sizeof cubin_bytes, 13000};
    unsigned char *entry, *bundle;
    size_t entry_size, bundle_size;
    fex_bundle_item items[2];
    if (argc != 2) {
        fprintf(stderr, "usage: make_seeds FOLDER\n");
        return 2;
    }
    if (fex_entry_encode(key_text, &cubin, &entry, &entry_size) != FEX_OK)
        return 1;
    for (int i = 0; i < 2; i++) {
        fex_digest_text(key_text + i, strlen(key_text) - (size_t)i,
                        items[i].key);
        items[i].bytes = entry;
        items[i].size = entry_size;
    }
    if (fex_bundle_encode(items, 2, &bundle, &bundle_size) != FEX_OK)
        return 1;
    for (int kind = 0; kind < KINDS; kind++) {
        write_seed(argv[1], "entry", kind, entry, entry_size);
        write_seed(argv[1], "bundle", kind, bundle, bundle_size);
        write_seed(argv[1], "text", kind, key_text, strlen(key_text));
        write_seed(argv[1], "empty", kind, "", 0);
    }
    free(entry);
    free(bundle);
    return 0;
}
