/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "runtime.h"

#define LOCAL_PREFIX "_ZZ"

typedef struct tables {
    const char *bytes;
    const ElfW(Shdr) *sections;
    size_t section_count;
    const ElfW(Sym) *symbols;
    size_t symbol_count;
    const char *symbol_names;
} tables;

static int find_tables(const void *bytes, tables *t, size_t *size)
{
    const ElfW(Ehdr) *const header = bytes;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
        header->e_type != ET_DYN || header->e_shoff == 0)
        return -1;
    *t = (tables){.bytes = bytes};
    t->sections = (const void *)(t->bytes + header->e_shoff);
    t->section_count = header->e_shnum;
    *size = header->e_shoff + t->section_count * sizeof *t->sections;
    for (size_t i = 0; i < t->section_count; i++) {
        const ElfW(Shdr) *const section = &t->sections[i];
        const size_t end = section->sh_offset + section->sh_size;
        if (section->sh_type != SHT_NOBITS && end > *size)
            *size = end;
        if (section->sh_type != SHT_SYMTAB)
            continue;
        t->symbols = (const void *)(t->bytes + section->sh_offset);
        t->symbol_count = section->sh_size / sizeof *t->symbols;
        t->symbol_names = t->bytes + t->sections[section->sh_link].sh_offset;
    }
    return t->symbols != NULL ? 0 : -1;
}

static int is_kernel(const tables *t, const char *function)
{
    const size_t prefix = strlen(SIMT_KERNEL_PREFIX);
    for (size_t i = 0; i < t->symbol_count; i++) {
        const char *const name = t->symbol_names + t->symbols[i].st_name;
        if (strncmp(name, SIMT_KERNEL_PREFIX, prefix) == 0 &&
            strcmp(name + prefix, function) == 0)
            return 1;
    }
    return 0;
}

/* A variable of function f is mangled to LOCAL_PREFIX, the length of f's name,
 * f, E and its own name. */
static void find_kernel(const tables *t, const char *variable, char *kernel,
                        size_t size)
{
    char *function;
    kernel[0] = '\0';
    const unsigned long length =
        strtoul(variable + strlen(LOCAL_PREFIX), &function, 10);
    if (length == 0 || length >= size || strlen(function) < length)
        return;
    memcpy(kernel, function, length);
    kernel[length] = '\0';
    if (!is_kernel(t, kernel))
        kernel[0] = '\0';
}

int simt_image_read(const void *bytes, simt_image *image)
{
    tables t;
    image->shared_count = 0;
    if (find_tables(bytes, &t, &image->size) != 0)
        return -1;
    for (size_t i = 0; i < t.symbol_count; i++) {
        const ElfW(Sym) *const symbol = &t.symbols[i];
        if (ELF64_ST_TYPE(symbol->st_info) != STT_OBJECT ||
            symbol->st_shndx >= t.section_count)
            continue;
        const char *const name = t.symbol_names + symbol->st_name;
        if (strncmp(name, LOCAL_PREFIX, strlen(LOCAL_PREFIX)) != 0 ||
            t.sections[symbol->st_shndx].sh_type != SHT_NOBITS)
            continue;
        if (image->shared_count == SIMT_SHARED_MAX)
            return -1;
        simt_shared_variable *const variable =
            &image->shared[image->shared_count++];
        variable->offset = symbol->st_value;
        variable->size = symbol->st_size;
        find_kernel(&t, name, variable->kernel, sizeof variable->kernel);
    }
    return 0;
}

int simt_image_uses(const simt_shared_variable *variable, const char *kernel)
{
    return variable->kernel[0] == '\0' || strcmp(variable->kernel, kernel) == 0;
}

size_t simt_image_shared_bytes(const simt_image *image, const char *kernel)
{
    size_t bytes = 0;
    for (size_t i = 0; i < image->shared_count; i++)
        if (simt_image_uses(&image->shared[i], kernel))
            bytes += image->shared[i].size;
    return bytes;
}
