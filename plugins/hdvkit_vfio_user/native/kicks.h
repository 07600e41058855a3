/* Tells kicks from the other messages of vfio-user: posted REGION_WRITEs to the notification registers of a device. */
#ifndef VFIO_USER_KICKS_H
#define VFIO_USER_KICKS_H

#include <stddef.h>
#include <stdint.h>

/* Where a device is kicked, and how. */
typedef struct {
    uint64_t offset;     /* of the first queue's register in its region */
    uint32_t region;
    uint32_t multiplier; /* from one queue's to the next */
    uint32_t size;       /* of a kick in bytes: 2, or 4 with NOTIFICATION_DATA */
    uint64_t queues;     /* bit N: kicks of queue N are ours; those of others are Python's */
} vu_kicks;

/* An hdv_listener's kicks; context is a vu_kicks. */
size_t vu_kicks_in_front(void *context, const uint8_t *bytes, size_t size);

#endif
