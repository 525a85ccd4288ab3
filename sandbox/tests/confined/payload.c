// What a function can see and do, one line a fact: `name value`, where the value of an attempt is the name of its errno or OK.
// Compiled statically by confined.rs; runs inside the sandbox, and outside as the control. Never fails: it only tells.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void tell(const char *name, long result) {
    printf("%s %s\n", name, result < 0 ? strerrorname_np(errno) : "OK");
}

static void *thread(void *arg) { return arg; }

static long try_connect(int type, int port, int flags) {
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    long result = flags ? sendto(fd, "x", 1, flags, (void *)&to, sizeof to) : connect(fd, (void *)&to, sizeof to);
    int saved = errno;
    close(fd);
    errno = saved;
    return result;
}

static long fill(const char *path, long chunk) {
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0) return -1;
    char *block = calloc(1, chunk);
    long total = 0, n;
    while ((n = write(fd, block, chunk)) > 0) total += n;
    int saved = errno;
    close(fd);
    unlink(path);
    printf("filled %ld\n", total);
    errno = saved;
    return -1;
}

static void foreign_call(void) {
#ifdef __x86_64__
    pid_t pid = fork();
    if (pid == 0) {
        long result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    printf("int80 %s\n", WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "OK");
#endif
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 1 && !strcmp(argv[1], "wait")) {
        // Ends when told to, and tells that it was.
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigprocmask(SIG_BLOCK, &set, NULL);
        if (fork() == 0) for (;;) pause();
        puts("ready");
        int signal;
        sigwait(&set, &signal);
        printf("signal %d\n", signal);
        return 42;
    }
    if (argc > 1 && !strcmp(argv[1], "exit")) return atoi(argv[2]);

    printf("fds");
    for (int fd = 0; fd < 4096; fd++) if (fcntl(fd, F_GETFD) >= 0) printf(" %d", fd);
    puts("");
    for (char **e = environ; *e; e++) printf("env %s\n", *e);
    for (int i = 0; i < argc; i++) printf("arg %s\n", argv[i]);
    printf("pid %d\n", getpid());
    printf("session %s\n", getsid(0) == getpid() ? "own" : "shared");
    uid_t r, e, s; gid_t gr, ge, gs;
    getresuid(&r, &e, &s); getresgid(&gr, &ge, &gs);
    printf("ids %u %u %u %u %u %u groups %d\n", r, e, s, gr, ge, gs, getgroups(0, NULL));
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {0};
    syscall(SYS_capget, &header, data);
    printf("caps %x %x %x %x %x %x\n", data[0].effective, data[0].permitted, data[0].inheritable, data[1].effective,
           data[1].permitted, data[1].inheritable);
    int bounding = 0;
    for (int cap = 0; cap < 64; cap++) if (prctl(PR_CAPBSET_READ, cap) == 1) bounding++;
    printf("bounding %d\n", bounding);
    printf("securebits %x\n", prctl(PR_GET_SECUREBITS));
    printf("nnp %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    printf("seccomp %d\n", prctl(PR_GET_SECCOMP));
    int death = 0;
    prctl(PR_GET_PDEATHSIG, &death);
    printf("pdeathsig %d\n", death);
    mode_t mask = umask(0);
    umask(mask);
    printf("umask %o\n", mask);
    char cwd[256] = "";
    printf("cwd %s\n", getcwd(cwd, sizeof cwd) ? cwd : strerrorname_np(errno));
    sigset_t blocked;
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    int signals = 0, changed = 0;
    for (int n = 1; n < 65; n++) {
        struct sigaction action;
        if (sigismember(&blocked, n) == 1) signals++;
        if (sigaction(n, NULL, &action) == 0 && action.sa_handler != SIG_DFL) changed++;
    }
    printf("signals blocked %d changed %d\n", signals, changed);
    for (int n = 0; n < 16; n++) {
        struct rlimit limit;
        if (!getrlimit(n, &limit)) printf("rlimit %d %lu %lu\n", n, limit.rlim_cur, limit.rlim_max);
    }
    int accepts = 0; socklen_t size = sizeof accepts;
    if (getsockopt(3, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &size)) accepts = -1;
    printf("listener %d\n", accepts);

    struct stat st;
    tell("stat /etc/shadow", stat("/etc/shadow", &st));
    tell("open /etc/shadow", open("/etc/shadow", O_RDONLY | O_CLOEXEC));
    tell("path /etc/shadow", open("/etc/shadow", O_PATH | O_CLOEXEC));
    tell("inotify /etc", inotify_add_watch(inotify_init1(IN_CLOEXEC), "/etc", IN_OPEN));
    tell("stat /proc", stat("/proc/1", &st));
    tell("stat /usr/bin/env", stat("/usr/bin/env", &st));
    DIR *root = opendir("..");
    tell("list /", root ? 0 : -1);
    tell("mkdir /made", mkdir("/made", 0755));
    tell("mkdir /dev/made", mkdir("/dev/made", 0755));
    rmdir("/made"); rmdir("/dev/made");
    const char *devices[] = {"null", "zero", "full", "random", "urandom"};
    for (int i = 0; i < 5; i++) {
        char path[32], name[32], byte;
        sprintf(path, "/dev/%s", devices[i]); sprintf(name, "device %s", devices[i]);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        tell(name, fd < 0 ? -1 : read(fd, &byte, 1));
    }
    tell("mknod", mknod("/tmp/disk", S_IFBLK | 0600, makedev(254, 0)));
    tell("mkfifo", mkfifo("/tmp/fifo", 0600));
    int tmp = open("/tmp/program", O_CREAT | O_RDWR | O_CLOEXEC, 0700);
    tell("write /tmp", tmp < 0 ? -1 : write(tmp, "x", 1));
    if (tmp >= 0) close(tmp);
    char *none[] = {NULL};
    tell("exec /tmp", execve("/tmp/program", none, none));
    tell("map /tmp", ({ int fd = open("/tmp/program", O_RDONLY | O_CLOEXEC);
                        mmap(NULL, 1, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0; }));
    unlink("/tmp/program"); unlink("/tmp/fifo"); unlink("/tmp/disk");
    if (getenv("FILL")) tell("fill /tmp", fill("/tmp/fill", 4096));
    if (getenv("GRANT")) {
        char path[512];
        snprintf(path, sizeof path, "%s/made", getenv("GRANT"));
        int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0755);
        tell("write grant", fd < 0 ? -1 : write(fd, "x", 1));
        if (fd >= 0) close(fd);
        tell("exec grant", execve(path, none, none));
    }

    int port = getenv("HOST_PORT") ? atoi(getenv("HOST_PORT")) : 1;
    tell("tcp", try_connect(SOCK_STREAM, port, 0));
    tell("udp", try_connect(SOCK_DGRAM, port, 0));
    tell("fastopen", try_connect(SOCK_STREAM, port, MSG_FASTOPEN));
    tell("mptcp", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 262));
    tell("netlink", socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
    tell("packet", socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    tell("vsock", socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
    tell("raw", socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));
    int pair[2];
    tell("socketpair", socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));

    int host = getenv("HOST_PID") ? atoi(getenv("HOST_PID")) : 1;
    tell("kill host", kill(host, 0));
    // The control must not do to the machine what the sandbox refuses.
    if (!getenv("CONTROL")) tell("ptrace", ptrace(PTRACE_ATTACH, host, 0, 0));
    tell("process_vm_readv", syscall(SYS_process_vm_readv, host, 0, 0, 0, 0, 0));
    tell("setuid 0", r == 0 ? (errno = EPERM, -1) : setuid(0));
    tell("capset", ({ data[0].effective |= 1; data[0].permitted |= 1; syscall(SYS_capset, &header, data); }));
    tell("unshare user", fork() == 0 ? (tell("unshare", unshare(CLONE_NEWUSER)), _exit(0), 0) : wait(NULL));
    tell("clone user", ({ long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
                          if (pid == 0) _exit(0);
                          if (pid > 0) wait(NULL);
                          pid; }));
    tell("clone3", syscall(SYS_clone3, NULL, 0));
    if (!getenv("CONTROL")) tell("mount", mount("none", "/tmp", "tmpfs", 0, NULL));
    tell("chroot", chroot("/"));
    tell("bpf", syscall(SYS_bpf, 0, NULL, 0));
    tell("io_uring", syscall(SYS_io_uring_setup, 0, NULL));
    tell("keyctl", syscall(SYS_keyctl, 0, -3, 0, 0, 0));
    tell("add_key", syscall(SYS_add_key, "user", "x", "x", 1, -3));
    tell("userfaultfd", syscall(SYS_userfaultfd, 0));
    tell("perf", syscall(SYS_perf_event_open, NULL, 0, 0, 0, 0));
    tell("sysv", syscall(SYS_shmget, 0, 4096, 0600));
    tell("tiocsti", ioctl(0, TIOCSTI, "x"));
    tell("raise core", setrlimit(RLIMIT_CORE, &(struct rlimit){0, 1}));
    tell("newer call", syscall(600));
    tell("personality", syscall(SYS_personality, 0x0040000));
    pthread_t t;
    errno = pthread_create(&t, NULL, thread, NULL);
    tell("thread", errno ? -1 : pthread_join(t, NULL));
    foreign_call();
    tell("close_range", close_range(100, ~0U, 0));
    puts("done");
    return 7;
}
