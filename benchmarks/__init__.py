"""How fast virtio-fs devices are, without a virtual machine and in guests. For development; not in the wheel.

::

    PYTHONPATH=tools python -m benchmarks --rounds 5
    PYTHONPATH=tools python -m benchmarks.in_guest

The room, from the bottom up:

==============  ========================================================================================
``load/``       the guest and its VMM in C: drives a device, checks every answer, tells figures
``guest/``      a program that works in a real guest, in C
``build``       compiles both, into the cache
``virtiofsd``   the peer: this machine's own, or Debian's in the cache
``servers``     what is measured: one process that shares a directory
``placement``   on which processors
``run``         one workload against one server
``campaign``    all of them, in turns, so that a machine that changes its pace is fair to each
``figures``     medians and ratios
``plot``        a picture of the ratios
``report``      tables, and the page in ``docs``
``in_guest``    the same work in stock guests, in front of each server
``command``     what both commands have in common
``errors``      what can go wrong
==============  ========================================================================================

Environment: HDVKIT_CACHE is the folder of what is compiled and fetched, CC the compiler.
"""
