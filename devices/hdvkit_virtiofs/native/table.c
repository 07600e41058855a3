/* See table.h: all of it at once, and who uses which descriptor. */
#include "table.h"

#include <stdlib.h>
#include <string.h>

#define PLACES (HDV_CALLS * VF_USED)

void vf_table_init(vf_table *table) {
    memset(table, 0, sizeof *table);
    table->next_nodeid = table->next_fh = VF_FIRST;
}

vf_table vf_table_clear(vf_table *table) {
    vf_table old = *table;
    vf_table_init(table);
    table->next_nodeid = old.next_nodeid;
    table->next_fh = old.next_fh;
    memcpy(table->used, old.used, sizeof old.used);
    return old;
}

void vf_table_free(vf_table *table) {
    for (size_t place = 0; place < table->by_nodeid.places; place++) {
        vf_node *node = table->by_nodeid.entries[place].value;
        if (node)
            free(node->handle);
        free(node);
    }
    for (size_t place = 0; place < table->by_fh.places; place++) {
        vf_file *file = table->by_fh.entries[place].value;
        if (file)
            vf_table_free_listing(table, &file->listing);
        free(file);
    }
    vf_map_free(&table->by_inode);
    vf_map_free(&table->by_descriptor);
    vf_map_free(&table->by_nodeid);
    vf_map_free(&table->by_fh);
}

uint32_t vf_table_take_all(vf_table *table, int *descriptors, uint32_t most) {
    uint32_t count = 0;
    while (table->oldest && count < most) {
        int descriptor = vf_table_release(table, table->oldest);
        if (descriptor >= 0)
            descriptors[count++] = descriptor;
    }
    for (size_t place = 0; place < table->by_fh.places && count < most; place++) {
        vf_file *file = table->by_fh.entries[place].value;
        if (!file || !file->ours)
            continue;
        if (vf_table_may_close(table, file->descriptor))
            descriptors[count++] = file->descriptor;
        vf_table_adopt_file(table, file);
    }
    return count;
}

bool vf_table_may_close(vf_table *table, int descriptor) {
    for (int at = 0; at < PLACES; at++)
        if (table->used[at].call && table->used[at].descriptor == descriptor) {
            table->used[at].doomed = true;
            return false;
        }
    return true;
}

bool vf_table_close(vf_table *table, int descriptor) {
    vf_node *node = vf_map_get(&table->by_descriptor, (uint64_t)descriptor, VF_BY_NODE);
    vf_file *file = vf_map_get(&table->by_descriptor, (uint64_t)descriptor, VF_BY_FILE);
    if (node) {
        vf_map_remove(&table->by_descriptor, (uint64_t)descriptor, VF_BY_NODE);
        node->descriptor = -1;
    }
    if (file)
        vf_table_drop_file(table, file);
    return vf_table_may_close(table, descriptor);
}

void vf_table_use(vf_table *table, const void *call, int descriptor, bool doomed) {
    int at = 0;
    while (at < PLACES && table->used[at].call)
        at++;
    if (at == PLACES)
        abort(); /* there are places enough for all calls there can be */
    table->used[at] = (vf_used){call, descriptor, doomed};
}

int vf_table_unuse(vf_table *table, const void *call, int doomed[VF_USED]) {
    int count = 0;
    for (int at = 0; at < PLACES; at++) {
        vf_used *used = &table->used[at];
        if (used->call != call)
            continue;
        used->call = NULL;
        /* Whoever else uses it closes it. */
        if (used->doomed && vf_table_may_close(table, used->descriptor))
            doomed[count++] = used->descriptor;
    }
    return count;
}
