#!/usr/bin/python3
# The attacks from Python: what the language can do itself, ctypes included, natively; the rest by a child program
# (ATTACK_CHILD). Answers /VERB?ARGUMENT&… as examples/attack does; the header "How" says who did it.
import ctypes, errno, mmap, os, signal, socket, subprocess, sys, time
from urllib.parse import unquote

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
PROGRAM = os.environ["ATTACK_CHILD"]
kept = []
# One number has two names.
NAMES = errno.errorcode | {errno.EOPNOTSUPP: "EOPNOTSUPP"}


def call(*words):
    def value(word):
        kind, _, rest = word.partition(":")
        if kind == "s":
            return ctypes.create_string_buffer(rest.encode())
        if kind == "z":
            return ctypes.create_string_buffer(int(rest))
        if kind == "h":
            return ctypes.create_string_buffer(bytes.fromhex(rest))
        number = int(word, 0)
        return ctypes.c_long(number - (1 << 64) if number >= 1 << 63 else number)

    if libc.syscall(*[value(word) for word in words]) < 0:
        raise OSError(ctypes.get_errno(), "")


def until_refused(most, once):
    for done in range(int(most)):
        try:
            once(done)
        except OSError as error:
            return f"{NAMES[error.errno]} after {done}"
    return f"ok {most}"


def unix(kind, act, name):
    with socket.socket(socket.AF_UNIX, kind) as s:
        act(s, name)


def fork_bomb(most):
    children = []

    def once(_):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        children.append(pid)

    said = until_refused(most, once)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return said


def fill(folder, megabytes):
    def once(n):
        with open(f"{folder}/fill-{n}", "wb", buffering=0) as file:
            if file.write(b"x" * (1 << 20)) < 1 << 20:
                file.write(b"x" * (1 << 20))

    said = until_refused(megabytes, once)
    for n in range(int(megabytes)):
        if os.path.exists(f"{folder}/fill-{n}"):
            os.unlink(f"{folder}/fill-{n}")
    return said


def inodes(folder, most):
    said = until_refused(most, lambda n: os.close(os.open(f"{folder}/inode-{n}", os.O_CREAT | os.O_WRONLY)))
    for n in range(int(most)):
        if os.path.exists(f"{folder}/inode-{n}"):
            os.unlink(f"{folder}/inode-{n}")
    return said


def extend(path, size):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path += f"-{os.getpid()}"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.unlink(path)
    os.ftruncate(file, int(size))


def visible():
    foreign = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        foreign += os.stat(f"/proc/{pid}").st_uid != os.getuid()
    return f"ok {foreign} of others" if foreign else "own"


def run(path, *arguments):
    done = subprocess.run([path, *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else f"failed {done.returncode}"


# mov edi, 42; mov eax, 60; syscall, as an ELF file of one segment.
CODE = bytes.fromhex("bf2a000000b83c0000000f05")
ELF = (
    b"\x7fELF\x02\x01\x01" + bytes(9)
    + b"".join(v.to_bytes(2, "little") for v in (2, 62)) + (1).to_bytes(4, "little")
    + b"".join(v.to_bytes(8, "little") for v in (0x400078, 64, 0)) + bytes(4)
    + b"".join(v.to_bytes(2, "little") for v in (64, 56, 1, 0, 0, 0))
    + b"".join(v.to_bytes(4, "little") for v in (1, 5))
    + b"".join(v.to_bytes(8, "little") for v in (0, 0x400000, 0x400000, 132, 132, 4096)) + CODE
)


def downloaded(folder):
    path = f"{folder}/downloaded-{os.getpid()}"
    file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o755)
    os.write(file, ELF)
    os.close(file)
    return path


def ended(status):
    code = os.waitstatus_to_exitcode(status)
    return "ok it ran" if code == 42 else f"failed {code}"


def execute_file(folder):
    return ended(os.waitpid(os.posix_spawn(downloaded(folder), ["downloaded"], {}), 0)[1])


def execute_memory():
    file = os.memfd_create("downloaded", 0)
    os.write(file, ELF)
    pid = os.fork()
    if pid == 0:
        try:
            os.execve(file, ["downloaded"], {})
        except OSError as error:
            os._exit(100 + error.errno)
    return ended(os.waitpid(pid, 0)[1])


def map_file(folder):
    with open(downloaded(folder), "rb") as file:
        mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)


def int80():
    # mov eax, 20 (getpid of the 32-bit table); int 0x80; ret
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("b814000000cd80c3"))
    ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()


def network(kind, to):
    host, port = to.rsplit(":", 1)
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family, kind) as s:
        s.settimeout(3)
        if kind == socket.SOCK_STREAM:
            s.connect((host.strip("[]"), int(port)))
        else:
            s.sendto(b"x", (host.strip("[]"), int(port)))


