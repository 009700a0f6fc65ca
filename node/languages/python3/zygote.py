"""Keeps a warmed Python interpreter and forks it into sandboxes that wait for a function.

A spawner talks to it over the packet socket on descriptor 0: first it sends what to know (``setup``), then one
packet for each sandbox, with descriptors beside it. The child enters the sandbox for good, waits there until it is
told which function it is, gives up every privilege, and goes on in ``bootstrap.main`` as if it had been executed.

Every child is two forks away, so that its parent is the init of its sandbox, which reaps it and ends with it.
Only the standard library of the interpreter that was captured from this machine runs in here, never a function's code.
"""

import array
import ctypes
import errno
import fcntl
import gc
import json
import os
import resource
import site
import socket
import sys
import time

import bootstrap

CONTROL = 4
SETUP_MAX = 256 * 1024
WORKLOAD_MAX = 256 * 1024
DESCRIPTORS_MAX = 64
EXEC_FAILED = 127

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
NAMESPACES = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWNET
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 22, 24, 38
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION = 0x20080522

# What handlers import most, none of which starts a thread or opens anything.
WARMED = (
    "argparse asyncio base64 calendar collections.abc concurrent.futures contextlib copy csv dataclasses datetime decimal "
    "email.message email.parser enum functools gzip hashlib hmac html http.client http.cookies http.server importlib.metadata "
    "inspect io itertools json logging math mimetypes operator os pathlib pickle platform queue random re secrets shutil "
    "signal socket ssl statistics string struct subprocess tempfile textwrap threading time traceback types typing "
    "unittest.mock urllib.error urllib.parse urllib.request uuid warnings xml.etree.ElementTree zipfile zlib zoneinfo"
).split()

libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


