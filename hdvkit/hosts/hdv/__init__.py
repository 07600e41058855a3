"""The host kind ``hdv``: virtual machines of Hyper-V, by Host Device Virtualization.

From the ground up: ``abi`` is Windows, typed, and nobody above it sees a pointer; ``owner`` the thread that Windows is
called on; ``machine`` one virtual machine as this process knows it; ``slot`` one device in it, with its ``doorbells``
and ``interrupts``; ``backend`` what ``open_host("hdv")`` opens. Importing any of it works everywhere.
"""
