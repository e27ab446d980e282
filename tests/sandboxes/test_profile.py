"""The seccomp profile as a file: an allow-list that names nothing which has undone a sandbox."""

from __future__ import annotations

import json
from pathlib import Path

import sandboxes

PROFILE = json.loads((Path(sandboxes.__file__).parent / "profiles" / "seccomp.json").read_text())
ALLOWED = [name for rule in PROFILE["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]]
NEVER = """
 acct add_key adjtimex bpf chroot clock_adjtime clock_settime clone3 create_module delete_module execveat fanotify_init
 finit_module fsconfig fsmount fsopen fspick init_module io_cancel io_destroy io_getevents io_setup io_submit
 io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl landlock_add_rule
 lookup_dcookie mbind memfd_create memfd_secret migrate_pages modify_ldt mount mount_setattr move_mount move_pages
 mq_open msgget name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open personality pidfd_getfd
 pivot_root pkey_alloc process_madvise process_mrelease process_vm_readv process_vm_writev ptrace quotactl reboot
 request_key seccomp semget set_mempolicy setdomainname setgid setgroups sethostname setns setresuid settimeofday setuid
 setxattr shmget socketcall splice stime swapoff swapon sysfs syslog tee umount umount2 unshare uselib userfaultfd ustat
 vhangup vm86 vmsplice
"""
NAMESPACES = 0x7E020000


def test_what_is_not_named_is_refused() -> None:
    """The default is an error, and every rule allows but the one that makes the C library do without clone3."""
    assert PROFILE["defaultAction"] == "SCMP_ACT_ERRNO"
    assert [rule["names"] for rule in PROFILE["syscalls"] if rule["action"] != "SCMP_ACT_ALLOW"] == [["clone3"]]


def test_no_dangerous_call_is_named() -> None:
    """None of the calls that open a way out is on the list, and no call is on it twice."""
    assert sorted(set(NEVER.split()) & set(ALLOWED)) == []
    assert len(ALLOWED) == len(set(ALLOWED))


def test_only_native_calls_are_allowed() -> None:
    """No second architecture of the same processor, whose calls have other numbers."""
    assert all(entry["subArchitectures"] == [] for entry in PROFILE["archMap"])


def test_sockets_and_namespaces_are_judged_by_their_arguments() -> None:
    """`socket` makes local sockets only; `clone` makes no namespace of any kind; limits are set for oneself."""
    rules = {name: rule.get("args") for rule in PROFILE["syscalls"] for name in rule["names"]}
    local = [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]
    assert (rules["socket"], rules["socketpair"]) == (local, local)
    assert rules["clone"] == [{"index": 0, "value": NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    assert rules["prlimit64"] == [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]
    assert [name for name, args in rules.items() if args] == ["socket", "socketpair", "clone", "prlimit64"]
