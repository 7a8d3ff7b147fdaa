"""The system calls that a sandbox refuses, as a program for the kernel's filter (seccomp, classic BPF).

Everything else is allowed: what the namespaces and the missing capabilities do not stop is stopped here.
See `man 2 seccomp`, `linux/filter.h` and `linux/seccomp.h`.
"""

import errno
import platform
import socket
import struct

from swarmc.contracts.errors import SandboxError

REFUSED = {
    # Into other processes and their memory.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "move_pages": (279, 239), "migrate_pages": (256, 238),
    # Large and new parts of the kernel; io_uring opens sockets that no filter sees.
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "fanotify_init": (300, 262),
    # Keys: no namespace holds them.
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    # Mounts, roots and namespaces.
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "setns": (308, 268),
    "unshare": (272, 97), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    # The machine itself.
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "syslog": (103, 116),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "sethostname": (170, 161), "setdomainname": (171, 162),
    "vhangup": (153, 58), "lookup_dcookie": (212, 18),
}  # fmt: skip
"""Numbers on x86-64 and on arm64."""

SOCKET, SOCKETPAIR, CLONE, CLONE3, IOCTL = (41, 198), (53, 199), (56, 220), (435, 435), (16, 29)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Which of the numbers a machine has, and its AUDIT_ARCH."""

NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""

TIOCSTI, TIOCLINUX = 0x5412, 0x541C
X32_BIT = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _HAS_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENT_0, _ARGUMENT_1 = 0, 4, 16, 24
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

Instruction = tuple[int, int, int, int]
"""Code, how many to skip if true, how many if false, value."""


def filter_program(machine: str | None = None) -> bytes:
    """The filter, as `bwrap --seccomp` reads it: no sockets but AF_UNIX, no namespaces, nothing of `REFUSED`.

    Raises:
        SandboxError: the numbers of this machine's system calls are not known here.
    """
    machine = machine or platform.machine()
    if machine not in MACHINES:
        raise SandboxError(f"no filter of system calls is known for {machine}; there is one for {', '.join(MACHINES)}")
    at, arch = MACHINES[machine]
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        # Another calling convention (32 bits) has other numbers, which would pass.
        (_EQUAL, 1, 0, arch),
        _returning(_KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, X32_BIT),
        _returning(_KILL),
    ]
    for numbers in REFUSED.values():
        program += [(_EQUAL, 0, 1, numbers[at]), _refusing(errno.EPERM)]
    # Its flags lie in memory, where no filter looks. The C library falls back to `clone`.
    program += [(_EQUAL, 0, 1, CLONE3[at]), _refusing(errno.ENOSYS)]
    program += [(_EQUAL, 1, 0, SOCKET[at]), (_EQUAL, 0, 4, SOCKETPAIR[at]), (_LOAD, 0, 0, _ARGUMENT_0)]
    program += [(_EQUAL, 0, 1, socket.AF_UNIX), _returning(_ALLOW), _refusing(errno.EAFNOSUPPORT)]
    program += [(_EQUAL, 0, 4, CLONE[at]), (_LOAD, 0, 0, _ARGUMENT_0)]
    program += [(_HAS_BIT, 0, 1, NEW_NAMESPACES), _refusing(errno.EPERM), _returning(_ALLOW)]
    # Typing into a terminal that somebody else reads.
    program += [(_EQUAL, 0, 4, IOCTL[at]), (_LOAD, 0, 0, _ARGUMENT_1)]
    program += [(_EQUAL, 1, 0, TIOCSTI), (_EQUAL, 0, 1, TIOCLINUX), _refusing(errno.EPERM), _returning(_ALLOW)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _returning(what: int) -> Instruction:
    return (_RETURN, 0, 0, what)


def _refusing(error: int) -> Instruction:
    return _returning(_ERRNO | error)
