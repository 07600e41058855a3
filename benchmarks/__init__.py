"""How fast virtio-fs devices are, measured without a virtual machine. For development; not in the wheel.

::

    PYTHONPATH=tools python -m benchmarks --rounds 5

The room, from the bottom up:

==============  ========================================================================================
``load/``       the guest and its VMM in C: drives a device, checks every answer, tells figures
``build``       compiles it, into the cache
``virtiofsd``   the peer: this machine's own, or Debian's in the cache
``servers``     what is measured: one process that shares a directory
``placement``   on which processors
``run``         one workload against one server
``campaign``    all of them, in turns, so that a machine that changes its pace is fair to each
``figures``     medians and ratios
``plot``        a picture of the ratios
``report``      the page in ``docs``
==============  ========================================================================================

Environment: HDVKIT_CACHE is the folder of what is compiled and fetched, CC the compiler.
"""
