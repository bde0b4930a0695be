"""Has the kernel refuse (EPERM) what a sandbox might, and becomes a program:

    refuse.py OPTION -- PROGRAM ARGUMENT...

OPTION: the number of a prctl(2). For root."""

import ctypes
import os
import struct
import sys

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # of <linux/bpf_common.h>
NUMBER, ARGUMENT = 0, 16  # in struct seccomp_data
ALLOW, REFUSE = 0x7fff0000, 0x00050001
PRCTL = {"x86_64": 157, "aarch64": 167}


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def main():
    steps = [(LOAD, 0, 0, NUMBER),
             (EQUAL, 0, 3, PRCTL[os.uname().machine]),
             (LOAD, 0, 0, ARGUMENT),
             (EQUAL, 0, 1, int(sys.argv[1])),
             (RETURN, 0, 0, REFUSE),
             (RETURN, 0, 0, ALLOW)]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER,
                  ctypes.byref(Program(len(steps), code)), 0, 0) == -1:
        sys.exit(os.strerror(ctypes.get_errno()))
    os.execv(sys.argv[3], sys.argv[3:])


main()
