"""The system calls that a confined process may make, with their numbers on the machines that are known.

Sources of the numbers: Linux's ``arch/x86/entry/syscalls/syscall_64.tbl`` and ``include/uapi/asm-generic/unistd.h``.
What is not here cannot be called: sockets of any family, ptrace, mount, unshare, System V and POSIX message queues,
keys, bpf, io_uring, executing programs, and changing owner, mode, times or attributes of files. ``openat2`` is not
either, because what it asks for lies in memory, where a filter does not look.
"""

from __future__ import annotations

#: machine -> (audit architecture of the kernel, position in the tables below)
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
#: The first number of x86-64's other calling convention (x32).
X32 = 0x40000000

#: Whatever the arguments; ``None`` where a machine does not have the call.
# fmt: off
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # Files and folders, which Landlock confines.
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "preadv2": (327, 286), "pwritev2": (328, 287),
    "close": (3, 57), "close_range": (436, 436), "lseek": (8, 62), "stat": (4, None), "fstat": (5, 80),
    "lstat": (6, None),
    "newfstatat": (262, 79), "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44), "access": (21, None),
    "faccessat": (269, 48), "faccessat2": (439, 439), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "getdents": (78, None), "getdents64": (217, 61), "readlink": (89, None), "readlinkat": (267, 78),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "unlink": (87, None), "unlinkat": (263, 35), "ftruncate": (77, 46), "fallocate": (285, 47), "fsync": (74, 82),
    "fdatasync": (75, 83), "sync_file_range": (277, 84), "fadvise64": (221, 223), "readahead": (187, 213),
    "flock": (73, 32), "copy_file_range": (326, 285), "sendfile": (40, 71), "splice": (275, 76), "tee": (276, 77),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "umask": (95, 166),
    # Memory of its own.
    "brk": (12, 214), "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226),
    "msync": (26, 227), "madvise": (28, 233), "mincore": (27, 232), "mlock": (149, 228), "mlock2": (325, 284),
    "munlock": (150, 229), "memfd_create": (319, 279), "mbind": (237, 235), "set_mempolicy": (238, 237),
    "get_mempolicy": (239, 236), "membarrier": (324, 283),
    # Threads, forks and their ends.
    "fork": (57, None), "vfork": (58, None), "set_tid_address": (218, 96), "set_robust_list": (273, 99),
    "rseq": (334, 293), "futex": (202, 98), "futex_waitv": (449, 449), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "sched_setaffinity": (203, 122), "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    "wait4": (61, 260), "waitid": (247, 95), "exit": (60, 93), "exit_group": (231, 94), "restart_syscall": (219, 128),
    "arch_prctl": (158, None), "getcpu": (309, 168),
    # Waiting, pipes, and the sockets that were handed over.
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "epoll_create": (213, None),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441), "eventfd": (284, None), "eventfd2": (290, 19), "pipe": (22, None), "pipe2": (293, 59),
    "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212), "shutdown": (48, 210),
    "getsockopt": (55, 209), "setsockopt": (54, 208), "getsockname": (51, 204), "getpeername": (52, 205),
    # Its own signals and timers.
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "signalfd4": (289, 74),
    "pause": (34, None), "alarm": (37, None), "setitimer": (38, 103), "getitimer": (36, 102),
    "timer_create": (222, 107), "timer_settime": (223, 110), "timer_gettime": (224, 108),
    "timer_getoverrun": (225, 109), "timer_delete": (226, 111), "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    # What it is, and what the machine is.
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getpgrp": (111, None), "getpgid": (121, 155),
    "getsid": (124, 156), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getgroups": (115, 158), "getresuid": (118, 148), "getresgid": (120, 150), "getpriority": (140, 141),
    "getrlimit": (97, 163), "getrusage": (98, 165), "capget": (125, 90), "times": (100, 153), "time": (201, None),
    "gettimeofday": (96, 169), "clock_gettime": (228, 113), "clock_getres": (229, 114), "sysinfo": (99, 179),
    "uname": (63, 160), "getrandom": (318, 278),
}
# fmt: on

#: Calls that depend on an argument: (number on x86-64, on AArch64).
OPEN, OPENAT, CREAT = (2, None), (257, 56), (85, None)
IOCTL, FCNTL, PRCTL, CLONE = (16, 29), (72, 25), (157, 167), (56, 220)
KILL, TGKILL, PRLIMIT = (62, 129), (234, 131), (302, 261)
#: Newer than this, unlisted calls do not exist (ENOSYS), for which libraries have a fallback; older ones are refused.
LAST_REFUSED = 424

#: Requests on open files that say nothing to devices: TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
IOCTL_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
#: All but those that make the kernel send signals: duplicate, flags, locks, pipe size, seals.
FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1031, 1032, 1033, 1034)
#: Ask for dumpability, a name, the bounding set; set the name, timer slack, huge pages, names of mappings.
PRCTL_OPTIONS = (3, 15, 16, 23, 29, 39, 41, 42, 0x53564D41)
#: Flags of ``open`` that make a file (O_CREAT, __O_TMPFILE), and modes that it may not have then: those of a program
#: that runs as the user, or the group, who built.
OPEN_CREATES, SET_IDENTITY = 0o100 | 0o20000000, 0o6000
#: Flags of ``clone`` for new namespaces, and for a child of the parent's.
CLONE_REFUSED = 0x7E020000 | 0x8000
