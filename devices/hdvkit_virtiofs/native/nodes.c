/* See table.h: the files the guest knows. */
#include <stdlib.h>
#include <string.h>

#include "table.h"

#define LOOKED_AT 8 /* descriptors that cannot be spared, passed over for one that can */

vf_node *vf_table_find(const vf_table *table, uint64_t nodeid) {
    return vf_map_get(&table->by_nodeid, nodeid, 0);
}

vf_node *vf_table_find_inode(const vf_table *table, uint64_t device, uint64_t inode) {
    return vf_map_get(&table->by_inode, device, inode);
}

static void lose_descriptor(vf_table *table, vf_node *node) {
    if (node->descriptor >= 0)
        vf_map_remove(&table->by_descriptor, (uint64_t)node->descriptor, VF_BY_NODE);
    node->descriptor = -1;
}

static void give_descriptor(vf_table *table, vf_node *node, int descriptor) {
    vf_node *other = vf_map_get(&table->by_descriptor, (uint64_t)(unsigned)descriptor, VF_BY_NODE);
    if (other && other != node)
        other->descriptor = -1; /* the number is this one's now */
    lose_descriptor(table, node);
    if (descriptor >= 0 && vf_map_put(&table->by_descriptor, (uint64_t)descriptor, VF_BY_NODE, node))
        node->descriptor = descriptor;
}

void vf_table_disown(vf_table *table, vf_node *node) {
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

static void remove_node(vf_table *table, vf_node *node) {
    lose_descriptor(table, node);
    vf_table_disown(table, node);
    vf_map_remove(&table->by_nodeid, node->nodeid, 0);
    free(node->handle);
    free(node);
}

/* Python's */

void vf_table_node(vf_table *table, uint64_t nodeid, int descriptor, uint64_t device, uint64_t inode, uint32_t type,
                   bool named) {
    vf_node *node = vf_table_find(table, nodeid);
    if (node)
        vf_table_disown(table, node);
    else
        node = new_node(table, nodeid);
    if (!node)
        return;
    lose_descriptor(table, node);
    node->nodeid = nodeid;
    node->device = device;
    node->inode = inode;
    node->type = type;
    node->named = named;
    node->changing = false;
    if (vf_map_put(&table->by_inode, device, inode, node))
        give_descriptor(table, node, descriptor);
}

void vf_table_reopened(vf_table *table, uint64_t device, uint64_t inode, int descriptor, bool named) {
    vf_node *node = vf_table_find_inode(table, device, inode);
    if (!node || node->ours)
        return; /* whose it is Python will tell when it enters it */
    node->named = named;
    give_descriptor(table, node, descriptor);
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
    if (node && !lookups)
        remove_node(table, node);
    return lookups;
}

/* Ours */

vf_node *vf_table_meet(vf_table *table, uint64_t device, uint64_t inode, uint32_t type, const vf_handle *handle,
                       vf_born born) {
    if (table->by_nodeid.used >= VF_NODES_MOST)
        return NULL;
    vf_node *node = new_node(table, table->next_nodeid);
    if (!node)
        return NULL;
    node->nodeid = table->next_nodeid;
    node->device = device;
    node->inode = inode;
    node->type = type;
    node->lookups = 1;
    node->born = born;
    size_t size = offsetof(vf_handle, data) + handle->bytes;
    node->handle = malloc(size);
    if (!node->handle || !vf_map_put(&table->by_inode, device, inode, node)) {
        remove_node(table, node);
        return NULL;
    }
    memcpy(node->handle, handle, size);
    node->ours = true;
    table->next_nodeid++;
    table->nodes++;
    return node;
}

static void leave_row(vf_table *table, vf_node *node) {
    *(node->older ? &node->older->newer : &table->oldest) = node->newer;
    *(node->newer ? &node->newer->older : &table->newest) = node->older;
    node->older = node->newer = NULL;
}

static void join_row(vf_table *table, vf_node *node) {
    node->older = table->newest;
    node->newer = NULL;
    *(table->newest ? &table->newest->newer : &table->oldest) = node;
    table->newest = node;
}

void vf_table_touch(vf_table *table, vf_node *node) {
    if (!node->ours || node->descriptor < 0 || table->newest == node)
        return;
    leave_row(table, node);
    join_row(table, node);
}

int vf_table_release(vf_table *table, vf_node *node) {
    int descriptor = node->descriptor;
    if (descriptor < 0)
        return -1;
    leave_row(table, node);
    lose_descriptor(table, node);
    table->open_nodes--;
    return vf_table_may_close(table, descriptor) ? descriptor : -1;
}

int vf_table_keep(vf_table *table, vf_node *node, int descriptor, uint32_t most) {
    if (!most)
        return descriptor;
    give_descriptor(table, node, descriptor);
    if (node->descriptor < 0)
        return descriptor;
    join_row(table, node);
    if (++table->open_nodes <= most)
        return -1;
    for (int tries = 0; table->oldest->nameless && tries < LOOKED_AT; tries++)
        vf_table_touch(table, table->oldest);
    return vf_table_release(table, table->oldest);
}

int vf_table_forget(vf_table *table, vf_node *node, uint64_t count) {
    node->lookups -= count < node->lookups ? count : node->lookups;
    if (node->lookups)
        return -1;
    int descriptor = vf_table_release(table, node);
    table->nodes--;
    remove_node(table, node);
    return descriptor;
}

void vf_table_adopt(vf_table *table, vf_node *node, vf_who *who) {
    *who = (vf_who){.device = node->device, .inode = node->inode, .type = node->type, .descriptor = node->descriptor};
    memcpy(&who->handle, node->handle, offsetof(vf_handle, data) + node->handle->bytes);
    if (node->descriptor >= 0) {
        leave_row(table, node);
        table->open_nodes--;
    }
    table->nodes--;
    node->ours = false;
}