def fast_open(how, to):
    host, port = to.rsplit(":", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        if how == "sendto":
            s.sendto(b"x", socket.MSG_FASTOPEN, (host, int(port)))
        elif how == "sendmsg":
            s.sendmsg([b"x"], [], socket.MSG_FASTOPEN, (host, int(port)))
        elif how == "option":
            s.setsockopt(socket.IPPROTO_TCP, 30, 1)
        else:
            raise NotImplementedError


def stream(protocol, to):
    host, port = to.rsplit(":", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, int(protocol)) as s:
        s.connect((host, int(port)))


def keep_abstract(name):
    for kind, full in ((socket.SOCK_STREAM, name), (socket.SOCK_DGRAM, name + "-d")):
        kept.append(socket.socket(socket.AF_UNIX, kind))
        kept[-1].bind("\0" + full)
    kept[0].listen()


def spin(processes, milliseconds):
    until = time.monotonic() + int(milliseconds) / 1000
    children = []
    for _ in range(int(processes)):
        children.append(os.fork())
        if children[-1] == 0:
            while time.monotonic() < until:
                pass
            os._exit(0)
    for pid in children:
        os.waitpid(pid, 0)


def keep_inotify(most):
    return until_refused(most, lambda _: call("294", "0"))


VERBS = {
    "open": lambda path: os.open(path, os.O_RDONLY),
    "opath": lambda path: os.open(path, os.O_PATH),
    "write": lambda path: os.write(os.open(path, os.O_WRONLY | os.O_CREAT), b"x"),
    "stat": os.lstat,
    "list": lambda path: "ok " + " ".join(os.listdir(path)),
    "chdir": os.chdir,
    "unlink": os.unlink,
    "mkdir": os.mkdir,
    "connect-unix": lambda path: unix(socket.SOCK_STREAM, socket.socket.connect, path),
    "bind-unix": lambda path: unix(socket.SOCK_STREAM, socket.socket.bind, path),
    "send-unix": lambda path: unix(socket.SOCK_DGRAM, socket.socket.connect, path),
    "connect-abstract": lambda name: unix(socket.SOCK_STREAM, socket.socket.connect, "\0" + name),
    "send-abstract": lambda name: unix(socket.SOCK_DGRAM, socket.socket.connect, "\0" + name),
    "keep-abstract": keep_abstract,
    "call": call,
    "signal": lambda pid, number: os.kill(int(pid), int(number)),
    "kill-all": lambda: os.kill(-1, signal.SIGKILL),
    "visible": visible,
    "setuid": lambda uid: os.setuid(int(uid)),
    "setgid": lambda gid: os.setgid(int(gid)),
    "setgroups": lambda gid: os.setgroups([int(gid)]),
    "fork-bomb": fork_bomb,
    "eat": lambda megabytes: [kept.append(bytearray(b"x" * (1 << 20))) for _ in range(int(megabytes))] and None,
    "fill": fill,
    "inodes": inodes,
    "extend": extend,
    "descriptors": lambda most: until_refused(most, lambda _: os.dup(0)),
    "spin": spin,
    "keep-inotify": keep_inotify,
    "run": run,
    "int80": int80,
    "x32": lambda: call("0x40000027"),
    "tcp": lambda to: network(socket.SOCK_STREAM, to),
    "udp": lambda to: network(socket.SOCK_DGRAM, to),
    "stream": stream,
    "fast-open": fast_open,
    "execute-file": execute_file,
    "execute-memory": execute_memory,
    "map-file": map_file,
}
if os.uname().machine != "x86_64":
    # The programs in here are for that machine.
    for verb in ("int80", "x32", "execute-file", "execute-memory", "map-file", "keep-inotify"):
        del VERBS[verb]


def native(verb, arguments):
    try:
        said = VERBS[verb](*arguments)
        return said if isinstance(said, str) else "ok"
    except (NotImplementedError, KeyError):
        return None
    except TimeoutError:
        return "ETIMEDOUT"
    except OSError as error:
        return NAMES.get(error.errno, str(error))


def apart(verb, arguments):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, (native(verb, arguments) or "").encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as end:
        said = end.read()
    status = os.waitpid(pid, 0)[1]
    if not said and os.WIFSIGNALED(status):
        return "SIGSYS" if os.WTERMSIG(status) == signal.SIGSYS else f"signal {os.WTERMSIG(status)}"
    return said


def answer(target):
    path, _, query = target.partition("?")
    verb, arguments = path.strip("/"), [unquote(word) for word in query.split("&") if word]
    if not verb:
        return "native", str(os.getpid())
    said = None
    if verb in VERBS:
        said = native(verb, arguments) if verb.startswith("keep-") else apart(verb, arguments)
    if said:
        return "native", said
    if verb.startswith("keep-"):
        return "child", "no child stays"
    return "child", subprocess.run([PROGRAM, "apart", verb, *arguments], capture_output=True, text=True).stdout.strip()


def converse(stream):
    with stream:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = stream.recv(4096)
            if not piece:
                return
            head += piece
        how, said = answer(head.split(b" ")[1].decode())
        body = said.encode()
        stream.sendall(
            f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nHow: {how}\r\nConnection: close\r\n\r\n".encode() + body
        )


listener = socket.socket(fileno=3)
listener.setblocking(True)
while True:
    try:
        converse(listener.accept()[0])
    except ConnectionError:
        pass
