/* See table.h: what the guest has open. */
#include <fcntl.h>
#include <stdlib.h>

#include "table.h"

static vf_file *add(vf_table *table, vf_file wanted) {
    vf_file *file = malloc(sizeof *file);
    if (!file)
        return NULL;
    *file = wanted;
    if (!vf_map_put(&table->by_fh, file->fh, 0, file)) {
        free(file);
        return NULL;
    }
    if (!vf_map_put(&table->by_descriptor, (uint64_t)file->descriptor, VF_BY_FILE, file)) {
        vf_map_remove(&table->by_fh, file->fh, 0);
        free(file);
        return NULL;
    }
    return file;
}

void vf_table_file(vf_table *table, uint64_t fh, uint64_t nodeid, int descriptor, bool readable, bool writable) {
    add(table, (vf_file){.fh = fh, .nodeid = nodeid, .descriptor = descriptor, .readable = readable, .writable = writable});
}

vf_file *vf_table_open(vf_table *table, uint64_t nodeid, int descriptor, uint32_t flags, bool directory) {
    int access = (int)flags & O_ACCMODE;
    vf_file *file = add(table, (vf_file){
                                   .fh = table->next_fh,
                                   .nodeid = nodeid,
                                   .descriptor = descriptor,
                                   .flags = flags,
                                   .readable = !directory && access != O_WRONLY,
                                   .writable = !directory && access != O_RDONLY,
                                   .ours = true,
                                   .opened = true,
                                   .directory = directory,
                               });
    if (file) {
        table->next_fh++;
        table->open_files++;
        table->opened_files++;
    }
    return file;
}

vf_file *vf_table_find_file(const vf_table *table, uint64_t fh, uint64_t nodeid) {
    vf_file *file = vf_map_get(&table->by_fh, fh, 0);
    return file && file->nodeid == nodeid ? file : NULL;
}

void vf_table_adopt_file(vf_table *table, vf_file *file) {
    table->open_files -= file->ours;
    file->ours = false;
}

void vf_table_free_listing(vf_table *table, vf_listing *listing) {
    /* Taken out of a table that was cleared since, it is not counted. */
    table->listed -= listing->size < table->listed ? listing->size : table->listed;
    free(listing->bytes);
}

int vf_table_drop_file(vf_table *table, vf_file *file) {
    int descriptor = file->ours && vf_table_may_close(table, file->descriptor) ? file->descriptor : -1;
    vf_table_adopt_file(table, file);
    table->opened_files -= file->opened;
    vf_map_remove(&table->by_descriptor, (uint64_t)file->descriptor, VF_BY_FILE);
    vf_map_remove(&table->by_fh, file->fh, 0);
    vf_table_free_listing(table, &file->listing);
    free(file);
    return descriptor;
}

bool vf_table_take_dirty(vf_table *table, int descriptor) {
    vf_file *file = vf_map_get(&table->by_descriptor, (uint64_t)descriptor, VF_BY_FILE);
    bool dirty = file && file->dirty;
    if (file)
        file->dirty = false;
    return dirty;
}
