/* See table.h. */
#include "table.h"

#include <stdlib.h>
#include <string.h>

enum { NODE, FILE_ };

void vf_table_init(vf_table *table) {
    memset(table, 0, sizeof *table);
    for (int at = 0; at < VF_USED; at++)
        table->used[at] = -1;
}

static void free_values(vf_map *map) {
    for (size_t place = 0; place < map->places; place++)
        free(map->entries[place].value);
    vf_map_free(map);
}

void vf_table_clear(vf_table *table) {
    vf_map_free(&table->by_inode);
    vf_map_free(&table->by_descriptor);
    free_values(&table->by_nodeid);
    free_values(&table->by_fh);
}

/* Nodes */

static void lose_descriptor(vf_table *table, vf_node *node) {
    if (node->descriptor >= 0)
        vf_map_remove(&table->by_descriptor, (uint64_t)node->descriptor, NODE);
    node->descriptor = -1;
}

static void give_descriptor(vf_table *table, vf_node *node, int descriptor) {
    vf_node *other = vf_map_get(&table->by_descriptor, (uint64_t)(unsigned)descriptor, NODE);
    if (other && other != node)
        other->descriptor = -1; /* the number is this one's now */
    lose_descriptor(table, node);
    if (descriptor >= 0 && vf_map_put(&table->by_descriptor, (uint64_t)descriptor, NODE, node))
        node->descriptor = descriptor;
}

static void forget_inode(vf_table *table, const vf_node *node) {
    if (vf_table_find_inode(table, node->device, node->inode) == node)
        vf_map_remove(&table->by_inode, node->device, node->inode);
}

static vf_node *new_node(vf_table *table, uint64_t nodeid) {
    vf_node *node = calloc(1, sizeof *node);
    if (!node)
        return NULL;
    node->descriptor = -1;
    if (vf_map_put(&table->by_nodeid, nodeid, 0, node))
        return node;
    free(node);
    return NULL;
}

void vf_table_node(vf_table *table, uint64_t nodeid, int descriptor, uint64_t device, uint64_t inode, uint32_t type,
                   bool named) {
    vf_node *node = vf_table_find(table, nodeid);
    if (node)
        forget_inode(table, node);
    else
        node = new_node(table, nodeid);
    if (!node)
        return;
    lose_descriptor(table, node);
    *node = (vf_node){nodeid, device, inode, node->lookups, -1, type, named, false};
    if (vf_map_put(&table->by_inode, device, inode, node))
        give_descriptor(table, node, descriptor);
}

void vf_table_reopened(vf_table *table, uint64_t device, uint64_t inode, int descriptor, bool named) {
    vf_node *node = vf_table_find_inode(table, device, inode);
    if (!node)
        return;
    node->named = named;
    give_descriptor(table, node, descriptor);
}

void vf_table_disown(vf_table *table, uint64_t device, uint64_t inode) {
    vf_node *node = vf_table_find_inode(table, device, inode);
    if (!node)
        return;
    lose_descriptor(table, node);
    forget_inode(table, node);
}

void vf_table_changing(vf_table *table, uint64_t device, uint64_t inode, bool changing) {
    vf_node *node = vf_table_find_inode(table, device, inode);
    if (node)
        node->changing = changing;
}

uint64_t vf_table_take_lookups(vf_table *table, uint64_t nodeid) {
    vf_node *node = vf_table_find(table, nodeid);
    uint64_t lookups = node ? node->lookups : 0;
    if (node)
        node->lookups = 0;
    return lookups;
}

uint64_t vf_table_drop_node(vf_table *table, uint64_t nodeid) {
    vf_node *node = vf_table_find(table, nodeid);
    uint64_t lookups = vf_table_take_lookups(table, nodeid);
    if (node && !lookups) {
        lose_descriptor(table, node);
        forget_inode(table, node);
        vf_map_remove(&table->by_nodeid, nodeid, 0);
        free(node);
    }
    return lookups;
}

vf_node *vf_table_find(const vf_table *table, uint64_t nodeid) {
    return vf_map_get(&table->by_nodeid, nodeid, 0);
}

vf_node *vf_table_find_inode(const vf_table *table, uint64_t device, uint64_t inode) {
    return vf_map_get(&table->by_inode, device, inode);
}

/* Open files */

void vf_table_file(vf_table *table, uint64_t fh, uint64_t nodeid, int descriptor, bool readable, bool writable) {
    vf_file *file = calloc(1, sizeof *file);
    if (!file)
        return;
    *file = (vf_file){fh, nodeid, descriptor, readable, writable, false};
    if (!vf_map_put(&table->by_fh, fh, 0, file)) {
        free(file);
    } else if (!vf_map_put(&table->by_descriptor, (uint64_t)descriptor, FILE_, file)) {
        vf_map_remove(&table->by_fh, fh, 0);
        free(file);
    }
}

static void drop_file(vf_table *table, vf_file *file) {
    vf_map_remove(&table->by_descriptor, (uint64_t)file->descriptor, FILE_);
    vf_map_remove(&table->by_fh, file->fh, 0);
    free(file);
}

void vf_table_drop_file(vf_table *table, uint64_t fh) {
    vf_file *file = vf_map_get(&table->by_fh, fh, 0);
    if (file)
        drop_file(table, file);
}

vf_file *vf_table_find_file(const vf_table *table, uint64_t fh, uint64_t nodeid) {
    vf_file *file = vf_map_get(&table->by_fh, fh, 0);
    return file && file->nodeid == nodeid ? file : NULL;
}

bool vf_table_take_dirty(vf_table *table, int descriptor) {
    vf_file *file = vf_map_get(&table->by_descriptor, (uint64_t)descriptor, FILE_);
    bool dirty = file && file->dirty;
    if (file)
        file->dirty = false;
    return dirty;
}

/* Descriptors */

bool vf_table_close(vf_table *table, int descriptor) {
    vf_node *node = vf_map_get(&table->by_descriptor, (uint64_t)descriptor, NODE);
    vf_file *file = vf_map_get(&table->by_descriptor, (uint64_t)descriptor, FILE_);
    if (node)
        lose_descriptor(table, node);
    if (file)
        drop_file(table, file);
    for (int at = 0; at < VF_USED; at++)
        if (table->used[at] == descriptor) {
            table->doomed[at] = true;
            return false;
        }
    return true;
}

void vf_table_use(vf_table *table, int descriptor) {
    for (int at = 0; at < VF_USED; at++)
        if (table->used[at] < 0) {
            table->used[at] = descriptor;
            return;
        }
}

int vf_table_unuse(vf_table *table, int doomed[VF_USED]) {
    int count = 0;
    for (int at = 0; at < VF_USED; at++) {
        if (table->doomed[at])
            doomed[count++] = table->used[at];
        table->used[at] = -1;
        table->doomed[at] = false;
    }
    return count;
}