class Filter(ctypes.Structure):
    """The kernel's ``struct sock_fprog``."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def check(result, step):
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, "%s: %s" % (step, os.strerror(error)))


def prctl(step, option, first=0, second=0):
    check(libc.prctl(option, first, second, 0, 0), step)


def receive(channel):
    """Returns one packet and the descriptors beside it; nothing once the spawner has gone."""
    space = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
    data, control, _, _ = channel.recvmsg(SETUP_MAX, space, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    return data, list(descriptors)


def warm():
    """Imports what handlers import. Returns the names of modules that an executed bootstrap would not have."""
    before = set(sys.modules)
    for name in WARMED:
        try:
            __import__(name)
        except ImportError:
            # A distribution may leave parts of the library out.
            pass
    # The first use of each fills caches and compiles patterns.
    json.loads(json.dumps({"warm": [1, 2.5, None, True, "\u00e9"]}))
    time.strftime("%Y")
    own = {"array", "ctypes", "fcntl", "resource", "site", "socket"}
    return {name.partition(".")[0] for name in set(sys.modules) - before} | own


def fork_into(sandbox, home, cgroups):
    """Forks a child into a sandbox. Returns its number there, or in the child None."""
    reader, writer = os.pipe()
    check(libc.setns(sandbox, CLONE_NEWPID), "the process namespace could not be entered")
    middle = os.fork()
    if middle == 0:
        return fork_further(sandbox, cgroups, writer)
    check(libc.setns(home, CLONE_NEWPID), "the way back was lost")
    os.close(writer)
    with open(reader, "rb") as said:
        text = said.read().decode()
    _, status = os.waitpid(middle, 0)
    if not text.isdigit():
        raise OSError(text or "a child ended with status %d" % status)
    return int(text)


def fork_further(sandbox, cgroups, writer):
    """Enters the rest of a sandbox and forks the child that stays. Returns None in that child alone."""
    try:
        for cgroup in cgroups:
            os.write(cgroup, b"0")
        check(libc.setns(sandbox, NAMESPACES), "the namespaces could not be entered")
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        child = os.fork()
        if child == 0:
            return None
        os.write(writer, b"%d" % child)
    except BaseException as error:
        os.write(writer, str(error).encode() or b"it was interrupted")
    os._exit(0)


def settle(entry, setup):
    """Leaves a forked child nothing but its descriptors, and takes from it whatever can be taken already."""
    # They may lie anywhere, also where others are to go.
    entry = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 2 * CONTROL) for fd in entry]
    for number, fd in enumerate(entry):
        os.dup2(fd, number, inheritable=number < CONTROL)
    os.closerange(CONTROL + 1, setup["files"])
    os.chdir("/")
    os.setsid()
    os.umask(0o022)
    for number, most in setup["limits"]:
        resource.setrlimit(number, (most, most))
    prctl("no_new_privs could not be set", PR_SET_NO_NEW_PRIVS, 1)
    for capability in range(64):
        # The kernel knows fewer capabilities than the type has room for.
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 and ctypes.get_errno() != errno.EINVAL:
            raise OSError("the bounding set could not be emptied")


def read_exactly(count):
    data = b""
    while len(data) < count:
        part = os.read(CONTROL, count - len(data))
        if not part:
            # The sandbox is used for something else, or is not used.
            os._exit(0)
        data += part
    return data


def await_workload():
    """Waits until it is told which function this is; of no use for an executed one, it ends."""
    length = int.from_bytes(read_exactly(4), "little")
    if length == 0 or length > WORKLOAD_MAX:
        os._exit(0)
    return json.loads(read_exactly(length))


def confine(workload, setup):
    """Gives up every privilege, as a sandbox does before it executes a program."""
    uid, gid = workload["uid"], workload["gid"]
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    check(libc.capset(header, (ctypes.c_uint32 * 6)()), "capabilities could not be dropped")
    # As after an exec: what a process sees of itself belongs to it.
    prctl("the process could not be made its own", PR_SET_DUMPABLE, 1)
    os.chdir(workload["cwd"])
    for program in setup["filters"]:
        filter = Filter(len(program) // 8, program)
        prctl("the system call filter could not be loaded", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(filter))


def become(workload, warmed):
    """Leaves the interpreter as an executed one with this workload would be."""
    environ = os.environ
    environ.clear()
    environ.update(workload["env"])
    time.tzset()
    sys.argv = [workload["argv"][-1]]
    folders = [folder for folder in environ.get("PYTHONPATH", "").split(":") if folder]
    sys.path[1:1] = folders
    sys.path_importer_cache.clear()
    found = set()
    for folder in folders + [environ.get("LAMBDA_TASK_ROOT", "/var/task")]:
        try:
            found.update(name.partition(".")[0] for name in os.listdir(folder))
        except OSError:
            pass
    # What the function brings itself is imported from there, as if nothing had been imported before.
    hidden = found & (warmed | {"sitecustomize", "usercustomize"})
    if hidden:
        for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
            del sys.modules[name]
    if "sitecustomize" in found:
        site.execsitecustomize()


def serve(channel, home):
    """Forks children until the spawner has gone. Returns only in a child: the descriptors it is to have."""
    while True:
        data, descriptors = receive(channel)
        if not data:
            os._exit(0)
        sandbox, entry, cgroups = descriptors[0], descriptors[1 : CONTROL + 2], descriptors[CONTROL + 2 :]
        try:
            child = fork_into(sandbox, home, cgroups)
        except OSError as error:
            answer = {"error": str(error)}
        else:
            if child is None:
                # The number of its descriptor is about to be something else.
                channel.detach()
                return entry
            answer = {"pid": child}
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(json.dumps(answer).encode())


def main():
    channel = socket.socket(fileno=os.dup(0))
    data, (home,) = receive(channel)
    setup = json.loads(data)
    setup["filters"] = [bytes.fromhex(text) for text in setup["filters"]]
    warmed = warm()
    # What is here stays: collecting it would copy its pages into every child.
    gc.collect()
    gc.freeze()
    channel.send(b"{}")
    entry = serve(channel, home)
    try:
        settle(entry, setup)
        workload = await_workload()
        confine(workload, setup)
        become(workload, warmed)
    except BaseException as error:
        try:
            os.write(CONTROL, str(error).encode())
        finally:
            os._exit(EXEC_FAILED)
    os.close(CONTROL)
    bootstrap.main()


if __name__ == "__main__":
    main()
