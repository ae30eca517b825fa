/*
 * glibc's _dl_find_object(3), for gcc's unwinder in a static musl program: Debian's libgcc_eh.a asks it alone where an
 * instruction's unwinding table is. Only the member that the unwinder reads is filled in.
 */
#define _GNU_SOURCE
#include <link.h>
#include <stddef.h>
#include <stdint.h>

struct dl_find_object {
    unsigned long long flags;
    void *map_start;
    void *map_end;
    struct link_map *link_map;
    void *eh_frame; /* the PT_GNU_EH_FRAME segment */
    unsigned long long reserved[7];
};

struct search {
    uintptr_t address;
    struct dl_find_object *result;
    int found;
};

static int visit(struct dl_phdr_info *info, size_t size, void *data) {
    struct search *search = data;
    void *eh_frame = NULL;
    int inside = 0;
    (void)size;
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + header->p_vaddr;
        if (header->p_type == PT_LOAD && search->address - start < header->p_memsz)
            inside = 1;
        if (header->p_type == PT_GNU_EH_FRAME)
            eh_frame = (void *)start;
    }
    if (!inside || !eh_frame)
        return 0;
    search->result->eh_frame = eh_frame;
    search->found = 1;
    return 1;
}

/* Returns 0 and fills in *result, or -1 where no object contains the address. */
int _dl_find_object(void *address, struct dl_find_object *result) {
    struct search search = {(uintptr_t)address, result, 0};
    dl_iterate_phdr(visit, &search);
    return search.found ? 0 : -1;
}
