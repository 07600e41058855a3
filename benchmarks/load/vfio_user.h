/* vfio-user, the client's half: messages about regions, interrupts and memory. What a PCI function is lies above. */
#ifndef VFIO_USER_H
#define VFIO_USER_H

#include <stddef.h>
#include <stdint.h>

enum { REGION_CONFIG = 7 }; /* the others are BARs */

/* Agree on a version over a connected socket. */
void vfio_open(int socket);

/* Give the device all of the guest's memory. */
void vfio_map_memory(void);

/* Connect the first MSI-X vector to an eventfd. */
void vfio_connect_interrupt(int fd);

void vfio_read(uint32_t region, uint64_t offset, void *place, uint32_t size);
void vfio_write(uint32_t region, uint64_t offset, uint64_t value, uint32_t size);

/* The same without waiting for an answer: a posted write. */
void vfio_post(uint32_t region, uint64_t offset, uint16_t value);

/* The eventfd that stands for writes at `offset`, or -1. */
int vfio_ioeventfd(uint32_t region, uint64_t offset);

#endif
